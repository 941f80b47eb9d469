"""A whole life on an emulated AWS (MiniStack on loopback): bootstrap, deploy, look, diff, destroy, nothing left.

MiniStack does not know every type: ``UNKNOWN`` is taken out of a copy of the templates, and with it governance,
which has no other. What it takes and does not act upon: bucket policies, conditions, encryption, boundaries, alarms;
containers are noted and not started. The other tests judge these.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from templates import ACCOUNT, REGION, Templates

BIN = Path(sys.executable).parent
UNKNOWN = {"AWS::Athena::NamedQuery", "AWS::LakeFormation::PrincipalPermissions", "AWS::Budgets::Budget"}
LEFT_OUT = ("governance",)
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An emulated AWS, as the environment that leads there."""
    folder, port = tmp_path_factory.mktemp("aws"), free_port()
    settings = {
        # It would listen on all addresses otherwise.
        "BIND_HOST": "127.0.0.1",
        "MINISTACK_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "IOT_MTLS_ENABLED": "0",
        "PERSIST_STATE": "0",
    }
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        # The CDK's own client asks for S3 by this one only.
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_REGION": REGION,
    }
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [BIN / "ministack"], cwd=folder, env={**os.environ, **settings}, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            for _ in range(120):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.5)
            yield environment
        finally:
            server.terminate()
            server.wait(20)


@pytest.fixture(scope="module")
def client(aws: dict[str, str]) -> Callable[[str], Any]:
    session = boto3.session.Session("test", "none", region_name=REGION)
    return lambda service: session.client(service, endpoint_url=aws["AWS_ENDPOINT_URL"])


@pytest.fixture(scope="module")
def known(assemblies: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """dev's templates without what MiniStack does not know."""
    folder = shutil.copytree(assemblies["dev"], tmp_path_factory.mktemp("known") / "dev")
    for file in folder.glob("*.template.json"):
        template = json.loads(file.read_text())
        template["Resources"] = {k: r for k, r in template["Resources"].items() if r["Type"] not in UNKNOWN}
        file.write_text(json.dumps(template))
    return Path(folder)


def test_a_whole_life(run: Run, aws: dict[str, str], client: Callable[[str], Any], known: Path) -> None:
    dev = Templates(known)

    def account(what: str, *words: str) -> subprocess.CompletedProcess[str]:
        left_out = [word for stack in LEFT_OUT for word in ("--without", stack)]
        synthesized = ["--app", str(known)]
        return run(sys.executable, "account.py", what, "dev", *synthesized, *left_out, *words, **aws)

    def stacks() -> dict[str, str]:
        told = client("cloudformation").describe_stacks()["Stacks"]
        return {s["StackName"]: s["StackStatus"] for s in told if s["StackStatus"] != "DELETE_COMPLETE"}

    expected = {name for name in dev.raw if name.rpartition("-")[2] not in LEFT_OUT}

    # The wrong account is refused before anything is made.
    done = account("deploy", "--account", "111111111111")
    assert done.returncode == 2
    assert f"the credentials lead to account {ACCOUNT}, not to 111111111111" in done.stderr
    assert stacks() == {}

    done = account("deploy", "--yes", "--account", ACCOUNT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"deploy dev: account {ACCOUNT}, {REGION}, as arn:aws:")
    assert stacks() == dict.fromkeys((*expected, "CDKToolkit"), "CREATE_COMPLETE")
    for name in expected:
        made = {
            r["LogicalResourceId"]: r["ResourceStatus"]
            for r in client("cloudformation").describe_stack_resources(StackName=name)["StackResources"]
        }
        wanted = dev.raw[name]["Resources"]
        # A condition (of CDK's own usage metadata) may leave one out.
        assert made.keys() >= {key for key, r in wanted.items() if "Condition" not in r}, name
        assert set(made.values()) == {"CREATE_COMPLETE"}, name

    # What is there is what was meant.
    lake = f"crypto-assets-dev-lake-{ACCOUNT}"
    s3, glue = client("s3"), client("glue")
    assert s3.get_bucket_versioning(Bucket=lake)["Status"] == "Enabled"
    assert "OnlyMaintenanceDeletes" in s3.get_bucket_policy(Bucket=lake)["Policy"]
    databases = {d["Name"] for d in glue.get_databases()["DatabaseList"]}
    assert {f"crypto_dev_{zone}" for zone in ("raw", "trusted", "refined", "quality")} <= databases
    workgroup = client("athena").get_work_group(WorkGroup="crypto_assets_dev")["WorkGroup"]["Configuration"]
    assert workgroup["BytesScannedCutoffPerQuery"] == 20_000_000_000
    assert client("kinesis").describe_stream(StreamName="crypto-assets-dev-trades")["StreamDescription"]
    secrets = {s["Name"] for s in client("secretsmanager").list_secrets()["SecretList"]}
    assert "crypto-assets-dev-providers/COINCAP_API_KEY" in secrets

    done = account("diff")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("There were no differences") + done.stdout.count("There were no differences") == len(
        expected
    )

    # Prod says no; dev takes its data with it, also what lies there in several versions.
    done = run(sys.executable, "account.py", "destroy", "prod", "--account", ACCOUNT, "--yes", **aws)
    assert done.returncode == 2
    assert "prod keeps its data" in done.stderr
    for _ in range(2):
        s3.put_object(Bucket=lake, Key="lake/raw/t/part-0.parquet", Body=b"rows")
    done = account("destroy", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert stacks().keys() == {"CDKToolkit"}
    assert lake not in {b["Name"] for b in s3.list_buckets()["Buckets"]}
    assert not [d for d in glue.get_databases()["DatabaseList"] if d["Name"].startswith("crypto_")]
    roles = client("iam").list_roles()["Roles"]
    assert not [r for r in roles if r["RoleName"].startswith("crypto-assets-")]
    assert client("kinesis").list_streams()["StreamNames"] == []
