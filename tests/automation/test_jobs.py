"""Jobs as they are launched: which of them may delete, where AWS asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crypto_assets.definitions import build_definitions
from crypto_assets.resources.settings import Settings

ROLE = "arn:aws:iam::000000000000:role/crypto-assets-dev-maintenance"


def tags(settings: Settings) -> dict[str, dict[str, str]]:
    found = build_definitions(settings).get_repository_def()
    return {job.name: dict(job.tags) for job in found.get_all_jobs()}


def launched_with(job_tags: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Dagster's ECS launcher would override in the task of a run with these tags."""
    import dagster as dg
    from dagster_aws.ecs import EcsRunLauncher
    from dagster_aws.ecs.container_context import EcsContainerContext

    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    launcher: Any = EcsRunLauncher()
    run = dg.DagsterRun(job_name="maintenance", tags=job_tags)
    overrides: dict[str, Any] = launcher._get_task_overrides(EcsContainerContext(), run)
    return overrides


def test_on_ecs_only_what_deletes_runs_as_maintenance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = tags(Settings(state_dir=tmp_path, maintenance_role=ROLE))
    overridden = {name: json.loads(found[name]["ecs/task_overrides"]) for name in ("maintenance", "disaster_drill")}
    assert overridden == {name: {"taskRoleArn": ROLE} for name in overridden}
    assert [name for name, own in found.items() if "ecs/task_overrides" in own and name not in overridden] == []
    assert launched_with(found["maintenance"], monkeypatch) == {"taskRoleArn": ROLE}
    assert launched_with(found["refresh"], monkeypatch) == {}


def test_elsewhere_no_job_knows_of_roles(tmp_path: Path) -> None:
    assert all("ecs/task_overrides" not in own for own in tags(Settings(state_dir=tmp_path)).values())
