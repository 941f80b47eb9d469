"""A stage: what differs between dev and prod, and how everything is called.

Belongs here: numbers with their reasons, names. Names are made of the stage alone, so that a policy can name a thing of
another stack without depending on it. Does not: resources.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aws_cdk as cdk

PROJECT = "crypto-assets"
ZONES = ("raw", "trusted", "refined", "quality")
# Below the bucket's root: the rebuild drill works beside it, under lake-rebuild-*.
LAKE_PREFIX = "lake"
# Providers' keys, as their environment variables are called; each is a secret of its own.
PROVIDER_KEYS = ("COINCAP_API_KEY", "ALPHAVANTAGE_API_KEY", "COINGECKO_DEMO_API_KEY", "FINNHUB_API_KEY")


@dataclass(frozen=True)
class Stage:
    """One installation in one account and region.

    Attributes:
        keeps_data: buckets, keys and databases outlive their stacks, and stacks refuse to be deleted.
        query_limit_gb: what one query of a person may read (at 5 USD a TB: 0.10 and 0.50 USD).
        dashboard_limit_gb: the same for the dashboard, whose queries are known and small.
        budget_usd: the month's cost, told of before it is reached: the estimate of docs/aws.md and a third.
        noncurrent_days: how long overwritten and vacuumed objects can be brought back.
        alarm_email: who is told; nobody but the topic where it is empty.
        analyst_principals: ARNs that may become an analyst; empty means whoever the account's own policies let.
    """

    name: str
    account: str
    region: str
    keeps_data: bool
    query_limit_gb: int
    dashboard_limit_gb: int
    budget_usd: int
    noncurrent_days: int
    alarm_email: str
    analyst_principals: tuple[str, ...]

    @classmethod
    def of(cls, app: cdk.App, environment: Mapping[str, str] = os.environ) -> Stage:
        """The stage that ``-c stage=dev|prod`` names, in the account of the credentials (the CDK CLI tells it).

        Raises:
            ValueError: there is no such stage.
        """
        name = app.node.try_get_context("stage") or "dev"
        if name not in _STAGES:
            raise ValueError(f"there is no stage {name!r}: -c stage=dev or -c stage=prod")
        told = {key: app.node.try_get_context(key) for key in ("budget_usd", "alarm_email", "analyst_principals")}
        values = dict(_STAGES[name])
        if told["budget_usd"]:
            values["budget_usd"] = int(told["budget_usd"])
        return cls(
            name=name,
            account=environment.get("CDK_DEFAULT_ACCOUNT", "000000000000"),
            region=environment.get("CDK_DEFAULT_REGION", environment.get("AWS_REGION", "us-east-1")),
            alarm_email=told["alarm_email"] or "",
            analyst_principals=tuple(part for part in (told["analyst_principals"] or "").split(",") if part),
            **values,
        )

    def named(self, what: str) -> str:
        """``crypto-assets-dev-run``: what a role, stack, stream or cluster is called."""
        return f"{PROJECT}-{self.name}-{what}"

    def bucket(self, what: str) -> str:
        """Bucket names are the world's: the account makes ours ours."""
        return f"{self.named(what)}-{self.account}"

    @property
    def env(self) -> cdk.Environment:
        return cdk.Environment(account=self.account, region=self.region)

    @property
    def removal(self) -> cdk.RemovalPolicy:
        return cdk.RemovalPolicy.RETAIN if self.keeps_data else cdk.RemovalPolicy.DESTROY

    @property
    def lake_uri(self) -> str:
        return f"s3://{self.bucket('lake')}/{LAKE_PREFIX}"

    @property
    def catalog_prefix(self) -> str:
        """Of Glue's databases; the application is told it as ``CRYPTO_ASSETS_CATALOG_PREFIX``."""
        return "crypto_" if self.name == "prod" else f"crypto_{self.name}_"

    @property
    def databases(self) -> dict[str, str]:
        """Zone to database."""
        return {zone: self.catalog_prefix + zone for zone in ZONES}

    @property
    def workgroup(self) -> str:
        """People's; the application is told it as ``CRYPTO_ASSETS_ATHENA_WORKGROUP``."""
        return "crypto_assets" if self.name == "prod" else f"crypto_assets_{self.name}"

    @property
    def dashboard_workgroup(self) -> str:
        return f"{self.workgroup}_dashboard"

    @property
    def cluster(self) -> str:
        """The ECS cluster, made by the compute stack."""
        return self.named("cluster")

    def arn(self, service: str, resource: str, *, region: bool = True, account: bool = True) -> str:
        return f"arn:aws:{service}:{self.region if region else ''}:{self.account if account else ''}:{resource}"

    def role_arn(self, component: str) -> str:
        return self.arn("iam", f"role/{self.named(component)}", region=False)


_STAGES: Mapping[str, Mapping[str, Any]] = {
    "dev": {
        "keeps_data": False,
        "query_limit_gb": 20,
        "dashboard_limit_gb": 2,
        "budget_usd": 300,
        "noncurrent_days": 7,
    },
    "prod": {
        "keeps_data": True,
        "query_limit_gb": 100,
        "dashboard_limit_gb": 5,
        "budget_usd": 500,
        # A month: a damage that nobody saw on the day is found by the weekly checks.
        "noncurrent_days": 30,
    },
}
