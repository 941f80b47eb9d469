"""Accepting a finding of cdk-nag or checkov, next to the resource and with the reason."""

from __future__ import annotations

import aws_cdk as cdk
from constructs import IConstruct


def accept(construct: IConstruct, reason: str, *rules: str) -> None:
    """Accept cdk-nag's rules for this construct and what is below it; ``Rule[Finding]`` accepts one finding only."""
    for rule in rules:
        cdk.Validations.of(construct).acknowledge(cdk.Acknowledgment(id=f"AwsSolutions::{rule}", reason=reason))


def skip(construct: IConstruct, reason: str, *checks: str) -> None:
    """Accept checkov's checks for one resource, in its metadata."""
    resource = construct if isinstance(construct, cdk.CfnResource) else construct.node.default_child
    if not isinstance(resource, cdk.CfnResource):
        raise TypeError(f"{construct.node.path} is no single resource")
    known = (resource.get_metadata("checkov") or {}).get("skip", [])
    resource.add_metadata("checkov", {"skip": known + [{"id": check, "comment": reason} for check in checks]})
