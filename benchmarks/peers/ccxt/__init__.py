"""The variants that need ccxt and pandas."""
