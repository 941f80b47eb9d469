"""Bytes that questions read from our layout and from those of the pipelines replaced here, on the same rows.

Not a case of pairs: nothing is timed, and the same files give the same figures on any machine. The rows are a week of
snapshots: the day of the data set, moved to each of its days. Layouts:

* ``ours``: the lake, written by `Lake.replace`; ``asset_snapshots`` as it is, ``asset_daily`` computed from it.
* ``json``: the answers as received, one file a pull, in a folder for the day of the pull. Such files are read whole.
* ``parquet``: the same rows typed as ours, one snappy file a pull, in a folder for the day of the pull.

Bytes are those of `resources.pruning`: column chunks of the columns named, in the files and row groups that partitions
and statistics leave over; for Parquet files without a log, bounds come from their footers.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import polars as pl
from deltalake import Field, Schema, convert_to_deltalake
from deltalake.schema import PrimitiveType
from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.data import CACHE, DAY, SIZES, Size, answers
from crypto_assets.analytics import bars
from crypto_assets.providers import coincap
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.pruning import Pruning
from crypto_assets.tables.conform import conform, settle
from crypto_assets.tables.refined import AssetDaily, AssetHourly
from crypto_assets.tables.trusted import AssetHistory, AssetSnapshots
from crypto_assets.tables.window import Window

NAME = "bytes_read"
N_DAYS = 7
_DAYS = [DAY + timedelta(days=n) for n in range(N_DAYS)]
_WEEK = f"date between date '{_DAYS[0]}' and date '{_DAYS[-1]}'"
_ONE_DAY = f"date = date '{_DAYS[3]}'"


@dataclass(frozen=True)
class Question:
    """What is asked of ``{table}``, and of which of our tables; ``n_days`` are those that the folders leave over."""

    title: str
    ours: str
    sql: str
    n_days: int
    theirs: str | None = None

    def statement(self, *, is_ours: bool) -> str:
        return (self.sql if is_ours or self.theirs is None else self.theirs).format(
            table=self.ours if is_ours else "originals.snapshots"
        )


_LAST = (
    "select asset_id, max_by(price_usd, observed_at) as close_usd, "
    "max_by(market_cap_usd, observed_at) as market_cap_usd from {table} where "
)
QUESTIONS: Mapping[str, Question] = {
    "symbol": Question(
        "every snapshot of one asset through the week",
        "trusted.asset_snapshots",
        f"select observed_at, price_usd, market_cap_usd from {{table}} where asset_id = 'bitcoin' and {_WEEK}",
        N_DAYS,
    ),
    "symbol_daily": Question(
        "one asset's closes through the week",
        "refined.asset_daily",
        f"select date, close_usd, market_cap_usd from {{table}} where asset_id = 'bitcoin' and {_WEEK}",
        N_DAYS,
        f"{_LAST}asset_id = 'bitcoin' and {_WEEK} group by asset_id, date",
    ),
    "section": Question(
        "mean and highest price of every asset on one day",
        "trusted.asset_snapshots",
        "select asset_id, avg(cast(price_usd as double)) as mean_usd, max(price_usd) as high_usd from {table} "
        f"where {_ONE_DAY} group by asset_id",
        1,
    ),
    "section_daily": Question(
        "the close of every asset on one day",
        "refined.asset_daily",
        f"select asset_id, close_usd, market_cap_usd from {{table}} where {_ONE_DAY}",
        1,
        f"{_LAST}{_ONE_DAY} group by asset_id",
    ),
    "moment": Question(
        "every asset in one pull, which is the originals' file",
        "trusted.asset_snapshots",
        "select asset_id, price_usd, market_cap_usd from {table} "
        f"where {_ONE_DAY} and observed_at = timestamp '{_DAYS[3]} 00:30:00 UTC'",
        1,
    ),
}
LAYOUTS = ("ours", "json", "parquet")
VARIANTS = {f"{question}_{layout}" for question in QUESTIONS for layout in LAYOUTS}


def measure(data: Path, home: Path) -> dict[str, int]:
    """Bytes by ``question_layout``; the layouts are made under ``home``."""
    rows = _rows(data)
    lake = _ours(home / "lake", rows)
    originals = _parquet(home / "parquet", rows)
    tables = {name: f"{lake.root}/{name.replace('.', '/')}" for name in (_name(AssetSnapshots), _name(AssetDaily))}
    pruning = Pruning(tables | {"originals.snapshots": str(originals)})
    json_of_a_day = sum(file.stat().st_size for file in (data / "answers").glob("*.json"))
    found = {}
    for name, question in QUESTIONS.items():
        for layout in ("ours", "parquet"):
            reads = pruning.reads(question.statement(is_ours=layout == "ours"))
            found[f"{name}_{layout}"] = sum(read.n_bytes for read in reads)
        # A day moved is as long as the day, but for its times, which all have as many digits.
        found[f"{name}_json"] = json_of_a_day * question.n_days
    return found


def _rows(data: Path) -> list[pl.DataFrame]:
    """The week's rows of ``asset_snapshots``, a day a frame."""
    raw = pl.read_parquet(data / "raw.parquet")
    day = settle(AssetSnapshots, coincap.parse_assets(raw), Window.of_day(DAY)).rows
    return [
        day.with_columns(pl.col("observed_at", "ingested_at") + pl.lit(moved - DAY), date=pl.lit(moved))
        for moved in _DAYS
    ]


