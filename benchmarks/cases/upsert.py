"""One day, pulled again, into a trusted table that already holds the day and 0, 29 or 364 others.

The day is as large as the data set; each day of history is a small one of 6,000 rows, real and its own. A flat curve
over the number of partitions says that the work depends on the day alone. ``merge`` names the day as a literal and is
unstreamed, so that it prunes; ``merge_keys`` is the merge one writes first, on the key columns.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import polars as pl
from deltalake import DeltaTable

from benchmarks.case import Case, Variant, link_tree
from benchmarks.cases.common import expected_rows, prepared
from benchmarks.checks import Result
from benchmarks.data import DAY, SIZES, Size
from crypto_assets.resources.lake import Lake
from crypto_assets.tables.contract import primary_key
from crypto_assets.tables.trusted import AssetSnapshots
from crypto_assets.tables.window import Window

_HISTORY = (1, 30, 365)
# Days of history in one commit: a log of a dozen commits and a checkpoint, as after backfills.
_DAYS_A_COMMIT = 30
_WINDOW = Window.of_day(DAY)
_TABLE = "/".join(AssetSnapshots.table.path)
_KEYS = " AND ".join(f"t.{name} = s.{name}" for name in primary_key(AssetSnapshots))


def prepare(size: Size) -> Path:
    data = prepared(size)
    day = expected_rows(data, AssetSnapshots)
    small = expected_rows(prepared(SIZES["S"]), AssetSnapshots)
    # What the table holds of the day before: every 50th row is missing, every 40th has another price.
    held = day.with_row_index().filter(pl.col("index") % 50 != 0)
    held = held.with_columns(
        price_usd=pl.when(pl.col("index") % 40 == 0).then(pl.lit(1).cast(pl.Decimal(38, 18))).otherwise("price_usd")
    ).drop("index")
    for n_partitions in _HISTORY:
        home = data / f"history-{n_partitions}"
        if (home / "done").exists():
            continue
        lake = Lake(str(home))
        lake.replace(AssetSnapshots, held, _WINDOW)
        for newest in range(1, n_partitions, _DAYS_A_COMMIT):
            oldest = min(newest + _DAYS_A_COMMIT, n_partitions) - 1
            frames = [_earlier(small, n_days) for n_days in range(newest, oldest + 1)]
            window = Window.of_days(DAY - timedelta(days=oldest), DAY - timedelta(days=newest))
            lake.replace(AssetSnapshots, pl.concat(frames), window)
        (home / "done").touch()
    return data


def _earlier(rows: pl.DataFrame, n_days: int) -> pl.DataFrame:
    by = pl.lit(timedelta(days=n_days))
    return rows.with_columns(pl.col("observed_at", "ingested_at") - by, date=pl.lit(DAY - timedelta(days=n_days)))


def link(data: Path, out: Path, n_partitions: str) -> None:
    link_tree(data / f"history-{n_partitions}", out / "lake")


def ours(data: Path, out: Path, n_partitions: str) -> None:
    Lake(str(out / "lake")).replace(AssetSnapshots, expected_rows(data, AssetSnapshots), _WINDOW)


def merge(data: Path, out: Path, n_partitions: str) -> None:
    _merge(data, out, f"t.date = '{DAY}' AND {_KEYS}", streamed=False)


def merge_keys(data: Path, out: Path, n_partitions: str) -> None:
    _merge(data, out, _KEYS, streamed=True)


def _merge(data: Path, out: Path, predicate: str, *, streamed: bool) -> None:
    rows = expected_rows(data, AssetSnapshots)
    merger = DeltaTable(str(out / "lake" / _TABLE)).merge(
        rows, predicate=predicate, source_alias="s", target_alias="t", streamed_exec=streamed
    )
    merger.when_matched_update_all().when_not_matched_insert_all().execute()


def _expected(data: Path, variant: Variant) -> Result:
    # The day as pulled again; and history as it was, which a wrong predicate would change.
    return {AssetSnapshots: pl.concat([_history(data, variant), expected_rows(data, AssetSnapshots)])}


def _history(data: Path, variant: Variant) -> pl.DataFrame:
    table = pl.read_delta(str(data / f"history-{variant.arguments[0]}" / _TABLE))
    return table.filter(pl.col("date") != DAY)


def _read(out: Path, variant: Variant) -> Result:
    return {AssetSnapshots: pl.read_delta(str(out / "lake" / _TABLE))}


def _variant(work: str, n_partitions: int) -> Variant:
    return Variant(f"{work}_{n_partitions}", f"{__name__}:{work}", setup="link", arguments=(str(n_partitions),))


CASE = Case(
    name="upsert",
    title="one day, pulled again, into a table of 1, 30 and 365 days",
    variants=(
        *(_variant("ours", n) for n in _HISTORY),
        *(_variant("merge", n) for n in _HISTORY),
        *(_variant("merge_keys", n) for n in _HISTORY[:2]),
    ),
    prepare=prepare,
    expected=_expected,
    read=_read,
)
