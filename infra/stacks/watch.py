"""Who is told, and of the cost: the topic of all alarms and the month's budget."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_budgets as budgets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from stacks.stage import PROJECT, Stage
from stacks.storage import Storage


class Watch(cdk.Stack):
    """Attributes:
    alarms: the topic that every alarm goes to.
    """

    def __init__(self, scope: Construct, stage: Stage, storage: Storage) -> None:
        super().__init__(
            scope, stage.named("watch"), env=stage.env, description="crypto-assets: alarm topic and budget"
        )
        self.alarms = sns.Topic(
            self, "Alarms", topic_name=stage.named("alarms"), master_key=storage.key, enforce_ssl=True
        )
        for service in ("cloudwatch", "budgets"):
            self.alarms.add_to_resource_policy(
                iam.PolicyStatement(
                    sid=f"From{service.title()}",
                    principals=[iam.ServicePrincipal(f"{service}.amazonaws.com")],
                    actions=["sns:Publish"],
                    resources=[self.alarms.topic_arn],
                    conditions={"StringEquals": {"aws:SourceAccount": stage.account}},
                )
            )
        if stage.alarm_email:
            self.alarms.add_subscription(subscriptions.EmailSubscription(stage.alarm_email))
        self._budget(stage)

    def _budget(self, stage: Stage) -> None:
        told = [
            # What has been spent, while there is still time to stop; and what the month will come to.
            ("ACTUAL", 80),
            ("FORECASTED", 100),
        ]
        budgets.CfnBudget(
            self,
            "Month",
            budget=budgets.CfnBudget.BudgetDataProperty(
                budget_name=stage.named("month"),
                budget_type="COST",
                time_unit="MONTHLY",
                budget_limit=budgets.CfnBudget.SpendProperty(amount=stage.budget_usd, unit="USD"),
                # Counts nothing until the tag is active for cost allocation: docs/aws.md, first deploy.
                cost_filters={"TagKeyValue": [f"user:project${PROJECT}-{stage.name}"]},
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
                        budgets.CfnBudget.SubscriberProperty(
                            subscription_type="SNS", address=self.alarms.topic_arn
                        )
                    ],
                )
                for kind, percent in told
            ],
        )
