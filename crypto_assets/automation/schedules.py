"""When runs start by the clock. Cadence follows the plan's budget by arithmetic, here and nowhere else."""

import math

import dagster as dg

from crypto_assets.automation.jobs import maintenance as maintenance_job
from crypto_assets.automation.jobs import refresh
from crypto_assets.partitions import DAILY, REFRESH_HOURS, REFRESH_TAG
from crypto_assets.resources.settings import Settings

# One round on v3, from the sizes of recorded rows: 1,000 assets 225, 2,300 markets 300, rates and exchanges 25.
CREDITS_PER_ROUND = 560
_MINUTES_PER_MONTH = 31 * 24 * 60
# Cron can say these periods exactly; others would bunch up at the hour or at midnight.
_PERIODS = (5, 10, 15, 20, 30, 60, 120, 180, 240, 360, 480, 720, 1440)


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


def live(settings: Settings) -> list[dg.ScheduleDefinition]:
    """The round of live pulls: today's partition from raw to refined, refreshing the hours that are new.

    Empty where the plan does not afford a round a day.
    """
    is_free = settings.is_coincap_local or settings.coincap_base_url.rstrip("/").endswith("/v2")
    minutes = minutes_between_rounds(None if is_free else settings.coincap_credits_per_month)
    if minutes is None:
        return []

    @dg.schedule(
        name="live",
        job=refresh,
        cron_schedule=cron(minutes),
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Every {minutes} minutes: what the plan affords.",
    )
    def tick(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        moment = context.scheduled_execution_time
        key = DAILY.get_partition_key_for_timestamp(moment.timestamp())
        tags = {REFRESH_TAG: REFRESH_HOURS}
        return dg.RunRequest(run_key=f"{moment:%Y-%m-%dT%H:%MZ}", partition_key=key, tags=tags)

    return [tick]


# Nights in UTC are as busy as days: 03:30 only keeps clear of the hour and of midnight's first runs.
maintenance = dg.ScheduleDefinition(
    name="nightly_maintenance",
    job=maintenance_job,
    cron_schedule="30 3 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
