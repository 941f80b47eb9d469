"""Every raw table's second reading, by table."""

from __future__ import annotations

from collections.abc import Mapping

from crypto_assets.checks.readings import alpha_vantage, binance_archive, coincap, coingecko, exchanges, mempool
from crypto_assets.checks.readings.reading import Reading
from crypto_assets.tables import raw

READINGS: Mapping[type[raw.RawAnswers], Reading] = {
    **alpha_vantage.READINGS,
    **coincap.READINGS,
    **coingecko.READINGS,
    **mempool.READINGS,
    **binance_archive.READINGS,
    **exchanges.READINGS,
}

__all__ = ["READINGS", "Reading"]
