"""What fills holes by itself: runs for just the partitions that the gap ledger names, each asked for a bounded time.

A gap is asked of the sources that have not answered for it, the cheapest first, and at most ``MAX_ATTEMPTS`` times; the
attempt is noted before the run starts, so that no crash can ask once more, and only who holds the lake's lease asks.
Whether it helped is for the ledger's own asset to say, which is part of every such run; of one that failed before that,
and was the last, it is said here.
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import dagster as dg
import polars as pl

from crypto_assets.analytics.gaps import MAX_ATTEMPTS, OPEN
from crypto_assets.assets.quality.gaps import SPINES, TRADES, Spine, answers_about, has_answered, unseen_days
from crypto_assets.assets.raw.pulls import span
from crypto_assets.automation.jobs import refresh
from crypto_assets.automation.schedules import held_elsewhere
from crypto_assets.partitions import hours_tag, range_tags
from crypto_assets.resources.clock import Clock
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.settings import Settings
from crypto_assets.tables import raw
from crypto_assets.tables.contract import UTC_TIME, polars_schema
from crypto_assets.tables.quality import GapLedger
from crypto_assets.tables.window import HOUR, Window, contiguous

REPAIR_TAG = "crypto_assets/repair"
# Repairs are bulk work: some at a time leave the queue to the schedules. Gaps are counted and not runs: one that takes
# several must not be noted as asked for while some of its days were not.
GAPS_AT_ONCE = 50


@dataclass(frozen=True)
class Repair:
    """One run: a source asked for subjects over a range of days."""

    source: type[raw.RawAnswers]
    window: Window
    subjects: tuple[str, ...]


def candidates(lake: Lake, spine: Spine, *, is_spent: bool = False) -> pl.DataFrame:
    """The spine's open gaps that may still be asked for, or with ``is_spent`` those that may not."""
    return (
        lake.scan(GapLedger)
        .filter(
            pl.col("table_name") == spine.contract.table.full_name,
            pl.col("state").is_in(OPEN),
            (pl.col("attempts") >= MAX_ATTEMPTS) == is_spent,
        )
        .sort("gap_start_at", "key")
        .collect()
    )


def repairs(
    lake: Lake, spine: Spine, gaps: pl.DataFrame, present: Container[type[raw.RawAnswers]]
) -> Iterator[tuple[Repair, pl.DataFrame]]:
    """The runs that ask for the gaps, and the gaps of each. Days with equal subjects and source are one run.

    Only the sources that are ``present`` have a turn; a gap that none of them serves waits for one that does.
    """
    if gaps.is_empty():
        return
    answers = answers_about(lake, spine, Window(gaps["gap_start_at"].min(), gaps["gap_end_at"].max()))  # type: ignore[arg-type]
    wanted: dict[tuple[type[raw.RawAnswers], date], set[str]] = {}
    asked: dict[type[raw.RawAnswers], list[Mapping[str, Any]]] = {}
    for gap in gaps.iter_rows(named=True):
        source = _source(spine, gap, answers, present)
        if source is None:
            continue
        asked.setdefault(source, []).append(gap)
        for day in Window(gap["gap_start_at"], gap["gap_end_at"]).days:
            wanted.setdefault((source, day), set()).add(gap["key"])
    for source, of_source in asked.items():
        days_of: dict[frozenset[str], list[date]] = {}
        for (other, day), keys in sorted(wanted.items(), key=lambda item: item[0][1]):
            if other is source:
                days_of.setdefault(frozenset(keys), []).append(day)
        for subjects, days in days_of.items():
            for window in contiguous(days):
                # A gap over days of several runs is noted with the run that begins it.
                begun = [
                    g for g in of_source if g["key"] in subjects and window.start <= g["gap_start_at"] < window.end
                ]
                rows = pl.DataFrame(begun, schema=polars_schema(GapLedger))
                yield Repair(source, window, tuple(sorted(subjects))), rows


def _source(
    spine: Spine, gap: Mapping[str, Any], answers: pl.DataFrame, present: Container[type[raw.RawAnswers]]
) -> type[raw.RawAnswers] | None:
    sources = [source for source in spine.sources(gap["key"]) if source in present]
    if not sources:
        return None
    unasked = [source for source in sources if not has_answered(answers, source, gap)]
    turns: list[type[raw.RawAnswers]] = unasked or sources
    return turns[int(gap["attempts"]) % len(turns)]


def requests(
    lake: Lake, keys_of: Mapping[type[raw.RawAnswers], Iterable[dg.AssetKey]], now: datetime
) -> Iterator[dg.RunRequest]:
    """Note the attempts and ask for the runs of the oldest ``GAPS_AT_ONCE`` gaps of each table.

    ``keys_of`` are the assets of each source that there is, with all that follows from it; a source of a provider that
    is absent is not asked, and costs no attempt.
    """
    for spine in SPINES:
        _give_up(lake, spine, now)
        for repair, gaps in repairs(lake, spine, candidates(lake, spine).head(GAPS_AT_ONCE), keys_of):
            run_key = f"{repair.source.table.full_name} {repair.window} {now:%Y-%m-%dT%H:%M:%SZ}"
            noted = gaps.with_columns(
                attempts=pl.col("attempts") + 1, state=pl.lit("queued"), run_id=pl.lit(run_key, pl.String)
            )
            if len(noted):
                lake.merge(GapLedger, noted, delete_missing=False)
            yield _request(repair, sorted(keys_of[repair.source]), run_key)


