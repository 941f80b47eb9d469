"""A stream whose provider, processes and disk fail, against the sandbox's own list: rows 57 to 63.

``FAULT_KILLS=200`` kills the collector and the consumer a hundred times each, ``FAULT_SEED`` repeats a run. What a
single fault does to a collector is in ``tests/stream/test_collector.py``.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from crypto_assets.providers.feeds import FEEDS
from crypto_assets.resources.clock import SystemClock
from crypto_assets.resources.lake import Lake
from crypto_assets.sandbox import Fault, Market, Sandbox, serve
from crypto_assets.stream.blocks import MARGIN_US
from crypto_assets.stream.consumer import Consumer
from crypto_assets.stream.direct import DirectSource
from crypto_assets.stream.journal import Journal, Reader, synced
from crypto_assets.tables.stream import RawStreamEvents, RawTrades
from tests.faults.conftest import Figure
from tests.faults.streamers import (
    SYMBOLS,
    MarketClock,
    clock_of,
    collect,
    collector,
    consume,
    microseconds,
    streamers,
)
from tests.faults.worker import kill_process, kill_processes

pytestmark = [pytest.mark.timeout(1800), pytest.mark.xdist_group("stream")]

N_KILLS = int(os.environ.get("FAULT_KILLS", "16")) // 2
SEED = int(os.environ.get("FAULT_SEED", "20240101"))
# Ten trades a second of the market's time in both markets together.
MARKET = Market(7, activity=30)
START = datetime(2025, 3, 1, 12, tzinfo=UTC)
# A hole's margin of five seconds is half a real one: longer than a loaded machine holds a message back.
SPEED = 10.0


@dataclass
class Stream:
    """A sandbox with a fast market, a journal, a lake, and the processes between them."""

    home: Path
    sandbox: Sandbox
    clock: MarketClock
    rng: random.Random = field(default_factory=lambda: random.Random(SEED))
    running: dict[str, Any] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._context = streamers()
        self.journal = self.home / "journal"
        self.lake = Lake(str(self.home / "lake"))

    # ---- processes ----

    def start(self, name: str, failpoint: str = "") -> None:
        notes = str(self._notes(name))
        if name == "collector":
            told = (self.sandbox.ws, str(self.journal), notes, self.clock)
            process = self._context.Process(target=collect, args=told)
        else:
            process = self._context.Process(target=consume, args=(str(self.journal), self.lake.root, notes, failpoint))
        process.start()
        self.running[name] = process

    def kill(self, name: str) -> None:
        """Kill it, if it has not come to its failpoint before."""
        kill_process(self.running.pop(name), name)
        self.kills[name] += 1

    def kill_often(self, victims: list[str], longest_s: dict[str, float]) -> None:
        """Each at a random moment of its work, or at a failpoint of a commit; the next one is started at once."""
        for name in victims:
            self._wait_for_work(name)
            time.sleep(self.rng.uniform(0, longest_s[name]))
            self.kill(name)
            point = self.rng.choice(["", "before_commit", "after_commit"]) if name == "consumer" else ""
            self.start(name, f"{point}:{self.rng.randint(1, 6)}" if point else "")

    def stop(self) -> None:
        kill_processes(self.running)

    def _notes(self, name: str) -> Path:
        return self.home / f"{name}.notes"

    def _wait_for_work(self, name: str) -> None:
        def size() -> int:
            return self._notes(name).stat().st_size if self._notes(name).exists() else 0

        before = size()
        _until(lambda: size() > before or not self.running[name].is_alive(), f"the {name} got nowhere")

    def drain(self) -> None:
        """Land, in this process, what the journal still holds."""
        with Consumer(
            self.lake, lambda landed: DirectSource([self.journal], landed), FEEDS, SystemClock(), most_s=0.0
        ) as consumer:
            end = synced(self.journal)

            def is_landed() -> bool:
                consumer.step(0.05)
                return (self.lake.landed(RawTrades, f"direct/{self._collector()}#0") or 0) >= end

            _until(is_landed, "nothing landed")
            consumer.flush()

    def _collector(self) -> str:
        return (self.journal / "collector").read_text().split()[0]

    # ---- what is there ----

    def noted(self) -> dict[str, int]:
        """Messages of each block that was acknowledged, by its name."""
        lines = self._notes("collector").read_text().splitlines()
        return {name: int(n) for name, n in (line.split() for line in lines)}

    def rows(self) -> pl.DataFrame:
        return self.lake.read(RawTrades)

    def holes(self) -> dict[str, list[tuple[int, int]]]:
        """Intervals in microseconds by market."""
        rows = self.lake.read(RawStreamEvents).filter(kind="hole").sort("starts_at")
        found: dict[str, list[tuple[int, int]]] = {market: [] for market in SYMBOLS.values()}
        for market, start, end in rows.select("subject", "starts_at", "ends_at").iter_rows():
            found[market].append((microseconds(start), microseconds(end) + 1000))
        return found

    def check_acknowledged(self) -> int:
        """Every block that was acknowledged has all of its rows, each once, and no number is missing."""
        rows = self.rows()
        assert not rows.select("pull_id", "page").is_duplicated().any(), "a delivery is there twice"
        landed = Counter(rows["pull_id"])
        noted = self.noted()
        assert noted
        assert {name: landed[name] for name in noted} == noted, "an acknowledged block is not there as it was"
        numbers = sorted(int(name.split(":")[1]) for name in noted)
        # The note of the last block before a kill may be missing, the block is not.
        assert numbers[-1] + 1 - len(numbers) <= self.kills["collector"] + 1
        assert "blocks_lost" not in self.lake.read(RawStreamEvents)["kind"].to_list()
        return sum(noted.values())

    def check_tape(self, *, n_repeats: bool = False) -> tuple[int, float]:
        """Against the sandbox's list: nothing is invented, and whatever is missing lies in a hole of its market.

        Returns:
            how many trades there were, and the share of them outside of holes.
        """
        rows = self.rows()
        events = self.lake.read(RawStreamEvents)
        opened = events.filter(kind="opened")["ends_at"].min()
        assert isinstance(opened, datetime)
        newest = rows["ingested_at"].max()
        assert isinstance(newest, datetime)
        # A subscription takes effect a moment after the opening; what was on its way at the end was never received.
        first, last = microseconds(opened) + MARGIN_US, microseconds(newest) - MARGIN_US
        truth = {
            (trade.market_id, str(trade.number)): trade
            for trade in self.sandbox.happened("binance", START - timedelta(days=1), newest, list(SYMBOLS.values()))
        }
        found = list(rows.select("subject", "trade_id", "price", "quantity", "taker_side", "traded_us").iter_rows())
        if not n_repeats:
            assert len(found) == len(set(found)), "a trade is there twice"
        for market, number, price, quantity, side, us in found:
            trade = truth[market, number]
            assert (trade.price, trade.quantity, trade.taker_side) == (price, quantity, side)
            assert trade.traded_us // 1000 == us // 1000
        held = {(market, number) for market, number, *_ in found}
        holes = self.holes()
        between = [trade for trade in truth.values() if first <= trade.traded_us < last]
        outside = [trade for trade in between if not _is_in(trade.traded_us, holes[trade.market_id])]
        missing = [trade for trade in outside if (trade.market_id, str(trade.number)) not in held]
        assert missing == [], f"{len(missing)} of {len(outside)} trades are missing without a hole"
        return len(between), len(outside) / len(between)


def _is_in(us: int, holes: list[tuple[int, int]]) -> bool:
    return any(start <= us < end for start, end in holes)


def _until(what: Callable[[], bool], otherwise: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.005)


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[Stream]:
    clock = clock_of(START, SPEED)
    with serve(MARKET, clock=clock.now) as sandbox:
        told = Stream(tmp_path, sandbox, clock)
        try:
            yield told
        finally:
            told.stop()


# ---- kills ----

KILLED = pytest.mark.fault(
    row=63,
    fault="collector and consumer are killed (SIGKILL) at random moments, with messages in memory",
    promise="what was acknowledged is there once; what was in memory, 0.2 s at most, is in a noted hole",
)


@KILLED
def test_kills_of_collector_and_consumer_lose_and_double_nothing(stream: Stream, figure: Figure) -> None:
    began = time.monotonic()
    victims = ["collector", "consumer"] * N_KILLS
    stream.rng.shuffle(victims)
    stream.start("collector")
    stream.start("consumer")
    stream.kill_often(victims, {"collector": 3.0, "consumer": 0.4})
    # One more of each works undisturbed.
    stream._wait_for_work("collector")
    time.sleep(2.0)
    stream.stop()
    stream.drain()
    n_acknowledged = stream.check_acknowledged()
    n_trades, share = stream.check_tape()
    assert share > 0.1, "nearly everything was a hole: the tape says nothing"
    figure(
        f"stream, direct: {stream.kills['collector']} kills of the collector and {stream.kills['consumer']} of the "
        f"consumer: {n_acknowledged:,} trades acknowledged, 0 lost, 0 doubled; of {n_trades:,} on the tape "
        f"{share:.0%} outside of holes, all there; {time.monotonic() - began:.0f} s (seed {SEED})"
    )


def test_the_check_sees_a_row_that_is_missing_doubled_or_invented(stream: Stream) -> None:
    """A check that finds nothing proves something only where it would have found it."""
    stream.start("collector")
    _until(lambda: stream._notes("collector").exists() and len(stream.noted()) > 20, "nothing came")
    time.sleep(1.5)
    stream.stop()
    stream.drain()
    stream.check_acknowledged()
    assert stream.check_tape()[1] == 1.0
    whole = stream.rows().sort("traded_us")
    middle = len(whole) // 2
    for spoiled, said in (
        (pl.concat([whole[:middle], whole[middle + 1 :]]), "not there as it was"),
        (pl.concat([whole, whole[middle : middle + 1]]), "there twice"),
    ):
        stream.rows = lambda spoiled=spoiled: spoiled  # type: ignore[method-assign,misc]
        with pytest.raises(AssertionError, match=said):
            stream.check_acknowledged()
        with pytest.raises(AssertionError, match=r"missing without a hole|there twice"):
            stream.check_tape()


# ---- a bad provider ----


@contextmanager
def collecting(stream: Stream) -> Iterator[None]:
    """A collector in a thread of this process, until the end of the block; then it is stopped as SIGTERM does."""
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    problems: list[BaseException] = []

    def work() -> None:
        try:
            with Journal(stream.journal) as journal:
                loop.run_until_complete(collector(journal, stream.sandbox.ws, stream.clock, SEED).run(stop))
        except BaseException as problem:
            problems.append(problem)
            raise

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()
    assert problems == []


@pytest.mark.fault(
    row=57,
    fault="the connection is dropped every minute, cleanly, by an abort or half-open",
    promise="opened anew; every trade is there or in a hole [t0, t1) of its market",
)
@pytest.mark.fault(
    row=59,
    fault="messages are sent twice, late, and again after a reconnect",
    promise="each delivery is a row, the distinct trades are the tape without the holes",
)
def test_a_provider_that_drops_repeats_and_disorders_costs_noted_holes_only(stream: Stream, figure: Figure) -> None:
    minute_s = 60 / SPEED
    n = 6
    stream.sandbox.set_faults(
        [
            # A connection of each kind in turn; what froze is noticed a second later.
            *(Fault("drop", "binance.ws", after=3 * i, times=1, seconds=minute_s) for i in range(n)),
            *(Fault("abort", "binance.ws", after=3 * i + 1, times=1, seconds=minute_s) for i in range(n)),
            *(Fault("freeze", "binance.ws", after=3 * i + 2, times=1, seconds=minute_s) for i in range(n)),
            Fault("replay", "binance.ws", after=1, size=30),
            *(Fault("sent_twice", "binance.frames", after=50 * i, times=20) for i in range(400)),
            *(Fault("sent_late", "binance.frames", after=37 * i, times=1) for i in range(400)),
        ]
    )
    with collecting(stream):
        _until(lambda: len(stream.sandbox.connections("binance")) > n, "it was not dropped so often", 200)
        time.sleep(1.0)
    stream.drain()
    kinds = Counter(opened.ended for opened in stream.sandbox.connections("binance"))
    assert {"dropped": 2, "cut off": 2, "frozen": 2}.items() <= kinds.items()
    n_trades, share = stream.check_tape(n_repeats=True)
    rows = stream.rows()
    n_distinct = rows.select("subject", "trade_id").n_unique()
    assert len(rows) > n_distinct + 100, "nothing was repeated"
    by_arrival = rows.sort("ingested_at", "pull_id", "page").filter(symbol="BTCUSDT")
    assert not by_arrival["traded_us"].is_sorted(), "nothing was out of order"
    holes = stream.holes()
    assert {market: len(found) for market, found in holes.items()} == dict.fromkeys(SYMBOLS.values(), n)
    events = stream.lake.read(RawStreamEvents)
    assert len(events.filter(kind="lost")) == n
    assert len(events.filter(kind="silent")) == 2
    frozen = events.filter(kind="lost")["detail"].str.starts_with("no answer to a ping").sum()
    assert frozen == 2
    assert share > 0.3
    figure(
        f"stream with a drop a minute: {n} of them, {len(rows):,} deliveries of {n_distinct:,} trades, "
        f"{len(rows) - n_distinct:,} repeated; of {n_trades:,} on the tape {share:.0%} outside of {n} holes, all there"
    )


# ---- supervision ----


@KILLED
def test_stream_run_starts_again_what_dies(tmp_path: Path) -> None:
    told = {"CRYPTO_ASSETS_LAKE_URI": str(tmp_path / "lake"), "CRYPTO_ASSETS_STATE_DIR": str(tmp_path / "state")}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CRYPTO_ASSETS_", "AWS_"))}
    lake, journal = Lake(str(tmp_path / "lake")), tmp_path / "state" / "stream" / "binance_stream"
    with serve(MARKET) as sandbox:
        sandbox.set_now(START, 1.0)
        told |= {"CRYPTO_ASSETS_SANDBOX_URL": sandbox.url, "CRYPTO_ASSETS_MARKETS": ",".join(SYMBOLS.values())}
        command = [sys.executable, "-m", "crypto_assets.cli", "stream", "run", "--feed", "binance_stream"]
        with (tmp_path / "said").open("w") as said:
            supervisor = subprocess.Popen([*command, "--flush", "0.2"], env={**kept, **told}, stdout=said, stderr=said)
        try:
            for part in ("collect", "consume", "collect", "consume"):
                before = _n_landed(lake)
                _until(lambda before=before: _n_landed(lake) > before, "nothing lands")  # type: ignore[misc]
                os.kill(_child(supervisor.pid, part), signal.SIGKILL)
            before = _n_landed(lake)
            _until(lambda: _n_landed(lake) > before, "nothing lands")
        finally:
            supervisor.terminate()
            try:
                # Longer than it waits for its programs before it kills them.
                code = supervisor.wait(60)
            finally:
                # Its programs end when it is gone.
                supervisor.kill()
        assert code == 0
    spoken = (tmp_path / "said").read_text()
    assert spoken.count("binance_stream ended (signal 9); started again in") == 2
    assert spoken.count("consumer ended (signal 9); started again in") == 2
    assert spoken.endswith("stopped; nothing runs any more\n")
    rows = lake.read(RawTrades)
    assert not rows.select("subject", "trade_id").is_duplicated().any()
    # What the last collector had acknowledged by its end is in the lake by the consumer's.
    blocks = Reader(journal).read(2**40)
    landed = Counter(rows["pull_id"])
    assert {block.pull_id: landed[block.pull_id] for block in blocks} == {b.pull_id: len(b.frames) for b in blocks}
    assert blocks[-1].events[-1].kind == "stopped"
    events = lake.read(RawStreamEvents)
    assert len(events.filter(kind="hole")) == 2 * len(SYMBOLS)
    assert "blocks_lost" not in events["kind"].to_list()


def _n_landed(lake: Lake) -> int:
    return 0 if lake.state(RawTrades) is None else len(lake.read(RawTrades))


def _child(parent: int, part: str) -> int:
    """The process id of the supervisor's collector or consumer, waited for."""
    found: list[int] = []

    def look() -> bool:
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            if part.encode() in words:
                found.append(int(child))
        return bool(found)

    _until(look, f"no {part} runs")
    return found[0]
