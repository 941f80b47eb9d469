"""What starts runs by what happened, and what tells people of failures."""

import logging

import dagster as dg

log = logging.getLogger("crypto_assets.alerts")

# Carries what changes outside a schedule's run: late rows, releases from quarantine, backfilled history.
automation = dg.AutomationConditionSensorDefinition(
    "follow_upstream",
    target=dg.AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    run_tags={"crypto_assets/launched_by": "follow_upstream"},
)


@dg.run_failure_sensor(
    name="run_failure",
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Writes every failed run to the alert log, from where any collector can take it.",
)
def run_failure(context: dg.RunFailureSensorContext) -> None:
    log.error(
        "run %s of %s failed: %s",
        context.dagster_run.run_id,
        context.dagster_run.job_name,
        context.failure_event.message,
    )
