"""Every raw table's second reading, by table."""

from __future__ import annotations

from collections.abc import Mapping

from crypto_assets.checks.readings import alpha_vantage, binance_archive, coincap, coingecko, exchanges, mempool, stream
from crypto_assets.checks.readings.reading import Reading, RowReading
from crypto_assets.tables.contract import Contract

READINGS: Mapping[type[Contract], Reading | RowReading] = {
    **alpha_vantage.READINGS,
    **coincap.READINGS,
    **coingecko.READINGS,
    **mempool.READINGS,
    **binance_archive.READINGS,
    **exchanges.READINGS,
    **stream.READINGS,
}

__all__ = ["READINGS", "Reading", "RowReading"]
