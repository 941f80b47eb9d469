"""Who may do what: one role for each component, and the boundary that none of them gets past.

Belongs here: data (S3, KMS, Glue, Athena, Kinesis) and who may take a role. What a component needs of ECS, logs and its
own secrets is added by the compute stack, with policies of its own.

Objects are never deleted but by ``maintenance``: the lake's writers only ever add files, and commit by adding one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from constructs import Construct

from stacks.nag import accept, skip
from stacks.stage import LAKE_PREFIX, ZONES, Stage
from stacks.storage import Storage

# What is asked of a component, in one line; docs/aws.md prints it.
COMPONENTS = {
    "run": "one Dagster run: pulls, transforms and checks; adds to every zone, deletes nothing",
    "maintenance": "the maintenance and drill runs: compaction and vacuum, the only one that deletes",
    "webserver": "Dagster's UI: knows no data but the logs of runs",
    "daemon": "Dagster's daemon: launches runs, knows no data",
    "code": "the code location: evaluates schedules and sensors, holds the lake's lease",
    "stream-collect": "websocket to stream",
    "stream-consume": "stream to Delta",
    "dashboard": "answers people from refined and quality by Athena; never raw",
    "analyst": "people who ask SQL of trusted, refined and quality",
}
_PEOPLE = ("analyst",)
# What a consumer writes (crypto_assets/tables/stream.py); the rest is made of it by runs.
STREAM_TABLES = ("trades", "stream_prices", "stream_events")


class Access(cdk.Stack):
    """Attributes:
    roles: by component, as ``COMPONENTS`` calls them. Their policies of this stack are final: other stacks add
        policies of their own (``iam.Policy(..., roles=[...])``).
    """

    def __init__(self, scope: Construct, stage: Stage, storage: Storage) -> None:
        super().__init__(
            scope, stage.named("access"), env=stage.env, description="crypto-assets: one role for each component"
        )
        self._stage = stage
        self._key_arn = storage.key.key_arn
        self._boundary = self._boundary_policy()
        self._roles = {name: self._role(name, purpose) for name, purpose in COMPONENTS.items()}
        self._allow_lake()
        self._allow_logs_of_runs()
        self._allow_catalog()
        self._allow_queries()
        self._allow_stream()
        self._allow_key()
        self.roles: dict[str, iam.IRole] = {name: role.without_policy_updates() for name, role in self._roles.items()}

    # ---- roles ----

    def _boundary_policy(self) -> iam.ManagedPolicy:
        """What no role of ours may do, whatever a policy says: change who may do what, or destroy what is kept."""
        boundary = iam.ManagedPolicy(
            self,
            "Boundary",
            managed_policy_name=self._stage.named("boundary"),
            description="No role of crypto-assets gets past this, whatever its policies say",
            statements=[
                iam.PolicyStatement(sid="WhatPoliciesAllow", actions=["*"], resources=["*"]),
                iam.PolicyStatement(
                    sid="NobodyForgets",
                    effect=iam.Effect.DENY,
                    actions=[
                        "s3:DeleteObjectVersion",
                        "s3:DeleteBucket",
                        "s3:DeleteBucketPolicy",
                        "s3:PutBucket*",
                        "s3:PutEncryptionConfiguration",
                        "s3:PutLifecycleConfiguration",
                        "s3:PutObjectAcl",
                        "s3:BypassGovernanceRetention",
                        "kms:ScheduleKeyDeletion",
                        "kms:DisableKey",
                        "kms:PutKeyPolicy",
                        "kms:CreateGrant",
                    ],
                    resources=["*"],
                ),
                iam.PolicyStatement(
                    sid="NobodyGrants",
                    effect=iam.Effect.DENY,
                    not_actions=["iam:PassRole", "iam:Get*", "iam:List*", "sts:GetCallerIdentity", "sts:TagSession"],
                    resources=[self._stage.arn("iam", "*", region=False)],
                ),
            ],
        )
        why = "A boundary grants nothing: it is the most that policies may grant, and takes away from it."
        accept(boundary, why, "AwsSolutions-IAM5[Action::*]", "AwsSolutions-IAM5[Resource::*]")
        skip(boundary, why, "CKV_AWS_107", "CKV_AWS_108", "CKV_AWS_109", "CKV_AWS_110", "CKV_AWS_111")
        return boundary

    def _role(self, component: str, purpose: str) -> iam.Role:
        return iam.Role(
            self,
            component.title().replace("-", ""),
            role_name=self._stage.named(component),
            description=purpose,
            assumed_by=self._people() if component in _PEOPLE else self._tasks(),
            permissions_boundary=self._boundary,
            max_session_duration=cdk.Duration.hours(1),
        )

    def _tasks(self) -> iam.IPrincipal:
        """Tasks of this account's clusters only: without the conditions another account's could be handed our role."""
        return iam.ServicePrincipal(
            "ecs-tasks.amazonaws.com",
            conditions={
                "StringEquals": {"aws:SourceAccount": self._stage.account},
                "ArnLike": {"aws:SourceArn": self._stage.arn("ecs", "*")},
            },
        )

    def _people(self) -> iam.IPrincipal:
        named = self._stage.analyst_principals
        if not named:
            return iam.AccountPrincipal(self._stage.account)
        return iam.CompositePrincipal(*(iam.ArnPrincipal(arn) for arn in named))

    def _allow(self, component: str, sid: str, actions: Sequence[str], resources: Sequence[str], **more: Any) -> None:
        statement = iam.PolicyStatement(sid=sid, actions=list(actions), resources=list(resources), **more)
        self._roles[component].add_to_policy(statement)
        accept(
            self._roles[component],
            "All objects below a prefix, or all tables of a database: the finest that there is.",
            *(f"AwsSolutions-IAM5[Resource::{arn}]" for arn in resources if arn.endswith(("/*", "-*"))),
        )

    # ---- data ----

    def _allow_lake(self) -> None:
        # Who runs schedules; which collector has a key, which consumer which shards.
        schedules = f"{LAKE_PREFIX}/_lease/schedules.json"
        keys, shards = f"{LAKE_PREFIX}/_lease/stream-*", f"{LAKE_PREFIX}/_lease/consumers-*"
        probe = f"{LAKE_PREFIX}/_probe"
        # The drill rebuilds every table beside the lake, and removes that copy.
        beside = f"{LAKE_PREFIX}-rebuild-*"
        every, streamed = _below(*ZONES), [f"{LAKE_PREFIX}/raw/{table}/*" for table in STREAM_TABLES]

        self._adds("run", *every, probe)
        self._reads("run", f"{LAKE_PREFIX}/*")

        self._adds("maintenance", *every, beside, probe)
        self._reads("maintenance", f"{LAKE_PREFIX}/*", beside)
        self._allow("maintenance", "Delete", ["s3:DeleteObject"], self._lake(*every, beside, probe))
        self._allow("maintenance", "Uploads", ["s3:ListBucketMultipartUploads"], [self._bucket("lake")])

        self._adds("code", schedules)
        self._reads("code", f"{LAKE_PREFIX}/*")

        self._adds("stream-collect", keys)
        self._reads("stream-collect", keys)
        self._adds("stream-consume", *streamed, shards)
        self._reads("stream-consume", *streamed, shards)

        self._reads("dashboard", *_below("refined", "quality"))
        self._reads("analyst", *_below("trusted", "refined", "quality"))

    def _allow_logs_of_runs(self) -> None:
        logs = [f"{self._bucket('work')}/dagster/*"]
        # Runs say what they do; so do ticks in the code location, and backfills in the daemon.
        for component in ("run", "maintenance", "code", "daemon"):
            self._allow(component, "RunLogs", ["s3:GetObject", "s3:PutObject"], logs)
        self._allow("webserver", "RunLogs", ["s3:GetObject"], logs)
        under = {"StringLike": {"s3:prefix": ["dagster/*"]}}
        self._allow("webserver", "ListRunLogs", ["s3:ListBucket"], [self._bucket("work")], conditions=under)

    def _allow_catalog(self) -> None:
        read = ["glue:GetDatabase", "glue:GetDatabases", "glue:GetTable", "glue:GetTables"]
        every = self._tables(*ZONES)
        for component in ("run", "maintenance"):
            self._allow(component, "ReadCatalog", read, every)
            self._allow(component, "WriteCatalog", ["glue:CreateTable", "glue:UpdateTable"], every)
        self._allow("maintenance", "ClearCatalog", ["glue:DeleteTable"], every)
        # Who looks for a table asks for all of its database.
        self._allow("stream-consume", "ReadCatalog", read, self._tables("raw"))
        streamed = [
            self._stage.arn("glue", "catalog"),
            self._stage.arn("glue", f"database/{self._stage.databases['raw']}"),
            *(self._stage.arn("glue", f"table/{self._stage.databases['raw']}/{table}") for table in STREAM_TABLES),
        ]
        self._allow("stream-consume", "WriteCatalog", ["glue:CreateTable", "glue:UpdateTable"], streamed)
        self._allow("dashboard", "ReadCatalog", read, self._tables("refined", "quality"))
        self._allow("analyst", "ReadCatalog", read, self._tables("trusted", "refined", "quality"))

    def _allow_queries(self) -> None:
        for component, workgroup, prefix in (
            ("dashboard", self._stage.dashboard_workgroup, "dashboard"),
            ("analyst", self._stage.workgroup, "people"),
        ):
            self._allow(
                component,
                "Query",
                [
                    "athena:BatchGetQueryExecution",
                    "athena:GetNamedQuery",
                    "athena:GetQueryExecution",
                    "athena:GetQueryResults",
                    "athena:GetQueryRuntimeStatistics",
                    "athena:GetWorkGroup",
                    "athena:ListNamedQueries",
                    "athena:ListQueryExecutions",
                    "athena:StartQueryExecution",
                    "athena:StopQueryExecution",
                ],
                [self._stage.arn("athena", f"workgroup/{workgroup}")],
            )
            results = f"athena/{prefix}/*"
            self._allow(
                component,
                "Results",
                ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"],
                [f"{self._bucket('work')}/{results}"],
            )
            self._allow(
                component,
                "ListResults",
                ["s3:ListBucket"],
                [self._bucket("work")],
                conditions={"StringLike": {"s3:prefix": [results]}},
            )
            # Athena asks where the buckets are before it reads or writes there.
            self._allow(component, "Where", ["s3:GetBucketLocation"], [self._bucket("lake"), self._bucket("work")])

    def _allow_stream(self) -> None:
        stream = [self._stage.arn("kinesis", f"stream/{self._stage.named('trades')}")]
        watch = ["kinesis:DescribeStreamSummary", "kinesis:ListShards"]
        self._allow("stream-collect", "Put", [*watch, "kinesis:PutRecord", "kinesis:PutRecords"], stream)
        self._allow("stream-consume", "Take", [*watch, "kinesis:GetRecords", "kinesis:GetShardIterator"], stream)

    def _allow_key(self) -> None:
        """The key, for data only and through the services that keep it: nobody decrypts by hand."""
        services = {name: ["s3"] for name in COMPONENTS}
        services["stream-collect"] = services["stream-consume"] = ["s3", "kinesis"]
        for component, through in services.items():
            via = [f"{service}.{self._stage.region}.amazonaws.com" for service in through]
            actions = ["kms:Decrypt"] if component == "webserver" else ["kms:Decrypt", "kms:GenerateDataKey"]
            self._allow(
                component, "UseKey", actions, [self._key_arn], conditions={"StringEquals": {"kms:ViaService": via}}
            )

    # ---- words ----

    def _bucket(self, what: str) -> str:
        return f"arn:aws:s3:::{self._stage.bucket(what)}"

    def _lake(self, *paths: str) -> list[str]:
        return [f"{self._bucket('lake')}/{path}" for path in paths]

    def _tables(self, *zones: str) -> list[str]:
        """Glue asks for the catalog and the database with every table."""
        names = [self._stage.databases[zone] for zone in zones]
        return [
            self._stage.arn("glue", "catalog"),
            *(self._stage.arn("glue", f"database/{name}") for name in names),
            *(self._stage.arn("glue", f"table/{name}/*") for name in names),
        ]

    def _reads(self, component: str, *paths: str) -> None:
        """Objects, and the names of these objects only: names tell, too."""
        self._allow(component, "Read", ["s3:GetObject"], self._lake(*paths))
        under = {"StringLike": {"s3:prefix": list(paths)}}
        self._allow(component, "List", ["s3:ListBucket"], [self._bucket("lake")], conditions=under)

    def _adds(self, component: str, *paths: str) -> None:
        """New objects. An upload may be given up: nothing of it was there yet."""
        actions = ["s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
        self._allow(component, "Add", actions, self._lake(*paths))


def _below(*zones: str) -> list[str]:
    return [f"{LAKE_PREFIX}/{zone}/*" for zone in zones]
