"""The providers beside CoinCap that the sandbox speaks, each under ``/<service>``; one module a service.

A service is a function of the market and the state to routes. Each answer begins with ``state.met``, so that calls are
counted and faults strike everywhere alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from starlette.routing import Mount, Route

from crypto_assets.sandbox import alpha_vantage, binance, binance_archive, coinbase, coingecko, kraken, mempool
from crypto_assets.sandbox.market import Market
from crypto_assets.sandbox.state import SandboxState

Service = Callable[[Market, SandboxState], Sequence[Route]]

# Service name: its routes. The name is the first part of its paths and of its endpoints' names for faults and counts.
SERVICES: Mapping[str, Service] = {
    "alpha_vantage": alpha_vantage.routes,
    "binance": binance.routes,
    "binance_archive": binance_archive.routes,
    "coingecko": coingecko.routes,
    "mempool": mempool.routes,
    "coinbase": coinbase.routes,
    "kraken": kraken.routes,
}


def mounts(market: Market, state: SandboxState) -> list[Mount]:
    """Every service under its name."""
    return [Mount(f"/{name}", routes=list(service(market, state))) for name, service in SERVICES.items()]
