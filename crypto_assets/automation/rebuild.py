"""The proof that everything can be made again from raw: trusted and refined computed beside the live tables, compared.

Belongs here: the lake beside the lake, the one run that fills it, and the comparison. Who asks for it is
``commands/rebuild.py`` (a person) and ``jobs.disaster_drill`` (Dagster). The live tables are read and never written.
"""

import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import polars as pl

from crypto_assets.assets.lake_asset import MATERIALIZED
from crypto_assets.assets.refined import dimensions, market, venues
from crypto_assets.assets.trusted import facts
from crypto_assets.errors import CryptoAssetsError, DataError, TransientError
from crypto_assets.partitions import range_tags
from crypto_assets.resources.inspection import files_of
from crypto_assets.resources.lake import Lake, content_hash
from crypto_assets.tables import ALL_TABLES, raw, refined, stream, trusted
from crypto_assets.tables.contract import Contract, Write, Zone
from crypto_assets.tables.quality import CheckResults, Quarantine
from crypto_assets.tables.window import Window

COMPARED: tuple[type[Contract], ...] = (*trusted.TABLES, *refined.TABLES, Quarantine)
_RAW: tuple[type[Contract], ...] = (*raw.TABLES, *stream.TABLES)


class LakeBeside(Lake):
    """A lake of its own whose raw zone is the live one's, to be read only."""

    def __init__(self, live: Lake, root: str) -> None:
        super().__init__(root, storage_options=live.storage_options, run_id="rebuild")
        self._live = live

    def uri(self, contract: type[Contract]) -> str:
        return self._live.uri(contract) if contract.table.zone is Zone.RAW else super().uri(contract)

    def scan(self, contract: type[Contract], window: Window | None = None, *, pinned: bool = False) -> pl.LazyFrame:
        """As the live lake's; of a stream's trades only those of hours that it has carried on."""
        rows = super().scan(contract, window, pinned=pinned)
        if contract is not stream.RawTrades:
            return rows
        hour = pl.col("hour").dt.truncate("1h")
        trades = self._live.scan(trusted.Trades, window).select(hour="traded_at")
        refused = self._live.scan(Quarantine, window).filter(table_name=trusted.Trades.table.full_name)
        carried = pl.concat([trades, refused.select(hour="observed_at")]).select(hour.unique())
        return rows.join(carried, left_on=pl.col("traded_at").dt.truncate("1h"), right_on="hour", how="semi")

    def append(self, contract: type[Contract], frame: pl.DataFrame, *, app: str, version: int) -> Any:
        raise ValueError(f"{contract.table.full_name} is the live lake's: a rebuild reads it only")


@dataclass
class Compared:
    """A table, live and rebuilt: partitions and rows of each, and the partitions whose content hashes differ."""

    table: str
    n_partitions: int = 0
    n_rows: int = 0
    n_rebuilt: int = 0
    differing: list[str] = field(default_factory=list)
    days: set[date] = field(default_factory=set)
    causes: list[str] = field(default_factory=list)


@dataclass
class Rebuilt:
    """What a rebuild found. ``skipped`` are tables that only a rebuild of all days can compare."""

    days: Sequence[date]
    root: str
    compared: list[Compared] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)

    @property
    def differing(self) -> list[Compared]:
        return [table for table in self.compared if table.differing]

    @property
    def error(self) -> CryptoAssetsError | None:
        """What is to be told of differences; None where there are none."""
        if not self.differing:
            return None
        named = ", ".join(table.table for table in self.differing)
        safe = "the live tables were not touched"
        if self.moved:
            what = f"{named} differ, but {', '.join(self.moved)} changed meanwhile"
            return TransientError(what, where="rebuild", safe=safe, hint="run the same again when no run is under way")
        parts = "; ".join(f"{table.table} ({_some(table.differing)})" for table in self.differing)
        what = f"not what raw gives: {parts}"
        causes = [cause for table in self.differing for cause in table.causes]
        if causes:
            return DataError(f"{what}; {causes[0]}", where="rebuild", safe=safe, hint="mend that first, then run again")
        days = sorted(set().union(*(table.days for table in self.differing))) or list(self.days)
        hint = f"compute those days again: crypto-assets backfill --from {days[0]} --to {days[-1]}"
        return DataError(what, where="rebuild", safe=safe, hint=hint)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def rebuild(lake: Lake, first: date | None = None, last: date | None = None, *, is_kept: bool = False) -> Rebuilt:
    """Compute trusted and refined again from raw, beside the lake, and compare.

    Without days, all that there are; tables that are computed from all days are only compared then.

    Raises:
        DataError: there is nothing to rebuild, or raw cannot be read.
    """
    held = held_days(lake)
    if not held:
        raise DataError(
            "there are no answers to rebuild from",
            where="raw",
            safe="nothing was changed",
            hint="run crypto-assets run or demo first",
        )
    days = [first or held[0], last or held[-1]]
    is_whole = days[0] <= held[0] and days[1] >= held[-1]
    days = [days[0] + timedelta(days=n) for n in range((days[1] - days[0]).days + 1)]
    before = _versions(lake)
    with _beside(lake, is_kept=is_kept) as beside:
        _copy_gates(lake, beside, days)
        _compute(beside, days)
        found = Rebuilt(days, beside.root)
        for contract in COMPARED:
            if contract.table.write is Write.MERGE and not is_whole:
                found.skipped.append(contract.table.full_name)
            else:
                found.compared.append(_compared(lake, beside, contract, days))
    found.moved = sorted(name for name, version in _versions(lake).items() if version != before.get(name))
    return found


