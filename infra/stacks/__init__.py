"""The stacks: storage, catalog, stream, access, watch, governance and compute; ``app.py`` puts them together."""
