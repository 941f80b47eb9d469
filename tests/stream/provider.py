"""A provider on loopback that does to each connection what a test says, and a collector that meets it.

Both run in one event loop; what is collected lies in a real journal.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from crypto_assets.providers.feed import Feed
from crypto_assets.resources.clock import SystemClock
from crypto_assets.stream.blocks import Block, Event
from crypto_assets.stream.collector import Collector, Pace, Subscription
from crypto_assets.stream.journal import Journal, Reader

Script = Callable[[ServerConnection], Awaitable[None]]
MARKETS = {"BTCUSDT": "binance:BTC/USDT", "ETHUSDT": "binance:ETH/USDT"}
# As the product waits, a hundred times as fast.
FAST = Pace(handshake=2.0, ping_every=0.2, ping_reply=0.2, first_wait=0.02, longest_wait=0.2, retry_disk=0.05)
PATIENCE_S = 20.0

logging.getLogger("websockets").setLevel(logging.CRITICAL)


def trade(number: int, symbol: str = "BTCUSDT", *, padding: int = 0) -> bytes:
    """A message of Binance's with one trade."""
    told = {"e": "aggTrade", "E": 1, "s": symbol, "a": number, "p": "1.5", "q": "2", "f": number, "l": number}
    told |= {"T": 1_700_000_000_000 + number, "m": True, "M": True, "x": "y" * padding}
    return msgspec.json.encode({"stream": f"{symbol.lower()}@aggTrade", "data": told})


def number_of(frame: bytes) -> int:
    """The trade in such a message."""
    number: int = msgspec.json.decode(frame)["data"]["a"]
    return number


def sends(*messages: bytes | str, then: Script | None = None) -> Script:
    """Send these in text frames, then go on so; by default stay, and say nothing."""

    async def script(socket: ServerConnection) -> None:
        for message in messages:
            await socket.send(message.decode() if isinstance(message, bytes) else message)
        await (stays if then is None else then)(socket)

    return script


async def stays(socket: ServerConnection) -> None:
    """Answer pings, and nothing else."""
    await socket.wait_closed()


async def closes(socket: ServerConnection) -> None:
    await socket.close(1001, "going away")


async def breaks_off(socket: ServerConnection) -> None:
    socket.transport.abort()


async def freezes(socket: ServerConnection) -> None:
    """Half-open: the machine at the other end is gone, and nobody says so."""
    socket.transport.pause_reading()
    await asyncio.sleep(PATIENCE_S)


def writes(data: bytes) -> Script:
    """Bytes that no library would send; then stay."""

    async def script(socket: ServerConnection) -> None:
        socket.transport.write(data)
        await stays(socket)

    return script


def refuses(status: int) -> Script:
    """Answer the handshake with an HTTP status."""

    async def script(socket: ServerConnection) -> None:
        raise AssertionError

    script.status = status
    return script


@dataclass
class Provider:
    """What was asked of it: by connection the path, the headers, what was said, and the code it ended with."""

    scripts: list[Script]
    url: str = ""
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    heard: list[list[str]] = field(default_factory=list)
    codes: list[int | None] = field(default_factory=list)

    def _script(self, number: int) -> Script:
        return self.scripts[min(number, len(self.scripts) - 1)]

    async def meet(self, socket: ServerConnection, request: Request) -> Response | None:
        self.paths.append(request.path)
        self.headers.append(dict(request.headers))
        status = getattr(self._script(len(self.paths) - 1), "status", None)
        return None if status is None else socket.respond(HTTPStatus(status), "no")

    async def handle(self, socket: ServerConnection) -> None:
        number = len(self.paths) - 1
        said: list[str] = []
        self.heard.append(said)
        work = asyncio.ensure_future(self._script(number)(socket))
        try:
            async for message in socket:
                said.append(str(message))
        except ConnectionClosed:
            pass
        finally:
            self.codes.append(socket.close_code)
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


@asynccontextmanager
async def provider(*scripts: Script) -> AsyncIterator[Provider]:
    """A provider whose first connection meets the first script, and so on; the last one meets all others."""
    told = Provider(list(scripts))
    async with serve(
        told.handle, "127.0.0.1", 0, process_request=told.meet, ping_interval=None, close_timeout=0.2, compression=None
    ) as server:
        told.url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        yield told


class Dice(random.Random):
    """Notes what it is asked, and always throws the same: this share of the way from the least to the most."""

    def __init__(self, share: float) -> None:
        super().__init__(0)
        self.share = share
        self.asked: list[tuple[float, float]] = []

    def uniform(self, a: float, b: float) -> float:
        self.asked.append((a, b))
        return a + (b - a) * self.share


@dataclass
class Collected:
    """What a collector left behind, and what it told people."""

    provider: Provider
    collector: Collector
    blocks: list[Block]
    told: list[str]
    seconds: float

    @property
    def frames(self) -> list[bytes]:
        return [frame for block in self.blocks for frame in block.frames]

    @property
    def numbers(self) -> list[int]:
        return [number_of(frame) for frame in self.frames]

    def events(self, *kinds: str) -> list[Event]:
        return [event for block in self.blocks for event in block.events if event.kind in kinds]


def collect(
    feed: Feed,
    directory: Path,
    until: Callable[[Collector, Provider], object],
    *scripts: Script,
    journal: type[Journal] = Journal,
    key: str | None = None,
    markets: dict[str, str] = MARKETS,
    silent_after: float = 5.0,
    beside: Callable[[Collector, Provider], Awaitable[None]] | None = None,
    **how: Any,
) -> Collected:
    """Collect until it is so, and stop as SIGTERM does."""

    async def scenario() -> Collected:
        told: list[str] = []
        began = time.monotonic()
        async with provider(*scripts) as other:
            with journal(directory) as opened:
                collector = Collector(
                    Subscription(replace(feed, silent_after=silent_after), markets, other.url, key),
                    opened,
                    **{
                        "clock": SystemClock(),
                        "rng": Dice(1.0),
                        "pace": FAST,
                        "most_s": 0.02,
                        "tell": told.append,
                        **how,
                    },
                )
                stop = asyncio.Event()
                running = asyncio.create_task(collector.run(stop))
                work = asyncio.create_task(beside(collector, other)) if beside is not None else None
                while not until(collector, other):
                    if running.done():
                        await running
                    assert time.monotonic() - began < PATIENCE_S, f"it never came to that: {collector.counts} {told}"
                    await asyncio.sleep(0.005)
                if work is not None:
                    await work
                seconds = time.monotonic() - began
                stop.set()
                await running
                assert collector._transport is None
        return Collected(other, collector, Reader(directory).read(2**40), told, seconds)

    return asyncio.run(scenario())
