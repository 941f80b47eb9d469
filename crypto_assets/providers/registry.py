"""Every provider that follows ``provider.py``; CoinCap, with its plans and versions, is put together on its own."""

from __future__ import annotations

from collections.abc import Mapping

from crypto_assets.providers import alpha_vantage, binance_archive, coincap, coingecko, exchanges, mempool
from crypto_assets.providers.provider import Provider

_ALL: tuple[Provider, ...] = (
    alpha_vantage.PROVIDER,
    binance_archive.PROVIDER,
    exchanges.PROVIDER,
    coingecko.PROVIDER,
    mempool.PROVIDER,
)

PROVIDERS: Mapping[str, Provider] = {provider.name: provider for provider in _ALL}
# All of them, as people meet them.
NAMES: tuple[str, ...] = (coincap.NAME, *PROVIDERS)
