"""Processes between a journal and the lake are killed while trades run through Kinesis and Kafka.

``FAULT_STREAM_KILLS=100`` kills so many forwarders and so many consumers on each, ``FAULT_SEED`` repeats a run.
Whatever happens, what the journal has acknowledged is in ``raw.trades``, each trade once, and nobody helped by hand.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from crypto_assets.providers.feed import Messages
from crypto_assets.providers.feeds import FEEDS
from crypto_assets.resources.lake import Lake
from crypto_assets.stream.forward import next_to_send
from crypto_assets.stream.journal import Journal
from crypto_assets.tables.contract import polars_schema
from crypto_assets.tables.stream import RawStreamEvents, RawTrades
from tests.faults.carriers import SILENT_S, carriers, consume, forward
from tests.faults.conftest import Figure
from tests.faults.worker import kill_process, kill_processes
from tests.stream.brokers import Broker, Kinesis, append, block, held, kinesis, tansu

pytestmark = [pytest.mark.timeout(3000), pytest.mark.xdist_group("stream")]

N_KILLS = int(os.environ.get("FAULT_STREAM_KILLS", "6"))
SEED = int(os.environ.get("FAULT_SEED", "20240101"))
# So many that each partition, and each quarter of the shards' keys, has some: 0.75 ** 32 is a ten-thousandth.
LANES = 32


@dataclass
class Line:
    """A journal that grows, and the processes that carry what it holds into a lake."""

    url: str
    environment: dict[str, str]
    home: Path
    rng: random.Random
    fresh_groups: bool = False
    running: dict[str, Any] = field(default_factory=dict)
    acknowledged: list[int] = field(default_factory=list)
    kills: dict[str, int] = field(default_factory=dict)
    n_groups: int = 0

    def __post_init__(self) -> None:
        self._context = carriers()
        self.lake = Lake(str(self.home / "lake"))
        self._over = threading.Event()

    @property
    def journal(self) -> Path:
        return self.home / "journal"

    @contextmanager
    def collecting(self, every_s: float = 0.02) -> Iterator[None]:
        """Blocks come in, and are acknowledged, all the while."""

        def collect() -> None:
            with Journal(self.journal, lanes=LANES, segment_bytes=20_000) as journal:
                while not self._over.wait(every_s):
                    self.acknowledged += append(journal, 5)

        self._over.clear()
        thread = threading.Thread(target=collect)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def start(self, name: str, *, failpoint: str = "") -> None:
        """Start the forwarder, or a consumer of that name."""
        if name == "forwarder":
            process = self._context.Process(target=forward, args=(self.url, self.environment, str(self.journal)))
        else:
            self.n_groups += self.fresh_groups
            notes, group = str(self._notes(name)), f"g{self.n_groups}"
            told = (self.url, self.environment, self.lake.root, notes, name, group, failpoint)
            process = self._context.Process(target=consume, args=told)
        process.start()
        self.running[name] = process

    def kill(self, name: str) -> None:
        kill_process(self.running.pop(name), name)
        self.kills[name] = self.kills.get(name, 0) + 1

    def progress(self, name: str) -> int:
        if name == "forwarder":
            return next_to_send(self.journal)
        notes = self._notes(name)
        return notes.stat().st_size if notes.exists() else 0

    def _notes(self, name: str) -> Path:
        return self.home / f"{name}.notes"

    def wait_for_progress(self, name: str, seconds: float = 90) -> None:
        before, deadline = self.progress(name), time.monotonic() + seconds
        while self.progress(name) == before:
            assert time.monotonic() < deadline, f"{name} got nowhere"
            if not self.running[name].is_alive():
                return
            time.sleep(0.01)

    def wait_until_all_landed(self, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while len(self.held()) < len(self.acknowledged):
            assert time.monotonic() < deadline, f"{len(self.held())} of {len(self.acknowledged)} trades landed"
            time.sleep(0.2)

    def held(self) -> list[int]:
        return held(self.lake)

    def stop(self) -> None:
        kill_processes(self.running)

    def check(self) -> None:
        """Every acknowledged trade is there once, and no block was missed on the way."""
        found = self.held()
        assert len(found) == len(set(found)), "a trade is there twice"
        assert found == sorted(self.acknowledged)
        kinds = self.lake.read(RawStreamEvents)["kind"].to_list()
        assert "blocks_lost" not in kinds


def line(url: str, environment: dict[str, str], home: Path, **more: Any) -> Line:
    return Line(url, environment, home, random.Random(SEED), **more)


@contextmanager
def working(told: Line, *names: str) -> Iterator[Line]:
    try:
        with told.collecting():
            for name in names:
                told.start(name)
            yield told
        told.wait_until_all_landed()
    finally:
        told.stop()
    told.check()


def kill_often(told: Line, victims: list[str], n_kills: int, longest_s: float) -> None:
    """Each of the victims so many times, at random moments of its work, or at a failpoint of a commit."""
    waiting = [name for name in victims for _ in range(n_kills)]
    told.rng.shuffle(waiting)
    for name in waiting:
        told.wait_for_progress(name)
        time.sleep(told.rng.uniform(0, longest_s))
        told.kill(name)
        point = told.rng.choice(["", "", "before_commit:{}", "after_commit:{}"]).format(told.rng.randint(1, 6))
        told.start(name, failpoint="" if name == "forwarder" else point)


@pytest.fixture
def stream(kinesis_server: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Kinesis]:
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)[:100]
    with kinesis(kinesis_server, name, n_shards=2) as made:
        yield made


@pytest.fixture
def broker() -> Iterator[Broker]:
    with tansu(n_partitions=3) as made:
        yield made


PROMISE = "every trade that the journal acknowledged is in raw.trades once; nothing is done by hand"


@pytest.mark.fault(row=63.1, fault="forwarder and consumer are killed at random, on Kinesis", promise=PROMISE)
def test_kills_on_kinesis_lose_and_double_nothing(stream: Kinesis, tmp_path: Path, figure: Figure) -> None:
    told = line(f"kinesis://{stream.stream}", stream.environment, tmp_path)
    started = time.monotonic()
    with working(told, "forwarder", "consumer"):
        kill_often(told, ["forwarder", "consumer"], N_KILLS, 0.3)
    figure(_figure("Kinesis", told, started))


@pytest.mark.fault(row=63.2, fault="forwarder and consumer are killed at random, on Kafka", promise=PROMISE)
def test_kills_on_kafka_lose_and_double_nothing(broker: Broker, tmp_path: Path, figure: Figure) -> None:
    # Each consumer is a group of its own: the broker makes the next member of a group wait for a killed one.
    told = line(f"kafka://{broker.servers}/trades", {}, tmp_path, fresh_groups=True)
    started = time.monotonic()
    with working(told, "forwarder", "consumer"):
        kill_often(told, ["forwarder", "consumer"], N_KILLS, 0.3)
    figure(_figure("Kafka", told, started))


@pytest.mark.fault(
    row=63.3,
    fault="Kinesis is resharded while two consumers share it, are killed, and stand still beyond their lease",
    promise=PROMISE,
)
def test_resharding_and_zombies_on_kinesis_lose_and_double_nothing(
    stream: Kinesis, tmp_path: Path, figure: Figure
) -> None:
    told = line(f"kinesis://{stream.stream}", stream.environment, tmp_path)
    started = time.monotonic()
    reshapes = [stream.split, stream.split, stream.merge, stream.split, stream.merge, stream.merge]
    with working(told, "forwarder", "one", "two"):
        for reshape in reshapes:
            told.wait_for_progress("one")
            # Whose shard ends does not read its end for a while, and the other may take what follows it.
            with asleep(told, told.rng.choice(["one", "two"])):
                reshape()
                time.sleep(SILENT_S * told.rng.uniform(0.5, 2))
            kill_often(told, ["one", "two"], 1, 0.2)
            kill_often(told, ["forwarder"], 1, 0.2)
    assert len(stream.shards()) == 2 + 3 * 2 + 3
    figure(_figure("Kinesis, six reshardings, two consumers", told, started))


@pytest.mark.fault(
    row=63.4,
    fault="consumers of a Kafka group come, are killed, stand still beyond their session, and go",
    promise=PROMISE,
)
def test_rebalancing_and_zombies_on_kafka_lose_and_double_nothing(
    broker: Broker, tmp_path: Path, figure: Figure
) -> None:
    told = line(f"kafka://{broker.servers}/trades", {}, tmp_path)
    started = time.monotonic()
    with working(told, "forwarder", "one"):
        told.wait_for_progress("one")
        told.start("two")
        time.sleep(8)
        told.wait_for_progress("two")
        with asleep(told, "one"):
            # Longer than its session: its partitions go to the other, and it believes that it has them.
            time.sleep(9)
        told.wait_for_progress("two")
        told.kill("two")
        told.wait_for_progress("one")
        told.start("three")
        time.sleep(4)
        told.wait_for_progress("three")
    figure(_figure("Kafka, a group that changes five times", told, started))


@pytest.mark.fault(row=63.5, fault="a Kafka broker stands still for a while", promise=PROMISE)
def test_a_kafka_broker_that_stands_still_loses_and_doubles_nothing(broker: Broker, tmp_path: Path) -> None:
    with working(line(f"kafka://{broker.servers}/trades", {}, tmp_path), "forwarder", "one") as told:
        for _ in range(2):
            told.wait_for_progress("one")
            broker.signal(signal.SIGSTOP)
            time.sleep(told.rng.uniform(1, 3))
            broker.signal(signal.SIGCONT)


def test_the_checker_sees_what_it_is_there_to_see(tmp_path: Path) -> None:
    """Blocks landed by hand: one too few, one twice under another collector's name, and one after a gap."""
    told = line("kinesis://none", {}, tmp_path)
    rows = FEEDS["binance_stream"].decode

    def land(name: str, number: int) -> None:
        made = block(number, range(number * 10, number * 10 + 3), collector=name)
        frame = rows(Messages(made.feed, made.pull_id, made.frames, made.received_us, made.markets)).trades
        told.lake.append(RawTrades, frame, app=name, version=number)

    land("a", 1)
    told.lake.append(RawStreamEvents, pl.DataFrame(schema=polars_schema(RawStreamEvents)), app="a", version=1)
    told.acknowledged = [10, 11, 12]
    told.check()
    told.acknowledged = [10, 11, 12, 20]
    with pytest.raises(AssertionError):
        told.check()
    told.acknowledged = [10, 11, 12]
    land("b", 1)
    with pytest.raises(AssertionError, match="a trade is there twice"):
        told.check()


@contextmanager
def asleep(told: Line, name: str) -> Iterator[None]:
    """A process that stands still, as one does whose machine swaps or is moved."""
    number = told.running[name].pid
    with suppress(ProcessLookupError):
        os.kill(number, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGCONT)


def _figure(where: str, told: Line, started: float) -> str:
    kills = ", ".join(f"{n} of {name}" for name, n in sorted(told.kills.items()))
    return (
        f"{where}: kills {kills}; {len(told.acknowledged):,} trades acknowledged, 0 lost, 0 doubled, "
        f"{time.monotonic() - started:.0f} s (seed {SEED})"
    )
