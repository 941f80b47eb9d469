"""The access stack, judged by AWS' rules: what each component may do, and what nobody may."""

from __future__ import annotations

import pytest
from judge import Judge
from templates import ACCOUNT, REGION, Policies, Templates

LAKE = f"arn:aws:s3:::crypto-assets-dev-lake-{ACCOUNT}"
WORK = f"arn:aws:s3:::crypto-assets-dev-work-{ACCOUNT}"
ZONES = ("raw", "trusted", "refined", "quality")
CREATES = {"s3:ObjectCreationOperation": "true"}
COMPONENTS = (
    *("run", "maintenance", "webserver", "daemon", "code"),
    *("stream-collect", "stream-consume", "dashboard", "analyst"),
)

# What each may do with a table of each zone: r(ead and list), a(dd), d(elete).
MATRIX = {
    "run": ("ra", "ra", "ra", "ra"),
    "maintenance": ("rad", "rad", "rad", "rad"),
    "webserver": ("", "", "", ""),
    "daemon": ("", "", "", ""),
    "code": ("r", "r", "r", "r"),
    "stream-collect": ("", "", "", ""),
    "stream-consume": ("", "", "", ""),
    "dashboard": ("", "", "r", "r"),
    "analyst": ("", "r", "r", "r"),
}


def data_of(judge: Judge, component: str, folder: str) -> str:
    part = f"{LAKE}/{folder}/part-0.parquet"
    may = ""
    if judge.allows(component, "s3:GetObject", part):
        may += "r"
    assert judge.allows(component, "s3:ListBucket", LAKE, {"s3:prefix": f"{folder}/_delta_log/"}) == (may == "r")
    if judge.allows(component, "s3:PutObject", part, CREATES):
        may += "a"
    if judge.allows(component, "s3:DeleteObject", part):
        may += "d"
    return may


@pytest.mark.parametrize("component", COMPONENTS)
def test_what_a_component_may_do_with_the_zones(judge: Judge, component: str) -> None:
    found = tuple(data_of(judge, component, f"lake/{zone}/some_table") for zone in ZONES)
    assert found == MATRIX[component]


def test_every_component_is_in_the_matrix(policies: Policies, prod: Templates) -> None:
    assert set(MATRIX) <= set(policies.roles)
    assert set(MATRIX) <= set(Policies.of(prod).roles)


def test_the_consumer_adds_what_streams_bring_and_to_no_other_raw_table(judge: Judge) -> None:
    for table in ("trades", "stream_prices", "stream_events"):
        assert data_of(judge, "stream-consume", f"lake/raw/{table}") == "ra"
        assert data_of(judge, "stream-collect", f"lake/raw/{table}") == ""
        glue = f"arn:aws:glue:{REGION}:{ACCOUNT}:table/crypto_dev_raw/{table}"
        assert judge.allows("stream-consume", "glue:UpdateTable", glue)
    other = f"arn:aws:glue:{REGION}:{ACCOUNT}:table/crypto_dev_raw/coincap_assets"
    assert judge.allows("stream-consume", "glue:GetTables", other)
    assert not judge.allows("stream-consume", "glue:UpdateTable", other)


def test_the_drill_works_beside_the_lake(judge: Judge) -> None:
    assert data_of(judge, "maintenance", "lake-rebuild-0a1b2c3d/refined/movers") == "rad"
    assert data_of(judge, "run", "lake-rebuild-0a1b2c3d/refined/movers") == ""


def test_nobody_but_maintenance_deletes(judge: Judge, policies: Policies) -> None:
    """Not even a role that a policy would let: the bucket's own policy says so, to administrators, too."""
    for component in policies.roles:
        for path in ("lake/raw/t/part-0.parquet", "lake/refined/t/_delta_log/0.json", "lake/_lease/schedules.json"):
            judged = judge.judged(component, "s3:DeleteObject", f"{LAKE}/{path}", {})
            may = component == "maintenance" and "_lease" not in path
            assert (judged == "Allowed") == may, (component, path)
            if component != "maintenance":
                assert judged == "ExplicitlyDenied"
    allowed = {
        component
        for component, role in policies.roles.items()
        for policy in role["identity"]
        for statement in policy["Statement"]
        if "s3:Delete" in str(statement["Action"])
    }
    assert allowed == {"maintenance"}


