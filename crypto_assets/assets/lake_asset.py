"""How a pure function becomes an asset: read the upstream windows, compute, write, tell Dagster.

Asset functions hold no storage and no Dagster code; this is where both live. What is here for every asset:

* A range of days is one run. It is computed at once, and day by day only where that fails, so that one bad day leaves
  the others materialized (a plain ranged run would lose them all).
* A day whose upstream has a failing blocking verdict in ``quality.check_results`` is not computed: the gate is data,
  and so it holds for a schedule's run, a backfill and a person's click alike.
* A scheduled refresh of the day in progress replaces only the hours that hold something new.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import dagster as dg
import polars as pl

from crypto_assets import __version__
from crypto_assets.errors import CryptoAssetsError, DataError
from crypto_assets.partitions import DAILY, REFRESH_HOURS, REFRESH_TAG, SINGLE_RUN
from crypto_assets.resources.lake import Lake
from crypto_assets.tables.conform import Records, conform, settle
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
from crypto_assets.tables.quality import CheckResults, Quarantine
from crypto_assets.tables.window import DAY, HOUR, Window, contiguous

# The verdict that a day could not be computed; written by assets, cleared when the day succeeds.
MATERIALIZED = "materialized"
# Dagster records no materialization for an output with this metadata (its own observable assets use it); a range
# with a bad day then reports its good days one by one. Pinned in tests/test_upstream.py.
_NO_EVENTS = {"__source_asset_observation__": True}

Work = Callable[[Window], "Mapping[date, Mapping[str, int]]"]


@dataclass(frozen=True)
class Input:
    """A table that a function reads, and how much of it: ``select`` gives the rows for a window."""

    contract: type[Contract]
    select: Callable[[Lake, Window], pl.LazyFrame]


def window_of(contract: type[Contract]) -> Input:
    """The rows of the window in hand."""
    return Input(contract, lambda lake, window: lake.scan(contract, window))


def whole(contract: type[Contract]) -> Input:
    """All rows: for small digests."""
    return Input(contract, lambda lake, _: lake.scan(contract))


def newest_days(contract: type[Contract], n_days: int) -> Input:
    """The rows of the newest ``n_days`` that the table holds, whatever the window."""

    def select(lake: Lake, _: Window) -> pl.LazyFrame:
        held = lake.days(contract)
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
        def work(lake: Lake, window: Window) -> Mapping[date, Mapping[str, int]]:
            computed = function(*[source.select(lake, window) for source in sources])
            rows = conform(contract, within(contract, window, computed).collect())
            if contract.table.write is Write.MERGE:
                lake.merge(contract, rows)
                return {day: {"rows": len(rows)} for day in window.days}
            lake.replace(contract, rows, window)
            return by_day(window, rows=rows)

        return asset_of(contract, [source.contract for source in sources], work)

    return decorate


def settled_asset(
    contract: type[Contract], raw: type[Contract]
) -> Callable[[Callable[[pl.DataFrame], Records]], dg.AssetsDefinition]:
    """Make an asset of a provider's parser: what fits goes to the table, what does not to quarantine, in one step."""

    def decorate(parse: Callable[[pl.DataFrame], Records]) -> dg.AssetsDefinition:
        def work(lake: Lake, window: Window) -> Mapping[date, Mapping[str, int]]:
            settled = settle(contract, parse(lake.scan(raw, window).collect()), window)
            lake.replace(Quarantine, settled.rejected, window, where={"table_name": contract.table.full_name})
            lake.replace(contract, settled.rows, window)
            return by_day(window, rows=settled.rows, quarantined=settled.rejected)

        return asset_of(contract, [raw], work)

    return decorate


