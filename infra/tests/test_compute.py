"""The compute stack: what its tasks may, who reaches whom, and what somebody is told of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from templates import ACCOUNT, REGION, Policies, Resource, Templates

SERVICES = {"webserver", "daemon", "code", "stream-collect-coinbase", "stream-consume"}
RUN_BY_DAGSTER = {"run"}
ROLES = ("webserver", "daemon", "code", "run", "stream-collect", "stream-consume")
DOOR = {
    "certificate_arn": f"arn:aws:acm:{REGION}:{ACCOUNT}:certificate/c",
    "ui_cidrs": "203.0.113.0/24, 198.51.100.7/32",
    "oidc_issuer": "https://id.example.com",
    "oidc_authorization_endpoint": "https://id.example.com/authorize",
    "oidc_token_endpoint": "https://id.example.com/token",
    "oidc_user_info_endpoint": "https://id.example.com/me",
    "oidc_client_id": "dagster",
    "oidc_secret_arn": f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:oidc-AbCdEf",
}


@pytest.fixture(scope="module")
def with_door(tmp_path_factory: pytest.TempPathFactory, assemblies: dict[str, Path]) -> Templates:
    """prod with everything that is asked for by context."""
    del assemblies
    import app

    folder = tmp_path_factory.mktemp("door")
    context = {"stage": "prod", "interface_endpoints": "true", "feeds": "", "image_tag": "1.2.3", **DOOR}
    app.build(str(folder), **context).synth()
    return Templates(folder)


def tasks(stage: Templates) -> dict[str, dict[str, Any]]:
    """Task definitions by component."""
    found = {r.properties["Family"]: dict(r.properties) for r in stage.all("AWS::ECS::TaskDefinition")}
    return {family.removeprefix(f"crypto-assets-{name_of(stage)}-"): told for family, told in found.items()}


def name_of(stage: Templates) -> str:
    return next(iter(stage.raw)).split("-")[2]


def container(task: dict[str, Any]) -> dict[str, Any]:
    (only,) = task["ContainerDefinitions"]
    assert isinstance(only, dict)
    return only


def statements(stage: Templates, component: str) -> list[dict[str, Any]]:
    """What the compute stack adds to a component's role."""
    return [
        statement
        for policy in stage.all("AWS::IAM::Policy", "compute")
        if f"crypto-assets-{name_of(stage)}-{component}" in policy.properties["Roles"]
        for statement in policy.properties["PolicyDocument"]["Statement"]
    ]


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def actions(told: list[dict[str, Any]]) -> set[str]:
    return {action for statement in told for action in listed(statement["Action"])}


def groups(stage: Templates) -> dict[str, Resource]:
    prefix = f"crypto-assets-{name_of(stage)}-"
    return {
        str(group.properties["GroupName"]).removeprefix(prefix): group for group in stage.all("AWS::EC2::SecurityGroup")
    }


# ---- tasks ----


def test_every_container_is_nobody_and_writes_to_volumes_only(stage: Templates) -> None:
    assert set(tasks(stage)) == SERVICES | RUN_BY_DAGSTER
    for component, task in tasks(stage).items():
        told = container(task)
        assert told["ReadonlyRootFilesystem"] is True, component
        assert told["User"] == "10001:10001", component
        assert "Privileged" not in told, component
        assert task["NetworkMode"] == "awsvpc", component
        assert "tmp" in {mount["SourceVolume"] for mount in told["MountPoints"]}, component
        assert told["LinuxParameters"]["InitProcessEnabled"] is True, component


def test_every_component_has_its_own_role(stage: Templates) -> None:
    for component, task in tasks(stage).items():
        role = f"arn:aws:iam::{ACCOUNT}:role/crypto-assets-{name_of(stage)}-{component.removesuffix('-coinbase')}"
        assert task["TaskRoleArn"] == role
    # What starts a task reads its secrets; no two share that either.
    executions = [task["ExecutionRoleArn"] for task in tasks(stage).values()]
    assert len(set(executions)) == len(executions)


def test_secrets_go_to_who_needs_them_and_are_never_plain(stage: Templates) -> None:
    keys = {"COINCAP_API_KEY", "ALPHAVANTAGE_API_KEY", "COINGECKO_DEMO_API_KEY", "FINNHUB_API_KEY"}
    password = {"DAGSTER_POSTGRES_PASSWORD"}
    expected = {
        "webserver": password,
        "daemon": password,
        "code": password | keys,
        "run": password | keys,
        "stream-collect-coinbase": keys,
        "stream-consume": set(),
    }
    for component, task in tasks(stage).items():
        told = container(task)
        assert {secret["Name"] for secret in told.get("Secrets", [])} == expected[component], component
        plain = {variable["Name"] for variable in told["Environment"]}
        assert not {name for name in plain if "KEY" in name or "PASSWORD" in name or "SECRET" in name}, component


