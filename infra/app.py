"""The CDK app: all stacks of one stage, read first.

``make synth STAGE=dev`` writes the templates to ``infra/cdk.out``; ``account.py`` deploys them.
A policy pack (cdk-nag's AWS Solutions) judges every synth: a finding that nobody accepted fails it.
"""

from __future__ import annotations

import sys

import aws_cdk as cdk
from cdk_nag import AwsSolutionsChecks

from stacks.access import Access
from stacks.catalog import Catalog
from stacks.compute import Compute
from stacks.governance import Governance
from stacks.image import Image
from stacks.stage import PROJECT, Stage
from stacks.storage import Storage
from stacks.stream import Stream
from stacks.watch import Watch

# What the CDK does by default for new apps only, when its own command started them.
_FLAGS = {
    "@aws-cdk/aws-iam:minimizePolicies": True,
    "@aws-cdk/aws-s3:serverAccessLogsUseBucketPolicy": True,
    "@aws-cdk/core:checkSecretUsage": True,
    "@aws-cdk/core:target-partitions": ["aws"],
    "@aws-cdk/core:validateAgainstDefaultRules": True,
}


def build(outdir: str | None = None, **context: str) -> cdk.App:
    """The app of one stage; ``context`` stands for ``-c key=value``."""
    app = cdk.App(context={**_FLAGS, **context}, outdir=outdir, analytics_reporting=False)
    stage = Stage.of(app)
    storage = Storage(app, stage)
    catalog = Catalog(app, stage, storage)
    stream = Stream(app, stage, storage)
    access = Access(app, stage, storage)
    watch = Watch(app, stage, storage)
    Governance(app, stage, catalog, access, watch)
    image = Image(app, stage, storage)
    Compute(app, stage, storage=storage, stream=stream, access=access, watch=watch, image=image)
    # The budget counts by this tag.
    cdk.Tags.of(app).add("project", f"{PROJECT}-{stage.name}")
    cdk.Tags.of(app).add("stage", stage.name)
    cdk.Tags.of(app).add("managed-by", "cdk")
    cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    return app


if __name__ == "__main__":
    try:
        build().synth()
    except ValueError as error:
        sys.exit(f"error: {error}")