def asset_of(
    contract: type[Contract],
    upstream: Sequence[type[Contract]],
    work: Callable[[Lake, Window], Mapping[date, Mapping[str, int]]],
) -> dg.AssetsDefinition:
    """The Dagster asset of a table that is computed from other tables."""

    def body(context: dg.AssetExecutionContext, lake: dg.ResourceParam[Lake]) -> Iterator[dg.Output[None]]:
        def windows(days: Sequence[date]) -> Iterator[Window]:
            for window in contiguous(days):
                if context.run.tags.get(REFRESH_TAG) == REFRESH_HOURS and contract.table.clock:
                    yield from hours_behind(lake, contract, upstream, window)
                else:
                    yield window

        yield from materialize(
            context, lake, contract, upstream, windows=windows, work=lambda window: work(lake, window)
        )

    asset: dg.AssetsDefinition = dg.asset(**asset_facts(contract, upstream), automation_condition=_automation())(body)
    return asset


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
) -> Iterator[dg.Output[None]]:
    """Do the work for the run's days and tell Dagster what came of each.

    A failed day stops what is downstream of it, unless the table is no gate: a round of live pulls that failed leaves
    the day's other rounds usable.

    Raises dagster.Failure where every day failed, so that what is downstream does not run.
    """
    asked = [date.fromisoformat(key) for key in context.partition_keys]
    verdicts = blocking_failures(lake, [contract, *upstream], asked)
    failed: dict[date, str] = {
        day: f"upstream {table} failed {check}: {observed}"
        for table, check, day, observed in verdicts
        if table != contract.table.full_name
    }
    done: dict[date, Mapping[str, int]] = {day: {} for day in asked if day not in failed}
    kinds: list[int] = []
    for window in windows(sorted(done)):
        for outcome in _isolated(window, work):
            done.update(outcome.done)
            failed.update(outcome.failed)
            kinds += [outcome.exit_code] if outcome.failed else []
    done = {day: counts for day, counts in done.items() if day not in failed}
    once_failed = _once_failed(lake, contract, asked)
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
    lake: Lake, contracts: Sequence[type[Contract]], days: Sequence[date]
) -> list[tuple[str, str, date, str]]:
    """The failing blocking verdicts on these tables and days: table, check, day, what was observed."""
    if not days:
        return []
    verdicts = lake.scan(CheckResults, Window.of_days(min(days), max(days))).filter(
        pl.col("table_name").is_in([c.table.full_name for c in contracts]),
        pl.col("date").is_in(list(days)),
        pl.col("is_blocking") & ~pl.col("passed"),
    )
    return verdicts.select("table_name", "check_name", "date", "observed").collect().rows()


def hours_behind(
    lake: Lake, contract: type[Contract], upstream: Sequence[type[Contract]], window: Window
) -> Iterator[Window]:
    """The hours of the window in which an input holds something newer than the table does."""
    ours = _newest_arrivals(lake, contract, window).rename({"arrived_at": "ours"})
    theirs = pl.concat(_newest_arrivals(lake, other, window) for other in upstream)
    behind = (
        theirs.group_by("hour")
        .agg(pl.col("arrived_at").max())
        .join(ours, "hour", "left")
        .filter(pl.col("ours").is_null() | (pl.col("arrived_at") > pl.col("ours")))
        .sort("hour")
        .collect()
    )
    for hour in behind["hour"]:
        yield Window(hour, hour + HOUR)


def within(contract: type[Contract], window: Window, rows: pl.LazyFrame) -> pl.LazyFrame:
    """Only the columns of the contract, and of a window table only the days of the window."""
    rows = rows.select(polars_schema(contract).names())
    if contract.table.write is Write.MERGE:
        return rows
    return rows.filter(pl.col("date").is_between(pl.lit(window.days[0]), pl.lit(window.days[-1])))


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


def _isolated(window: Window, work: Work) -> Iterator[_Outcome]:
    """Work on the window at once; where that fails, on its days one by one."""
    try:
        yield _Outcome(work(window), {})
    except (CryptoAssetsError, pl.exceptions.PolarsError) as error:
        if window.end - window.start <= DAY:
            told = dict.fromkeys(window.days, " ".join(str(error).split()))
            yield _Outcome({}, told, error.exit_code if isinstance(error, CryptoAssetsError) else 1)
            return
        for day in window.days:
            yield from _isolated(Window.of_day(day), work)


def _newest_arrivals(lake: Lake, contract: type[Contract], window: Window) -> pl.LazyFrame:
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
    if table.span:
        rows = rows.filter(pl.col("n_pages").is_not_null() & (pl.col("outcome") == "ok"))
    arrival = "available_at" if "available_at" in contract.column_names() else "ingested_at"
    return rows.group_by(hour=pl.col(clock).dt.truncate("1h")).agg(arrived_at=pl.col(arrival).max())


def _once_failed(lake: Lake, contract: type[Contract], days: Sequence[date]) -> set[date]:
    """The days that the table could not be computed for when it was last tried."""
    verdicts = lake.scan(CheckResults, Window.of_days(min(days), max(days))).filter(
        pl.col("table_name") == contract.table.full_name, pl.col("check_name") == MATERIALIZED, ~pl.col("passed")
    )
    return set(verdicts.select("date").collect()["date"]) & set(days)


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
    }


def _day_metadata(counts: Mapping[str, int]) -> dict[str, Any]:
    metadata: dict[str, Any] = {name: n for name, n in counts.items() if name != "rows"}
    return {**metadata, "dagster/partition_row_count": counts["rows"]} if "rows" in counts else metadata


def _automation() -> dg.AutomationCondition[dg.AssetKey]:
    """What schedules do not carry: late rows, released quarantine and backfilled history, wherever they land.

    A partition follows its upstream when that was updated outside the partition's own run. ``eager`` alone would look
    at the newest day only; history is bounded by the days that really changed.
    """
    follows = dg.AutomationCondition.eager().without(dg.AutomationCondition.in_latest_time_window())
    return (follows & dg.AutomationCondition.all_deps_blocking_checks_passed()).with_label("follow_upstream")
