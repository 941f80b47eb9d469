"""Where data and secrets are kept: the key, the lake's bucket, the work bucket, the bucket of access logs, secrets.

The bucket's own policy holds what no role may be trusted with: TLS 1.2, our key only, deletion by maintenance alone,
and commits that are conditional.
"""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from stacks.nag import accept, skip
from stacks.stage import LAKE_PREFIX, PROVIDER_KEYS, Stage


class Storage(cdk.Stack):
    """Attributes:
    key: encrypts all of the stage's data.
    lake: the Delta tables, below ``lake/``.
    work: ``athena/`` (query results) and ``dagster/`` (the runs' logs); nothing in it is kept.
    logs: who asked for what in the other two, and the load balancer's access logs.
    secrets: by the environment variable that a secret is handed to a container as.
    """

    def __init__(self, scope: Construct, stage: Stage) -> None:
        super().__init__(
            scope,
            stage.named("storage"),
            env=stage.env,
            description="crypto-assets: key, buckets and secrets",
            termination_protection=stage.keeps_data,
        )
        self._stage = stage
        self.key = self._key()
        self.logs = self._logs()
        self.lake = self._lake()
        self.work = self._work()
        self.secrets = {name: self._secret(name) for name in PROVIDER_KEYS}
        cdk.CfnOutput(self, "LakeUri", value=stage.lake_uri, description="CRYPTO_ASSETS_LAKE_URI")

    def _key(self) -> kms.Key:
        key = kms.Key(
            self,
            "Key",
            alias=self._stage.named("data"),
            description=f"Data of crypto-assets {self._stage.name}",
            enable_key_rotation=True,
            removal_policy=self._stage.removal,
            # The shortest that AWS allows: a dev stage that is made anew pays for few dead keys.
            pending_window=cdk.Duration.days(30 if self._stage.keeps_data else 7),
        )
        # Services that write in their own name: log groups, and what sends to the alarm topic.
        key.add_to_resource_policy(
            iam.PolicyStatement(
                sid="Logs",
                principals=[iam.ServicePrincipal(f"logs.{self._stage.region}.amazonaws.com")],
                actions=["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"],
                resources=["*"],
                conditions={
                    "ArnLike": {"kms:EncryptionContext:aws:logs:arn": self._stage.arn("logs", "log-group:*")},
                },
            )
        )
        key.add_to_resource_policy(
            iam.PolicyStatement(
                sid="Alarms",
                principals=[
                    iam.ServicePrincipal("cloudwatch.amazonaws.com"),
                    iam.ServicePrincipal("budgets.amazonaws.com"),
                ],
                actions=["kms:Decrypt", "kms:GenerateDataKey*"],
                resources=["*"],
                conditions={"StringEquals": {"aws:SourceAccount": self._stage.account}},
            )
        )
        return key

    def _logs(self) -> s3.Bucket:
        bucket = s3.Bucket(
            self,
            "Logs",
            bucket_name=self._stage.bucket("logs"),
            # Server access logs can be delivered to a bucket with S3's own key only.
            encryption=s3.BucketEncryption.S3_MANAGED,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            enforce_ssl=True,
            minimum_tls_version=1.2,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            versioned=True,
            removal_policy=self._stage.removal,
            lifecycle_rules=[
                s3.LifecycleRule(
                    id="logs",
                    # A year: who read what is asked late, if at all.
                    expiration=cdk.Duration.days(365 if self._stage.keeps_data else 30),
                    noncurrent_version_expiration=cdk.Duration.days(1),
                    abort_incomplete_multipart_upload_after=cdk.Duration.days(1),
                )
            ],
        )
        accept(bucket, "It is the bucket of access logs; logging it into itself would never end.", "AwsSolutions-S1")
        skip(bucket, "It is the bucket of access logs; logging it into itself would never end.", "CKV_AWS_18")
        return bucket

    def _lake(self) -> s3.Bucket:
        stage = self._stage
        bucket = self._data_bucket(
            "lake",
            [
                s3.LifecycleRule(
                    id="what-was-replaced",
                    noncurrent_version_expiration=cdk.Duration.days(stage.noncurrent_days),
                    expired_object_delete_marker=True,
                    abort_incomplete_multipart_upload_after=cdk.Duration.days(1),
                ),
                s3.LifecycleRule(
                    id="raw-is-read-seldom",
                    prefix=f"{LAKE_PREFIX}/raw/",
                    # Delta never rewrites raw but to compact it; Athena and Delta read both classes alike.
                    transitions=[
                        s3.Transition(
                            storage_class=s3.StorageClass.INTELLIGENT_TIERING, transition_after=cdk.Duration.days(30)
                        )
                    ],
                ),
            ],
        )
        anyone = [iam.AnyPrincipal()]
        bucket.add_to_resource_policy(
            iam.PolicyStatement(
                sid="OnlyMaintenanceDeletes",
                effect=iam.Effect.DENY,
                principals=anyone,
                actions=["s3:DeleteObject"],
                resources=[bucket.arn_for_objects("*")],
                conditions={"ArnNotEquals": {"aws:PrincipalArn": stage.role_arn("maintenance")}},
            )
        )
        bucket.add_to_resource_policy(
            iam.PolicyStatement(
                sid="CommitsAreConditional",
                effect=iam.Effect.DENY,
                principals=anyone,
                actions=["s3:PutObject"],
                # Commits only: _last_checkpoint and checkpoints are replaced, and have other endings.
                resources=[bucket.arn_for_objects(f"{LAKE_PREFIX}*/_delta_log/*.json")],
                conditions={
                    "Null": {"s3:if-none-match": "true"},
                    # The parts of an upload carry no condition; its completion does.
                    "Bool": {"s3:ObjectCreationOperation": "true"},
                },
            )
        )
        return bucket

    def _work(self) -> s3.Bucket:
        return self._data_bucket(
            "work",
            [
                s3.LifecycleRule(
                    id="results",
                    prefix="athena/",
                    # Result reuse looks back seven days at most.
                    expiration=cdk.Duration.days(7),
                ),
                s3.LifecycleRule(id="run-logs", prefix="dagster/", expiration=cdk.Duration.days(90)),
                s3.LifecycleRule(
                    id="leftovers",
                    noncurrent_version_expiration=cdk.Duration.days(1),
                    abort_incomplete_multipart_upload_after=cdk.Duration.days(1),
                ),
            ],
        )

    def _data_bucket(self, name: str, lifecycle_rules: list[s3.LifecycleRule]) -> s3.Bucket:
        """A bucket encrypted by our key and no other, its accesses logged."""
        bucket = s3.Bucket(
            self,
            name.title(),
            bucket_name=self._stage.bucket(name),
            encryption=s3.BucketEncryption.KMS,
            encryption_key=self.key,
            # One request to KMS for thousands of objects.
            bucket_key_enabled=True,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            enforce_ssl=True,
            minimum_tls_version=1.2,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            versioned=True,
            server_access_logs_bucket=self.logs,
            server_access_logs_prefix=f"s3/{name}/",
            removal_policy=self._stage.removal,
            lifecycle_rules=lifecycle_rules,
        )
        self._encrypted_by_us(bucket)
        return bucket

    def _encrypted_by_us(self, bucket: s3.Bucket) -> None:
        """Deny what asks for another encryption. Without a header the bucket's default holds, which is our key."""
        header = "s3:x-amz-server-side-encryption"
        refused = {
            "NoOtherEncryption": {
                "Null": {header: "false"},
                "StringNotEquals": {header: "aws:kms"},
            },
            "NoOtherKey": {
                "Null": {f"{header}-aws-kms-key-id": "false"},
                "ArnNotEquals": {f"{header}-aws-kms-key-id": self.key.key_arn},
            },
            "NoCustomerKeys": {"Null": {f"{header}-customer-algorithm": "false"}},
        }
        for sid, conditions in refused.items():
            bucket.add_to_resource_policy(
                iam.PolicyStatement(
                    sid=sid,
                    effect=iam.Effect.DENY,
                    principals=[iam.AnyPrincipal()],
                    actions=["s3:PutObject"],
                    resources=[bucket.arn_for_objects("*")],
                    conditions=conditions,
                )
            )

    def _secret(self, name: str) -> secretsmanager.Secret:
        secret = secretsmanager.Secret(
            self,
            name.title().replace("_", ""),
            secret_name=f"{self._stage.named('providers')}/{name}",
            description=f"{name}; blank means that there is none",
            encryption_key=self.key,
            # A blank is how the application is told of no key. A deploy leaves a value alone that was put later.
            secret_string_value=cdk.SecretValue.unsafe_plain_text(" "),
            removal_policy=self._stage.removal,
        )
        accept(secret, "A provider gives its key to a person; nothing can rotate it for them.", "AwsSolutions-SMG4")
        return secret
