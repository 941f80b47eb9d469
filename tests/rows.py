"""Rows of a contract from what matters of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import polars as pl

from crypto_assets.tables import Contract
from crypto_assets.tables.contract import MONEY, UTC_TIME, fields, polars_schema

NOON = dt.datetime(2024, 1, 1, 12, tzinfo=dt.UTC)

_DEFAULTS: Mapping[Any, Any] = {
    pl.String(): "x",
    pl.Binary(): b"{}",
    pl.Boolean(): True,
    pl.Int32(): 1,
    pl.Int64(): 1,
    pl.Float64(): 1.0,
    MONEY: Decimal(1),
    UTC_TIME: NOON,
}


def rows_of(contract: type[Contract], *rows: Mapping[str, Any]) -> pl.DataFrame:
    """Rows of a contract from what matters of them: the rest is null or a plain value, ``date`` follows the clock."""
    plain = {f.name: None if f.nullable else _DEFAULTS.get(f.dtype) for f in fields(contract)}
    clock = contract.table.clock or "observed_at"
    full = [{**plain, **row} for row in rows]
    for row in full:
        if row.get("date", 0) is None:
            row["date"] = row.get(clock, NOON).date()
    return pl.DataFrame(full, schema=polars_schema(contract))
