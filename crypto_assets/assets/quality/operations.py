"""What the providers cost and how they answer, by day of arrival. One function a table."""

from __future__ import annotations

import polars as pl

from crypto_assets.analytics import operations
from crypto_assets.assets.lake_asset import Input, lake_asset, month_to_date
from crypto_assets.resources.lake import Lake
from crypto_assets.tables import quality, raw, trusted
from crypto_assets.tables.contract import Contract, moment
from crypto_assets.tables.trusted import INTERVALS
from crypto_assets.tables.window import Window

_ANSWERS = [month_to_date(contract) for contract in raw.TABLES]
_COLUMNS = ("provider", "endpoint", "outcome", "ingested_at", "n_bytes", "credits")


@lake_asset(quality.SourceHealth, *_ANSWERS)
def source_health(*answers: pl.LazyFrame) -> pl.LazyFrame:
    return operations.source_health(pl.concat(frame.select(_COLUMNS) for frame in answers))


@lake_asset(quality.CreditLedger, *_ANSWERS)
def credit_ledger(*answers: pl.LazyFrame) -> pl.LazyFrame:
    return operations.credit_ledger(pl.concat(frame.select(_COLUMNS) for frame in answers))


def _known(contract: type[Contract], after: pl.Expr | None = None) -> Input:
    """The times of a table's facts: when each could be known, and when it arrived."""
    known_at = pl.col(moment(contract)) if after is None else pl.col(moment(contract)) + after

    def select(lake: Lake, window: Window) -> pl.LazyFrame:
        rows = lake.scan(contract, window)
        return rows.select(
            "provider", "ingested_at", "date", known_at=known_at, table_name=pl.lit(contract.table.full_name)
        )

    return Input(contract, select)


_LENGTH = pl.duration(milliseconds=pl.col("interval").replace_strict(INTERVALS, default=None, return_dtype=pl.Int64))


@lake_asset(
    quality.Lateness,
    *[
        _known(contract)
        for contract in (
            trusted.AssetSnapshots,
            trusted.ExchangeSnapshots,
            trusted.MarketSnapshots,
            trusted.FxRates,
            trusted.Quotes,
            trusted.OnchainStats,
            trusted.ExchangeScores,
        )
    ],
    # A candle is known when it is over.
    _known(trusted.Candles, _LENGTH),
)
def lateness(*facts: pl.LazyFrame) -> pl.LazyFrame:
    return operations.lateness(pl.concat(facts))
