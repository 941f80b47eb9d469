"""``python -m benchmarks stream_rates``: what a stream costs and how soon its trades can be queried, at several rates.

A collector and a consumer as people start them, and a load server that sends Finnhub's messages of three trades. A
reader polls the table's log and reads the files of each commit: a trade's latency is from when it was sent until the
reader has its row. CPU is that of each process, as a share of one core, from the second after the first commit. With
``--pause`` the consumer stands still for so long in the middle: the journal grows, memory should not. At the end every
trade that was sent must be in the table once.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table

from benchmarks.data import CACHE
from benchmarks.stream_programs import Programs, n_rows, running, wait_for, wrong

NAME = "stream_rates"
_FEED = "finnhub"
_POLL_S = 0.02
_HEADINGS = (
    *("asked/s", "flush s", "sent/s", "landed/s", "p50 s", "p99 s", "max s", "collector %", "consumer %", "both %"),
    *("load server %", "collector MB", "consumer MB", "journal MB", "load", "every trade once?"),
)


@dataclass
class Reader:
    """Reads each commit's rows as soon as it sees the commit, in a thread."""

    table: Path
    latencies: list[pl.Series] = field(default_factory=list)
    is_over: bool = False
    version: int = 0

    def run(self) -> None:
        while not self.is_over:
            entry = self.table / "_delta_log" / f"{self.version:020}.json"
            if not entry.exists():
                time.sleep(_POLL_S)
                continue
            self.version += 1
            for line in entry.read_bytes().splitlines():
                added = json.loads(line).get("add")
                if added and added["dataChange"]:
                    sent = pl.read_parquet(self.table / added["path"], columns=["traded_us"])["traded_us"]
                    self.latencies.append(time.time_ns() // 1000 - sent)


@dataclass
class _Peaks:
    """The most memory of processes, and of journals on disk, in MB."""

    rss: dict[str, float] = field(default_factory=dict)
    journal: float = 0.0

    def look(self, programs: Programs) -> None:
        for name in (_FEED, "consumer"):
            self.rss[name] = max(self.rss.get(name, 0), programs.rss_mb(name))
        held = sum(path.stat().st_size for path in programs.home.glob("state/**/*.blocks")) / 2**20
        self.journal = max(self.journal, held)


def measured(rate: float, flush_s: float, seconds: float, pause_s: float) -> tuple[list[str], bool]:
    """A row of figures, and whether every trade is in the table once."""
    home = Path(tempfile.mkdtemp(prefix="rates-", dir=CACHE))
    try:
        with running(home, (_FEED,), rate, flush_s) as programs:
            reader = Reader(Path(programs.trades))
            thread = threading.Thread(target=reader.run, daemon=True)
            thread.start()
            wait_for(lambda: n_rows(programs.trades) > 0, 60)
            time.sleep(1)
            # What came before is of a stream that starts.
            reader.latencies.clear()
            spent = {name: programs.cpu_s(name) for name in programs.processes}
            sent, landed, began = sum(programs.sent().values()), n_rows(programs.trades), time.monotonic()
            peaks = _Peaks()
            while (now := time.monotonic()) - began < seconds:
                peaks.look(programs)
                if pause_s and now - began >= seconds / 3:
                    _pause(programs, pause_s, peaks)
                    pause_s = 0
                time.sleep(0.2)
            passed = time.monotonic() - began
            share = {name: 100 * (programs.cpu_s(name) - spent[name]) / passed for name in spent}
            sent_s = (sum(programs.sent().values()) - sent) / passed
            landed_s = (n_rows(programs.trades) - landed) / passed
            latency = pl.concat(reader.latencies) / 1e6
            load = os.getloadavg()[0]
            n_sent = programs.end_load()
            wait_for(lambda: n_rows(programs.trades) >= sum(n_sent.values()), 120)
            peaks.look(programs)
            for name in (_FEED, "consumer"):
                programs.stop(name)
            reader.is_over = True
            thread.join()
            differences = wrong(programs.trades, n_sent)
        figures = [
            *(f"{rate:,.0f}", f"{flush_s:g}", f"{sent_s:,.0f}", f"{landed_s:,.0f}"),
            *(f"{latency.quantile(q) or 0:.2f}" for q in (0.5, 0.99, 1.0)),
            *(f"{share[_FEED]:.0f}", f"{share['consumer']:.0f}", f"{share[_FEED] + share['consumer']:.0f}"),
            f"{share['load']:.0f}",
            *(f"{peaks.rss[name]:.0f}" for name in (_FEED, "consumer")),
            *(f"{peaks.journal:.0f}", f"{load:.1f}", "; ".join(differences) or f"yes, {sum(n_sent.values()):,}"),
        ]
        return figures, not differences
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _pause(programs: Programs, seconds: float, peaks: _Peaks) -> None:
    """Let the consumer stand still, and say how the collector's memory and its journal fare."""
    process = programs.processes["consumer"]
    process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        peaks.look(programs)
        time.sleep(0.2)
    print(
        f"consumer stood still for {seconds:g} s: journal {peaks.journal:.0f} MB, collector at most "
        f"{peaks.rss[_FEED]:.0f} MB",
        flush=True,
    )
    process.send_signal(signal.SIGCONT)


def main(arguments: list[str]) -> int:
    """1 where a trade is missing or doubled."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks {NAME}", description=__doc__)
    parser.add_argument("--rates", default="1000,10000,50000", help="trades a second")
    parser.add_argument("--flush", default="1,5", help="seconds a commit")
    parser.add_argument("--seconds", type=float, default=20, help="each")
    parser.add_argument("--pause", type=float, default=0, help="seconds that the consumer stands still")
    asked = parser.parse_args(arguments)
    CACHE.mkdir(parents=True, exist_ok=True)
    console = Console(width=220)
    table = Table(*_HEADINGS)
    is_right = True
    for rate, flush_s in itertools.product(asked.rates.split(","), asked.flush.split(",")):
        figures, is_whole = measured(float(rate), float(flush_s), asked.seconds, asked.pause)
        console.print(" | ".join(figures))
        table.add_row(*figures)
        is_right &= is_whole
    console.print(table)
    return int(not is_right)
