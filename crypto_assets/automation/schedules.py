"""When runs start by the clock. How often is ``cadence.py``'s arithmetic; a tick asks it what is due.

Where several installations share a lake, the one that holds its lease (``resources/lease.py``) starts runs, and the
others' ticks are skipped. Runs that people start, backfills and what follows from them are not held up.
"""

import logging
from collections.abc import Callable, Iterable
from datetime import date, datetime, timedelta
from typing import Any

import dagster as dg

from crypto_assets.analytics.operations import look_back
from crypto_assets.assets.handles import absence
from crypto_assets.automation import cadence
from crypto_assets.automation.jobs import refresh
from crypto_assets.automation.restatements import restatements as restatements_job
from crypto_assets.errors import CryptoAssetsError
from crypto_assets.partitions import REFRESH_HOURS, REFRESH_TAG, range_tags
from crypto_assets.providers import binance_archive
from crypto_assets.resources import lease
from crypto_assets.resources.clock import Clock, SystemClock
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.settings import Settings, storage_options
from crypto_assets.tables.contract import Contract
from crypto_assets.tables.quality import Lateness
from crypto_assets.tables.window import Window

log = logging.getLogger("crypto_assets.schedules")

Asked = dg.RunRequest | list[dg.RunRequest] | dg.SkipReason
Tick = Callable[[dg.ScheduleEvaluationContext], Asked]

_MINUTES_PER_DAY = 24 * 60
# One tick may be late or lost and the lease is kept; after two it is anybody's. The half keeps its end off the ticks.
_LEASE_CADENCES = 2.5
# Answers about a day come late: an archive's file in the course of the next day, and a provider that was down longer.
# What is held is not asked again, so that looking back costs nothing; where lateness is measured to be more, it counts.
_LOOK_BACK_DAYS = 3
_MEASURED_OVER = timedelta(days=30)


def cron(minutes: int) -> str:
    """A cron line for a period of ``cadence.PERIODS``."""
    if minutes < 60:
        return f"*/{minutes} * * * *"
    return "0 0 * * *" if minutes == _MINUTES_PER_DAY else f"0 */{minutes // 60} * * *"


def _schedule(
    settings: Settings, clock: Clock | None, *, takes: bool = True, **facts: Any
) -> Callable[[Tick], dg.ScheduleDefinition]:
    """Make a schedule of what its ticks ask for, where no other installation holds the lake's lease; it runs at once.

    ``takes`` as in ``held_elsewhere``; ``facts`` are ``dg.schedule``'s name, job, cron_schedule (UTC) and description.
    """

    def scheduled(ask: Tick) -> dg.ScheduleDefinition:
        @dg.schedule(execution_timezone="UTC", default_status=dg.DefaultScheduleStatus.RUNNING, **facts)
        def tick(context: dg.ScheduleEvaluationContext) -> Asked:
            return held_elsewhere(settings, clock, takes=takes) or ask(context)

        return tick

    return scheduled


def live(settings: Settings, clock: Clock | None = None) -> list[dg.ScheduleDefinition]:
    """The rounds of live pulls that are due: today's partition, from their raw tables to all that follows from them.

    Only the hours that are new are computed. The second tick of a day also closes the day before, from raw to refined
    by whole days: what the first tick pulled may carry the provider's time of a second before midnight. Empty where no
    provider affords a round a day.
    """
    found = cadence.rounds(settings)
    minutes = cadence.tick_minutes(found)
    if minutes is None:
        return []
    # With one tick a day there is no second one.
    closes_at = timedelta(minutes=minutes % _MINUTES_PER_DAY)
    told = ", ".join(f"{each.feed.provider} {each.feed.name} {each.minutes}" for each in found if each.minutes)

    @_schedule(
        settings,
        clock,
        name="live",
        job=refresh,
        cron_schedule=cron(minutes),
        description=f"What is due, by what the plans afford. Minutes between rounds: {told}.",
    )
    def tick(context: dg.ScheduleEvaluationContext) -> Asked:
        moment = context.scheduled_execution_time
        opens = moment.replace(hour=0, minute=0, second=0, microsecond=0)
        requests = []
        if moment - opens == closes_at:
            yesterday = str((opens - timedelta(days=1)).date())
            pulled = chain(context, (table for each in found for table in each.feed.contracts))
            requests.append(
                dg.RunRequest(run_key=f"{yesterday} closed", partition_key=yesterday, asset_selection=pulled)
            )
        if _is_refreshing(context):
            return requests or dg.SkipReason("the round before is not over: two would pull the same moment")
        now = _round(context, settings, clock, moment)
        return [now, *requests] if isinstance(now, dg.RunRequest) else requests or now

    return [tick]


def _round(
    context: dg.ScheduleEvaluationContext, settings: Settings, clock: Clock | None, moment: datetime
) -> dg.RunRequest | dg.SkipReason:
    due = cadence.due(settings, moment)
    if not due:
        return dg.SkipReason("no provider's round is due")
    kept = [feed for feed in due if cadence.affords(settings, feed, clock or SystemClock())]
    for feed in due:
        if feed not in kept:
            log.warning(
                "no round of %s %s: its budget does not have it, see crypto-assets status", feed.provider, feed.name
            )
    if not kept:
        return dg.SkipReason(f"the budget of {', '.join(feed.provider for feed in due)} is used up")
    return dg.RunRequest(
        run_key=f"{moment:%Y-%m-%dT%H:%MZ}",
        partition_key=str(moment.date()),
        asset_selection=chain(context, (table for feed in kept for table in feed.contracts)),
        tags={REFRESH_TAG: REFRESH_HOURS},
    )


