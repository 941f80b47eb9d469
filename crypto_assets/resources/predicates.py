"""Windows as predicates: in Polars for readers, in SQL for Delta, on partitions and on what the log knows of files.

Belongs here: which rows, partitions and files a window selects in a table. Does not: windows themselves
(``tables/window.py``), and applying a predicate (``lake.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime

import polars as pl

from crypto_assets.tables.contract import Contract
from crypto_assets.tables.window import Window


def literal(value: str | date | datetime) -> str:
    """A SQL literal for a Delta predicate; the only place where one is made."""
    if isinstance(value, datetime):
        return f"'{value:%Y-%m-%dT%H:%M:%S.%fZ}'"
    if isinstance(value, date):
        return f"'{value.isoformat()}'"
    return "'" + value.replace("'", "''") + "'"


def inside(contract: type[Contract], window: Window) -> pl.Expr:
    """The rows of a window as a Polars predicate that partitions and file statistics can prune by."""
    start, end = pl.lit(window.start), pl.lit(window.end)
    if contract.table.span:
        opens, closes = (pl.col(c) for c in contract.table.span)
        # A live answer covers an instant: it belongs to the window that holds the instant.
        return (opens < end) & ((closes > start) | ((opens == closes) & (opens >= start)))
    first, last = window.days[0], window.days[-1]
    inside = pl.col("date").is_between(pl.lit(first), pl.lit(last))
    if period := contract.table.period:
        inside &= pl.col(period).is_between(pl.lit(opening(period, first)), pl.lit(opening(period, last)))
    if contract.table.clock:
        inside &= pl.col(contract.table.clock).is_between(start, end, closed="left")
    return inside


def in_sql(contract: type[Contract], window: Window) -> str:
    """The same window as SQL for delta-rs."""
    first, last = window.days[0], window.days[-1]
    by_day = _between("date", first, last)
    if period := contract.table.period:
        by_day = f"{_between(period, opening(period, first), opening(period, last))} AND {by_day}"
    if contract.table.clock is None or window == Window.of_days(first, last):
        return by_day
    clock = contract.table.clock
    return f"{by_day} AND {clock} >= {literal(window.start)} AND {clock} < {literal(window.end)}"


def _between(column: str, first: date, last: date) -> str:
    if first == last:
        return f"{column} = {literal(first)}"
    return f"{column} >= {literal(first)} AND {column} <= {literal(last)}"


def opening(period: str, day: date) -> date:
    """The first day of the day's ``month`` or ``year``."""
    return day.replace(day=1) if period == "month" else day.replace(month=1, day=1)


def is_closed(contract: type[Contract], partition: Mapping[str, str], before: date) -> bool:
    """Whether the partition's last day lies before a day."""
    if period := contract.table.period:
        return date.fromisoformat(partition[period]) < opening(period, before)
    return date.fromisoformat(partition["date"]) < before


def may_hold(contract: type[Contract], window: Window) -> pl.Expr:
    """The files that may hold rows of the window, by what the log knows of them."""
    if contract.table.period:
        held = (pl.col("min.date") <= window.days[-1]) & (pl.col("max.date") >= window.days[0])
        return held.fill_null(value=True)
    if contract.table.span is None:
        return pl.col("day").is_between(window.days[0], window.days[-1]) | pl.col("day").is_null()
    opens, closes = (pl.col(f"{bound}.{c}") for bound, c in zip(("min", "max"), contract.table.span, strict=True))
    return ((opens < window.end) & (closes >= window.start)).fill_null(value=True)
