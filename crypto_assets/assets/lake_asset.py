"""How a pure function becomes an asset: read the upstream windows, compute, write, tell Dagster.

Asset functions hold no storage and no Dagster code; this is where both live. What is here for every asset:

* A range of days is one run. It is computed at once, and day by day only where that fails, so that one bad day leaves
  the others materialized (a plain ranged run would lose them all).
* A day whose upstream has a failing blocking verdict in ``quality.check_results`` is not computed: the gate is data,
  and so it holds for a schedule's run, a backfill and a person's click alike.
* A scheduled refresh of the day in progress replaces only the hours that hold something new, and a run for hours of a
  stream only those. What a stream appends during a run is the next one's.
* Rows that cover more than an hour are computed and replaced by whole buckets, which may reach beyond the days asked
  for, so that days in any order give one table.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import dagster as dg
import polars as pl

from crypto_assets import __version__
from crypto_assets.errors import CryptoAssetsError, DataError
from crypto_assets.partitions import DAILY, REFRESH_HOURS, REFRESH_TAG, SINGLE_RUN, hours_of
from crypto_assets.resources.athena import console_url
from crypto_assets.resources.catalog import Catalog
from crypto_assets.resources.failpoints import failpoint
from crypto_assets.resources.lake import Lake, content_hash
from crypto_assets.resources.settings import storage_options
from crypto_assets.tables import BY_NAME
from crypto_assets.tables.conform import PULL_REFUSED, Records, Settled, conform, settle
from crypto_assets.tables.contract import (
    Contract,
    Table,
    Write,
    comment,
    delta_type,
    description,
    fields,
    fingerprint,
    polars_schema,
    primary_key,
)
from crypto_assets.tables.quality import CheckResults, Quarantine, RevisionLedger
from crypto_assets.tables.stream import TABLES as STREAMS
from crypto_assets.tables.stream import Delivered
from crypto_assets.tables.window import DAY, Window, bucket, contiguous, months, whole_buckets

# An answer may land minutes after one that was asked for later: the hour of now, and the one before at its turn.
RECENT_HOURS = 2
# The verdict that a day could not be computed; written by assets, cleared when the day succeeds.
MATERIALIZED = "materialized"
# Dagster records no materialization for an output with this metadata (its own observable assets use it); a range
# with a bad day then reports its good days one by one. Pinned in tests/test_upstream.py.
_NO_EVENTS = {"__source_asset_observation__": True}

Work = Callable[[Window], "Mapping[date, Mapping[str, int]]"]
Parse = Callable[[pl.DataFrame], Records]


@dataclass(frozen=True)
class Input:
    """A table that a function reads, and how much of it: ``select`` gives the rows for a window."""

    contract: type[Contract]
    select: Callable[[Lake, Window], pl.LazyFrame]


def window_of(contract: type[Contract]) -> Input:
    """The rows of the window in hand."""
    return Input(contract, lambda lake, window: lake.scan(contract, window))


def whole(contract: type[Contract]) -> Input:
    """All rows of days that may be published: for small digests."""

    def select(lake: Lake, _: Window) -> pl.LazyFrame:
        stopped = {day for _, _, day, _ in blocking_failures(lake, [contract])}
        rows = lake.scan(contract)
        return rows.filter(~pl.col("date").is_in(sorted(stopped))) if stopped else rows

    return Input(contract, select)


def current(contract: type[Contract]) -> Input:
    """All rows of a small table that is merged as a whole."""
    return Input(contract, lambda lake, _: lake.scan(contract))


def newest_days(contract: type[Contract], n_days: int) -> Input:
    """The rows of the newest ``n_days`` that the table holds and that may be published, whatever the window."""

    def select(lake: Lake, _: Window) -> pl.LazyFrame:
        stopped = {day for _, _, day, _ in blocking_failures(lake, [contract])}
        held = [day for day in lake.days(contract) if day not in stopped]
        return lake.scan(contract, Window.of_days(held[-n_days:][0], held[-1])) if held else lake.scan(contract)

    return Input(contract, select)


def month_to_date(contract: type[Contract]) -> Input:
    """The rows that arrived from the first of the window's first month until the window's end."""

    def select(lake: Lake, window: Window) -> pl.LazyFrame:
        opens = window.start.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        return lake.scan(contract).filter(
            pl.col("ingested_at").is_between(pl.lit(opens), pl.lit(window.end), closed="left")
        )

    return Input(contract, select)


def lake_asset(
    contract: type[Contract], *inputs: type[Contract] | Input
) -> Callable[[Callable[..., pl.LazyFrame]], dg.AssetsDefinition]:
    """Make an asset of ``function(*frames) -> frame``, a pure function of the inputs' rows for a window."""
    sources = [i if isinstance(i, Input) else window_of(i) for i in inputs]

    def decorate(function: Callable[..., pl.LazyFrame]) -> dg.AssetsDefinition:
        def work(lake: Lake, asked: Window) -> Mapping[date, Mapping[str, int]]:
            window = buckets_of(contract, asked)
            computed = function(*[_published(source, lake, window, asked) for source in sources])
            rows = conform(contract, within(contract, window, computed).collect())
            if contract.table.write is Write.MERGE:
                lake.merge(contract, rows)
                return {day: {"rows": len(rows)} for day in window.days}
            lake.replace(contract, rows, window)
            return by_day(asked, rows=rows)

        return asset_of(contract, [source.contract for source in sources], work)

    return decorate


