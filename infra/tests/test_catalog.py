"""The catalog stack: databases by zone, workgroups that limit, and the cookbook."""

from __future__ import annotations

from templates import ACCOUNT, Templates

from stacks.catalog import COOKBOOK


def test_each_zone_is_a_database_with_the_stages_prefix(dev: Templates, prod: Templates) -> None:
    for templates, prefix, name in ((dev, "crypto_dev_", "dev"), (prod, "crypto_", "prod")):
        databases = {
            r.properties["DatabaseInput"]["Name"]: r.properties["DatabaseInput"]["LocationUri"]
            for r in templates.all("AWS::Glue::Database")
        }
        lake = f"s3://crypto-assets-{name}-lake-{ACCOUNT}/lake"
        assert databases == {f"{prefix}{zone}": f"{lake}/{zone}" for zone in ("raw", "trusted", "refined", "quality")}


def test_the_catalog_stack_makes_no_table(stage: Templates) -> None:
    assert not list(stage.all("AWS::Glue::Table"))


def test_a_workgroup_limits_what_a_query_reads_and_lets_nobody_past_it(dev: Templates, prod: Templates) -> None:
    limits = {
        "crypto_assets_dev": 20_000_000_000,
        "crypto_assets_dev_dashboard": 2_000_000_000,
        "crypto_assets": 100_000_000_000,
        "crypto_assets_dashboard": 5_000_000_000,
    }
    found = {}
    for templates in (dev, prod):
        for workgroup in templates.all("AWS::Athena::WorkGroup"):
            told = workgroup.properties["WorkGroupConfiguration"]
            found[workgroup.properties["Name"]] = told["BytesScannedCutoffPerQuery"]
            assert told["EnforceWorkGroupConfiguration"] is True
            assert told["EngineVersion"] == {"SelectedEngineVersion": "Athena engine version 3"}
            assert told["PublishCloudWatchMetricsEnabled"] is True
            results = told["ResultConfiguration"]
            assert results["EncryptionConfiguration"]["EncryptionOption"] == "SSE_KMS"
            assert ":key/" in results["EncryptionConfiguration"]["KmsKey"]
            assert results["ExpectedBucketOwner"] == ACCOUNT
    assert found == limits


def test_each_workgroup_has_results_of_its_own(stage: Templates) -> None:
    places = [
        r.properties["WorkGroupConfiguration"]["ResultConfiguration"]["OutputLocation"]
        for r in stage.all("AWS::Athena::WorkGroup")
    ]
    assert sorted(place.split("/", 3)[3] for place in places) == ["athena/dashboard/", "athena/people/"]


def test_the_cookbook_is_there_as_named_queries_of_the_stage(dev: Templates, prod: Templates) -> None:
    files = {file.stem: file.read_text() for file in COOKBOOK.glob("*.sql")}
    assert files
    for templates, prefix in ((dev, "crypto_dev_"), (prod, "crypto_")):
        queries = {r.properties["Name"]: r.properties for r in templates.all("AWS::Athena::NamedQuery")}
        assert queries.keys() == files.keys()
        for name, query in queries.items():
            # Athena's limit of a query.
            assert len(query["QueryString"]) <= 262_144
            assert query["Description"]
            assert query["QueryString"].replace("crypto_dev_", "crypto_") == files[name]
            assert query["Database"] == f"{prefix}refined"
            if prefix == "crypto_dev_":
                for zone in ("raw", "trusted", "refined", "quality"):
                    assert f"crypto_{zone}." not in query["QueryString"]
