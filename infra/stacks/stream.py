"""The stream of trades between collectors and consumers; their services are the compute stack's."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_kinesis as kinesis
from constructs import Construct

from stacks.nag import accept
from stacks.stage import Stage
from stacks.storage import Storage


class Stream(cdk.Stack):
    """Attributes:
    trades: what ``crypto-assets stream collect --to kinesis://NAME`` writes and ``stream consume`` reads.
    """

    def __init__(self, scope: Construct, stage: Stage, storage: Storage) -> None:
        super().__init__(
            scope, stage.named("stream"), env=stage.env, description="crypto-assets: the stream of live trades"
        )
        self.trades = kinesis.Stream(
            self,
            "Trades",
            stream_name=stage.named("trades"),
            # On demand: a quiet market costs little, and a burst needs nobody to add shards.
            stream_mode=kinesis.StreamMode.ON_DEMAND,
            encryption=kinesis.StreamEncryption.KMS,
            encryption_key=storage.key,
            # A consumer that is down for a weekend loses nothing.
            retention_period=cdk.Duration.hours(72),
            # Trades are kept in the lake; a stream holds what is on its way.
            removal_policy=cdk.RemovalPolicy.DESTROY,
        )
        accept(self.trades, "The stage's own key: who may read trades is said in one place.", "AwsSolutions-KDS3")
        cdk.CfnOutput(self, "TradesStream", value=f"kinesis://{stage.named('trades')}")
