"""Streams: websockets into Delta tables, exactly once. Read ``blocks.py`` first."""
