"""What the providers cost and how they answer, by day of arrival. One function a table."""

from __future__ import annotations

import polars as pl

from crypto_assets.analytics import operations
from crypto_assets.assets.lake_asset import lake_asset, month_to_date
from crypto_assets.tables import quality, raw

_ANSWERS = [month_to_date(contract) for contract in raw.TABLES]
_COLUMNS = ("provider", "endpoint", "outcome", "ingested_at", "n_bytes", "credits")


@lake_asset(quality.SourceHealth, *_ANSWERS)
def source_health(*answers: pl.LazyFrame) -> pl.LazyFrame:
    return operations.source_health(pl.concat(frame.select(_COLUMNS) for frame in answers))


@lake_asset(quality.CreditLedger, *_ANSWERS)
def credit_ledger(*answers: pl.LazyFrame) -> pl.LazyFrame:
    return operations.credit_ledger(pl.concat(frame.select(_COLUMNS) for frame in answers))
