"""The governance stack: Lake Formation's grants say what the roles say, and the month has a budget."""

from __future__ import annotations

from collections import defaultdict

import pytest
from judge import Judge
from templates import ACCOUNT, REGION, Templates

ZONES = ("raw", "trusted", "refined", "quality")


def grants(templates: Templates) -> dict[str, dict[str, set[str]]]:
    """Component and database to what is granted on its tables."""
    found: dict[str, dict[str, set[str]]] = defaultdict(dict)
    for grant in templates.all("AWS::LakeFormation::PrincipalPermissions"):
        arn = grant.properties["Principal"]["DataLakePrincipalIdentifier"]
        table = grant.properties["Resource"].get("Table")
        assert grant.properties["PermissionsWithGrantOption"] == []
        if table is not None:
            component = arn.partition("crypto-assets-dev-")[2]
            found[component][table["DatabaseName"]] = set(grant.properties["Permissions"])
    return found


def test_tables_are_granted_by_zone(dev: Templates) -> None:
    seen = {component: {name.rpartition("_")[2] for name in on} for component, on in grants(dev).items()}
    assert seen == {
        "run": set(ZONES),
        "stream-consume": {"raw"},
        "maintenance": set(ZONES),
        "dashboard": {"refined", "quality"},
        "analyst": {"trusted", "refined", "quality"},
    }


def test_only_maintenance_may_drop_a_table(dev: Templates) -> None:
    assert {c for c, on in grants(dev).items() if any("DROP" in p for p in on.values())} == {"maintenance"}


@pytest.mark.parametrize("component", ["run", "maintenance", "dashboard", "analyst"])
def test_lake_formation_grants_what_the_role_may_ask_of_glue(dev: Templates, judge: Judge, component: str) -> None:
    asked = {"glue:GetTable": "DESCRIBE", "glue:UpdateTable": "ALTER", "glue:DeleteTable": "DROP"}
    for zone in ZONES:
        database = f"crypto_dev_{zone}"
        granted = grants(dev)[component].get(database, set())
        for action, permission in asked.items():
            table = f"arn:aws:glue:{REGION}:{ACCOUNT}:table/{database}/t"
            assert judge.allows(component, action, table) == (permission in granted), (zone, action)


def test_the_month_has_a_budget_that_tells_before_it_is_spent(dev: Templates, prod: Templates) -> None:
    for templates, name, usd in ((dev, "dev", 300), (prod, "prod", 500)):
        (budget,) = templates.all("AWS::Budgets::Budget")
        told = budget.properties["Budget"]
        assert told["BudgetLimit"] == {"Amount": usd, "Unit": "USD"}
        assert told["TimeUnit"] == "MONTHLY"
        assert told["CostFilters"] == {"TagKeyValue": [f"user:project$crypto-assets-{name}"]}
        notified = budget.properties["NotificationsWithSubscribers"]
        assert [(n["Notification"]["NotificationType"], n["Notification"]["Threshold"]) for n in notified] == [
            ("ACTUAL", 80),
            ("FORECASTED", 100),
        ]
        topic = f"arn:aws:sns:{REGION}:{ACCOUNT}:crypto-assets-{name}-alarms"
        assert all(n["Subscribers"] == [{"SubscriptionType": "SNS", "Address": topic}] for n in notified)


def test_the_topic_of_alarms_takes_messages_of_this_account_by_tls(stage: Templates) -> None:
    (topic,) = stage.all("AWS::SNS::Topic", "watch")
    assert ":key/" in topic.properties["KmsMasterKeyId"]
    (policy,) = stage.all("AWS::SNS::TopicPolicy", "watch")
    statements = {s["Sid"]: s for s in policy.properties["PolicyDocument"]["Statement"]}
    for sid in ("FromCloudwatch", "FromBudgets"):
        assert statements[sid]["Condition"] == {"StringEquals": {"aws:SourceAccount": ACCOUNT}}
    denied = [s for s in statements.values() if s["Effect"] == "Deny"]
    assert [s["Condition"] for s in denied] == [{"Bool": {"aws:SecureTransport": "false"}}]


def test_everything_carries_the_tag_that_the_budget_counts_by(dev: Templates) -> None:
    untagged = set()
    for resource in dev.all():
        tags = resource.properties.get("Tags") or resource.properties.get("HostedZoneTags")
        if tags is None:
            untagged.add(resource.type)
            continue
        named = tags if isinstance(tags, dict) else {tag["Key"]: tag["Value"] for tag in tags}
        assert named["project"] == "crypto-assets-dev", resource.logical_id
    billed = {"AWS::S3::Bucket", "AWS::KMS::Key", "AWS::Kinesis::Stream", "AWS::SecretsManager::Secret"}
    assert not untagged & {*billed, "AWS::ECS::Service", "AWS::RDS::DBInstance", "AWS::EC2::NatGateway"}
