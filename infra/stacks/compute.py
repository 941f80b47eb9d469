"""What runs: Dagster's webserver, daemon and code location on Fargate, the runs, the streams' services, Postgres."""

from __future__ import annotations

import aws_cdk as cdk
from constructs import Construct

from stacks.access import Access
from stacks.stage import Stage
from stacks.storage import Storage
from stacks.stream import Stream
from stacks.watch import Watch


class Compute(cdk.Stack):
    def __init__(
        self, scope: Construct, stage: Stage, *, storage: Storage, stream: Stream, access: Access, watch: Watch
    ) -> None:
        super().__init__(
            scope, stage.named("compute"), env=stage.env, description="crypto-assets: what runs, and its alarms"
        )
