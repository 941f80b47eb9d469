"""crypto_assets: a crypto market lakehouse of Dagster assets and Delta tables."""

__version__ = "0.1.0"