def buckets_of(contract: type[Contract], window: Window) -> Window:
    """The window, wider where the table's rows cover more: it then begins and ends with a bucket."""
    return whole_buckets(window, contract.table.bucket) if contract.table.bucket else window


def _published(source: Input, lake: Lake, window: Window, asked: Window) -> pl.LazyFrame:
    """The input's rows, but of days that nobody asked for only those that may be published."""
    rows = source.select(lake, window)
    return rows if window == asked else publishable(lake, source.contract, rows, window)


def publishable(lake: Lake, contract: type[Contract], rows: pl.LazyFrame, window: Window) -> pl.LazyFrame:
    """The rows of the table without those of the window's days that have a failing blocking verdict."""
    if contract.table.write is Write.MERGE:
        return rows
    stopped = {day for _, _, day, _ in blocking_failures(lake, [contract], window.days)}
    return rows.filter(~pl.col("date").is_in(sorted(stopped))) if stopped else rows


def settled_asset(contract: type[Contract], parsers: Mapping[type[Contract], Parse]) -> dg.AssetsDefinition:
    """An asset of what providers say: what fits goes to the table, what does not to quarantine, in one step.

    ``parsers`` reads the raw answers of each source; the table holds the facts of all of them.
    """

    def work(lake: Lake, window: Window) -> Mapping[date, Mapping[str, int]]:
        return settle_window(lake, contract, parsers, window)

    return asset_of(contract, list(parsers), work)


def settle_window(
    lake: Lake, contract: type[Contract], parsers: Mapping[type[Contract], Parse], window: Window
) -> Mapping[date, Mapping[str, int]]:
    """Carry the window's raw answers to the table and to quarantine, and say how many records of each day went where.

    Raises DataError, and writes nothing, where every pull of a whole day was refused: what the day held stays.
    """
    sources = [parse(lake.scan(raw, window, pinned=True).collect()) for raw, parse in parsers.items()]
    settled = settle(contract, sources, window)
    if window == Window.of_days(window.days[0], window.days[-1]):
        drifted = {pull_id: note for records in sources for pull_id, note in records.drifted.items()}
        _require_an_accepted_pull(contract, settled, drifted)
    publish(lake, contract, settled, window)
    return by_day(window, rows=settled.rows, quarantined=settled.rejected)


def _require_an_accepted_pull(contract: type[Contract], settled: Settled, drifted: Mapping[str, str]) -> None:
    refused = settled.rejected.filter(pl.col("reasons").str.contains(PULL_REFUSED, literal=True))
    lost = refused.join(settled.rows, "date", "anti").sort("date", "pull_id")
    for (day,), records in lost.group_by("date", maintain_order=True):
        note = next((drifted[pull_id] for pull_id in records["pull_id"] if pull_id in drifted), None)
        reasons = Counter(reason for told in records["reasons"] for reason in told.split(",") if reason != PULL_REFUSED)
        # Equal counts in the order of their names: the same answers are refused in the same words.
        most = ", ".join(f"{name} ({n})" for name, n in sorted(reasons.items(), key=lambda r: (-r[1], r[0]))[:3])
        raise DataError(
            note or f"no pull of {day} fits the contract, {len(records)} records are refused: {most}",
            where=contract.table.full_name,
            safe="the table and quarantine keep what they held, and raw holds the answers",
            hint="mend the provider's parser or the contract, then materialize the day again",
        )


