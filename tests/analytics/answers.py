"""What sources answered, as the ledgers of gaps and holes are given it."""

from __future__ import annotations

import polars as pl

from crypto_assets.tables.contract import UTC_TIME

ANSWER = {
    "key": pl.String,
    "source": pl.String,
    "window_start_at": UTC_TIME,
    "window_end_at": UTC_TIME,
    "outcome": pl.String,
    "detail": pl.String,
    "is_complete": pl.Boolean,
    "ingested_at": UTC_TIME,
}
