"""The variants that need pandas."""
