"""What follows from streams: hours that are over are carried on, and Dagster is told how the streams do.

An hour is carried on from raw to trusted and refined when it is over, and again whenever raw holds another number of
its trades than then: late ones, or those of a consumer that was away. With the last hour of a day all of the day is
computed and judged once more, as one piece. What was asked for is kept in the sensor's cursor; of a run that failed it
is forgotten, a bounded number of times. Nothing depends on the cursor: without one, every hour is computed again and
found to be the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, timedelta
from typing import Any

import dagster as dg
import msgspec
import polars as pl

from crypto_assets.automation.jobs import refresh
from crypto_assets.automation.schedules import chain, held_elsewhere
from crypto_assets.checks import streams
from crypto_assets.partitions import hours_tag
from crypto_assets.resources.clock import Clock
from crypto_assets.resources.lake import Lake, TableState
from crypto_assets.resources.settings import Settings
from crypto_assets.tables import trusted
from crypto_assets.tables.contract import Contract
from crypto_assets.tables.stream import TABLES, RawTrades
from crypto_assets.tables.trusted import CLOCK_SKEW
from crypto_assets.tables.window import DAY, HOUR, Window

log = logging.getLogger("crypto_assets.alerts")

NAME = "closed_hours"
# A batch lands within seconds of its trades, through a broker as well; what comes later makes its hour due again.
GRACE = timedelta(minutes=2)
# An hour that cannot be computed is no better the fourth time; its failing verdict stands.
MOST_ATTEMPTS = 3
# How often Dagster's log takes an observation that says nothing new.
_OBSERVED_EVERY = timedelta(minutes=5)
# Of older hours the counts are forgotten: more trades of such a day make all of the day due.
_COUNTED = 3 * DAY
_LAUNCHED_BY = {"crypto_assets/launched_by": NAME}
_UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


class Asked(msgspec.Struct):
    """A run that was asked for: its day, the hours of it (none for all), and how often it was."""

    day: date
    hours: list[datetime]
    attempts: int = 1


class Seen(msgspec.Struct):
    """A table when it was last observed."""

    version: int
    n_rows: int
    at: datetime


class Cursor(msgspec.Struct):
    """What the sensor remembers.

    Attributes:
        days: rows of the files of each day of ``raw.trades`` that held hours which were over when last looked at.
        closed: the end of the newest hour that was over then.
        hours: trades of each hour that was asked for, then.
        whole: days that were computed as a whole after their end.
        asked: the last runs, by run key.
        seen: the streams' tables, by name.
        silent: the providers whose streams ran and said nothing.
    """

    days: dict[date, int] = {}
    closed: datetime | None = None
    hours: dict[datetime, int] = {}
    whole: list[date] = []
    asked: dict[str, Asked] = {}
    seen: dict[str, Seen] = {}
    silent: list[str] = []


def closed_hours(settings: Settings) -> dg.SensorDefinition:
    """The sensor. Of several installations that share a lake the one that holds its lease carries its streams on."""

    @dg.sensor(
        name=NAME,
        job=refresh,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Carries a stream's hours on when they are over, observes the streams' tables, and says when one "
        "that runs is silent.",
    )
    def look(
        context: dg.SensorEvaluationContext, lake: dg.ResourceParam[Lake], clock: dg.ResourceParam[Clock]
    ) -> dg.SensorResult | dg.SkipReason:
        if elsewhere := held_elsewhere(settings, clock):
            return elsewhere
        return _look(context, lake, clock.now())

    return look


def _look(context: dg.SensorEvaluationContext, lake: Lake, now: datetime) -> dg.SensorResult | dg.SkipReason:
    if not any(lake.state(contract) for contract in TABLES):
        return dg.SkipReason("no stream has ever run")
    cursor = msgspec.json.decode(context.cursor, type=Cursor) if context.cursor else Cursor()
    events: list[dg.AssetObservation | dg.AssetMaterialization | dg.AssetCheckEvaluation] = []
    events += [*_observed(lake, cursor, now), *_judged(lake, cursor, now)]
    under_way = dg.RunsFilter(tags=_LAUNCHED_BY, statuses=_UNFINISHED)
    if context.instance.get_run_ids(under_way, limit=1):
        # The next look is at what these leave.
        return dg.SensorResult(cursor=_told(cursor), asset_events=events, skip_reason="hours are being carried on")
    attempts = _forget_failed(context.instance, cursor)
    requests = []
    for day, hours in due(lake, cursor, now).items():
        run_key = f"{NAME} {day} {now:%Y-%m-%dT%H:%M:%SZ}"
        cursor.asked[run_key] = Asked(day, hours, attempts.get(day, 0) + 1)
        requests.append(
            dg.RunRequest(
                run_key=run_key,
                partition_key=str(day),
                asset_selection=chain(context, [trusted.Trades]),
                tags={**_LAUNCHED_BY, **(hours_tag(hours) if hours else {})},
            )
        )
    skipped = None if requests else "no hour is over that is not carried on"
    return dg.SensorResult(run_requests=requests, cursor=_told(cursor), asset_events=events, skip_reason=skipped)


def _told(cursor: Cursor) -> str:
    return msgspec.json.encode(cursor).decode()


def due(lake: Lake, cursor: Cursor, now: datetime) -> dict[date, list[datetime]]:
    """The hours to carry on, by day, where none are named all of the day; noted in the cursor as asked for.

    The log says whether hours that are over hold something new; only then are their trades counted.
    """
    over = now - GRACE
    closed = over.replace(minute=0, second=0, microsecond=0)
    held = lake.n_rows_begun(RawTrades, closed)
    found: dict[date, list[datetime]] = {}
    changed = {day for day, n_rows in held.items() if cursor.days.get(day) != n_rows}
    # A file may go on beyond the hour that has ended since the last look: it is the same file as then.
    ended = set(Window(cursor.closed, closed).days) if cursor.closed and cursor.closed < closed else set()
    for day in sorted(changed | (ended & held.keys())):
        of_day = Window.of_day(day)
        counted = _trades_by_hour(lake, of_day)
        wanted = [hour for hour, n in counted.items() if hour < closed and cursor.hours.get(hour) != n]
        if wanted:
            is_whole = of_day.end <= over and day not in cursor.whole
            cursor.whole += [day] if is_whole else []
            cursor.hours.update({hour: counted[hour] for hour in wanted})
            found[day] = [] if is_whole else wanted
    cursor.days, cursor.closed = held, closed
    cursor.hours = {hour: n for hour, n in cursor.hours.items() if hour >= now - _COUNTED}
    cursor.whole = [day for day in cursor.whole if day >= (now - _COUNTED).date()]
    return found


def _trades_by_hour(lake: Lake, window: Window) -> Mapping[datetime, int]:
    hours = lake.scan(RawTrades, window).group_by(hour=pl.col("traded_at").dt.truncate("1h")).len()
    return dict(hours.sort("hour").collect().iter_rows())


def _forget_failed(instance: dg.DagsterInstance, cursor: Cursor) -> Mapping[date, int]:
    """Forget what runs were asked for that failed, so that it is due again; how often each day was asked for."""
    attempts: dict[date, int] = {}
    for run_key, asked in cursor.asked.items():
        runs = instance.get_runs(dg.RunsFilter(tags={"dagster/run_key": run_key}), limit=1)
        if not runs or runs[0].status is dg.DagsterRunStatus.SUCCESS:
            continue
        if asked.attempts >= MOST_ATTEMPTS:
            log.error("hours of %s could not be carried on in %d runs; see its verdicts", asked.day, asked.attempts)
            continue
        attempts[asked.day] = asked.attempts
        hours = asked.hours or [hour for hour in cursor.hours if hour.date() == asked.day]
        for hour in hours:
            cursor.hours.pop(hour, None)
        if not asked.hours and asked.day in cursor.whole:
            cursor.whole.remove(asked.day)
        cursor.days.pop(asked.day, None)
    cursor.asked = {}
    return attempts


def _observed(lake: Lake, cursor: Cursor, now: datetime) -> Iterator[dg.AssetObservation]:
    """What the streams' tables hold, where that has changed and was not said within ``_OBSERVED_EVERY``."""
    for contract in TABLES:
        state, before = lake.state(contract), cursor.seen.get(contract.table.full_name)
        if state is None or (before and (before.version == state.version or now - before.at < _OBSERVED_EVERY)):
            continue
        cursor.seen[contract.table.full_name] = Seen(state.version, state.n_rows, now)
        yield dg.AssetObservation(
            dg.AssetKey(list(contract.table.path)),
            partition=str(now.date()),
            metadata=_metadata(lake, contract, state, before, now),
        )