def test_logs_are_encrypted_and_end(stage: Templates) -> None:
    found = {
        group.properties["LogGroupName"]: group.properties for group in stage.all("AWS::Logs::LogGroup", "compute")
    }
    for component, task in tasks(stage).items():
        group = container(task)["LogConfiguration"]["Options"]["awslogs-group"]
        assert group == f"/crypto-assets-{name_of(stage)}-{component.removesuffix('-coinbase')}"
        assert group in found
    for properties in found.values():
        assert properties["RetentionInDays"] in {30, 180}
        assert ":key/" in properties["KmsKeyId"]


def test_what_runs_is_one_image_of_our_repository(stage: Templates, with_door: Templates) -> None:
    (repository,) = stage.all("AWS::ECR::Repository")
    assert repository.properties["ImageTagMutability"] == "IMMUTABLE"
    assert repository.properties["ImageScanningConfiguration"] == {"ScanOnPush": True}
    for templates in (stage, with_door):
        images = {json.dumps(container(task)["Image"]) for task in tasks(templates).values()}
        assert len(images) == 1
    assert all(json.dumps(container(task)["Image"]).endswith(':1.2.3"') for task in tasks(with_door).values())


def test_services_say_whether_they_are_well_and_are_rolled_back(stage: Templates) -> None:
    services = {r.properties["ServiceName"]: r.properties for r in stage.all("AWS::ECS::Service")}
    assert set(services) == SERVICES
    for name, properties in services.items():
        configuration = properties["DeploymentConfiguration"]
        assert configuration["DeploymentCircuitBreaker"] == {"Enable": True, "Rollback": True}, name
        # Two of these would do the same work twice.
        is_alone = name == "daemon" or name.startswith("stream-")
        assert configuration["MaximumPercent"] == (100 if is_alone else 200), name
        # Dagster's launcher takes the daemon's launch type for its runs, and fails on a strategy.
        assert properties["LaunchType"] == "FARGATE", name
    for name in ("webserver", "daemon", "code"):
        assert "HealthCheck" in container(tasks(stage)[name]), name


def test_state_is_shared_by_who_spends_a_plan(stage: Templates) -> None:
    mounted = {
        component
        for component, task in tasks(stage).items()
        if "/state" in {mount["ContainerPath"] for mount in container(task)["MountPoints"]}
    }
    assert mounted == {"code", "run", "stream-collect-coinbase"}
    (files,) = stage.all("AWS::EFS::FileSystem")
    assert files.properties["Encrypted"] is True
    for task in (tasks(stage)[component] for component in mounted):
        (volume,) = [v["EFSVolumeConfiguration"] for v in task["Volumes"] if "EFSVolumeConfiguration" in v]
        assert volume["TransitEncryption"] == "ENABLED"
        assert volume["AuthorizationConfig"]["IAM"] == "ENABLED"
    for component in ("code", "run", "stream-collect", "maintenance"):
        (told,) = [s for s in statements(stage, component) if "elasticfilesystem:ClientMount" in listed(s["Action"])]
        assert "elasticfilesystem:AccessPointArn" in told["Condition"]["StringEquals"]
        assert "elasticfilesystem:ClientRootAccess" not in listed(told["Action"])


# ---- permissions ----


def test_only_the_daemon_starts_runs_and_only_as_run_or_maintenance(stage: Templates) -> None:
    prefix = f"crypto-assets-{name_of(stage)}"
    for component in {*ROLES, "maintenance", "dashboard", "analyst"}:
        may = actions(statements(stage, component))
        assert ("ecs:RunTask" in may) == (component == "daemon"), component
        assert ("iam:PassRole" in may) == (component == "daemon"), component
        assert ("ecs:StopTask" in may) == (component in {"daemon", "webserver"}), component
    told = statements(stage, "daemon")
    (starts,) = [s for s in told if s["Action"] == "ecs:RunTask"]
    assert starts["Resource"] == f"arn:aws:ecs:{REGION}:{ACCOUNT}:task-definition/{prefix}-run:*"
    assert starts["Condition"]["ArnEquals"]["ecs:cluster"].endswith(f":cluster/{prefix}-cluster")
    (passes,) = [s for s in told if s["Action"] == "iam:PassRole"]
    execution = tasks(stage)["run"]["ExecutionRoleArn"]
    assert set(passes["Resource"]) == {
        f"arn:aws:iam::{ACCOUNT}:role/{prefix}-run",
        f"arn:aws:iam::{ACCOUNT}:role/{prefix}-maintenance",
        execution,
    }
    assert passes["Condition"] == {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}}


