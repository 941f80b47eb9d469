"""A collector and a consumer as processes to kill, whose clock is that of a sandbox with a fast market.

Forked as ``worker.py``'s are. Nothing here may touch Polars or deltalake at import.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from crypto_assets.providers.feeds import FEEDS
from crypto_assets.resources.clock import SystemClock
from crypto_assets.resources.failpoints import VARIABLE
from crypto_assets.resources.lake import Lake
from crypto_assets.stream.blocks import Block
from crypto_assets.stream.collector import Collector, Pace, Subscription
from crypto_assets.stream.consumer import Consumer
from crypto_assets.stream.direct import DirectSource
from crypto_assets.stream.journal import Journal
from tests.faults.worker import context

SYMBOLS = {"BTCUSDT": "binance:BTC/USDT", "ETHUSDT": "binance:ETH/USDT"}
# The product's own waits would be most of a test's time.
PACE = Pace(ping_every=0.5, ping_reply=0.5, first_wait=0.1, longest_wait=0.5)


@dataclass(frozen=True)
class MarketClock:
    """Time of day passes ``speed`` times as fast from ``start`` on; elapsed time and waiting are the machine's."""

    start: datetime
    since: datetime
    speed: float

    def now(self) -> datetime:
        return self.start + self.speed * (datetime.now(UTC) - self.since)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Noting(Journal):
    """A journal that notes each block once it is acknowledged: its name, and how many messages it holds."""

    notes: Path

    def append(self, block: Block) -> None:
        super().append(block)
        handle = os.open(self.notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(handle, f"{block.pull_id} {len(block.frames)}\n".encode())
        finally:
            os.close(handle)


def collector(journal: Journal, ws: str, clock: Any, seed: int | None = None) -> Collector:
    """Binance's feed of the sandbox into the journal."""
    told = Subscription(FEEDS["binance_stream"], SYMBOLS, f"{ws}/binance/ws")
    rng = random.Random(seed)
    return Collector(told, journal, clock=clock, rng=rng, pace=PACE, most_s=0.05, tell=lambda _: None)


def collect(ws: str, directory: str, notes: str, clock: MarketClock) -> None:
    """Collect until killed."""
    with Noting(Path(directory), segment_bytes=60_000) as journal:
        journal.notes = Path(notes)
        asyncio.run(collector(journal, ws, clock).run(asyncio.Event()))


def consume(directory: str, root: str, notes: str, failpoint: str) -> None:
    """Land blocks until killed, or at the failpoint; a byte in ``notes`` for each landing."""
    if failpoint:
        os.environ[VARIABLE] = failpoint
    lake = Lake(root, run_id=str(os.getpid()))
    with Consumer(
        lake, lambda landed: DirectSource([Path(directory)], landed), FEEDS, SystemClock(), most_s=0.1
    ) as consumer:
        while True:
            if landed := consumer.step(0.05):
                with Path(notes).open("a", encoding="ascii") as file:
                    file.write("x" * len(landed))


def streamers() -> Any:
    """Processes that start with this module imported."""
    made = context()
    made.set_forkserver_preload([__name__, "tests.faults.worker"])
    return made


def clock_of(start: datetime, speed: float) -> MarketClock:
    """A market's time that passes from now on."""
    return MarketClock(start, datetime.now(UTC), speed)


def microseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
