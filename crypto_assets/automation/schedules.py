"""When runs start by the clock. Cadence follows the plan's budget by arithmetic, here and nowhere else.

Where several installations share a lake, the one that holds its lease (``resources/lease.py``) starts runs, and the
others' ticks are skipped. Runs that people start, backfills and what follows from them are not held up.
"""

import logging
import math
from datetime import timedelta

import dagster as dg

from crypto_assets.automation.jobs import history, refresh
from crypto_assets.automation.jobs import maintenance as maintenance_job
from crypto_assets.errors import CryptoAssetsError
from crypto_assets.partitions import REFRESH_HOURS, REFRESH_TAG
from crypto_assets.resources import lease
from crypto_assets.resources.clock import Clock, SystemClock
from crypto_assets.resources.settings import Settings, storage_options

log = logging.getLogger("crypto_assets.schedules")

# One round on v3, from the sizes of recorded rows: 1,000 assets 225, 2,300 markets 300, rates and exchanges 25.
CREDITS_PER_ROUND = 560
_MINUTES_PER_DAY = 24 * 60
_MINUTES_PER_MONTH = 31 * _MINUTES_PER_DAY
# Cron can say these periods exactly; others would bunch up at the hour or at midnight.
_PERIODS = (5, 10, 15, 20, 30, 60, 120, 180, 240, 360, 480, 720, 1440)
# One tick may be late or lost and the lease is kept; after two it is anybody's. The half keeps its end off the ticks.
_LEASE_CADENCES = 2.5


def minutes_between_rounds(credits_per_month: int | None) -> int | None:
    """The shortest cadence in minutes that a month of the plan affords, five at best; ``None`` credits cost nothing.

    None where the plan does not afford a round a day: runs are then started by hand.
    """
    if credits_per_month is None:
        return _PERIODS[0]
    rounds = credits_per_month // CREDITS_PER_ROUND
    needed = math.ceil(_MINUTES_PER_MONTH / rounds) if rounds else math.inf
    return next((period for period in _PERIODS if period >= needed), None)


def cron(minutes: int) -> str:
    """A cron line for a period of ``_PERIODS``."""
    if minutes < 60:
        return f"*/{minutes} * * * *"
    return "0 0 * * *" if minutes == 1440 else f"0 */{minutes // 60} * * *"


def live(settings: Settings, clock: Clock | None = None) -> list[dg.ScheduleDefinition]:
    """The round of live pulls: today's partition from raw to refined, refreshing the hours that are new.

    The second tick of a day also closes the day before, from raw to refined by whole days: what the first tick pulled
    may carry the provider's time of a second before midnight. Empty where the plan does not afford a round a day.
    """
    minutes = cadence_minutes(settings)
    if minutes is None:
        return []
    # With one tick a day there is no second one.
    closes_at = timedelta(minutes=minutes % _MINUTES_PER_DAY)

    @dg.schedule(
        name="live",
        job=refresh,
        cron_schedule=cron(minutes),
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Every {minutes} minutes: what the plan affords.",
    )
    def tick(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        if elsewhere := _elsewhere(settings, clock):
            return elsewhere
        moment = context.scheduled_execution_time
        opens = moment.replace(hour=0, minute=0, second=0, microsecond=0)
        requests = []
        if moment - opens == closes_at:
            yesterday = str((opens - timedelta(days=1)).date())
            requests.append(dg.RunRequest(run_key=f"{yesterday} closed", partition_key=yesterday))
        if _is_refreshing(context):
            return requests or dg.SkipReason("the round before is not over: two would pull the same moment")
        tags = {REFRESH_TAG: REFRESH_HOURS}
        now = dg.RunRequest(run_key=f"{moment:%Y-%m-%dT%H:%MZ}", partition_key=str(moment.date()), tags=tags)
        return [now, *requests]

    return [tick]


def _is_refreshing(context: dg.ScheduleEvaluationContext) -> bool:
    unfinished = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
    filters = dg.RunsFilter(job_name=refresh.name, tags={REFRESH_TAG: REFRESH_HOURS}, statuses=unfinished)
    return bool(context.instance.get_run_ids(filters, limit=1))


def cadence_minutes(settings: Settings) -> int | None:
    """Minutes between two rounds under these settings; None where the plan affords none."""
    is_free = settings.is_coincap_local or settings.coincap_base_url.rstrip("/").endswith("/v2")
    return minutes_between_rounds(None if is_free else settings.coincap_credits_per_month)


def daily_history(settings: Settings, clock: Clock | None = None) -> dg.ScheduleDefinition:
    """Yesterday's partition of the history chain, once a day."""

    @dg.schedule(
        name="daily_history",
        job=history,
        # Half past midnight: the provider's day is over, and its daily points have been made.
        cron_schedule="30 0 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="The daily prices of yesterday, and what follows from them.",
    )
    def tick(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        if elsewhere := _elsewhere(settings, clock):
            return elsewhere
        yesterday = str((context.scheduled_execution_time - timedelta(days=1)).date())
        return dg.RunRequest(run_key=f"{yesterday} history", partition_key=yesterday)

    return tick


def maintenance(settings: Settings, clock: Clock | None = None) -> dg.ScheduleDefinition:
    """The lake's maintenance, once a night."""

    @dg.schedule(
        name="nightly_maintenance",
        job=maintenance_job,
        # Nights in UTC are as busy as days: 03:30 only keeps clear of the hour and of midnight's first runs.
        cron_schedule="30 3 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Compact, vacuum and checkpoint every table of the lake.",
    )
    def tick(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        # An installation that pulls nothing must not keep those from pulling that can.
        if elsewhere := _elsewhere(settings, clock, takes=False):
            return elsewhere
        return dg.RunRequest(run_key=f"{context.scheduled_execution_time:%Y-%m-%d} maintenance")

    return tick


def lease_length(settings: Settings) -> timedelta:
    """How long a lease outlasts its last renewal under these settings."""
    return _LEASE_CADENCES * timedelta(minutes=cadence_minutes(settings) or _MINUTES_PER_DAY)


def _elsewhere(settings: Settings, clock: Clock | None, *, takes: bool = True) -> dg.SkipReason | None:
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