def chain(
    context: dg.ScheduleEvaluationContext | dg.SensorEvaluationContext, contracts: Iterable[type[Contract]]
) -> list[dg.AssetKey]:
    """The assets of these tables and all that follows from them."""
    if context.repository_def is None:
        raise ValueError("a tick without a repository does not know what follows from a table")
    graph = context.repository_def.asset_graph
    roots = dg.AssetSelection.assets(*[dg.AssetKey(list(contract.table.path)) for contract in contracts])
    return sorted((roots | roots.downstream()).resolve(graph))


def _is_refreshing(context: dg.ScheduleEvaluationContext) -> bool:
    unfinished = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
    filters = dg.RunsFilter(job_name=refresh.name, tags={REFRESH_TAG: REFRESH_HOURS}, statuses=unfinished)
    return bool(context.instance.get_run_ids(filters, limit=1))


def daily_history(settings: Settings, clock: Clock | None = None) -> list[dg.ScheduleDefinition]:
    """What providers say of finished days, twice a day; empty where no provider does.

    Soon after midnight for those that know the day at once, and at noon for archives, whose files come hours later.
    """
    tables = cadence.daily_histories(settings)
    if not tables:
        return []

    @_schedule(
        settings,
        clock,
        name="daily_history",
        job=refresh,
        # Half past midnight: the provider's day is over, and its daily points have been made.
        cron_schedule="30 0,12 * * *",
        description=f"Of the last {_LOOK_BACK_DAYS} days, or more where answers were measured to come later, what is "
        "not held yet, and what follows from it.",
    )
    def tick(context: dg.ScheduleEvaluationContext) -> Asked:
        moment = context.scheduled_execution_time
        last: date = (moment - timedelta(days=1)).date()
        return dg.RunRequest(
            run_key=f"{moment:%Y-%m-%dT%H:%MZ} history",
            asset_selection=chain(context, tables),
            tags=range_tags(last - timedelta(days=_look_back_days(settings, moment) - 1), last),
        )

    return [tick]


def _look_back_days(settings: Settings, moment: datetime) -> int:
    """How many days back answers are still to be expected, by the lateness that was measured of late."""
    lake = Lake(settings.lake_root, storage_options=storage_options())
    try:
        measured = lake.scan(Lateness, Window(moment - _MEASURED_OVER, moment)).select("p999_s").collect()
    except CryptoAssetsError as error:
        log.warning("lateness cannot be read, %d days back it is: %s", _LOOK_BACK_DAYS, error)
        return _LOOK_BACK_DAYS
    return max(_LOOK_BACK_DAYS, look_back(measured))


def restatements(settings: Settings, clock: Clock | None = None) -> list[dg.ScheduleDefinition]:
    """The look for restated archive files, once a day; empty where no provider restates any."""
    if absence(binance_archive.NAME, settings) is not None:
        return []

    @_schedule(
        settings,
        clock,
        name="daily_restatements",
        job=restatements_job,
        # After the noon's histories: the archive writes new files, and new versions of old ones, in the morning.
        cron_schedule="0 14 * * *",
        description="Compare the archive's checksums with those of the files that are held.",
    )
    def tick(context: dg.ScheduleEvaluationContext) -> Asked:
        return dg.RunRequest(run_key=f"{context.scheduled_execution_time:%Y-%m-%d} restatements")

    return [tick]


def maintenance(settings: Settings, clock: Clock | None = None) -> dg.ScheduleDefinition:
    """The lake's maintenance, once a night."""

    @_schedule(
        settings,
        clock,
        name="nightly_maintenance",
        job_name="maintenance",
        # Nights in UTC are as busy as days: 03:30 only keeps clear of the hour and of midnight's first runs.
        cron_schedule="30 3 * * *",
        description="Compact, vacuum and checkpoint every table of the lake.",
        # An installation that pulls nothing must not keep those from pulling that can.
        takes=False,
    )
    def tick(context: dg.ScheduleEvaluationContext) -> Asked:
        return dg.RunRequest(run_key=f"{context.scheduled_execution_time:%Y-%m-%d} maintenance")

    return tick


def lease_length(settings: Settings) -> timedelta:
    """How long a lease outlasts its last renewal under these settings."""
    minutes = cadence.tick_minutes(cadence.rounds(settings))
    return _LEASE_CADENCES * timedelta(minutes=minutes or _MINUTES_PER_DAY)


def held_elsewhere(settings: Settings, clock: Clock | None, *, takes: bool = True) -> dg.SkipReason | None:
    """Why this tick starts nothing: another installation holds the lease, or the store is out of reach or refuses.

    None where the lease is ours now, or, without ``takes``, where nobody else holds it. A pull whose answer cannot be
    kept would only cost credits, so a store that does not answer ends the tick; one that knows no leases does not.
    """
    clock = clock or SystemClock()
    try:
        slot = lease.slot_of(settings.lake_root, storage_options())
        us = lease.this_installation(settings.state_dir.resolve())
        held = lease.hold(slot, us, clock, lease_length(settings)) if takes else lease.look(slot)
    except (lease.LeaseUnsupported, lease.Unreadable) as error:
        log.warning("%s", error)
        return None
    except CryptoAssetsError as error:
        log.warning("tick skipped: %s", error)
        return dg.SkipReason(str(error))
    if held is None or held.holder.id == us.id or not held.is_live(clock.now()):
        return None
    return dg.SkipReason(lease.refusal(held))
