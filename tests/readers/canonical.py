"""Rows of any reader as one text, and its digest. Standard library only: foreign interpreters run this, too."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any


def digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 of the rows as sorted text: decimals with 18 digits, times in UTC microseconds, bytes in hex."""
    lines = sorted("\x1f".join(f"{name}={_text(row[name])}" for name in sorted(row)) for row in rows)
    return f"{len(lines)} rows {hashlib.sha256(chr(30).join(lines).encode()).hexdigest()}"


def _text(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"bool:{value}"
    if isinstance(value, dt.datetime):
        if value.tzinfo is None:
            return f"naive:{value.isoformat()}"
        return f"time:{value.astimezone(dt.UTC).isoformat(timespec='microseconds')}"
    if isinstance(value, dt.date):
        return f"day:{value.isoformat()}"
    if isinstance(value, Decimal):
        return f"decimal:{value:.18f}"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"bytes:{bytes(value).hex()}"
    return f"{type(value).__name__}:{value!r}"
