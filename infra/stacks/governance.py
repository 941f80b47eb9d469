"""What an account must have agreed to: who may see which zone's tables (Lake Formation), and what a month may cost.

A stack of its own, last, because it needs an administrator of Lake Formation and a tag that is active for cost
allocation (docs/aws.md, first deploy); all else stands without it.

The buckets' policies and the roles already say who reads which objects. These grants make the catalog say the same, so
that a table that may not be read is not seen either. The lake's location is not registered with Lake Formation: data is
read with a role's own permissions, and a table can be read by engines that know nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import aws_cdk as cdk
from aws_cdk import aws_budgets as budgets
from aws_cdk import aws_lakeformation as lakeformation
from constructs import Construct

from stacks.access import Access
from stacks.catalog import Catalog
from stacks.stage import PROJECT, ZONES, Stage
from stacks.watch import Watch

_SEEN = {
    "dashboard": ("refined", "quality"),
    "analyst": ("trusted", "refined", "quality"),
}


class Governance(cdk.Stack):
    """Lake Formation grants on every zone, and the budget."""

    def __init__(self, scope: Construct, stage: Stage, catalog: Catalog, access: Access, watch: Watch) -> None:
        super().__init__(
            scope, stage.named("governance"), env=stage.env, description="crypto-assets: grants and budget"
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
        self._grant("stream-consume", "raw", ["DESCRIBE", "CREATE_TABLE"], table=False)
        self._grant("stream-consume", "raw", ["DESCRIBE", "ALTER"], table=True)
        self._budget(watch)
        # A grant names a database and a role; it takes neither from its stack.
        self.add_stack_dependency(catalog)
        self.add_stack_dependency(access)

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

    def _budget(self, watch: Watch) -> None:
        told = [
            # What has been spent, while there is still time to stop; and what the month will come to.
            ("ACTUAL", 80),
            ("FORECASTED", 100),
        ]
        budgets.CfnBudget(
            self,
            "Month",
            budget=budgets.CfnBudget.BudgetDataProperty(
                budget_name=self._stage.named("month"),
                budget_type="COST",
                time_unit="MONTHLY",
                budget_limit=budgets.CfnBudget.SpendProperty(amount=self._stage.budget_usd, unit="USD"),
                # Counts nothing until the tag is active for cost allocation: docs/aws.md, first deploy.
                cost_filters={"TagKeyValue": [f"user:project${PROJECT}-{self._stage.name}"]},
            ),
            notifications_with_subscribers=[
                budgets.CfnBudget.NotificationWithSubscribersProperty(
                    notification=budgets.CfnBudget.NotificationProperty(
                        comparison_operator="GREATER_THAN",
                        notification_type=kind,
                        threshold=percent,
                        threshold_type="PERCENTAGE",
                    ),
                    subscribers=[
                        budgets.CfnBudget.SubscriberProperty(subscription_type="SNS", address=watch.alarms.topic_arn)
                    ],
                )
                for kind, percent in told
            ],
        )
