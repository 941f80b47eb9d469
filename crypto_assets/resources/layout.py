"""How a table's files are written: encodings, row groups, and which partitions have too many files.

Belongs here: sizes and levels with their reasons. Does not: writing, compacting and removing files, in the words of
deltalake (``lake.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from crypto_assets.tables.contract import Contract, polars_schema

# Level 6 stores 7 % less than 3 for a tenth more of a replace's CPU; 9 would double the encoder's share.
_ZSTD_LEVEL = 6
# Readers of one asset or market skip whole row groups, so a small one is what they pay for. Every reader of a file
# reads its footer, which grows with their number: 128 of them are some hundred kilobytes.
_LEAST_GROUP_ROWS = 4_096
_MOST_GROUPS = 128
# Small files of an open day become files of the first size, and where those together are large enough, of the second:
# so a row is rewritten some five times, not once for each commit that follows it. A closed day is maintenance's.
COMPACTED_BYTES, FULL_BYTES = 4 * 2**20, 32 * 2**20
_FEW_FILES = 8
# Today and, around midnight, yesterday.
_OPEN_PARTITIONS = 2
# Columns of streams' tables.
_HARDLY_REPEATED = ("trade_id", "quantity", "detail")


@dataclass(frozen=True)
class Layout:
    """How files are written.

    Attributes:
        zstd_level: of compression, 1 to 22.
        group_rows: most rows of a row group.
        plain: columns without a dictionary, as they are.
        differences: columns without a dictionary, as differences from row to row.
        has_pages: whether readers are told the bounds of each page, and not of a row group only.
    """

    zstd_level: int
    group_rows: int
    plain: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    has_pages: bool = True


def of_table(n_rows: int) -> Layout:
    """How files of so many rows are written."""
    return Layout(_ZSTD_LEVEL, max(_LEAST_GROUP_ROWS, -(-n_rows // _MOST_GROUPS)))


def of_stream(contract: type[Contract]) -> Layout:
    """How a stream's small files are written, and those made of them: cheaply, since maintenance writes them anew.

    Level 1 of zstd takes half of level 6's CPU. A dictionary of values that hardly repeat is made and thrown away:
    numbers and moments that grow are written as differences, ids and amounts as they are; both are smaller, too.
    """
    by = contract.table.partition_by
    columns = {name: dtype for name, dtype in polars_schema(contract).items() if name not in by}
    return Layout(
        1,
        131_072,
        plain=tuple(name for name in columns if name in _HARDLY_REPEATED),
        differences=tuple(name for name, dtype in columns.items() if dtype.is_integer() or dtype.is_temporal()),
        has_pages=False,
    )


def n_rows_of_fullest(contract: type[Contract], frame: pl.DataFrame) -> int:
    """The most rows that one partition, and so one file, takes of a frame."""
    by = contract.table.partition_by
    if not by or frame.is_empty():
        return len(frame)
    return int(frame.group_by(by).len()["len"].max() or 0)  # type: ignore[arg-type]


def crowded_partitions(files: pl.DataFrame, columns: tuple[str, ...]) -> list[tuple[dict[str, str], int]]:
    """Partitions of several files, with their rows.

    ``files`` has a row a live file: ``partition.<column>`` for each partition column, ``num_records``, ``size_bytes``.
    """
    crowded = files.group_by(_partition(columns)).agg(n=pl.len(), told=pl.col("num_records").sum())
    return _partitions(crowded.filter(pl.col("n") > 1).sort(_partition(columns)), columns)


def littered_partitions(files: pl.DataFrame, columns: tuple[str, ...]) -> list[tuple[dict[str, str], int]]:
    """The newest partitions that hold several files that are not full, with those files' bytes; ``files`` as above."""
    by = _partition(columns)
    small = files.filter(pl.col("size_bytes") < FULL_BYTES)
    found = small.group_by(by).agg(n=pl.len(), told=pl.col("size_bytes").sum())
    newest = found.sort(by, descending=True).head(_OPEN_PARTITIONS)
    return _partitions(newest.filter(pl.col("n") >= _FEW_FILES), columns)


def _partition(columns: tuple[str, ...]) -> list[str]:
    return [f"partition.{name}" for name in columns]


def _partitions(found: pl.DataFrame, columns: tuple[str, ...]) -> list[tuple[dict[str, str], int]]:
    return [({name: str(row[f"partition.{name}"]) for name in columns}, row["told"] or 0) for row in found.to_dicts()]
