"""The providers beside CoinCap that the sandbox speaks, each under ``/<service>``; one module a service.

A service is a function of the market and the state to routes. Each answer begins with ``state.met``, so that calls are
counted and faults strike everywhere alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from starlette.routing import Mount, Route

from crypto_assets.sandbox import (
    alpha_vantage,
    binance,
    binance_archive,
    binance_stream,
    coinbase,
    coinbase_stream,
    coincap_stream,
    coingecko,
    finnhub,
    kraken,
    mempool,
)
from crypto_assets.sandbox.market import Market
from crypto_assets.sandbox.state import SandboxState
from crypto_assets.sandbox.streams import Stream

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


# Those with a websocket, which is at ``/<service>/ws``.
STREAMS: Mapping[str, type[Stream]] = {
    "binance": binance_stream.BinanceStream,
    "coinbase": coinbase_stream.CoinbaseStream,
    "coincap": coincap_stream.CoincapStream,
    "finnhub": finnhub.FinnhubStream,
}


def mounts(market: Market, state: SandboxState) -> list[Mount]:
    """Every service under its name."""
    state.streams = {name: stream(name, market, state) for name, stream in STREAMS.items()}
    return [
        Mount(
            f"/{name}",
            routes=[
                *(SERVICES[name](market, state) if name in SERVICES else ()),
                *(state.streams[name].routes() if name in STREAMS else ()),
            ],
        )
        for name in dict.fromkeys((*SERVICES, *STREAMS))
    ]
