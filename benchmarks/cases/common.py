"""What the cases share: the expected rows of a data set, and our own tables."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from benchmarks import reference
from benchmarks.data import Size, answers
from crypto_assets.tables.conform import sort
from crypto_assets.tables.contract import Contract, polars_schema
from crypto_assets.tables.refined import AssetDaily, AssetHourly
from crypto_assets.tables.trusted import AssetSnapshots

TABLES: tuple[type[Contract], ...] = (AssetSnapshots, AssetHourly, AssetDaily)


def prepared(size: Size) -> Path:
    """The data set of a size, with its expected rows beside it."""
    data = answers(size)
    if not (data / "asset_daily.parquet").exists():
        rows = reference.trusted(data)
        hours = reference.hourly(rows)
        for contract, made in zip(TABLES, (rows, hours, reference.daily(hours)), strict=True):
            frame = pl.DataFrame(made, schema=polars_schema(contract))
            sort(contract, frame).write_parquet(data / f"{contract.table.name}.parquet")
    return data


def expected_rows(data: Path, contract: type[Contract]) -> pl.DataFrame:
    """The right rows of a table, by ``reference.py``."""
    return pl.read_parquet(data / f"{contract.table.name}.parquet")
