"""What the synthesized templates say, with their references resolved to the names that AWS would give.

An ARN of a key or a topic holds an id that only AWS knows; here it is the logical id. All else is named by the stage.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ACCOUNT, REGION = "000000000000", "us-east-1"
_PSEUDO = {"AWS::AccountId": ACCOUNT, "AWS::Region": REGION, "AWS::Partition": "aws", "AWS::URLSuffix": "amazonaws.com"}
# Where a Ref is not the resource's name, and what an ARN is made of.
_NAMES = ("BucketName", "RoleName", "ManagedPolicyName", "Name", "TopicName", "ClusterName", "LogGroupName")

_REFS_AS_ARN = {
    "AWS::IAM::ManagedPolicy",
    "AWS::SNS::Topic",
    "AWS::SecretsManager::Secret",
    "AWS::SecretsManager::SecretTargetAttachment",
}


@dataclass(frozen=True)
class Resource:
    """One resource of a stack, its properties resolved."""

    stack: str
    logical_id: str
    type: str
    properties: Mapping[str, Any]
    whole: Mapping[str, Any] = field(repr=False)


class Templates:
    """All templates of one synth.

    Args:
        folder: the cloud assembly.
    """

    def __init__(self, folder: Path) -> None:
        files = sorted(folder.glob("*.template.json"))
        self.raw = {file.name.removesuffix(".template.json"): json.loads(file.read_text()) for file in files}
        self._exports = {
            output["Export"]["Name"]: (stack, output["Value"])
            for stack, template in self.raw.items()
            for output in template.get("Outputs", {}).values()
            if "Export" in output
        }

    def all(self, type_: str | None = None, stack: str | None = None) -> Iterator[Resource]:
        for name, template in self.raw.items():
            if stack is not None and not name.endswith(f"-{stack}"):
                continue
            for logical_id, whole in template.get("Resources", {}).items():
                if type_ in {None, whole["Type"]}:
                    resolved = self.resolved(name, whole.get("Properties", {}))
                    yield Resource(name, logical_id, whole["Type"], resolved, whole)

    def one(self, type_: str, **properties: str) -> Resource:
        """The one resource of the type with these properties."""
        found = [r for r in self.all(type_) if all(r.properties.get(k) == v for k, v in properties.items())]
        assert len(found) == 1, f"{len(found)} of {type_} with {properties}"
        return found[0]

    def resolved(self, stack: str, value: Any) -> Any:
        if isinstance(value, list):
            return [self.resolved(stack, item) for item in value]
        if not isinstance(value, dict):
            return value
        if len(value) != 1:
            return {key: self.resolved(stack, item) for key, item in value.items()}
        ((name, told),) = value.items()
        match name:
            case "Ref":
                return _PSEUDO.get(told) or self._ref(stack, told)
            case "Fn::GetAtt":
                return self._attribute(stack, *told)
            case "Fn::ImportValue":
                return self.resolved(*self._exports[told])
            case "Fn::Join":
                return told[0].join(str(part) for part in self.resolved(stack, told[1]))
            case "Fn::Sub" if isinstance(told, str):
                for pseudo, meant in _PSEUDO.items():
                    told = told.replace("${" + pseudo + "}", meant)
                return told
            case _:
                return {name: self.resolved(stack, told)}

    def _ref(self, stack: str, logical_id: str) -> str:
        resource = self.raw[stack].get("Resources", {}).get(logical_id)
        if resource is None:
            return logical_id
        if resource["Type"] in _REFS_AS_ARN:
            return self._attribute(stack, logical_id, "Arn")
        properties = resource.get("Properties", {})
        named = next((properties[key] for key in _NAMES if isinstance(properties.get(key), str)), logical_id)
        return str(named)

    def _attribute(self, stack: str, logical_id: str, attribute: str) -> str:
        resource = self.raw[stack]["Resources"][logical_id]
        name = logical_id
        if "Properties" in resource:
            named = (resource["Properties"].get(key) for key in _NAMES)
            name = next((n for n in named if isinstance(n, str)), logical_id)
        match resource["Type"], attribute:
            case "AWS::S3::Bucket", "Arn":
                return f"arn:aws:s3:::{name}"
            case "AWS::IAM::Role", "Arn":
                return f"arn:aws:iam::{ACCOUNT}:role/{name}"
            case "AWS::IAM::ManagedPolicy", "Arn":
                return f"arn:aws:iam::{ACCOUNT}:policy/{name}"
            case "AWS::KMS::Key", "Arn":
                return f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{logical_id}"
            case "AWS::SNS::Topic", _:
                return f"arn:aws:sns:{REGION}:{ACCOUNT}:{name}"
            case "AWS::Logs::LogGroup", "Arn":
                return f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{name}:*"
            case (("AWS::SecretsManager::Secret" | "AWS::SecretsManager::SecretTargetAttachment"), _):
                return f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{name}"
            case type_, _:
                service = type_.split("::")[1].lower()
                return f"arn:aws:{service}:{REGION}:{ACCOUNT}:{logical_id}.{attribute}"


@dataclass(frozen=True)
class Policies:
    """Who may do what, by the templates.

    Attributes:
        roles: by component: {"arn", "identity": policies, "boundary": policy or None}.
        resources: the policies of buckets and keys, by ARN.
    """

    roles: Mapping[str, Mapping[str, Any]]
    resources: Mapping[str, Any]

    @classmethod
    def of(cls, templates: Templates) -> Policies:
        managed = {
            templates.resolved(r.stack, {"Ref": r.logical_id}): r.properties["PolicyDocument"]
            for r in templates.all("AWS::IAM::ManagedPolicy")
        }
        roles: dict[str, dict[str, Any]] = {}
        for role in templates.all("AWS::IAM::Role"):
            name = templates.resolved(role.stack, {"Ref": role.logical_id})
            roles[name] = {
                "arn": f"arn:aws:iam::{ACCOUNT}:role/{name}",
                "trust": role.properties["AssumeRolePolicyDocument"],
                "identity": [policy["PolicyDocument"] for policy in role.properties.get("Policies", [])]
                + [managed[arn] for arn in role.properties.get("ManagedPolicyArns", []) if arn in managed],
                "boundary": managed.get(role.properties.get("PermissionsBoundary")),
            }
        for policy in templates.all("AWS::IAM::Policy"):
            for name in policy.properties.get("Roles", []):
                roles[name]["identity"].append(policy.properties["PolicyDocument"])
        resources = {
            f"arn:aws:s3:::{r.properties['Bucket']}": r.properties["PolicyDocument"]
            for r in templates.all("AWS::S3::BucketPolicy")
        }
        for key in templates.all("AWS::KMS::Key"):
            arn = templates.resolved(key.stack, {"Fn::GetAtt": [key.logical_id, "Arn"]})
            resources[arn] = key.properties["KeyPolicy"]
        prefix = next(name for name in roles if name.endswith("-run")).removesuffix("run")
        return cls({name.removeprefix(prefix): role for name, role in roles.items()}, resources)
