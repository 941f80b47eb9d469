"""What Athena sees: Glue databases, workgroups with their limits, and the cookbook as named queries.

Databases only: their tables are the application's (``crypto-assets catalog sync``), which knows the contracts.
"""

from __future__ import annotations

from pathlib import Path

import aws_cdk as cdk
from aws_cdk import aws_athena as athena
from aws_cdk import aws_glue as glue
from constructs import Construct

from stacks.stage import Stage
from stacks.storage import Storage

COOKBOOK = Path(__file__).parents[2] / "docs" / "cookbook"
_GB = 1_000_000_000
_ZONES = {
    "raw": "Answers of the providers, as received",
    "trusted": "Typed, exact, deduplicated facts",
    "refined": "What people ask: market, candles, rankings",
    "quality": "Check results, quarantine, gaps",
}


class Catalog(cdk.Stack):
    """Attributes:
    databases: Glue's, by zone.
    """

    def __init__(self, scope: Construct, stage: Stage, storage: Storage) -> None:
        super().__init__(
            scope,
            stage.named("catalog"),
            env=stage.env,
            description="crypto-assets: Glue databases and Athena workgroups",
        )
        self._stage = stage
        self._key_arn = storage.key.key_arn
        self.databases = {zone: self._database(zone) for zone in stage.databases}
        people = self._workgroup("People", stage.workgroup, "people", stage.query_limit_gb)
        self._workgroup("Dashboard", stage.dashboard_workgroup, "dashboard", stage.dashboard_limit_gb)
        for file in sorted(COOKBOOK.glob("*.sql")):
            self._named_query(file, people)

    def _database(self, zone: str) -> glue.CfnDatabase:
        database = glue.CfnDatabase(
            self,
            zone.title(),
            catalog_id=self._stage.account,
            database_input=glue.CfnDatabase.DatabaseInputProperty(
                name=self._stage.databases[zone],
                description=_ZONES[zone],
                location_uri=f"{self._stage.lake_uri}/{zone}",
            ),
        )
        database.apply_removal_policy(self._stage.removal)
        return database

    def _workgroup(self, logical_id: str, name: str, prefix: str, limit_gb: int) -> athena.CfnWorkGroup:
        return athena.CfnWorkGroup(
            self,
            logical_id,
            name=name,
            description=f"At most {limit_gb} GB a query; results below athena/{prefix}/",
            # Results are kept by the bucket's rule; a workgroup with history would refuse to be deleted.
            recursive_delete_option=True,
            work_group_configuration=athena.CfnWorkGroup.WorkGroupConfigurationProperty(
                enforce_work_group_configuration=True,
                publish_cloud_watch_metrics_enabled=True,
                requester_pays_enabled=False,
                bytes_scanned_cutoff_per_query=limit_gb * _GB,
                engine_version=athena.CfnWorkGroup.EngineVersionProperty(
                    selected_engine_version="Athena engine version 3"
                ),
                result_configuration=athena.CfnWorkGroup.ResultConfigurationProperty(
                    output_location=f"s3://{self._stage.bucket('work')}/athena/{prefix}/",
                    expected_bucket_owner=self._stage.account,
                    encryption_configuration=athena.CfnWorkGroup.EncryptionConfigurationProperty(
                        encryption_option="SSE_KMS", kms_key=self._key_arn
                    ),
                ),
            ),
        )

    def _named_query(self, file: Path, workgroup: athena.CfnWorkGroup) -> None:
        """A question of the cookbook; its first comment says what it asks."""
        text = file.read_text(encoding="utf-8")
        first = text.lstrip().splitlines()[0] if text.strip() else ""
        query = athena.CfnNamedQuery(
            self,
            "Query" + file.stem.title().replace("_", "").replace("-", ""),
            name=file.stem,
            description=first.removeprefix("--").strip()[:1024] if first.startswith("--") else file.stem,
            # The cookbook speaks of zones; Glue's databases have the stage's prefix.
            database=self._stage.databases["refined"],
            query_string=named_for(text, self._stage),
            work_group=workgroup.name,
        )
        query.add_resource_dependency(workgroup)


def named_for(sql: str, stage: Stage) -> str:
    """The cookbook's SQL with the stage's databases: ``crypto_refined.x`` is ``crypto_dev_refined.x`` in dev."""
    for zone, database in stage.databases.items():
        sql = sql.replace(f"crypto_{zone}.", f"{database}.")
    return sql