def publish(lake: Lake, contract: type[Contract], settled: Settled, window: Window) -> None:
    """Make the window hold what was settled: the refused records first, so that no row is shown without them."""
    where = {"table_name": contract.table.full_name}
    lake.replace(Quarantine, settled.rejected, window, where=where)
    lake.replace(RevisionLedger, settled.revisions, window, where=where)
    failpoint("after_quarantine_before_rows")
    lake.replace(contract, settled.rows, window)


def asset_of(
    contract: type[Contract],
    upstream: Sequence[type[Contract]],
    work: Callable[[Lake, Window], Mapping[date, Mapping[str, int]]],
) -> dg.AssetsDefinition:
    """The Dagster asset of a table that is computed from other tables."""

    def body(context: dg.AssetExecutionContext, lake: dg.ResourceParam[Lake]) -> Iterator[dg.Output[None]]:
        hours = hours_of(context.run.tags)
        for other in upstream:
            if issubclass(other, Delivered):
                lake.pin(other)

        def windows(days: Sequence[date]) -> Iterator[Window]:
            for window in windows_of(contract, days):
                if hours and contract.table.clock:
                    yield from buckets_with(contract, hours, window)
                elif context.run.tags.get(REFRESH_TAG) == REFRESH_HOURS and contract.table.clock:
                    yield from hours_behind(lake, contract, upstream, window)
                else:
                    yield window

        yield from materialize(
            context, lake, contract, upstream, windows=windows, work=lambda window: work(lake, window)
        )

    asset: dg.AssetsDefinition = dg.asset(**asset_facts(contract, upstream), automation_condition=_automation())(body)
    return asset


def windows_of(contract: type[Contract], days: Iterable[date]) -> Iterator[Window]:
    """The days as the windows that the table is computed and judged in: long tables in parts, to bound memory."""
    batch = contract.table.batch or (contract.table.period and "month")
    for window in contiguous(days):
        if batch == "day":
            yield from (Window.of_day(day) for day in window.days)
        else:
            yield from months(window) if batch else [window]


def asset_facts(contract: type[Contract], upstream: Sequence[type[Contract]] = ()) -> dict[str, Any]:
    """Everything that Dagster shows of a table, from its contract."""
    table = contract.table
    grain = ", ".join(primary_key(contract))
    return {
        "key": list(table.path),
        "deps": [dg.AssetKey(list(other.table.path)) for other in upstream],
        "partitions_def": DAILY,
        "backfill_policy": SINGLE_RUN,
        "group_name": table.group,
        "description": f"{description(contract)}\n\nGrain: {grain}. Cadence: {table.cadence}.",
        "kinds": {"delta", "polars"},
        "owners": [table.owner],
        "tags": {"zone": str(table.zone)},
        "pool": table.full_name.replace(".", "_"),
        "code_version": fingerprint(contract),
        "output_required": False,
        # Tables are written by the lake; there is nothing for an IO manager to store.
        "dagster_type": dg.Nothing,
        "metadata": {
            "dagster/table_name": table.full_name,
            "dagster/column_schema": column_schema(contract),
            "dagster/column_lineage": column_lineage(contract),
            "retention": table.retention,
            "write_mode": str(table.write),
        },
    }


def athena_link(catalog: Catalog | None, contract: type[Contract]) -> dict[str, Any]:
    """The table's name at Athena and its page in AWS's console, as metadata; nothing where Glue does not know it."""
    if catalog is None:
        return {}
    database, table = catalog.database(str(contract.table.zone)), contract.table.name
    region = storage_options().get("AWS_REGION")
    page = {"athena": dg.MetadataValue.url(console_url(region, database, table))} if region else {}
    return {"athena_table": f"{database}.{table}", **page}


def linked(assets: Iterable[Any], catalog: Catalog | None) -> list[Any]:
    """The assets, with their tables at Athena among what Dagster shows of them."""

    def told(spec: dg.AssetSpec) -> dg.AssetSpec:
        contract = BY_NAME.get(".".join(spec.key.path))
        return spec.merge_attributes(metadata=athena_link(catalog, contract)) if contract else spec

    if catalog is None:
        return list(assets)
    return [told(asset) if isinstance(asset, dg.AssetSpec) else asset.map_asset_specs(told) for asset in assets]