def _ours(home: Path, rows: Sequence[pl.DataFrame]) -> Lake:
    lake = Lake(str(home))
    for day, frame in zip(_DAYS, rows, strict=True):
        window = Window.of_day(day)
        lake.replace(AssetSnapshots, frame, window)
        hours = conform(AssetHourly, bars.hourly(lake.scan(AssetSnapshots, window)).collect())
        days = bars.daily(hours.lazy(), lake.scan(AssetHistory, window))
        lake.replace(AssetDaily, conform(AssetDaily, days.collect()), window)
    return lake


def _parquet(home: Path, rows: Sequence[pl.DataFrame]) -> Path:
    """One file a pull; the log that is put beside them names the files with their bounds, and changes none."""
    for day, frame in zip(_DAYS, rows, strict=True):
        folder = home / f"date={day}"
        folder.mkdir(parents=True)
        for (moment,), pull in frame.partition_by("observed_at", as_dict=True).items():
            # As answered: by rank.
            file = folder / f"{moment:%H%M%S}.snappy.parquet"
            pull.drop("date").sort("rank").write_parquet(file, compression="snappy")
    by = Schema([Field("date", PrimitiveType("date"), nullable=True)])
    convert_to_deltalake(str(home), partition_by=by, partition_strategy="hive")
    return home


def _name(contract: type[AssetSnapshots | AssetDaily]) -> str:
    return contract.table.full_name


def verdicts(found: Mapping[str, int]) -> list[report.Verdict]:
    """The goals of this measurement, judged: the figures have no noise."""
    judged = []
    for goal in report.goals():
        if goal.case == NAME:
            ratio = found[goal.variant] / found[goal.against]
            judged.append(report.Verdict(goal, ratio, "met" if ratio <= goal.at_most else "NOT met"))
    return judged


def show(console: Console, size: Size, found: Mapping[str, int]) -> None:
    title = f"bytes read: {N_DAYS} days of {size.n_pulls} pulls of {size.n_assets} assets"
    table = Table("question", "ours kB", "json kB", "parquet kB", "/ json", "/ parquet", title=title)
    for name, question in QUESTIONS.items():
        ours, json, parquet = (found[f"{name}_{layout}"] for layout in LAYOUTS)
        ratios = (f"{ours / json:.5f}", f"{ours / parquet:.4f}")
        table.add_row(f"{name}: {question.title}", *(f"{n / 1e3:,.1f}" for n in (ours, json, parquet)), *ratios)
    console.print(table)


def main(arguments: list[str]) -> int:
    """``python -m benchmarks bytes_read [--quick | --full]``; 1 where a goal is not met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks bytes_read", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_const", const="S", dest="size", help="6,000 rows a day")
    size.add_argument("--full", action="store_const", const="L", dest="size", help="576,000 rows a day")
    asked = SIZES[parser.parse_args(arguments).size or "M"]
    console = Console(width=140)
    CACHE.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="bytes-", dir=CACHE))
    try:
        found = measure(answers(asked), home)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    show(console, asked, found)
    judged = verdicts(found)
    for verdict in judged:
        goal = verdict.goal
        console.print(
            f"{goal.variant} / {goal.against}: {verdict.ratio:.5f} (at most {goal.at_most}): {verdict.said}",
        )
    return int(any(verdict.said != "met" for verdict in judged))
