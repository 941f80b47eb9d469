"""A daemon as ``crypto-assets up`` starts it, but for a schedule that was switched on before the machine slept.

``python -m tests.faults.daemon HOME SCHEDULE CRON SINCE`` opens the instance as ``up`` does, notes that the schedule
runs since the moment SINCE (so that ticks are due at once), and becomes ``dagster-daemon run``.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from pathlib import Path

import dagster as dg
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from crypto_assets.commands.run import instance_at

MODULE, LOCATION = "tests.faults.location", "market"
WORKSPACE = f"load_from: [python_module: {{module_name: {MODULE}, attribute: defs, location_name: {LOCATION}}}]\n"


def selector(schedule: str) -> RemoteInstigatorOrigin:
    """What Dagster knows the schedule by."""
    target = LoadableTargetOrigin(module_name=MODULE, attribute="defs")
    repository = RemoteRepositoryOrigin(ManagedGrpcPythonEnvCodeLocationOrigin(target, LOCATION), "__repository__")
    return RemoteInstigatorOrigin(repository, schedule)


def switch_on(instance: dg.DagsterInstance, schedule: str, cron: str, since: float) -> None:
    """Note that the schedule runs since then, and was never evaluated; once, whoever else notes it too."""
    origin = selector(schedule)
    state = InstigatorState(
        origin, InstigatorType.SCHEDULE, InstigatorStatus.RUNNING, ScheduleInstigatorData(cron, since)
    )
    found = instance.get_instigator_state(origin.get_id(), origin.get_selector().get_id())
    if found is None:
        instance.add_instigator_state(state)
    elif found.status is not InstigatorStatus.RUNNING:
        instance.purge_ticks(origin.get_id(), origin.get_selector().get_id(), before=time.time())
        instance.update_instigator_state(state)


def main(home: Path, schedule: str, cron: str, since: float) -> None:
    with instance_at(home) as instance, (home / "switch.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        switch_on(instance, schedule, cron, since)
    workspace = home / "workspace.yaml"
    workspace.write_text(WORKSPACE)
    command = Path(sys.executable).parent / "dagster-daemon"
    os.execv(command, [str(command), "run", "-w", str(workspace)])  # noqa: S606 - our own command


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]))
