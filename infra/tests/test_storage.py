"""The storage stack: what the key, the buckets and the secrets promise."""

from __future__ import annotations

from typing import Any

import pytest
from judge import Judge
from templates import ACCOUNT, REGION, Resource, Templates

LAKE = f"arn:aws:s3:::crypto-assets-dev-lake-{ACCOUNT}"
KEY = "kms:GenerateDataKey"
CREATES = {"s3:ObjectCreationOperation": "true"}
SSE = "s3:x-amz-server-side-encryption"


def buckets(templates: Templates) -> dict[str, Resource]:
    found = {r.properties["BucketName"].split("-")[3]: r for r in templates.all("AWS::S3::Bucket", "storage")}
    assert set(found) == {"lake", "work", "logs"}
    return found


def test_no_bucket_is_public_and_every_one_keeps_versions(stage: Templates) -> None:
    for bucket in buckets(stage).values():
        assert set(bucket.properties["PublicAccessBlockConfiguration"].values()) == {True}
        assert bucket.properties["VersioningConfiguration"] == {"Status": "Enabled"}
        assert bucket.properties["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]


def test_data_is_encrypted_by_our_key_with_a_bucket_key(stage: Templates) -> None:
    (key,) = stage.all("AWS::KMS::Key", "storage")
    assert key.properties["EnableKeyRotation"] is True
    for name in ("lake", "work"):
        (rule,) = buckets(stage)[name].properties["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        assert rule["BucketKeyEnabled"] is True
        assert rule["ServerSideEncryptionByDefault"] == {
            "SSEAlgorithm": "aws:kms",
            "KMSMasterKeyID": stage.resolved(key.stack, {"Fn::GetAtt": [key.logical_id, "Arn"]}),
        }


def test_accesses_are_logged_below_a_prefix_of_each_bucket(stage: Templates) -> None:
    found = buckets(stage)
    for name in ("lake", "work"):
        logging = found[name].properties["LoggingConfiguration"]
        assert logging == {
            "DestinationBucketName": found["logs"].properties["BucketName"],
            "LogFilePrefix": f"s3/{name}/",
        }


def test_uploads_that_were_given_up_and_old_versions_end(dev: Templates, prod: Templates) -> None:
    def rule(templates: Templates, bucket: str, rule_id: str) -> dict[str, Any]:
        rules = buckets(templates)[bucket].properties["LifecycleConfiguration"]["Rules"]
        assert all(r["Status"] == "Enabled" for r in rules)
        return next(r for r in rules if r["Id"] == rule_id)

    for templates, days in ((dev, 7), (prod, 30)):
        replaced = rule(templates, "lake", "what-was-replaced")
        assert replaced["NoncurrentVersionExpiration"] == {"NoncurrentDays": days}
        assert replaced["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
        assert "ExpirationInDays" not in replaced
        results = rule(templates, "work", "results")
        assert (results["Prefix"], results["ExpirationInDays"]) == ("athena/", 7)
        assert rule(templates, "work", "leftovers")["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}


def test_no_rule_of_the_lake_ends_a_current_object(stage: Templates) -> None:
    for rule in buckets(stage)["lake"].properties["LifecycleConfiguration"]["Rules"]:
        assert not {"ExpirationInDays", "ExpirationDate"} & set(rule)


def test_prod_keeps_its_data_and_dev_does_not(dev: Templates, prod: Templates) -> None:
    for templates, kept in ((dev, "Delete"), (prod, "Retain")):
        for type_ in ("AWS::S3::Bucket", "AWS::KMS::Key", "AWS::SecretsManager::Secret", "AWS::Glue::Database"):
            for resource in templates.all(type_):
                assert resource.whole["DeletionPolicy"] == kept, resource.logical_id


@pytest.mark.parametrize(
    ("context", "is_allowed"),
    [
        ({}, True),
        ({"aws:SecureTransport": "false"}, False),
        ({"s3:TlsVersion": "1.1"}, False),
        ({SSE: "AES256"}, False),
        ({SSE: "aws:kms"}, True),
        ({SSE: "aws:kms", f"{SSE}-aws-kms-key-id": f"arn:aws:kms:{REGION}:{ACCOUNT}:key/another"}, False),
        ({f"{SSE}-customer-algorithm": "AES256"}, False),
    ],
    ids=["plain", "http", "old TLS", "S3's key", "ours by default", "another key", "the client's key"],
)
def test_a_put_is_encrypted_by_us_and_sent_by_tls(judge: Judge, context: dict[str, str], is_allowed: bool) -> None:
    for resource in (f"{LAKE}/lake/raw/t/part.parquet", f"{LAKE.replace('-lake-', '-work-')}/dagster/log"):
        judged = judge.judged("run", "s3:PutObject", resource, {**CREATES, **context})
        assert judged == ("Allowed" if is_allowed else "ExplicitlyDenied")


def test_a_put_with_our_key_named_is_allowed(judge: Judge, dev: Templates) -> None:
    (key,) = dev.all("AWS::KMS::Key", "storage")
    named = {SSE: "aws:kms", f"{SSE}-aws-kms-key-id": dev.resolved(key.stack, {"Fn::GetAtt": [key.logical_id, "Arn"]})}
    assert judge.judged("run", "s3:PutObject", f"{LAKE}/lake/raw/t/part.parquet", {**CREATES, **named}) == "Allowed"


@pytest.mark.parametrize(
    ("key", "context", "is_allowed"),
    [
        ("_delta_log/00000000000000000007.json", {}, False),
        ("_delta_log/00000000000000000007.json", {"s3:if-none-match": "*"}, True),
        ("_delta_log/_last_checkpoint", {}, True),
        ("_delta_log/00000000000000000007.checkpoint.parquet", {}, True),
        ("part-0.parquet", {}, True),
        # The parts of an upload have no condition to carry.
        ("_delta_log/00000000000000000007.json", {"s3:ObjectCreationOperation": "false"}, True),
    ],
)
def test_a_commit_is_conditional_or_refused(judge: Judge, key: str, context: dict[str, str], is_allowed: bool) -> None:
    for component in ("run", "maintenance"):
        judged = judge.judged(component, "s3:PutObject", f"{LAKE}/lake/raw/t/{key}", {**CREATES, **context})
        assert judged == ("Allowed" if is_allowed else "ExplicitlyDenied")


def test_secrets_are_ours_blank_and_encrypted(stage: Templates) -> None:
    secrets = list(stage.all("AWS::SecretsManager::Secret", "storage"))
    assert {s.properties["Name"].rpartition("/")[2] for s in secrets} == {
        "COINCAP_API_KEY",
        "ALPHAVANTAGE_API_KEY",
        "COINGECKO_DEMO_API_KEY",
        "FINNHUB_API_KEY",
    }
    for secret in secrets:
        assert secret.properties["SecretString"] == " "
        assert ":key/" in secret.properties["KmsKeyId"]
