"""``make deploy`` and ``make destroy``: looks where it is before it changes anything, then lets the CDK do it.

Belongs here: credentials, region, account, bootstrap, and emptying what cannot be deleted full. Does not: resources.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

HERE = Path(__file__).parent
CDK = HERE / "node_modules" / ".bin" / "cdk"
STACKS = ("storage", "catalog", "stream", "access", "watch", "image", "compute", "governance")
_KEEPS_DATA = ("prod",)
# jsii tells at length that a Node is old; which one there is is the developer's choice, and these work.
QUIET = {
    "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION": "18,20",
    "JSII_SILENCE_WARNING_UNTESTED_NODE_VERSION": "1",
}


class Refused(Exception):  # noqa: N818 (it says what happened)
    """Something must be put right first; nothing was changed. One line: what, and what to do."""


@dataclass(frozen=True)
class Place:
    """Where the credentials lead."""

    account: str
    region: str
    caller: str


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="account.py", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("deploy", "destroy", "diff"))
    parser.add_argument("stage", choices=("dev", "prod"))
    parser.add_argument("--account", help="refuse any other; prod asks for it")
    parser.add_argument("--without", action="append", default=[], choices=STACKS, help="leave a stack out")
    parser.add_argument("--yes", action="store_true", help="do not ask before changes of permissions, or deletion")
    parser.add_argument("--app", help="templates that were synthesized before, in place of a synth")
    parser.add_argument("-c", dest="context", action="append", default=[], help="key=value, as cdk takes it")
    told = parser.parse_args(argv)
    try:
        place = look(told.stage, told.account)
        if told.what == "destroy":
            return destroy(told, place)
        return deploy(told, place)
    except Refused as error:
        print(f"error: {error}; nothing was changed", file=sys.stderr)
        return 2


def look(stage: str, account: str | None) -> Place:
    """Who we are and where.

    Raises:
        Refused: there is no region, there are no credentials or they have ended, or it is not the account.
    """
    # boto3 alone, of all SDKs, does not read AWS_REGION.
    if region := os.environ.get("AWS_REGION"):
        os.environ["AWS_DEFAULT_REGION"] = region
    session = boto3.session.Session()
    region = session.region_name
    if not region:
        raise Refused("there is no region: set AWS_REGION")
    try:
        caller = session.client("sts").get_caller_identity()
    except ClientError as error:
        code = error.response["Error"]["Code"]
        raise Refused(f"AWS refuses the credentials ({code}): log in again, or set AWS_PROFILE") from error
    except BotoCoreError as error:
        if "redential" in type(error).__name__ or "Profile" in type(error).__name__ or "Token" in type(error).__name__:
            raise Refused("there are no AWS credentials: log in (aws sso login), or set AWS_PROFILE") from error
        raise Refused(f"AWS cannot be reached in {region} ({type(error).__name__}): check AWS_REGION") from error
    place = Place(caller["Account"], region, caller["Arn"])
    if account is None and stage in _KEEPS_DATA:
        raise Refused(f"{stage} must say where it goes: ARGS='--account {place.account}', if that is the account")
    if account not in {None, place.account}:
        raise Refused(f"the credentials lead to account {place.account}, not to {account}")
    return place


def deploy(told: argparse.Namespace, place: Place) -> int:
    print(f"{told.what} {told.stage}: account {place.account}, {place.region}, as {place.caller}", flush=True)
    if told.what == "deploy" and not _is_bootstrapped():
        print("the account has no CDK toolkit stack in this region: making it", flush=True)
        if code := _cdk(place, "bootstrap", f"aws://{place.account}/{place.region}", *_context(told)):
            return code
    approval = ["--require-approval", "never"] if told.yes and told.what == "deploy" else []
    fail = ["--fail"] if told.what == "diff" else []
    return _cdk(place, told.what, *_names(told), *_context(told), *approval, *fail)


def destroy(told: argparse.Namespace, place: Place) -> int:
    """Empty the stage's buckets, every version, and delete its stacks.

    Raises:
        Refused: the stage keeps its data, or nobody said yes.
    """
    if told.stage in _KEEPS_DATA:
        raise Refused(f"{told.stage} keeps its data: docs/aws.md says how it is taken down by hand")
    buckets = [f"crypto-assets-{told.stage}-{what}-{place.account}" for what in ("lake", "work", "logs")]
    print(f"destroy {told.stage}: account {place.account}, {place.region}: all of {', '.join(buckets)}", flush=True)
    if not told.yes and _answer(f"type {told.stage} to delete it: ") != told.stage:
        raise Refused("nobody said yes")
    # What still runs would write again.
    order = [name for name in reversed(_names(told)) if not name.endswith("-storage")]
    if code := _cdk(place, "destroy", *order, *_context(told), "--force"):
        return code
    for bucket in buckets:
        _empty(bucket)
    return _cdk(place, "destroy", f"crypto-assets-{told.stage}-storage", *_context(told), "--force")


def _answer(question: str) -> str:
    """What a person types; nothing where there is none."""
    try:
        return input(question).strip()
    except EOFError:
        print(flush=True)
        return ""


def _empty(name: str) -> None:
    """Delete every version: the lake's own policy lets nobody put delete markers."""
    try:
        boto3.resource("s3").Bucket(name).object_versions.delete()
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchBucket":
            raise Refused(f"{name} cannot be emptied ({error.response['Error']['Code']})") from error


def _names(told: argparse.Namespace) -> list[str]:
    return [f"crypto-assets-{told.stage}-{stack}" for stack in STACKS if stack not in told.without]


def _context(told: argparse.Namespace) -> list[str]:
    pairs: list[Any] = [("-c", pair) for pair in (f"stage={told.stage}", *told.context)]
    app = ["--app", told.app] if told.app else []
    return [*app, *(part for pair in pairs for part in pair)]


def _is_bootstrapped() -> bool:
    try:
        boto3.client("cloudformation").describe_stacks(StackName="CDKToolkit")
    except ClientError as error:
        if error.response["Error"]["Code"] == "ValidationError":
            return False
        raise Refused(f"CloudFormation refuses ({error.response['Error']['Code']})") from error
    return True


def _cdk(place: Place, *arguments: str) -> int:
    environment = {
        **os.environ,
        "CDK_DEFAULT_ACCOUNT": place.account,
        "CDK_DEFAULT_REGION": place.region,
        "CDK_DISABLE_CLI_TELEMETRY": "true",
        **QUIET,
    }
    return subprocess.run([str(CDK), *arguments, "--no-notices"], cwd=HERE, env=environment, check=False).returncode  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