def _metadata(
    lake: Lake, contract: type[Contract], state: TableState, before: Seen | None, now: datetime
) -> dict[str, Any]:
    moment = str(contract.table.clock)
    lately = lake.scan(contract, Window(now - HOUR, now + CLOCK_SKEW))
    newest, arrived = lately.select(pl.col(moment).max(), pl.col("ingested_at").max()).collect().row(0)
    told: dict[str, Any] = {
        "dagster/uri": state.uri,
        "dagster/row_count": state.n_rows,
        "delta_version": state.version,
        "files": state.n_files,
    }
    if before is not None:
        told["rows_per_second"] = round((state.n_rows - before.n_rows) / (now - before.at).total_seconds(), 3)
    if newest is not None:
        told |= {f"newest_{moment}": newest.isoformat(), "lag_seconds": (now - arrived).total_seconds()}
    return told


def _judged(lake: Lake, cursor: Cursor, now: datetime) -> Iterable[dg.AssetCheckEvaluation]:
    """The verdict on silence, where others are silent than at the last look; who is so anew goes to the alert log."""
    silent, told = streams.verdict(streams.running(lake, now), now)
    if silent == cursor.silent:
        return
    for provider in silent:
        if provider not in cursor.silent:
            log.error("stream %s is silent: %s", provider, told[provider])
    cursor.silent = silent
    yield dg.AssetCheckEvaluation(
        asset_key=streams.KEY,
        check_name=streams.NAME,
        passed=not silent,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={name: dg.MetadataValue.text(said) for name, said in told.items()},
    )