@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("s3:DeleteObjectVersion", f"{LAKE}/lake/raw/t/part-0.parquet"),
        ("s3:DeleteBucket", LAKE),
        ("s3:PutBucketPolicy", LAKE),
        ("s3:DeleteBucketPolicy", LAKE),
        ("s3:PutBucketVersioning", LAKE),
        ("s3:PutLifecycleConfiguration", LAKE),
        ("s3:PutEncryptionConfiguration", LAKE),
        ("iam:AttachRolePolicy", f"arn:aws:iam::{ACCOUNT}:role/crypto-assets-dev-run"),
        ("iam:PutRolePolicy", f"arn:aws:iam::{ACCOUNT}:role/crypto-assets-dev-run"),
        ("iam:DeleteRolePermissionsBoundary", f"arn:aws:iam::{ACCOUNT}:role/crypto-assets-dev-run"),
    ],
)
def test_what_no_component_may_whatever_policies_will_say(judge: Judge, action: str, resource: str) -> None:
    for component in COMPONENTS:
        assert judge.judged(component, action, resource, {}) == "ExplicitlyDenied", component


def test_every_component_has_the_boundary(stage: Templates) -> None:
    roles = Policies.of(stage).roles
    assert all(roles[component]["boundary"] for component in COMPONENTS)


def test_the_key_is_used_through_services_only(judge: Judge, policies: Policies) -> None:
    (key,) = (arn for arn in policies.resources if ":kms:" in arn)
    through = {"kms:ViaService": f"s3.{REGION}.amazonaws.com"}
    for component in COMPONENTS:
        assert judge.allows(component, "kms:Decrypt", key, through), component
        assert not judge.allows(component, "kms:Decrypt", key), component
    assert judge.allows(
        "stream-collect", "kms:GenerateDataKey", key, {"kms:ViaService": f"kinesis.{REGION}.amazonaws.com"}
    )


def test_the_stream_has_one_side_for_each(judge: Judge) -> None:
    stream = f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/crypto-assets-dev-trades"
    puts = {c for c in COMPONENTS if judge.allows(c, "kinesis:PutRecords", stream)}
    takes = {c for c in COMPONENTS if judge.allows(c, "kinesis:GetRecords", stream)}
    assert (puts, takes) == ({"stream-collect"}, {"stream-consume"})


def test_logs_are_written_by_what_speaks_and_read_by_the_ui(judge: Judge) -> None:
    log = f"{WORK}/dagster/storage/run/compute_logs/step.err"
    writes = {c for c in COMPONENTS if judge.allows(c, "s3:PutObject", log, CREATES)}
    assert writes == {"run", "maintenance", "code", "daemon"}
    assert judge.allows("webserver", "s3:GetObject", log)
    assert judge.allows("webserver", "s3:ListBucket", WORK, {"s3:prefix": "dagster/storage/run/"})
    assert not judge.allows("webserver", "s3:ListBucket", WORK, {"s3:prefix": "athena/people/"})


