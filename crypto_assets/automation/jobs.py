"""The jobs: the chain from raw to refined for a day, the lake's maintenance, and the drill that raw is enough."""

import json
from datetime import timedelta

import dagster as dg
import polars as pl

from crypto_assets.automation.rebuild import rebuild
from crypto_assets.resources.clock import Clock
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.settings import Settings
from crypto_assets.tables import ALL_TABLES

# Raw, trusted, refined and quality of one partition, checks in between: every schedule's run, or a part of it, and
# `crypto-assets run` and `backfill`.
refresh = dg.define_asset_job(
    "refresh",
    selection=dg.AssetSelection.all(),
    description="One day from the providers' answers to refined tables, with blocking checks in between.",
)


@dg.op
def maintain_tables(
    context: dg.OpExecutionContext, lake: dg.ResourceParam[Lake], clock: dg.ResourceParam[Clock]
) -> None:
    """Compact days that are over, remove files that no reader can still hold, write checkpoints. No row changes."""
    today = clock.now().date()
    for contract in ALL_TABLES:
        before = lake.scan(contract).select(pl.len()).collect().item()
        # Yesterday may still be refreshed by a late tick.
        done = lake.maintain(contract, closed_before=today - timedelta(days=1))
        after = lake.scan(contract).select(pl.len()).collect().item()
        context.log.info("%s: %s, %d rows before, %d after", contract.table.full_name, done, before, after)


@dg.op
def compare_catalog(context: dg.OpExecutionContext, lake: dg.ResourceParam[Lake]) -> None:
    """Say how Glue differs from the lake, and mend it; fails naming what only a person may change."""
    if lake.catalog is None:
        context.log.info("no catalog is set: there is nothing to compare")
        return
    for drift in lake.catalog.check(lake):
        context.log.warning("%s: %s (%s)", drift.table, drift.told, drift.what)
    for entry in lake.catalog.sync_all(lake):
        if entry.done != "equal":
            context.log.info("%s: %s", entry.table, entry.done)
    left = [drift for drift in lake.catalog.check(lake) if drift.is_ours]
    if left:
        told = "; ".join(f"{drift.table}: {drift.told}, {drift.remedy}" for drift in left)
        raise dg.Failure(f"Glue still differs: {told}", allow_retries=False)


@dg.graph(name="maintenance")
def _maintenance() -> None:
    maintain_tables()
    compare_catalog()


def maintenance(settings: Settings) -> dg.JobDefinition:
    """The lake's maintenance: the only job that deletes."""
    return _maintenance.to_job(
        description="Compact, vacuum and checkpoint every table of the lake, and make Glue equal to it.",
        tags=_as_maintenance(settings),
    )


@dg.op
def rebuild_and_compare(context: dg.OpExecutionContext, lake: dg.ResourceParam[Lake]) -> None:
    """Make trusted and refined again from raw beside the live tables; fails naming what differs."""
    found = rebuild(lake)
    for table in found.compared:
        told = f"differs on {', '.join(table.differing)}" if table.differing else "equal"
        context.log.info("%s: %d rows, %d rebuilt, %s", table.table, table.n_rows, table.n_rebuilt, told)
    if found.error is not None:
        raise dg.Failure(str(found.error), metadata={"exit_code": found.error.exit_code}, allow_retries=False)


@dg.graph(name="disaster_drill")
def _disaster_drill() -> None:
    rebuild_and_compare()


def disaster_drill(settings: Settings) -> dg.JobDefinition:
    """The drill; it removes the copy that it makes beside the lake."""
    return _disaster_drill.to_job(
        description="Prove that everything can be made again from raw. Started by hand; the live tables are only read.",
        tags=_as_maintenance(settings),
    )


def _as_maintenance(settings: Settings) -> dict[str, str]:
    """The tag by which Dagster's ECS launcher gives a run the role that may delete, where there is one."""
    if settings.maintenance_role is None:
        return {}
    return {"ecs/task_overrides": json.dumps({"taskRoleArn": settings.maintenance_role})}