def column_schema(contract: type[Contract]) -> dg.TableSchema:
    """The columns tab: types, units, nullability and key."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                field.name,
                delta_type(field.dtype),
                description=comment(field),
                constraints=dg.TableColumnConstraints(nullable=field.nullable),
                tags={"unit": field.unit.replace("%", "percent").replace("/", "_per_"), "measure": str(field.kind)},
            )
            for field in fields(contract)
        ],
        constraints=dg.TableConstraints(other=[f"primary key ({', '.join(primary_key(contract))})"]),
    )


def column_lineage(contract: type[Contract]) -> dg.TableColumnLineage:
    """Which columns each column comes from."""
    return dg.TableColumnLineage(
        {
            field.name: [
                dg.TableColumnDep(asset_key=dg.AssetKey(source.split(".")[:2]), column_name=source.split(".")[2])
                for source in field.sources
            ]
            for field in fields(contract)
            if field.sources
        }
    )


def materialize(
    context: dg.AssetExecutionContext,
    lake: Lake,
    contract: type[Contract],
    upstream: Sequence[type[Contract]],
    *,
    windows: Callable[[Sequence[date]], Iterator[Window]],
    work: Work,
    is_gate: bool = True,
    is_divisible: bool = True,
) -> Iterator[dg.Output[None]]:
    """Do the work for the run's days and tell Dagster what came of each.

    A failed day stops what is downstream of it, unless the table is no gate: a round of live pulls that failed leaves
    the day's other rounds usable. Work that is not divisible (calls that cost) is not tried again day by day.

    Raises dagster.Failure where every day failed, so that what is downstream does not run.
    """
    asked = [date.fromisoformat(key) for key in context.partition_keys]
    verdicts = _failures(lake, [contract, *upstream], asked)
    failed: dict[date, str] = {
        day: f"upstream {table} failed {check}: {observed}"
        for table, check, day, observed, is_blocking in verdicts
        if is_blocking and table != contract.table.full_name
    }
    done: dict[date, Mapping[str, int]] = {day: {} for day in asked if day not in failed}
    kinds: list[int] = []
    for window in windows(sorted(done)):
        for outcome in _isolated(window, work, is_divisible=is_divisible):
            done.update(outcome.done)
            failed.update(outcome.failed)
            kinds += [outcome.exit_code] if outcome.failed else []
    done = {day: counts for day, counts in done.items() if day not in failed}
    own = (contract.table.full_name, MATERIALIZED)
    once_failed = {day for table, check, day, *_ in verdicts if (table, check) == own}
    _record(lake, contract, failed, cleared=once_failed & done.keys(), is_gate=is_gate)

    for day, error in sorted(failed.items()):
        context.log.error("%s: %s", day, error)
    if failed and not done:
        first = next(iter(sorted(failed.items())))[1]
        raise dg.Failure(
            first if len(failed) == 1 else f"all {len(failed)} days failed, the first with: {first}",
            # The command line ends with the code of the first error's kind; an upstream's verdict is one of data.
            metadata={**{str(day): error for day, error in failed.items()}, "exit_code": (kinds or [1])[0]},
            allow_retries=False,
        )
    shared = _table_metadata(lake, contract)
    done = _with_row_counts(lake, contract, done)
    if not failed:
        for day, counts in done.items():
            context.add_asset_metadata(_day_metadata(counts), partition_key=str(day))
        yield dg.Output(None, metadata=shared)
        return
    for day, counts in sorted(done.items()):
        metadata = {**shared, **_day_metadata(counts)}
        context.log_event(dg.AssetMaterialization(context.asset_key, partition=str(day), metadata=metadata))
    yield dg.Output(None, metadata=dict(_NO_EVENTS))


def blocking_failures(
    lake: Lake, contracts: Sequence[type[Contract]], days: Sequence[date] | None = None
) -> list[tuple[str, str, date, str]]:
    """The failing blocking verdicts on these tables and days (all days without): table, check, day, what was seen."""
    return [(table, check, day, told) for table, check, day, told, stops in _failures(lake, contracts, days) if stops]


def _failures(
    lake: Lake, contracts: Sequence[type[Contract]], days: Sequence[date] | None
) -> list[tuple[str, str, date, str, bool]]:
    """The failing verdicts, blocking or not: table, check, day, what was seen, whether it blocks."""
    if days is not None and not days:
        return []
    window = None if days is None else Window.of_days(min(days), max(days))
    names = [contract.table.full_name for contract in contracts]
    failing = lake.scan(CheckResults, window).filter(pl.col("table_name").is_in(names), ~pl.col("passed"))
    if days is not None:
        failing = failing.filter(pl.col("date").is_in(list(days)))
    return failing.select("table_name", "check_name", "date", "observed", "is_blocking").collect().rows()


def hours_behind(
    lake: Lake, contract: type[Contract], upstream: Sequence[type[Contract]], window: Window
) -> Iterator[Window]:
    """The hours of the window in which an input holds something newer than the table does, and the newest two.

    Also hours that only the table still holds. The newest two are computed each time, and written only where they
    differ: an answer that landed late, or after our clock was set back, does not look newer. Of a table whose rows
    cover several hours it is such a bucket instead of an hour.
    """
    every = contract.table.bucket or "1h"
    ours = _newest_arrivals(lake, contract, window, every).rename({"arrived_at": "ours"})
    theirs = pl.concat(_newest_arrivals(lake, other, window, every) for other in upstream)
    hours = theirs.group_by("hour").agg(pl.col("arrived_at").max()).join(ours, "hour", "full", coalesce=True)
    is_same = (pl.col("arrived_at") <= pl.col("ours")).fill_null(value=False)
    is_recent = pl.col("hour").rank("dense", descending=True) <= RECENT_HOURS
    for hour in hours.filter(~is_same | is_recent).sort("hour").collect()["hour"]:
        yield Window(*bucket(hour, every))


def buckets_with(contract: type[Contract], hours: Iterable[Window], window: Window) -> Iterator[Window]:
    """The table's buckets that these hours of the window touch, each once and in order."""
    every = contract.table.bucket or "1h"
    asked = (hour.start for hour in hours if window.start <= hour.start < window.end)
    for start, end in sorted({bucket(opens, every) for opens in asked}):
        yield Window(start, end)


