"""How a table's files are written: encodings, row groups, and which partitions have too many files.

Belongs here: sizes and levels with their reasons. Does not: writing, compacting and removing files (``lake.py``).
"""

from __future__ import annotations

import polars as pl
from deltalake import ColumnProperties, DeltaTable, WriterProperties

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


def writer(n_rows: int) -> WriterProperties:
    """How files of so many rows are written."""
    return WriterProperties(
        compression="ZSTD",
        compression_level=_ZSTD_LEVEL,
        max_row_group_size=max(_LEAST_GROUP_ROWS, -(-n_rows // _MOST_GROUPS)),
    )


def stream_writer(contract: type[Contract]) -> WriterProperties:
    """How a stream's small files are written, and those made of them: cheaply, since maintenance writes them anew.

    Level 1 of zstd takes half of level 6's CPU. A dictionary of values that hardly repeat is made and thrown away:
    numbers and moments that grow are written as differences, ids and amounts as they are; both are smaller, too.
    """
    plain = ColumnProperties(dictionary_enabled=False, statistics_enabled="CHUNK")
    differences = ColumnProperties(dictionary_enabled=False, encoding="DELTA_BINARY_PACKED", statistics_enabled="CHUNK")
    columns = {}
    for name, dtype in polars_schema(contract).items():
        if name in contract.table.partition_by:
            continue
        if dtype.is_integer() or dtype.is_temporal():
            columns[name] = differences
        elif name in _HARDLY_REPEATED:
            columns[name] = plain
    return WriterProperties(
        compression="ZSTD",
        compression_level=1,
        max_row_group_size=131_072,
        default_column_properties=ColumnProperties(statistics_enabled="CHUNK"),
        column_properties=columns,
    )


def n_rows_of_fullest(contract: type[Contract], frame: pl.DataFrame) -> int:
    """The most rows that one partition, and so one file, takes of a frame."""
    by = contract.table.partition_by
    if not by or frame.is_empty():
        return len(frame)
    return int(frame.group_by(by).len()["len"].max() or 0)  # type: ignore[arg-type]


def crowded_partitions(table: DeltaTable) -> list[tuple[dict[str, str], int]]:
    """Partitions of several files, with their rows."""
    adds = pl.DataFrame(table.get_add_actions(flatten=True))
    columns = [f"partition.{c}" for c in table.metadata().partition_columns]
    crowded = adds.group_by(columns).agg(pl.len(), pl.col("num_records").sum()).filter(pl.col("len") > 1).sort(columns)
    return [
        ({c.removeprefix("partition."): str(row[c]) for c in columns}, row["num_records"] or 0)
        for row in crowded.to_dicts()
    ]


def littered_partitions(table: DeltaTable) -> list[tuple[dict[str, str], int]]:
    """The newest partitions that hold several files that are not full, with those files' bytes."""
    adds = pl.DataFrame(table.get_add_actions(flatten=True)).filter(pl.col("size_bytes") < FULL_BYTES)
    columns = [f"partition.{c}" for c in table.metadata().partition_columns]
    found = adds.group_by(columns).agg(n=pl.len(), n_bytes=pl.col("size_bytes").sum()).sort(columns, descending=True)
    return [
        ({c.removeprefix("partition."): str(row[c]) for c in columns}, row["n_bytes"])
        for row in found.head(_OPEN_PARTITIONS).to_dicts()
        if row["n"] >= _FEW_FILES
    ]