def test_maintenance_is_told_its_role_where_jobs_are_defined(stage: Templates) -> None:
    told = {component: container(task)["Environment"] for component, task in tasks(stage).items()}
    known = {
        component: {variable["Name"]: variable["Value"] for variable in environment}
        for component, environment in told.items()
    }
    role = f"arn:aws:iam::{ACCOUNT}:role/crypto-assets-{name_of(stage)}-maintenance"
    assert known["code"]["CRYPTO_ASSETS_MAINTENANCE_ROLE"] == role
    (run,) = [r for r in stage.all("AWS::ECS::TaskDefinition") if r.properties["Family"].endswith("-run")]
    for component in ("daemon", "webserver"):
        # A revision, not a family: when it changes, who launches runs is started anew.
        assert known[component]["DAGSTER_RUN_TASK_DEFINITION"] == stage.resolved(run.stack, {"Ref": run.logical_id})
    assert known["run"]["CRYPTO_ASSETS_CATALOG"] == "glue"


# ---- network ----


def test_nothing_comes_in_but_what_is_named(stage: Templates) -> None:
    found = groups(stage)
    ids = {stage.resolved(g.stack, {"Fn::GetAtt": [g.logical_id, "GroupId"]}): name for name, g in found.items()}
    ways = {
        name: {
            (ids[rule["SourceSecurityGroupId"]], rule["FromPort"]) for rule in group.properties["SecurityGroupIngress"]
        }
        for name, group in found.items()
    }
    assert ways == {
        "webserver": set(),
        "worker": set(),
        "stream": set(),
        "code": {("webserver", 4000), ("worker", 4000)},
        "state": {("code", 2049), ("worker", 2049), ("stream", 2049)},
        "database": {("webserver", 5432), ("worker", 5432), ("code", 5432)},
    }
    # No rule is added from anywhere else.
    assert list(stage.all("AWS::EC2::SecurityGroupIngress")) == []


def test_dev_pays_for_no_nat_and_prod_shows_no_task(dev: Templates, prod: Templates) -> None:
    assert list(dev.all("AWS::EC2::NatGateway")) == []
    assert len(list(prod.all("AWS::EC2::NatGateway"))) == 1
    for stage, expected in ((dev, "ENABLED"), (prod, "DISABLED")):
        for service in stage.all("AWS::ECS::Service"):
            network = service.properties["NetworkConfiguration"]["AwsvpcConfiguration"]
            assert network["AssignPublicIp"] == expected
        (endpoint,) = stage.all("AWS::EC2::VPCEndpoint")
        assert endpoint.properties["VpcEndpointType"] == "Gateway"
    assert len(list(prod.all("AWS::EC2::FlowLog"))) == 1


def test_endpoints_of_aws_are_there_for_who_asks(with_door: Templates) -> None:
    names = {
        str(r.properties["ServiceName"]).rsplit(f"{REGION}.", 1)[-1] for r in with_door.all("AWS::EC2::VPCEndpoint")
    }
    assert {"s3", "ecr.api", "ecr.dkr", "logs", "secretsmanager", "glue", "athena", "kinesis-streams"} == names
    (group,) = [g for name, g in groups(with_door).items() if name == "endpoints"]
    assert {rule["FromPort"] for rule in group.properties["SecurityGroupIngress"]} == {443}


# ---- database ----


def test_the_database_is_encrypted_and_out_of_reach(stage: Templates) -> None:
    (database,) = stage.all("AWS::RDS::DBInstance")
    told = database.properties
    assert told["StorageEncrypted"] is True
    assert told["PubliclyAccessible"] is False
    assert ":key/" in told["KmsKeyId"]
    assert told["BackupRetentionPeriod"] >= 1


def test_prod_s_database_survives(dev: Templates, prod: Templates) -> None:
    (database,) = prod.all("AWS::RDS::DBInstance")
    assert database.properties["DeletionProtection"] is True
    assert database.properties["MultiAZ"] is True
    assert database.properties["BackupRetentionPeriod"] == 14
    # RDS keeps and changes the password itself.
    assert database.properties["ManageMasterUserPassword"] is True
    assert database.whole["DeletionPolicy"] == "Snapshot"
    (database,) = dev.all("AWS::RDS::DBInstance")
    assert database.properties["DeletionProtection"] is False
    assert database.whole["DeletionPolicy"] == "Delete"


# ---- the way in ----


def test_without_a_certificate_there_is_no_load_balancer(stage: Templates) -> None:
    assert list(stage.all("AWS::ElasticLoadBalancingV2::LoadBalancer")) == []
    (webserver,) = [r for r in stage.all("AWS::ECS::Service") if r.properties["ServiceName"] == "webserver"]
    assert webserver.properties["EnableExecuteCommand"] is True
    others = [r for r in stage.all("AWS::ECS::Service") if r.properties["ServiceName"] != "webserver"]
    assert not any(r.properties.get("EnableExecuteCommand") for r in others)
    assert "ssmmessages:OpenDataChannel" in actions(statements(stage, "webserver"))


