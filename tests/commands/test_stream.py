"""``crypto-assets stream`` as people meet it: a line for each mistake, processes that stop cleanly, and status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from crypto_assets import cli
from crypto_assets.commands import stream as command
from crypto_assets.resources.lake import Lake
from crypto_assets.sandbox import Fault, Market, Sandbox, serve
from crypto_assets.stream.journal import Journal, Reader
from crypto_assets.tables.contract import polars_schema
from crypto_assets.tables.stream import RawStreamEvents, RawTrades
from tests import rows
from tests.security.search import found_in
from tests.stream.brokers import append

KEY = "CANARY/Key+4b1d8e02-f95c"
MARKET = Market(7, activity=30)
NOW = datetime(2025, 3, 1, 12, tzinfo=UTC)
pytestmark = pytest.mark.timeout(60)
OURS = ("CRYPTO_ASSETS_", "AWS_", "COINCAP_", "FINNHUB_", "KAFKA_")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(OURS)]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CRYPTO_ASSETS_LAKE_URI", str(tmp_path / "lake"))
    monkeypatch.setenv("CRYPTO_ASSETS_STATE_DIR", str(tmp_path / "state"))
    return tmp_path


# ---- mistakes ----


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("collect --feed nope", 2, "there is no feed 'nope'"),
        ("run --feed nope", 2, "there is no feed 'nope'"),
        ("consume --feed ../../etc", 2, "there is no feed '../../etc'"),
        ("collect --feed finnhub", 4, "finnhub needs a key: set FINNHUB_API_KEY"),
        ("run --feed finnhub", 4, "no feed can run"),
        ("collect --feed binance_stream --to carrier-pigeon", 2, "this is no address of a transport"),
        ("collect --feed binance_stream --to kinesis://", 2, "this is no address of a transport"),
        ("collect --feed binance_stream --to kafka://me:canary@host/topic", 2, "holds no credentials"),
        ("consume --from kafka://broker", 2, "this is no address of a transport"),
        ("consume --flush 0", 2, "0 s is not between 0.05 and 3600"),
        ("run --flush 1e9", 2, "1e+09 s is not between 0.05 and 3600"),
        ("run --flush nan", 2, "nan s is not between 0.05 and 3600"),
        ("consume --rows 0", 2, "a batch has at least 1 row"),
    ],
)
def test_a_mistake_is_one_error_with_a_hint_and_starts_nothing(
    home: Path, capsys: pytest.CaptureFixture[str], words: str, code: int, said: str
) -> None:
    assert cli.main(["stream", *words.split()]) == code
    told = capsys.readouterr()
    errors = [line for line in told.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert said in errors[0]
    assert told.err.splitlines()[-1].startswith("hint: ")
    assert "canary" not in told.out + told.err
    assert "Traceback" not in told.err
    assert not list(home.rglob("*.blocks"))


def test_a_feed_without_any_of_the_markets_is_left_out_by_name(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRYPTO_ASSETS_MARKETS", "kraken:BTC/USD")
    assert cli.main(["stream", "run"]) == 4
    told = capsys.readouterr()
    assert "left out: binance_stream has none of the markets: see CRYPTO_ASSETS_MARKETS" in told.out
    assert "left out: coinbase_stream has none of the markets" in told.out
    assert "error: no feed can run" in told.err


def test_status_of_an_installation_that_never_streamed_is_its_feeds_and_nothing_else(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["stream", "status", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["feed"], row["state"], row["rows_5_min"]) for row in rows] == [
        ("binance_stream", "stopped", None),
        ("coinbase_stream", "stopped", None),
    ]
    assert not (home / "lake").exists()
    assert not (home / "state" / "stream").exists()


def test_status_counts_holes_once_for_all_their_markets_and_messages_that_nobody_could_read(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    of = {"provider": "finnhub", "starts_at": NOW, "ends_at": NOW, "n": 1, "date": NOW.date()}
    told = [{"kind": "hole", "subject": "a"}, {"kind": "hole", "subject": "b"}, {"kind": "bad"}, {"kind": "bad"}]
    events = rows.rows_of(RawStreamEvents, *({**of, **row, "page": i} for i, row in enumerate(told)))
    lake.append(RawStreamEvents, events, app="a", version=1)
    said = command._newest(lake, NOW)["finnhub"]
    assert (said["holes"], said["bad"]) == (1, 2)


def test_status_counts_blocks_by_what_landed_whatever_they_came_by_and_shows_the_brokers_problem(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = home / "state" / "stream" / "binance_stream"
    with Journal(directory, lanes=4) as journal:
        for _ in range(7):
            append(journal)
        lanes = [f"block/{journal.collector}/{lane}" for lane in range(4)]
    lake, rows = Lake(str(home / "lake")), pl.DataFrame(schema=polars_schema(RawTrades))
    after = dict(zip(lanes[:3], (8, 9, 6), strict=True))
    lake.advance(RawTrades, rows, expected=dict.fromkeys(after), after=after)
    said = {"is_running": True, "is_connected": True, "at": datetime.now(UTC).isoformat()}
    (directory / "status.json").write_text(json.dumps({**said, "forward_problem": "the broker is away"}))
    assert cli.main(["stream", "status", "--json"]) == 0
    row = {line["feed"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}["binance_stream"]
    # Of the fourth lane block 3 is still to come.
    assert (row["blocks_landed"], row["blocks_waiting"]) == (3, 4)
    assert row["state"] == "connected; not forwarded: the broker is away"


@pytest.mark.parametrize("words", ["", "run", "collect", "consume", "status"])
def test_every_command_has_help(home: Path, capsys: pytest.CaptureFixture[str], words: str) -> None:
    assert cli.main(["stream", *words.split(), "--help"]) == 0
    assert "Usage: crypto-assets stream" in capsys.readouterr().out


# ---- supervision ----


def test_one_that_needs_a_person_waits_while_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dies = [sys.executable, "-c", "import sys; sys.exit(4)"]
    lives = [sys.executable, "-c", "import time; time.sleep(60)"]
    programs = [command._Program("one", dies), command._Program("two", lives)]
    try:
        _until(lambda: command._tend(programs[0]) or programs[0].needs_you)
        command._tend(programs[1])
        command._require_some(programs)
        assert programs[0].due - time.monotonic() == pytest.approx(60, abs=1)
        assert "one cannot go on (see above); it is tried again in 60 s, the others go on" in capsys.readouterr().err
        programs[1].needs_you = True
        with pytest.raises(command.NeedsYouError, match="no collector can go on"):
            command._require_some(programs)
    finally:
        command._end(programs)
    assert programs[1].process is not None
    assert programs[1].process.returncode == -signal.SIGTERM


def test_one_that_dies_often_is_started_ever_later_but_always_again(capsys: pytest.CaptureFixture[str]) -> None:
    program = command._Program("one", [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    waits = []
    for n in (0, 1, 2, 5, 2000):
        program.n_failures, program.due = n, 0.0
        _until(lambda: command._tend(program) or program.process is None)
        waits.append(program.due - time.monotonic())
    assert waits == pytest.approx([0.5, 1, 2, 16, 30], abs=0.2)
    assert "one ended (signal 9); started again in 0.5 s, nothing is lost" in capsys.readouterr().err


def _until(what: Callable[[], object], seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ---- processes ----


@dataclass
class Started:
    process: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        return self.log.read_text()

    def until_said(self, what: str) -> None:
        _until(lambda: what in self.said() or self.process.poll() is not None)
        assert what in self.said(), self.said()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(20)


@contextmanager
def started(log: Path, sandbox: Sandbox, words: str, **environment: str) -> Iterator[Started]:
    """``crypto-assets stream <words>`` in a process of its own, gone at the end of the block."""
    told = {"CRYPTO_ASSETS_SANDBOX_URL": sandbox.url, "CRYPTO_ASSETS_MARKETS": "binance:BTC/USDT,binance:ETH/USDT"}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "crypto_assets.cli", "stream", *words.split()],
            env={**os.environ, **told, **environment},
            stdout=file,
            stderr=file,
        )
        try:
            yield Started(process, log)
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with serve(MARKET, keys=frozenset({KEY})) as listening:
        listening.set_now(NOW, 1.0)
        yield listening


@pytest.mark.e2e
@pytest.mark.timeout(180)
@pytest.mark.fault(
    row=64,
    fault="the key stands in the address, and the provider repeats it",
    promise="in no log, journal, event, table or status",
)
def test_trades_of_a_keyed_feed_arrive_and_the_key_is_nowhere(
    home: Path, sandbox: Sandbox, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.set_faults([Fault("unauthorized", "finnhub.ws", times=1), Fault("price_update", "finnhub.frames")])
    said = home / "said"
    said.mkdir()
    with started(said / "collector", sandbox, "collect --feed finnhub", FINNHUB_API_KEY=KEY) as collector:
        collector.until_said("the handshake was refused with HTTP 401; check FINNHUB_API_KEY")
        assert collector.stop() == 0
    with (
        started(said / "collector 2", sandbox, "collect --feed finnhub", FINNHUB_API_KEY=KEY) as collector,
        started(said / "consumer", sandbox, "consume --feed finnhub --flush 0.2") as consumer,
    ):
        consumer.until_said(" trades, ")
        _until(lambda: len(Lake(str(home / "lake")).read(RawTrades)) > 20)
        monkeypatch.setenv("FINNHUB_API_KEY", KEY)
        noted = home / "state" / "stream" / "finnhub" / "status.json"
        _until(lambda: json.loads(noted.read_bytes())["is_connected"])
        capsys.readouterr()
        assert cli.main(["stream", "status", "--json"]) == 0
        status = capsys.readouterr()
        (said / "status").write_text(status.out + status.err)
        row = {line["feed"]: line for line in map(json.loads, status.out.splitlines())}["finnhub"]
        assert (row["state"], row["holes_1_day"], row["errors"], row["bad_1_day"]) == ("connected", 0, 0, 0)
        assert row["blocks_landed"] > 0
        assert row["messages"] > 0
        assert row["backlog_bytes"] > 0
        assert 0 <= row["blocks_waiting"] < 20
        assert (datetime.now(UTC) - datetime.fromisoformat(row["last_message_at"])).total_seconds() < 60
        assert collector.stop() == 0
        assert "finnhub: stopped; what had come is on disk" in collector.said()
        blocks = Reader(home / "state" / "stream" / "finnhub").read(2**40)
        assert blocks[-1].events[-1].kind == "stopped"
        _until(lambda: "stopped" in Lake(str(home / "lake")).read(RawStreamEvents)["kind"].to_list())
        assert consumer.stop() == 0
        assert "stopped; what is not in the lake stays where it was read" in consumer.said()
    assert len(sandbox.connections("finnhub")) == 1
    assert found_in(home, KEY) == []


@pytest.mark.e2e
@pytest.mark.timeout(180)
def test_a_key_with_one_connection_is_collected_by_one_installation_and_taken_over_after_it(
    home: Path, sandbox: Sandbox
) -> None:
    with started(home / "first", sandbox, "collect --feed finnhub", FINNHUB_API_KEY=KEY) as first:
        _until(lambda: sandbox.connections("finnhub"))
        other: dict[str, Any] = {"CRYPTO_ASSETS_STATE_DIR": str(home / "other"), "FINNHUB_API_KEY": KEY}
        with started(home / "second", sandbox, "collect --feed finnhub", **other) as second:
            assert second.process.wait(30) == 4
        assert second.said().count("error: ") == 1
        assert "has this key's only connection, until " in second.said()
        assert "its stream goes on, this one was not opened" in second.said()
        # The same installation has its journal, and is told of that.
        with started(home / "third", sandbox, "collect --feed finnhub", FINNHUB_API_KEY=KEY) as third:
            assert third.process.wait(30) == 2
        assert "another collector writes this journal" in third.said()
        assert first.process.poll() is None
        assert [opened.ended for opened in sandbox.connections("finnhub")] == [""]
        assert first.stop() == 0
    with started(home / "fourth", sandbox, "collect --feed finnhub", **other):
        _until(lambda: len(sandbox.connections("finnhub")) == 2)


@pytest.mark.e2e
@pytest.mark.timeout(180)
def test_what_a_killed_supervisor_had_started_ends_and_the_next_one_goes_on(home: Path, sandbox: Sandbox) -> None:
    status = home / "state" / "stream" / "binance_stream" / "status.json"

    def noted() -> dict[str, Any]:
        told: dict[str, Any] = json.loads(status.read_bytes()) if status.exists() else {"pid": 0, "is_running": False}
        return told

    with started(home / "first", sandbox, "run --feed binance_stream --flush 0.2") as first:
        _until(lambda: noted()["is_running"] and " trades" in first.said())
        before = noted()["pid"]
        # Slow to notice that it is alone.
        os.kill(before, signal.SIGSTOP)
        first.process.kill()
        first.process.wait()
    with started(home / "second", sandbox, "run --feed binance_stream --flush 0.2") as second:
        try:
            second.until_said("another collector has the journal still")
        finally:
            os.kill(before, signal.SIGCONT)
        _until(lambda: noted()["is_running"] and noted()["pid"] != before and " trades" in second.said())
        assert second.stop() == 0
    assert "error: " not in first.said() + second.said()
    assert second.said().count("another collector has the journal still") == 1
    assert second.said().endswith("stopped; nothing runs any more\n")
    assert not noted()["is_running"]
    rows = Lake(str(home / "lake")).read(RawTrades)
    assert not rows.select("subject", "trade_id").is_duplicated().any()