def held_days(lake: Lake) -> list[date]:
    """The days that raw's answers are about or that the tables to compare hold, oldest first."""
    days = {day for contract in (*_RAW, *COMPARED) if contract.table.partition_by for day in lake.days(contract)}
    # An answer about many days lies in the partition of the first.
    ends = lake.scan(raw.RawCoincapHistory).filter(pl.col("window_end_at") > pl.col("window_start_at"))
    last = ends.select(pl.col("window_end_at").max()).collect().item()
    return sorted(days | ({(last - timedelta(microseconds=1)).date()} if last else set()))


def _compute(beside: LakeBeside, days: Sequence[date]) -> None:
    loaded = dg.load_assets_from_modules([facts, market, dimensions, venues])
    assets = [asset for asset in loaded if isinstance(asset, dg.AssetsDefinition)]
    is_one = len(days) == 1
    with dg.DagsterInstance.ephemeral() as instance, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # What could not be computed is in the verdicts, and shows in the comparison.
        dg.materialize(
            assets,
            instance=instance,
            resources={"lake": beside},
            partition_key=str(days[0]) if is_one else None,
            tags=None if is_one else range_tags(days[0], days[-1]),
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )


def _copy_gates(lake: Lake, beside: LakeBeside, days: Sequence[date]) -> None:
    """What failed a blocking check is computed no further, there as here; that a day failed, it finds out itself."""
    window = Window.of_days(days[0], days[-1])
    failing = (
        lake.scan(CheckResults, window)
        .filter(pl.col("is_blocking") & ~pl.col("passed") & (pl.col("check_name") != MATERIALIZED))
        .collect()
    )
    if len(failing):
        beside.replace(CheckResults, failing, window)


def _compared(lake: Lake, beside: Lake, contract: type[Contract], days: Sequence[date]) -> Compared:
    window = None if contract.table.write is Write.MERGE else Window.of_days(days[0], days[-1])
    live, made = lake.read(contract, window), beside.read(contract, window)
    found = Compared(contract.table.full_name, n_rows=len(live), n_rebuilt=len(made))
    ours, theirs = _by_partition(contract, live), _by_partition(contract, made)
    found.n_partitions = len(ours.keys() | theirs.keys())
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            found.differing.append(" ".join(str(part) for part in key) or "all rows")
            found.days |= {part for part in key if isinstance(part, date)}
    if found.differing:
        found.causes = _new_failures(lake, beside, contract, days)
    return found


def _by_partition(contract: type[Contract], rows: pl.DataFrame) -> Mapping[tuple[Any, ...], str]:
    if not contract.table.partition_by:
        return {(): content_hash(rows)}
    parts = rows.partition_by(contract.table.partition_by, as_dict=True, maintain_order=True)
    return {key: content_hash(part) for key, part in parts.items()}


def _new_failures(lake: Lake, beside: Lake, contract: type[Contract], days: Sequence[date]) -> list[str]:
    """Why the rebuild could not compute days that are no failures in the live lake."""

    def failed(where: Lake) -> dict[date, str]:
        verdicts = where.scan(CheckResults, Window.of_days(days[0], days[-1])).filter(
            pl.col("table_name") == contract.table.full_name, pl.col("check_name") == MATERIALIZED, ~pl.col("passed")
        )
        return dict(verdicts.sort("date").select("date", "observed").collect().iter_rows())

    known = failed(lake)
    return [f"{day}: {told}" for day, told in failed(beside).items() if day not in known]


def _versions(lake: Lake) -> dict[str, int]:
    states = (lake.state(contract) for contract in (*_RAW, *COMPARED))
    return {state.table: state.version for state in states if state is not None}


@contextmanager
def _beside(lake: Lake, *, is_kept: bool) -> Iterator[LakeBeside]:
    """An empty lake next to the live one, on the same disk or in the same bucket; removed at the end unless kept."""
    if "://" in lake.root:
        beside = LakeBeside(lake, f"{lake.root}-rebuild-{uuid4().hex[:8]}")
    else:
        live = Path(lake.root)
        beside = LakeBeside(lake, tempfile.mkdtemp(prefix=f"{live.name}-rebuild-", dir=live.parent))
    try:
        yield beside
    finally:
        if not is_kept:
            _remove(beside)


def _remove(beside: LakeBeside) -> None:
    if "://" not in beside.root:
        shutil.rmtree(beside.root)
        return
    for contract in ALL_TABLES:
        if contract.table.zone is not Zone.RAW:
            files = files_of(beside, contract)
            for path in files.all():
                files.remove(path)
