"""Runs as the daemon launches them on ECS: Dagster's own launcher with the image's file, against moto's ECS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import dagster as dg
import pytest
import yaml
from dagster._config import process_config
from dagster_aws.ecs import EcsRunLauncher
from dagster_aws.ecs.tasks import CurrentEcsTaskMetadata
from moto import mock_aws

from crypto_assets.automation import jobs
from crypto_assets.resources.settings import Settings

ECS_FILE = Path(__file__).parents[2] / "deploy" / "instance" / "ecs.yaml"
ROLE = "arn:aws:iam::123456789012:role/crypto-assets-dev-maintenance"


@pytest.fixture
def ecs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster in which the daemon runs, in one subnet and one security group, with a public address."""
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        client = boto3.client("ecs")
        client.create_cluster(clusterName="house")
        for family, container in (("daemon", "daemon"), ("crypto-assets-dev-run", "run")):
            told = client.register_task_definition(
                family=family,
                networkMode="awsvpc",
                requiresCompatibilities=["FARGATE"],
                cpu="1024",
                memory="4096",
                containerDefinitions=[{"name": container, "image": "app:1", "memory": 4096}],
            )
        monkeypatch.setenv("DAGSTER_RUN_TASK_DEFINITION", told["taskDefinition"]["taskDefinitionArn"])
        ec2 = boto3.client("ec2")
        subnet = ec2.describe_subnets()["Subnets"][0]
        group = ec2.create_security_group(GroupName="worker", Description="worker", VpcId=subnet["VpcId"])["GroupId"]
        network = {"subnets": [subnet["SubnetId"]], "securityGroups": [group], "assignPublicIp": "ENABLED"}
        daemon = client.run_task(
            cluster="house",
            taskDefinition="daemon",
            launchType="FARGATE",
            networkConfiguration={"awsvpcConfiguration": network},
        )["tasks"][0]
        monkeypatch.setattr(
            "dagster_aws.ecs.launcher.get_current_ecs_task_metadata",
            lambda: CurrentEcsTaskMetadata(cluster=daemon["clusterArn"], task_arn=daemon["taskArn"]),
        )
        client.network = network
        yield client


def launched(ecs: Any, tags: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], dg.DagsterRun]:
    """What ECS is asked for a run with these tags, and the run as Dagster knows it then."""
    config = yaml.safe_load(ECS_FILE.read_text(encoding="utf-8"))["run_launcher"]["config"]
    read = process_config(EcsRunLauncher.config_type(), config)
    assert read.success, read.errors
    launcher: Any = EcsRunLauncher.from_config_value(None, read.value)
    asked: dict[str, Any] = {}
    launcher.ecs.meta.events.register("provide-client-params.ecs.RunTask", lambda params, **_: asked.update(params))
    with dg.DagsterInstance.ephemeral() as instance:
        # An instance in memory has no address that a run could be told.
        monkeypatch.setattr(type(instance), "get_ref", lambda _: None)
        launcher.register_instance(instance)
        run = dg.DagsterRun(job_name="maintenance", tags=tags)
        instance.add_run(run)
        monkeypatch.setattr(launcher, "_get_command_args", lambda *_: ["dagster", "api", "execute_run", "{}"])
        origin = SimpleNamespace(
            repository_origin=SimpleNamespace(_replace=lambda **_: None, container_image=None),
            _replace=lambda **_: None,
        )
        monkeypatch.setattr("dagster_aws.ecs.launcher.ExecuteRunArgs", lambda **_: None)
        launcher.launch_run(SimpleNamespace(dagster_run=run, job_code_origin=origin))
        known = instance.get_run_by_id(run.run_id)
        assert known is not None
        return asked, known


def test_a_run_is_a_task_of_its_own_in_the_daemon_s_network(ecs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, run = launched(ecs, {}, monkeypatch)
    assert asked["taskDefinition"].endswith(":task-definition/crypto-assets-dev-run:1")
    assert asked["launchType"] == "FARGATE"
    network = asked["networkConfiguration"]["awsvpcConfiguration"]
    assert network["subnets"] == ecs.network["subnets"]
    assert network["securityGroups"] == ecs.network["securityGroups"]
    # Nothing but what the task definition says: no role, and what the instance file says of size.
    (container,) = asked["overrides"]["containerOverrides"]
    assert (container["name"], container["command"][0]) == ("run", "dagster")
    assert {key: asked["overrides"].get(key) for key in ("cpu", "memory", "taskRoleArn")} == {
        "cpu": "1024",
        "memory": "4096",
        "taskRoleArn": None,
    }
    assert run.tags["ecs/cluster"].endswith(":cluster/house")
    # By these the console, and the bill, know whose task it was.
    assert {tag["key"]: tag["value"] for tag in asked["tags"]} == {
        "dagster/run_id": run.run_id,
        "dagster/job_name": "maintenance",
    }


def test_maintenance_runs_as_who_may_delete(ecs: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    job = jobs.maintenance(Settings(state_dir=tmp_path, maintenance_role=ROLE))
    asked, _ = launched(ecs, dict(job.tags), monkeypatch)
    assert asked["overrides"]["taskRoleArn"] == ROLE


def test_a_run_asks_for_more_by_tags(ecs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tags = {"ecs/cpu": "4096", "ecs/memory": "16384", "ecs/ephemeral_storage": "100"}
    asked, _ = launched(ecs, tags, monkeypatch)
    assert asked["overrides"]["cpu"] == "4096"
    assert asked["overrides"]["memory"] == "16384"
    assert asked["overrides"]["ephemeralStorage"] == {"sizeInGiB": 100}


def test_the_launcher_reads_no_secret_of_the_account(ecs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its default looks up every secret with a tag ``dagster``, which its role may not."""
    del ecs
    config = yaml.safe_load(ECS_FILE.read_text(encoding="utf-8"))["run_launcher"]["config"]
    read = process_config(EcsRunLauncher.config_type(), config)
    launcher: Any = EcsRunLauncher.from_config_value(None, read.value)
    monkeypatch.setattr(launcher, "secrets_manager", None)
    assert launcher.secrets_tags == []
    assert json.dumps(config).count("secret") == 1
