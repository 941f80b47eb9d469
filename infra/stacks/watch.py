"""Who is told: the one topic that every alarm and the budget go to."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from stacks.stage import Stage
from stacks.storage import Storage


class Watch(cdk.Stack):
    """Attributes:
    alarms: the topic that every alarm goes to.
    """

    def __init__(self, scope: Construct, stage: Stage, storage: Storage) -> None:
        super().__init__(scope, stage.named("watch"), env=stage.env, description="crypto-assets: the topic of alarms")
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