def refills(
    lake: Lake, keys_of: Mapping[type[raw.RawAnswers], Iterable[dg.AssetKey]], now: datetime
) -> Iterator[dg.RunRequest]:
    """Note the attempts and ask for the runs that ask venues for just what their streams did not hear.

    Of hours that are over: they are computed again with what was refilled, and the hour of now has yet to be.
    """
    [source] = TRADES.all_sources
    if source not in keys_of:
        return
    _give_up(lake, TRADES, now)
    holes = candidates(lake, TRADES).filter(pl.col("gap_end_at") <= _hour(now)).head(GAPS_AT_ONCE)
    spans = [(gap["key"], Window(gap["gap_start_at"], gap["gap_end_at"])) for gap in holes.iter_rows(named=True)]
    for window in contiguous(day for _, hole in spans for day in hole.days):
        own = sorted((key, hole) for key, hole in spans if window.start <= hole.start < window.end)
        hours = {
            hour
            for _, hole in own
            for hour in (_hour(hole.start) + n * HOUR for n in range(-(-(hole.end - _hour(hole.start)) // HOUR)))
        }
        run_key = f"{source.table.full_name} holes {window} {now:%Y-%m-%dT%H:%M:%SZ}"
        noted = holes.filter(pl.col("gap_start_at").is_between(window.start, window.end, closed="left")).with_columns(
            attempts=pl.col("attempts") + 1, state=pl.lit("queued"), run_id=pl.lit(run_key, pl.String)
        )
        lake.merge(GapLedger, noted, delete_missing=False)
        yield dg.RunRequest(
            run_key=run_key,
            asset_selection=sorted(keys_of[source]),
            run_config={
                "ops": {"__".join(source.table.path): {"config": {"spans": [span(key, hole) for key, hole in own]}}}
            },
            tags={
                REPAIR_TAG: source.table.full_name,
                **range_tags(window.days[0], window.days[-1]),
                **hours_tag(hours),
            },
        )


def _hour(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)


def _give_up(lake: Lake, spine: Spine, now: datetime) -> None:
    """Declare the gaps of which the last run that may ask ended before it came to the ledger: nothing else would."""
    ended = candidates(lake, spine, is_spent=True).with_columns(
        state=pl.lit("unrecoverable"),
        detail=pl.format("given up after {} repairs, the last of which failed: {}", "attempts", "detail"),
        closed_at=pl.lit(now, UTC_TIME).dt.truncate("1ms"),
    )
    if len(ended):
        lake.merge(GapLedger, ended, delete_missing=False)


def looks(lake: Lake, now: datetime) -> Iterator[dg.RunRequest]:
    """Runs of the ledger alone, for days that no run has looked at."""
    key = dg.AssetKey(list(GapLedger.table.path))
    days = sorted({day for spine in SPINES for day in unseen_days(lake, spine, now)})
    for window in contiguous(days):
        tags = {REPAIR_TAG: "look", **range_tags(window.days[0], window.days[-1])}
        yield dg.RunRequest(run_key=f"look {window} {now:%Y-%m-%d}", asset_selection=[key], tags=tags)


def _request(repair: Repair, keys: list[dg.AssetKey], run_key: str) -> dg.RunRequest:
    step = "__".join(repair.source.table.path)
    return dg.RunRequest(
        run_key=run_key,
        asset_selection=keys,
        run_config={"ops": {step: {"config": {"subjects": list(repair.subjects), "again": True}}}},
        tags={
            REPAIR_TAG: repair.source.table.full_name,
            **range_tags(repair.window.days[0], repair.window.days[-1]),
        },
    )


def gap_repair(settings: Settings) -> dg.SensorDefinition:
    """The sensor. Of several installations that share a lake the one that holds its lease repairs, as it pulls."""

    @dg.sensor(
        name="gap_repair",
        job=refresh,
        minimum_interval_seconds=300,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Asks again for what the gap ledger says is missing and may still be had.",
    )
    def look(
        context: dg.SensorEvaluationContext, lake: dg.ResourceParam[Lake], clock: dg.ResourceParam[Clock]
    ) -> dg.SensorResult | dg.SkipReason:
        if elsewhere := held_elsewhere(settings, clock):
            return elsewhere
        return _look(context, lake, clock)

    return look


def _look(context: dg.SensorEvaluationContext, lake: Lake, clock: Clock) -> dg.SensorResult | dg.SkipReason:
    """Runs for the open gaps, one set at a time: the next look is at what the last one left."""
    unfinished = [
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.QUEUED,
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.STARTED,
    ]
    runs = context.instance.get_runs(dg.RunsFilter(statuses=unfinished), limit=100)
    if any(REPAIR_TAG in run.tags for run in runs):
        return dg.SkipReason("repairs are under way")
    if context.repository_def is None:
        return dg.SkipReason("evaluated without a repository, whose assets it needs to know")
    graph = context.repository_def.asset_graph
    present = graph.executable_asset_keys
    keys_of = {}
    for source in {source for spine in (*SPINES, TRADES) for source in spine.all_sources}:
        key = dg.AssetKey(list(source.table.path))
        if key in present:
            chain = dg.AssetSelection.assets(key)
            keys_of[source] = (chain | chain.downstream()).resolve(graph)
    now = clock.now()
    asked = list(looks(lake, now)) or [*requests(lake, keys_of, now), *refills(lake, keys_of, now)]
    return dg.SensorResult(run_requests=asked) if asked else dg.SkipReason("no gap can be repaired")
