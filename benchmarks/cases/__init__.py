"""The cases, one module each: what is done, by which variants, and what a right result is."""