def test_queries_run_in_a_components_own_workgroup_and_leave_results_there(judge: Judge) -> None:
    groups = {"crypto_assets_dev": "people", "crypto_assets_dev_dashboard": "dashboard", "primary": "people"}
    for component, own in (("dashboard", "crypto_assets_dev_dashboard"), ("analyst", "crypto_assets_dev")):
        for group, prefix in groups.items():
            arn = f"arn:aws:athena:{REGION}:{ACCOUNT}:workgroup/{group}"
            assert judge.allows(component, "athena:StartQueryExecution", arn) == (group == own)
            if group != "primary":
                result = f"{WORK}/athena/{prefix}/result.csv"
                assert judge.allows(component, "s3:GetObject", result) == (group == own)
                # The engine looks whether its place is there before it asks.
                place = {"s3:prefix": f"athena/{prefix}/"}
                assert judge.allows(component, "s3:ListBucket", WORK, place) == (group == own)
    others = set(COMPONENTS) - {"dashboard", "analyst"}
    assert not [c for c in others if judge.allows(c, "s3:GetObject", f"{WORK}/athena/people/result.csv")]


def test_the_dashboard_sees_no_raw_in_any_way(judge: Judge) -> None:
    for zone, sees in (("raw", False), ("trusted", False), ("refined", True), ("quality", True)):
        table = f"arn:aws:glue:{REGION}:{ACCOUNT}:table/crypto_dev_{zone}/t"
        assert judge.allows("dashboard", "glue:GetTable", table) == sees
        assert judge.allows("dashboard", "s3:GetObject", f"{LAKE}/lake/{zone}/t/part-0.parquet") == sees
        assert judge.allows("dashboard", "s3:ListBucket", LAKE, {"s3:prefix": f"lake/{zone}/t/"}) == sees
    # Nor by asking for all names, or by what another's queries left.
    for prefix in ("", "lake/", "lake/ra"):
        assert not judge.allows("dashboard", "s3:ListBucket", LAKE, {"s3:prefix": prefix})


def test_tasks_roles_are_taken_by_tasks_of_this_account_only(stage: Templates) -> None:
    roles = Policies.of(stage).roles
    for component in COMPONENTS:
        (statement,) = roles[component]["trust"]["Statement"]
        if component == "analyst":
            assert statement["Principal"] == {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}
            continue
        assert statement["Principal"] == {"Service": "ecs-tasks.amazonaws.com"}
        assert statement["Condition"] == {
            "StringEquals": {"aws:SourceAccount": ACCOUNT},
            "ArnLike": {"aws:SourceArn": f"arn:aws:ecs:{REGION}:{ACCOUNT}:*"},
        }


def test_whoever_starts_a_task_can_hand_it_its_secrets_and_write_its_log(
    judge: Judge, policies: Policies, dev: Templates
) -> None:
    (key,) = (arn for arn in policies.resources if ":kms:" in arn)
    through = {"kms:ViaService": f"secretsmanager.{REGION}.amazonaws.com"}
    n_secrets = 0
    for task in dev.all("AWS::ECS::TaskDefinition"):
        starter = task.properties["ExecutionRoleArn"].rpartition("/")[2].removeprefix("crypto-assets-dev-")
        for container in task.properties["ContainerDefinitions"]:
            log = container["LogConfiguration"]["Options"]["awslogs-group"]
            stream = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{log}:log-stream:s"
            assert judge.allows(starter, "logs:PutLogEvents", stream)
            for secret in container.get("Secrets", []):
                arn = secret["ValueFrom"].removesuffix(":password::")
                assert judge.allows(starter, "secretsmanager:GetSecretValue", arn), secret["Name"]
                assert judge.allows(starter, "kms:Decrypt", key, through), secret["Name"]
                n_secrets += 1
        # What runs does not read secrets by itself, and what starts it reads no data.
        assert not judge.allows(starter, "kms:Decrypt", key, {"kms:ViaService": f"s3.{REGION}.amazonaws.com"})
    assert n_secrets > 10


def test_no_policy_of_a_component_allows_actions_by_wildcard(policies: Policies) -> None:
    for component in COMPONENTS:
        for policy in policies.roles[component]["identity"]:
            for statement in policy["Statement"]:
                assert statement["Effect"] == "Allow"
                actions = statement["Action"]
                assert "*" not in "".join([actions] if isinstance(actions, str) else actions), component
