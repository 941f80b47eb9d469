"""Sums and means that do not depend on the order in which the engine adds. Expressions over columns; no I/O.

Addition of doubles is not associative, and Polars splits a group among threads as it sees fit: the last bit of a sum
of doubles differs from run to run, and each materialization would write a new version of the same table. Decimals add
exactly, so whatever is summed is summed as a Decimal, and becomes a double once, at the end.
"""

from __future__ import annotations

import polars as pl

from crypto_assets.tables.contract import MONEY


def mean(decimals: pl.Expr) -> pl.Expr:
    """The mean of a Decimal column as a double; null where there is no value."""
    return pl.when(decimals.count() > 0).then(decimals.sum().cast(pl.Float64) / decimals.count())


def total(doubles: pl.Expr) -> pl.Expr:
    """The sum of doubles, each taken to 18 fractional digits; a NaN (a share of nothing) adds nothing."""
    return doubles.fill_nan(None).cast(MONEY).sum().cast(pl.Float64)


# A tenth of what a Decimal(38, 18) holds.
_HIGHEST = 1e19


def quotient(dividend: str, divisor: str) -> pl.Expr:
    """The quotient of two Decimal columns, rounded to 18 digits; null where the divisor is zero or it would not fit.

    A quotient that the type cannot hold would end the computation of every market: one absurd record has none.
    """
    ratio = pl.col(dividend).cast(pl.Float64) / pl.col(divisor).cast(pl.Float64)
    can_divide = (pl.col(divisor) > 0) & (ratio < _HIGHEST)
    return pl.when(can_divide).then(pl.col(dividend)) / pl.when(can_divide).then(pl.col(divisor))
