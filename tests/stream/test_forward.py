"""The forwarder: from the journal to a broker, nothing left out, and one line for whatever is in the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from crypto_assets.errors import CryptoAssetsError, DataError, NeedsYouError, TransientError
from crypto_assets.providers.feeds import FEEDS
from crypto_assets.resources.clock import SystemClock
from crypto_assets.resources.lake import Lake
from crypto_assets.stream import forward
from crypto_assets.stream import kinesis as of_kinesis
from crypto_assets.stream.blocks import Block
from crypto_assets.stream.consumer import Consumer
from crypto_assets.stream.forward import Forwarder, next_to_send
from crypto_assets.stream.journal import Journal, backlog_bytes, oldest
from crypto_assets.stream.open import open_sink, open_source
from crypto_assets.stream.transport import Delivery, IsOver, Landed, Position, Sink, Source, never
from crypto_assets.tables.stream import RawStreamEvents, RawTrades
from tests.stream.brokers import (
    AWAY,
    REFUSED,
    SWITCHED,
    append,
    free_port,
    held,
    kinesis,
    moto,
    run,
)


class Shelf:
    """A sink that keeps what it is given, after it has failed as told."""

    def __init__(self, *failures: Exception, name: str = "shelf://1", place: str = "") -> None:
        self.name = name
        self.place = place or name
        self.failures = list(failures)
        self.kept: list[Block] = []
        self.n_puts = 0
        self.memories: list[Mapping[str, int]] = []
        self.opening: list[Exception] = []

    def open(self, memory: Mapping[str, int]) -> dict[str, int]:
        self.memories.append(memory)
        if self.opening:
            raise self.opening.pop(0)
        return {"shelves": 3, **memory}

    def put(self, blocks: Sequence[Block], is_over: IsOver = never) -> None:
        del is_over
        self.n_puts += 1
        if failures := self.failures:
            # Half of them arrive all the same.
            self.kept += blocks[: len(blocks) // 2]
            raise failures.pop(0)
        self.kept += blocks

    @property
    def blocks(self) -> list[int]:
        return [block.number for block in self.kept]

    def close(self) -> None: ...


def away(what: str = "the broker cannot be reached") -> TransientError:
    return TransientError(what, where="shelf://1", safe="the journal keeps it", hint="wait")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "_FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(forward, "_REFUSED_WAIT_S", 0.01)
    monkeypatch.setattr(forward, "_LONGEST_WAIT_S", 0.05)


def until(is_done: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_done():
        assert time.monotonic() < deadline, "it did not get there"
        time.sleep(0.01)


def forwarder(
    directory: Path, sink: Sink, told: list[str] | None = None, landed: Callable[[str], int | None] = lambda _: None
) -> Forwarder:
    tell = (told if told is not None else []).append
    return Forwarder(directory, sink, landed=landed, clock=SystemClock(), tell=tell, look_every_s=0.01)


def test_blocks_go_forward_as_they_come_and_each_once(tmp_path: Path) -> None:
    shelf = Shelf()
    with Journal(tmp_path) as journal, forwarder(tmp_path, shelf):
        for n in range(1, 6):
            append(journal)
            until(lambda n=n: next_to_send(tmp_path) == n)  # type: ignore[misc]
    assert shelf.blocks == list(range(5))


def test_a_journal_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    shelf = Shelf()
    with forwarder(tmp_path / "later", shelf), Journal(tmp_path / "later") as journal:
        append(journal)
        until(lambda: shelf.blocks == [0])


def test_what_is_in_the_journal_is_sent_before_it_ends(tmp_path: Path) -> None:
    shelf = Shelf()
    with Journal(tmp_path) as journal:
        with forwarder(tmp_path, shelf):
            append(journal, n_blocks=50)
        assert shelf.blocks == list(range(50))


def test_the_next_forwarder_goes_on_behind_what_is_acknowledged_and_knows_what_the_sink_knew(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        for shelf in (first := Shelf(), second := Shelf()):
            with forwarder(tmp_path, shelf):
                append(journal, n_blocks=3)
    assert (first.blocks, second.blocks) == ([0, 1, 2], [3, 4, 5])
    assert [first.memories, second.memories] == [[{}], [{"shelves": 3}]]


@AWAY
@pytest.mark.parametrize("damage", [b"", b"{", b'{"collector": 1}', b"\xff\xff"])
def test_a_note_that_was_cut_short_means_that_all_is_sent_again(tmp_path: Path, damage: bytes) -> None:
    with Journal(tmp_path) as journal:
        with forwarder(tmp_path, Shelf()):
            append(journal, n_blocks=3)
        (tmp_path / "sent.json").write_bytes(damage)
        with forwarder(tmp_path, shelf := Shelf()):
            append(journal)
    assert shelf.blocks == [0, 1, 2, 3]


def test_another_broker_and_another_journal_begin_with_what_is_left(tmp_path: Path) -> None:
    with Journal(tmp_path / "a") as journal:
        with forwarder(tmp_path / "a", Shelf()):
            append(journal, n_blocks=3)
        with forwarder(tmp_path / "a", other := Shelf(name="shelf://2")):
            append(journal)
    assert other.blocks == [0, 1, 2, 3]
    with Journal(tmp_path / "b") as journal:
        append(journal, n_blocks=2)
        (tmp_path / "b" / "sent.json").write_bytes((tmp_path / "a" / "sent.json").read_bytes())
        with forwarder(tmp_path / "b", shelf := Shelf()):
            pass
    assert shelf.blocks == [0, 1]


def test_the_same_broker_by_another_address_goes_on_and_is_told_what_it_knew(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        with forwarder(tmp_path, Shelf(name="shelf://1", place="hall")):
            append(journal, n_blocks=3)
        with forwarder(tmp_path, other := Shelf(name="shelf://1,2", place="hall")):
            append(journal)
    assert (other.blocks, other.memories) == ([3], [{"shelves": 3}])


def passed_on(directory: Path, journal: Journal) -> tuple[Shelf, list[int]]:
    """A broker that has all of thirty blocks, of which the journal holds a few; and the trades in them."""
    shelf = Shelf()
    with forwarder(directory, shelf):
        trades = append(journal, 20, n_blocks=30)
    until(lambda: len(list(directory.glob("*.blocks"))) == 1)
    return shelf, trades


@SWITCHED
def test_another_broker_gets_nothing_before_the_lake_holds_what_only_the_first_one_has(tmp_path: Path) -> None:
    told: list[str] = []
    other = Shelf(name="shelf://2")
    with Journal(tmp_path, segment_bytes=2000, lanes=2) as journal:
        passed_on(tmp_path, journal)
        held = oldest(tmp_path)
        # Of one lane enough has landed.
        lake = {f"{journal.collector}/0": 30, f"{journal.collector}/1": 7}
        with forwarder(tmp_path, other, told, lake.get):
            until(lambda: bool(told))
            assert f"blocks 7 to {held - 1} are with shelf://1 only, not in the lake yet" in told[0]
            assert "let stream consume --from shelf://1 land them" in told[0]
            assert other.blocks == []
            lake[f"{journal.collector}/1"] = 31
            until(lambda: other.blocks == list(range(held, 30)))
    assert "it works again" in told[1]


@SWITCHED
def test_direct_reads_nothing_before_the_lake_holds_what_only_the_broker_has(lake: Lake, tmp_path: Path) -> None:
    def direct() -> Consumer:
        def connect(landed: Landed) -> Source:
            return open_source("direct", landed, journals=[tmp_path], lake=lake)

        return Consumer(lake, connect, FEEDS, SystemClock(), most_s=0.0)

    with Journal(tmp_path, segment_bytes=2000, lanes=3) as journal:
        shelf, acknowledged = passed_on(tmp_path, journal)
        with direct() as reading, pytest.raises(NeedsYouError, match=r"blocks 0 to .* are with shelf://1 only"):
            reading.step()
        assert lake.state(RawTrades) is None
        with Consumer(lake, lambda _: OffTheShelf(shelf), FEEDS, SystemClock(), most_s=0.0) as reading:
            run(reading, lambda: held(lake) == acknowledged)
        acknowledged += append(journal, n_blocks=3)
        with direct() as reading:
            run(reading, lambda: len(held(lake)) >= len(acknowledged))
    assert held(lake) == acknowledged
    assert lake.read(RawStreamEvents).is_empty()


class OffTheShelf:
    """Reads what a shelf has."""

    n_parts = 1

    def __init__(self, shelf: Shelf) -> None:
        self._deliveries = [Delivery("shelf/1", (n,), block) for n, block in enumerate(shelf.kept)]

    def poll(self, _: float) -> list[Delivery]:
        told, self._deliveries = self._deliveries, []
        return told

    def rewind(self) -> None:
        raise AssertionError("nothing is read twice")

    def passed(self, positions: Mapping[str, Position]) -> None: ...

    def close(self) -> None: ...


def test_segments_that_are_acknowledged_are_forgotten_and_the_others_kept(tmp_path: Path) -> None:
    shelf = Shelf(*[away()] * 5)
    shelf.opening = [away()] * 3
    with Journal(tmp_path, segment_bytes=2000) as journal:
        append(journal, 20, n_blocks=30)
        full = backlog_bytes(tmp_path)
        assert len(list(tmp_path.glob("*.blocks"))) > 5
        with forwarder(tmp_path, shelf):
            until(lambda: len(list(tmp_path.glob("*.blocks"))) == 1)
    assert next_to_send(tmp_path) == 30
    assert backlog_bytes(tmp_path) < full / 5
    assert sorted(set(shelf.blocks)) == list(range(30))


@AWAY
def test_a_broker_that_is_away_is_one_line_and_its_return_another(tmp_path: Path) -> None:
    told: list[str] = []
    shelf = Shelf(*[away()] * 10_000)
    with Journal(tmp_path) as journal, forwarder(tmp_path, shelf, told) as forwarding:
        append(journal, n_blocks=4)
        until(lambda: shelf.n_puts > 3)
        assert forwarding.problem == "the broker cannot be reached"
        append(journal, n_blocks=2)
        shelf.failures = []
        until(lambda: next_to_send(tmp_path) == 6)
        until(lambda: not forwarding.problem)

    assert len(told) == 2
    assert told[0].endswith("the journal keeps what comes, and it is tried again")
    assert "it works again" in told[1]
    # What came twice came in its order: nothing before a block that it follows.
    first = {number: place for place, number in reversed(list(enumerate(shelf.blocks)))}
    assert list(dict(sorted(first.items(), key=lambda told: told[1]))) == list(range(6))


@REFUSED
@pytest.mark.parametrize(
    "error",
    [
        NeedsYouError("the credentials have expired", where="s", safe="x", hint="y"),
        DataError("a block in the journal is damaged", where="s", safe="x", hint="y"),
    ],
)
def test_what_needs_a_person_is_tried_again_when_it_is_mended(tmp_path: Path, error: CryptoAssetsError) -> None:
    told: list[str] = []
    shelf = Shelf()
    shelf.opening = [error] * 3
    with Journal(tmp_path) as journal, forwarder(tmp_path, shelf, told):
        append(journal)
        until(lambda: shelf.blocks == [0])
    assert [line.partition(";")[0] for line in told] == [f"s: {error.what}", "shelf://1: it works again"]


def test_a_mistake_of_ours_is_told_and_does_not_end_the_thread(tmp_path: Path) -> None:
    told: list[str] = []
    with Journal(tmp_path) as journal, forwarder(tmp_path, shelf := Shelf(KeyError("x")), told):
        append(journal)
        until(lambda: shelf.blocks == [0])
    assert "KeyError in the forwarder" in told[0]


def test_a_broker_that_is_away_at_the_end_is_not_waited_for(tmp_path: Path) -> None:
    shelf = Shelf(*[away()] * 1000)
    with Journal(tmp_path) as journal:
        append(journal)
        started = time.monotonic()
        with forwarder(tmp_path, shelf):
            until(lambda: shelf.n_puts > 0)
        assert time.monotonic() - started < 3
    with Journal(tmp_path), forwarder(tmp_path, again := Shelf()):
        pass
    assert again.blocks == [0]


class Hole(BaseHTTPRequestHandler):
    """Knows the stream, and never answers who puts."""

    puts: ClassVar[list[str]]
    goes: ClassVar[threading.Event]

    def do_POST(self) -> None:
        if "Describe" not in self.headers["X-Amz-Target"]:
            self.puts.append(self.headers["X-Amz-Target"])
            self.goes.wait()
            return
        told = b'{"StreamDescriptionSummary": {"StreamARN": "arn:aws:kinesis:us-east-1:1:stream/hole"}}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, *told: object) -> None: ...


@AWAY
def test_a_kinesis_that_never_answers_is_not_waited_for_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_kinesis, "_PUT_S", 0.5)
    told: list[str] = []
    Hole.puts, Hole.goes = [], threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Hole) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        _aws(monkeypatch, server.server_port)
        sink = open_sink("kinesis://hole")
        with Journal(tmp_path) as journal:
            append(journal)
            with Forwarder(tmp_path, sink, landed=lambda _: None, clock=SystemClock(), tell=told.append, drain_s=0.0):
                until(lambda: len(Hole.puts) > 0)
                n_before = len(Hole.puts)
        sink.close()
        n_puts = len(Hole.puts)
        Hole.goes.set()
        server.shutdown()
    # One that was under way, and one that began as it was told.
    assert n_puts <= n_before + 1
    assert [line.partition(";")[0] for line in told] == ["kinesis://hole: Kinesis in us-east-1 cannot be reached"]
    assert next_to_send(tmp_path) == 0


def _aws(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")


@AWAY
def test_a_kinesis_that_comes_up_later_gets_all_of_it(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    told: list[str] = []
    _aws(monkeypatch, port)
    sink = open_sink("kinesis://late")
    with Journal(tmp_path, lanes=3) as journal, forwarder(tmp_path, sink, told):
        acknowledged = append(journal, n_blocks=20)
        until(lambda: bool(told))
        with moto(port) as server:
            until(lambda: len(told) > 1)
            with kinesis(server, "late"):
                until(lambda: next_to_send(tmp_path) == 20)
                with Consumer(
                    lake,
                    lambda landed: open_source("kinesis://late", landed, lake=lake),
                    FEEDS,
                    SystemClock(),
                    most_s=0.05,
                ) as reading:
                    run(reading, lambda: len(held(lake)) >= 60)
    sink.close()

    assert held(lake) == acknowledged
    assert ["cannot be reached" in told[0], "there is no such stream" in told[1], "it works again" in told[2]] == [
        True
    ] * 3
