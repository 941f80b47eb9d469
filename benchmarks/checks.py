"""Whether two variants did the same work: rows, keys and exact sums first, then every value of every row."""

from __future__ import annotations

import math
from collections.abc import Mapping

import polars as pl

from crypto_assets.tables.contract import Contract, fields, primary_key

# Doubles are sums in some order; Decimals have no tolerance.
_DOUBLES_AGREE = 1e-9

Result = Mapping[type[Contract], pl.DataFrame]


def all_differences(expected: Result, got: Result) -> list[str]:
    """Like ``differences``, over the tables of a result; each line names its table."""
    return [
        f"{contract.table.name}: {line}"
        for contract, frame in expected.items()
        for line in (differences(contract, frame, got[contract]) if contract in got else ["was not made"])
    ]


def differences(contract: type[Contract], expected: pl.DataFrame, got: pl.DataFrame) -> list[str]:
    """How a result differs from the expected rows, in words; empty where it is the same. Only their columns count.

    Columns may have any order and any integer width; money must be a Decimal, and a double in its place is a
    difference even where the value happens to agree.
    """
    missing = [name for name in expected.columns if name not in got.columns]
    if missing:
        return [f"no column {', '.join(missing)}"]
    inexact = [n for n, dtype in expected.schema.items() if dtype.is_decimal() and not got.schema[n].is_decimal()]
    found = [f"{len(inexact)} columns of {got.schema[inexact[0]]} and not exact, e.g. {inexact[0]}"] if inexact else []
    if len(got) != len(expected):
        found.append(f"{len(got):,} rows, not {len(expected):,}")
    keys = list(primary_key(contract))
    n_keys = got.select(keys).n_unique()
    if n_keys != expected.select(keys).n_unique():
        found.append(f"{n_keys:,} keys, not {expected.select(keys).n_unique():,}")
    for name, dtype in expected.schema.items():
        if dtype.is_decimal() and got.schema[name].is_decimal() and got[name].sum() != expected[name].sum():
            found.append(f"the sum of {name} is {got[name].sum()}, not {expected[name].sum()}")
    return found or _unequal_values(contract, expected, got)


def _unequal_values(contract: type[Contract], expected: pl.DataFrame, got: pl.DataFrame) -> list[str]:
    keys = list(primary_key(contract))
    right = expected.sort(keys)
    left = got.select(pl.col(name).cast(dtype) for name, dtype in expected.schema.items()).sort(keys)
    found = []
    for field in (each for each in fields(contract) if each.name in expected.columns):
        ours, theirs = right[field.name], left[field.name]
        if field.dtype == pl.Float64():
            pairs = zip(ours, theirs, strict=True)
            n = sum(not _agree(a, b) for a, b in pairs)
        else:
            n = int(ours.ne_missing(theirs).sum())
        if n:
            found.append(f"{field.name} differs in {n:,} rows")
    return found


def _agree(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=_DOUBLES_AGREE)
