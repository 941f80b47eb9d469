"""A year of one-minute candles of 20 markets from the sandbox's archive: one Dagster run an asset, checks included.

Not a case of pairs: nothing is compared, the figures are how long it takes and how much memory it needs. The sandbox
is a process of its own; this process holds what a user's run holds. What was landed is counted a second time, from the
archive's files by ``csv`` alone, before a figure is printed.
"""

from __future__ import annotations

import argparse
import csv
import io
import multiprocessing
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import dagster as dg
import polars as pl
from rich.console import Console
from rich.table import Table

from benchmarks.child import _forget_peak, _own_peak_kib
from benchmarks.data import CACHE
from crypto_assets.definitions import build_definitions
from crypto_assets.partitions import range_tags
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.settings import Settings
from crypto_assets.tables import quality, raw, trusted
from crypto_assets.tables.contract import Contract
from crypto_assets.tables.window import Window

FIRST = date(2025, 1, 1)
# The sandbox's markets of the venue, the longest traded first.
BASES = (
    *("BTC", "ETH", "BNB", "SOL", "XRP", "DOGE", "ADA", "TRX", "AVAX", "SHIB"),
    *("LINK", "DOT", "BCH", "LTC", "UNI", "NEAR", "XLM", "FIL", "USDC", "STX"),
)
_ASSETS: tuple[type[Contract], ...] = (raw.RawBinanceKlines, trusted.Candles)
# A year of days is some thousands of events.
_QUIET = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}


@dataclass(frozen=True)
class Figures:
    """One Dagster run of one asset over the whole range, its checks included."""

    asset: str
    wall_s: float
    cpu_s: float
    peak_mb: float
    n_commits: int
    n_rows: int
    n_bytes: int
    n_verdicts: int
    n_failed: int

    @property
    def rows_per_s(self) -> float:
        return self.n_rows / self.wall_s


def months_from(first: date, n: int) -> Window:
    """So many months, the first of which begins on the day."""
    last = first
    for _ in range(n):
        last = (last.replace(day=1) + timedelta(days=32)).replace(day=1)
    return Window.of_days(first, last - timedelta(days=1))


def run(home: Path, sandbox_url: str, bases: tuple[str, ...], window: Window) -> Iterator[Figures]:
    """Both runs, one after the other, and the figures of each. Raises where a run fails or a row is missing."""
    settings = Settings(
        lake_uri=str(home / "lake"),
        state_dir=home / "state",
        sandbox_url=sandbox_url,
        providers=("binance_archive",),
        markets=tuple(f"binance:{base}/USDT" for base in bases),
        candle_interval="1m",
    )
    lake = Lake(settings.lake_root)
    job = build_definitions(settings).resolve_job_def("refresh")
    days = range_tags(window.days[0], window.days[-1])
    with dg.DagsterInstance.ephemeral() as instance:
        for contract in _ASSETS:
            _forget_peak()
            cpu, start = time.process_time(), time.perf_counter()
            keys = [dg.AssetKey(list(contract.table.path))]
            result = job.execute_in_process(instance=instance, asset_selection=keys, tags=days, run_config=_QUIET)
            wall, cpu = time.perf_counter() - start, time.process_time() - cpu
            peak_mb = _own_peak_kib() / 1024
            assert result.success
            state = lake.state(contract)
            assert state is not None
            verdicts = lake.read(quality.CheckResults).filter(table_name=contract.table.full_name)
            n_failed = verdicts.filter(~pl.col("passed"))["check_name"].len()
            n_rows = count_lines(lake) if contract is raw.RawBinanceKlines else state.n_rows
            # The first commit makes the table.
            yield Figures(
                contract.table.full_name,
                wall,
                cpu,
                peak_mb,
                state.version,
                n_rows,
                state.n_bytes,
                len(verdicts),
                n_failed,
            )
    landed, sent = lake.read(trusted.Candles).height, count_lines(lake)
    assert landed == sent, f"{landed} candles of {sent} that the files hold"


def count_lines(lake: Lake) -> int:
    """The candles in the landed files, by ``csv``: a file at a time."""
    files = lake.scan(raw.RawBinanceKlines).filter(pl.col("request").str.ends_with(".zip"), outcome="ok")
    n = 0
    for pull_id in files.select("pull_id").collect()["pull_id"]:
        (body,) = files.filter(pull_id=pull_id).select("body").collect()["body"]
        with zipfile.ZipFile(io.BytesIO(body)) as packed:
            n += sum(1 for _ in csv.reader(io.StringIO(packed.read(packed.namelist()[0]).decode())))
    return n


@contextmanager
def sandbox() -> Iterator[str]:
    """A sandbox in a process of its own, so that its memory is not counted as ours."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send("stop")
        process.join(10)
        process.terminate()


def _serve(parent: Connection) -> None:
    from crypto_assets.sandbox import Market, serve

    with serve(Market(7)) as listening:
        parent.send(listening.url)
        parent.recv()


def main(arguments: list[str]) -> int:
    """``python -m benchmarks archive_year [--markets N] [--months N]``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks archive_year", description=__doc__)
    parser.add_argument("--markets", type=int, default=len(BASES), choices=range(1, len(BASES) + 1), metavar="N")
    parser.add_argument("--months", type=int, default=12, choices=range(1, 23), metavar="N")
    asked = parser.parse_args(arguments)
    console = Console(width=140)
    window = months_from(FIRST, asked.months)
    console.print(f"{asked.markets} markets, 1m, {window.days[0]} to {window.days[-1]}, load {os.getloadavg()[0]:.1f}")
    table = Table(
        "run", "wall s", "cpu s", "peak MB", "commits", "candles", "candles/s", "MB", "bytes/candle", "verdicts"
    )
    CACHE.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="archive-", dir=CACHE))
    started = datetime.now(UTC)
    n_failed = 0
    try:
        with sandbox() as url:
            for done in run(home, url, BASES[: asked.markets], window):
                table.add_row(
                    done.asset,
                    f"{done.wall_s:.1f}",
                    f"{done.cpu_s:.1f}",
                    f"{done.peak_mb:.0f}",
                    f"{done.n_commits}",
                    f"{done.n_rows:,}",
                    f"{done.rows_per_s:,.0f}",
                    f"{done.n_bytes / 1e6:.0f}",
                    f"{done.n_bytes / done.n_rows:.1f}",
                    f"{done.n_verdicts} ({done.n_failed} failed)",
                )
                n_failed += done.n_failed
        console.print(table)
        console.print(f"{(datetime.now(UTC) - started).total_seconds():.0f} s in all, load {os.getloadavg()[0]:.1f}")
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return int(n_failed > 0)
