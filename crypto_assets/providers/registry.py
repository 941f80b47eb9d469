"""Every provider that follows ``provider.py``; CoinCap, with its plans and versions, is put together on its own."""

from __future__ import annotations

from collections.abc import Mapping

from crypto_assets.providers.provider import Provider

_ALL: tuple[Provider, ...] = ()

PROVIDERS: Mapping[str, Provider] = {provider.name: provider for provider in _ALL}
