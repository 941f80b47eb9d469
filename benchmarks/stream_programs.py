"""The stream's own programs as processes of a benchmark, against a load server, with what they cost and leave."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from deltalake import DeltaTable

from benchmarks.data import ROOT
from benchmarks.stream_load import SENT, SYMBOLS

FEEDS = {"finnhub": "finnhub", "binance_stream": "binance"}
_COMMIT = re.compile(r"version (\d+): ([\d,]+) trades.*?(?:, ([\d.]+) s behind)?, committed in ([\d.]+) s")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass
class Programs:
    """What runs, by name, and where its lake is."""

    home: Path
    processes: dict[str, subprocess.Popen[bytes]]

    @property
    def trades(self) -> str:
        return str(self.home / "lake" / "raw" / "trades")

    def log(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text(errors="replace")

    def load(self) -> dict[str, object]:
        """What the load server has sent so far, by service, and its CPU seconds."""
        told: dict[str, object] = json.loads((self.home / SENT).read_text())
        return told

    def sent(self) -> dict[str, int]:
        """Trades sent so far, by feed."""
        sent = dict(self.load()["sent"])  # type: ignore[call-overload]
        return {feed: sent.get(service, 0) for feed, service in FEEDS.items() if service in sent}

    def end_load(self) -> dict[str, int]:
        """Let nothing more be sent; what has been, by feed."""
        self.processes["load"].terminate()
        wait_for(lambda: bool(self.load()["is_over"]), 60)
        return self.sent()

    def cpu_s(self, name: str) -> float:
        """CPU seconds of a process since its start."""
        told = Path(f"/proc/{self.processes[name].pid}/stat").read_text().rpartition(")")[2].split()
        return (int(told[11]) + int(told[12])) / _TICKS

    def rss_mb(self, name: str) -> float:
        """Memory of a process that is not in files."""
        told = Path(f"/proc/{self.processes[name].pid}/statm").read_text().split()
        return (int(told[1]) - int(told[2])) * _PAGE_MB

    def stop(self, name: str, seconds: float = 60) -> None:
        """End a program as an operator does, and wait for it."""
        process = self.processes[name]
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(seconds)


@dataclass(frozen=True)
class Committed:
    """A commit as the consumer said it."""

    version: int
    n_trades: int
    behind_s: float | None
    took_s: float


def committed(log: str) -> list[Committed]:
    """The commits that a consumer's log tells of."""
    return [
        Committed(int(m[1]), int(m[2].replace(",", "")), None if m[3] is None else float(m[3]), float(m[4]))
        for m in _COMMIT.finditer(log)
    ]


@contextmanager
def running(
    home: Path, feeds: tuple[str, ...], rate: float, flush_s: float, *, per_message: int = 3, consume: bool = True
) -> Iterator[Programs]:
    """A load server, a collector for each feed and a consumer; all ended at the end."""
    home.mkdir(parents=True, exist_ok=True)
    programs = Programs(home, {})
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CRYPTO_ASSETS_")}
    load = ["benchmarks.stream_load", str(home), "--rate", str(rate), "--per-message", str(per_message)]
    try:
        _start(programs, "load", load, environment)
        wait_for((home / SENT).exists, 30)
        environment |= {
            "CRYPTO_ASSETS_LAKE_URI": str(home / "lake"),
            "CRYPTO_ASSETS_STATE_DIR": str(home / "state"),
            "CRYPTO_ASSETS_SANDBOX_URL": f"http://127.0.0.1:{programs.load()['port']}",
            "CRYPTO_ASSETS_MARKETS": ",".join(f"binance:{name.removesuffix('USDT')}/USDT" for name in SYMBOLS),
            "CRYPTO_ASSETS_FEEDS": ",".join(feeds),
        }
        if consume:
            arguments = ["crypto_assets.cli", "stream", "consume", "--flush", str(flush_s)]
            _start(programs, "consumer", arguments, environment)
        for feed in feeds:
            _start(programs, feed, ["crypto_assets.cli", "stream", "collect", "--feed", feed], environment)
        yield programs
    finally:
        for name in reversed(programs.processes):
            programs.processes[name].kill()
            programs.processes[name].wait()


def _start(programs: Programs, name: str, arguments: list[str], environment: dict[str, str]) -> None:
    with (programs.home / f"{name}.log").open("wb") as log:
        programs.processes[name] = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def wait_for(is_so: Callable[[], bool], seconds: float) -> bool:
    """Whether it becomes so within the time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if is_so():
            return True
        time.sleep(0.1)
    return False


def n_rows(uri: str) -> int:
    """Rows of a table by its log; 0 where there is none."""
    if not DeltaTable.is_deltatable(uri):
        return 0
    adds = pl.DataFrame(DeltaTable(uri).get_add_actions(flatten=True))
    return int(adds["num_records"].sum()) if len(adds) else 0


def wrong(uri: str, sent: dict[str, int]) -> list[str]:
    """How the table differs from each sent trade once; empty where it does not."""
    number = pl.coalesce(pl.col("trade_id").cast(pl.Int64), (pl.col("quantity").cast(pl.Float64) * 1e6).round())
    found = (
        pl.scan_delta(uri)
        .select("provider", number=number.cast(pl.Int64))
        .group_by("provider")
        .agg(pl.len(), n=pl.col("number").n_unique(), low=pl.col("number").min(), high=pl.col("number").max())
        .collect()
    )
    told = {row["provider"]: (row["len"], row["n"], row["low"], row["high"]) for row in found.to_dicts()}
    return [
        f"{feed}: {told.get(feed)} rows, distinct, first, last, not {n}"
        for feed, n in sent.items()
        if told.get(feed) != (n, n, 1, n)
    ]