def within(contract: type[Contract], window: Window, rows: pl.LazyFrame) -> pl.LazyFrame:
    """Only the columns of the contract, and of a window table only the days of the window."""
    rows = rows.select(polars_schema(contract).names())
    if contract.table.write is Write.MERGE:
        return rows
    return rows.filter(pl.col("date").is_between(pl.lit(window.days[0]), pl.lit(window.days[-1])))


# What says where a row comes from, and not what it states.
_ORIGIN = ("provider", "ingested_at", "pull_id", "n_duplicates")


def content_by_day(rows: pl.DataFrame) -> Mapping[date, str]:
    """A hash of what the rows of each day state, whoever stated it and however often."""
    stated = rows.drop([name for name in _ORIGIN if name in rows.columns])
    return {day: content_hash(part) for (day,), part in stated.group_by("date", maintain_order=True)}


def by_day(window: Window, **frames: pl.DataFrame) -> Mapping[date, Mapping[str, int]]:
    """How many rows of each frame fall on each day of the window."""
    counted = {
        name: dict(frame.group_by("date").len().iter_rows()) if len(frame) else {} for name, frame in frames.items()
    }
    return {day: {name: counts.get(day, 0) for name, counts in counted.items()} for day in window.days}


@dataclass(frozen=True)
class _Outcome:
    done: Mapping[date, Mapping[str, int]]
    failed: Mapping[date, str]
    exit_code: int = 1