def test_the_door_asks_who_it_is_before_it_opens(with_door: Templates) -> None:
    (listener,) = with_door.all("AWS::ElasticLoadBalancingV2::Listener")
    assert (listener.properties["Port"], listener.properties["Protocol"]) == (443, "HTTPS")
    first, *_ = sorted(listener.properties["DefaultActions"], key=lambda action: action["Order"])
    assert first["Type"] == "authenticate-oidc"
    # A reference, which AWS resolves; the secret itself is in no template.
    assert "{{resolve:secretsmanager:" in json.dumps(first["AuthenticateOidcConfig"]["ClientSecret"])
    # Nothing gets past it by a rule of its own.
    assert list(with_door.all("AWS::ElasticLoadBalancingV2::ListenerRule")) == []
    found = groups(with_door)
    cidrs = {rule["CidrIp"] for rule in found["door"].properties["SecurityGroupIngress"]}
    assert cidrs == {"203.0.113.0/24", "198.51.100.7/32"}
    assert [rule["FromPort"] for rule in found["webserver"].properties["SecurityGroupIngress"]] == [3000]


@pytest.mark.parametrize("missing", ["certificate_arn", "oidc_issuer", "ui_cidrs"])
def test_a_door_without_a_lock_is_refused(missing: str, tmp_path: Path) -> None:
    import app

    given = {name: value for name, value in DOOR.items() if name != missing}
    with pytest.raises(ValueError, match=f"-c {missing}=... is missing"):
        app.build(str(tmp_path), stage="dev", **given)


# ---- alarms ----


def test_somebody_is_told(stage: Templates, with_door: Templates) -> None:
    prefix = f"crypto-assets-{name_of(stage)}-"
    alarms = {r.properties["AlarmName"].removeprefix(prefix): r.properties for r in stage.all("AWS::CloudWatch::Alarm")}
    assert set(alarms) >= {
        *("run-failed", "daemon-silent", "code-down", "webserver-down", "daemon-down"),
        *("stream-late", "stream-silent", "stream-collect-coinbase-down", "stream-consume-down"),
        *("database-full", "database-busy", "queries-expensive", "dashboard-expensive"),
    }
    for name, alarm in alarms.items():
        assert len(alarm["AlarmActions"]) == 1, name
        assert len(alarm["AlarmDescription"]) > 40, name
    # Silence is what these look for: no data is no comfort.
    for name in ("daemon-silent", "stream-silent", "code-down"):
        assert alarms[name]["TreatMissingData"] == "breaching", name
    prod = {r.properties["AlarmName"] for r in with_door.all("AWS::CloudWatch::Alarm")}
    assert "crypto-assets-prod-ui-failing" in prod
    # Nobody is told of streams that there are not.
    assert not {name for name in prod if "stream" in name}


def test_a_failed_run_is_counted_by_the_line_that_the_sensor_writes(stage: Templates) -> None:
    (found,) = stage.all("AWS::Logs::MetricFilter")
    assert found.properties["LogGroupName"].endswith("-code")
    words = found.properties["FilterPattern"].strip("[]").split(", ")
    sensor = (Path(__file__).parents[2] / "crypto_assets" / "automation" / "sensors.py").read_text(encoding="utf-8")
    assert '"run %s of %s failed: %s"' in sensor
    line = ["run", "1fa1142a", "of", "refresh", "failed:", "Steps", "failed"]
    for word, said in zip(words, line, strict=False):
        name, _, literal = word.partition("=")
        assert name == "..." or not literal or literal.strip('"') == said


def test_components_of_access_and_of_compute_are_the_same(policies: Policies, dev: Templates) -> None:
    known = {name.removeprefix("crypto-assets-dev-") for name in policies.roles}
    assert set(ROLES) <= known


def test_each_feed_has_a_collector(tmp_path: Path, assemblies: dict[str, Path]) -> None:
    del assemblies
    import app

    app.build(str(tmp_path), stage="dev", feeds="coinbase_stream, finnhub").synth()
    found = tasks(Templates(tmp_path))
    stream = "kinesis://crypto-assets-dev-trades"
    assert {name: container(task)["Command"] for name, task in found.items() if name.startswith("stream-")} == {
        "stream-collect-coinbase": [
            *("crypto-assets", "stream", "collect", "--feed", "coinbase_stream", "--to", stream),
        ],
        "stream-collect-finnhub": ["crypto-assets", "stream", "collect", "--feed", "finnhub", "--to", stream],
        "stream-consume": ["crypto-assets", "stream", "consume", "--from", stream],
    }
