"""Looking for a key in whatever form it may hide: texts, SQLite files, and the values inside Parquet files."""

from __future__ import annotations

import base64
import gzip
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, quote_plus

import polars as pl


def forms(key: str) -> set[bytes]:
    """The key as it is, escaped, url-encoded, in hex, reversed, and in base64 at any offset of a longer text."""
    raw = key.encode()
    texts = {key, key.lower(), key.upper(), key[::-1], quote(key, safe=""), quote_plus(key), json.dumps(key)[1:-1]}
    found = {text.encode() for text in texts} | {raw.hex().encode(), raw.hex().upper().encode()}
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for offset in range(3):
            # The first and last characters depend on what stands beside the key.
            found.add(encode(b"\0" * offset + raw)[4 if offset else 0 : -4])
    return found


def contents(root: Path) -> Iterator[tuple[str, bytes]]:
    """Every file under the root by name, and once more unpacked where it is a table or compressed."""
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        data = path.read_bytes()
        yield str(path), data
        if data[:4] == b"PAR1":
            yield f"{path} (values)", _values(pl.read_parquet(path))
        elif data[:16] == b"SQLite format 3\0":
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
                yield f"{path} (rows)", "\n".join(db.iterdump()).encode()
        elif data[:2] == b"\x1f\x8b":
            yield f"{path} (unpacked)", gzip.decompress(data)


def _values(frame: pl.DataFrame) -> bytes:
    columns = [frame[name] for name in frame.columns if frame[name].dtype in (pl.String, pl.Binary)]
    values = [v for column in columns for v in column.drop_nulls().to_list()]
    return b"\n".join(v if isinstance(v, bytes) else v.encode() for v in values)


def found_in(root: Path, key: str) -> list[str]:
    """Where the key is, in any form."""
    wanted = forms(key)
    return [name for name, data in contents(root) if any(form in data for form in wanted)]
