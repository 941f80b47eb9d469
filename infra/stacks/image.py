"""The repository of the image that everything runs from; a stack of its own, because it comes before what runs."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_ecr as ecr
from constructs import Construct

from stacks.stage import Stage
from stacks.storage import Storage

# A release a week for half a year: how far one can roll back.
_KEPT = 30


class Image(cdk.Stack):
    """Attributes:
    repository: `make image PUSH=...` fills it.
    """

    def __init__(self, scope: Construct, stage: Stage, storage: Storage) -> None:
        super().__init__(
            scope, stage.named("image"), env=stage.env, description="crypto-assets: the image's repository"
        )
        self.repository = ecr.Repository(
            self,
            "Repository",
            repository_name=stage.named("app"),
            # What was deployed under a tag stays what it was.
            image_tag_mutability=ecr.TagMutability.IMMUTABLE,
            image_scan_on_push=True,
            encryption=ecr.RepositoryEncryption.KMS,
            encryption_key=storage.key,
            lifecycle_rules=[ecr.LifecycleRule(max_image_count=_KEPT, description="old releases")],
            removal_policy=stage.removal,
            empty_on_delete=not stage.keeps_data,
        )
        cdk.CfnOutput(self, "ImageRepository", value=self.repository.repository_uri)
