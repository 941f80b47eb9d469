"""The variants that need duckdb."""
