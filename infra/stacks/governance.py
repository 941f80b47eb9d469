"""Lake Formation: who may see which zone's tables, said once more where Glue is asked.

The buckets' policies and the roles already say who reads which objects. These grants make the catalog say the same, so
that a table that may not be read is not seen either. The lake's location is not registered with Lake Formation: data is
read with a role's own permissions, and a table can be read by engines that know nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import aws_cdk as cdk
from aws_cdk import aws_lakeformation as lakeformation
from constructs import Construct

from stacks.catalog import Catalog
from stacks.stage import ZONES, Stage

_SEEN = {
    "dashboard": ("refined", "quality"),
    "analyst": ("trusted", "refined", "quality"),
}


class Governance(cdk.Stack):
    """Grants on the catalog's databases. Whoever deploys must be an administrator of Lake Formation."""

    def __init__(self, scope: Construct, stage: Stage, catalog: Catalog) -> None:
        super().__init__(
            scope, stage.named("governance"), env=stage.env, description="crypto-assets: Lake Formation grants"
        )
        self._stage = stage
        for zone in ZONES:
            for component in ("run", "maintenance"):
                self._grant(component, zone, ["DESCRIBE", "CREATE_TABLE"], table=False)
                drops = ["DROP"] if component == "maintenance" else []
                self._grant(component, zone, ["DESCRIBE", "SELECT", "ALTER", *drops], table=True)
        for component, zones in _SEEN.items():
            for zone in zones:
                self._grant(component, zone, ["DESCRIBE"], table=False)
                self._grant(component, zone, ["DESCRIBE", "SELECT"], table=True)
        self.add_dependency(catalog)

    def _grant(self, component: str, zone: str, permissions: Sequence[str], *, table: bool) -> None:
        account, database = self._stage.account, self._stage.databases[zone]
        resource = lakeformation.CfnPrincipalPermissions.ResourceProperty
        on = (
            resource(
                table=lakeformation.CfnPrincipalPermissions.TableResourceProperty(
                    catalog_id=account, database_name=database, table_wildcard={}
                )
            )
            if table
            else resource(
                database=lakeformation.CfnPrincipalPermissions.DatabaseResourceProperty(
                    catalog_id=account, name=database
                )
            )
        )
        lakeformation.CfnPrincipalPermissions(
            self,
            f"{component.title().replace('-', '')}{zone.title()}{'Tables' if table else ''}",
            principal=lakeformation.CfnPrincipalPermissions.DataLakePrincipalProperty(
                data_lake_principal_identifier=self._stage.role_arn(component)
            ),
            resource=on,
            permissions=list(permissions),
            permissions_with_grant_option=[],
        )