def _isolated(window: Window, work: Work, *, is_divisible: bool) -> Iterator[_Outcome]:
    """Work on the window at once; where that fails and it can be divided, on its days one by one."""
    try:
        yield _Outcome(work(window), {})
    except (CryptoAssetsError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        if window.end - window.start <= DAY or not is_divisible:
            told = dict.fromkeys(window.days, " ".join(str(error).split()))
            yield _Outcome({}, told, error.exit_code if isinstance(error, CryptoAssetsError) else 1)
            return
        for day in window.days:
            yield from _isolated(Window.of_day(day), work, is_divisible=is_divisible)


def _newest_arrivals(lake: Lake, contract: type[Contract], window: Window, every: str) -> pl.LazyFrame:
    table: Table = contract.table
    clock = table.span[0] if table.span else table.clock
    if clock is None:
        raise DataError(
            "a table without a clock cannot be refreshed by the hour",
            where=table.full_name,
            safe="nothing was written",
            hint="give its contract a clock, or read it by whole days",
        )
    rows = lake.scan(contract, window)
    arrival = "available_at" if "available_at" in contract.column_names() else "ingested_at"
    hours = rows.with_columns(hour=pl.col(clock).dt.truncate(every))
    if table.span:
        rows = rows.filter(pl.col("n_pages").is_not_null() & (pl.col("outcome") == "ok"))
        opens, closes = (pl.col(c) for c in table.span)
        first = pl.max_horizontal(opens, pl.lit(window.start)).dt.truncate("1h")
        last = pl.min_horizontal(pl.max_horizontal(closes - pl.duration(milliseconds=1), opens), pl.lit(window.end))
        hours = rows.select(arrival, hour=pl.datetime_ranges(first, last, "1h")).explode("hour")
        hours = hours.filter(pl.col("hour") < window.end).with_columns(pl.col("hour").dt.truncate(every))
    return hours.group_by("hour").agg(arrived_at=pl.col(arrival).max())


def _record(
    lake: Lake, contract: type[Contract], failed: Mapping[date, str], *, cleared: set[date], is_gate: bool
) -> None:
    """Keep the days that could not be computed as failing verdicts, and drop those that now could."""
    name = contract.table.full_name
    for day in sorted(failed.keys() | cleared):
        window = Window.of_day(day)
        held = lake.scan(CheckResults, window).filter(
            (pl.col("table_name") == name) & (pl.col("check_name") != MATERIALIZED)
        )
        rows = [held.collect()]
        if day in failed:
            verdict = {
                "table_name": name,
                "check_name": MATERIALIZED,
                "date": day,
                "suite": "contract",
                "severity": "error",
                "is_blocking": is_gate,
                "passed": False,
                "observed": failed[day],
                "expected": "the day is computed",
                "n_failed": 0,
                "failing_rows": None,
            }
            rows.append(pl.DataFrame([verdict], schema=polars_schema(CheckResults)))
        lake.replace(CheckResults, pl.concat(rows), window, where={"table_name": name})


def _table_metadata(lake: Lake, contract: type[Contract]) -> dict[str, Any]:
    state = lake.state(contract)
    if state is None:
        return {}
    return {
        "dagster/uri": state.uri,
        "dagster/row_count": state.n_rows,
        "delta_version": state.version,
        "bytes": state.n_bytes,
        "files": state.n_files,
        "code_version": __version__,
        **athena_link(lake.catalog, contract),
    }


def _with_row_counts(
    lake: Lake, contract: type[Contract], done: Mapping[date, Mapping[str, int]]
) -> dict[date, Mapping[str, int]]:
    """The counts of each day with the rows that its partition now holds (a merged table has no partitions)."""
    if contract.table.write is Write.MERGE:
        return dict(done)
    if contract.table.period and done:
        days = lake.scan(contract, Window.of_days(min(done), max(done))).group_by("date").len().collect()
        held = dict(days.iter_rows())
        return {day: {**counts, "partition_rows": held.get(day, 0)} for day, counts in done.items()}
    # From the log, which knows the rows of every file: nothing is read for it.
    held = dict(lake.live(contract).group_by("day").agg(pl.col("n_rows").sum()).iter_rows())
    return {day: {**counts, "partition_rows": held.get(day, 0)} for day, counts in done.items()}


def _day_metadata(counts: Mapping[str, int]) -> dict[str, Any]:
    names = {"partition_rows": "dagster/partition_row_count", "rows": "written_rows"}
    return {names.get(name, name): n for name, n in counts.items()}


def _automation() -> dg.AutomationCondition[Any]:
    """What schedules do not carry: late rows, released quarantine and backfilled history, wherever they land.

    A partition follows its upstream when that was updated outside the partition's own run. ``eager`` alone would look
    at the newest day only; history is bounded by the days that really changed.

    Nothing is asked of a day only because it is missing, and a missing input is an empty one: history is carried to
    days on which no snapshot was ever taken. What streams append is carried by the hour (``automation/streams.py``).
    """
    condition = dg.AutomationCondition
    streams = dg.AssetSelection.assets(*[dg.AssetKey(list(table.table.path)) for table in STREAMS])
    is_stopped = condition.any_deps_match(condition.any_checks_match(condition.check_failed(), blocking_only=True))
    changed = condition.any_deps_updated().ignore(streams).since_last_handled()
    follows = changed & ~condition.any_deps_in_progress() & ~condition.in_progress() & ~is_stopped
    return follows.with_label("follow_upstream")
