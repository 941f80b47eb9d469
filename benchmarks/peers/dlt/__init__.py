"""The variants that need dlt."""
