"""Rows for the fault tests: raw answers of one pull, rates of one moment, exchanges."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from decimal import Decimal

import polars as pl

from crypto_assets.tables.raw import RawCoincapRates
from crypto_assets.tables.refined import DimExchange
from crypto_assets.tables.trusted import FxRates
from crypto_assets.tables.window import HOUR, Window
from tests.rows import rows_of

DAY = dt.date(2024, 1, 1)
NEXT = dt.date(2024, 1, 2)
WHOLE_DAY = Window.of_day(DAY)


def at(hour: int, day: int = 1) -> dt.datetime:
    return dt.datetime(2024, 1, day, hour, tzinfo=dt.UTC)


def hour(h: int) -> Window:
    return Window(at(h), at(h) + HOUR)


def answers(pull_id: str, n_pages: int = 2) -> pl.DataFrame:
    """A pull of ``raw.coincap_rates``."""
    return rows_of(
        RawCoincapRates, *({"pull_id": pull_id, "page": page, "n_pages": n_pages} for page in range(n_pages))
    )


def rates(h: int, usd: Mapping[str, int]) -> pl.DataFrame:
    """Rows of ``trusted.fx_rates`` at one hour of the day."""
    return rows_of(
        FxRates,
        *({"observed_at": at(h), "currency_id": name, "rate_usd": Decimal(value)} for name, value in usd.items()),
    )


def exchanges(names: Mapping[str, str]) -> pl.DataFrame:
    """Rows of ``refined.dim_exchange``, a merged table."""
    return rows_of(DimExchange, *({"exchange_id": key, "name": name} for key, name in names.items()))
