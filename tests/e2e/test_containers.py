"""The containers' own commands, without containers: each service on a loopback address of its own, under its own ports.

What runs, with which variables, and what tells whether it is well, is read from compose.yaml by Compose itself; the
instance is put together by the Dockerfile's own line. Postgres is Debian's.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import httpx
import polars as pl
import pytest

from crypto_assets.commands.up import spawned
from crypto_assets.resources.lake import Lake
from crypto_assets.sandbox import Market, serve
from crypto_assets.tables import raw, trusted

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
# RDS makes passwords of such characters.
VALUES = {"POSTGRES_PASSWORD": "pg%41:#?+&=~secret", "S3_ACCESS_KEY": "s3-key", "S3_SECRET_KEY": "s3-secret-s3-secret"}
pytestmark = [pytest.mark.e2e, pytest.mark.s3, pytest.mark.timeout(300), pytest.mark.xdist_group("dagster")]


@dataclass(frozen=True)
class Installation:
    """compose.yaml on loopback: a service's name is an address, and the image's folders are below ``root``."""

    root: Path
    services: dict[str, dict[str, Any]]
    hosts: dict[str, str]

    def here(self, service: str, text: str) -> str:
        """A word of the service's definition, as it reads where there are no containers."""
        text = re.sub(r"\b(0\.0\.0\.0|127\.0\.0\.1)\b", self.hosts[service], text)
        text = re.sub(r"^(/opt/dagster|/state)", lambda found: f"{self.root}{found[0]}", text)
        text = re.sub(r"(?<==)/state$", f"{self.root}/state", text)
        for name, host in self.hosts.items():
            text = re.sub(rf"(^|-ip=|//){name}(?=$|:\d)", rf"\g<1>{host}", text)
        return text

    def command(self, service: str, words: list[str]) -> list[str]:
        first, *rest = (self.here(service, word) for word in words)
        return [str(BIN / first) if (BIN / first).exists() else first, *rest]

    def environment(self, service: str) -> dict[str, str]:
        told = self.services[service]["environment"]
        return {name: self.here(service, value) for name, value in told.items()}

    def is_well(self, service: str) -> bool:
        """What the service's health check says."""
        check = self.command(service, self.services[service]["healthcheck"]["test"][1:])
        if "grpc-health-check" in check:
            check += ["-h", self.hosts[service]]
        environment = {**clean(), **self.environment(service)}
        return subprocess.run(check, env=environment, capture_output=True, check=False).returncode == 0

    def ask(self, query: str, **variables: Any) -> Any:
        url = f"http://{self.hosts['webserver']}:3000/graphql"
        answer = httpx.post(url, json={"query": query, "variables": variables}, timeout=60).json()
        assert "errors" not in answer, answer["errors"]
        return answer["data"]


def clean() -> dict[str, str]:
    """The environment of a container: nothing of ours but the path."""
    return {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "HOME": os.environ["HOME"], "PYTHONUNBUFFERED": "1"}


def until(what: Callable[[], Any], seconds: float, log: Path) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
        time.sleep(0.5)
    return found


@contextmanager
def postgres(host: str) -> Iterator[None]:
    """Debian's server on the address, with the user and database that the image makes of its variables."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("Postgres is not installed: apt-get install postgresql")
    # It refuses to run as root, and pytest's own folders let nobody else in.
    user = "postgres" if os.geteuid() == 0 else getpass.getuser()
    with tempfile.TemporaryDirectory() as folder:
        shutil.chown(folder, user)
        data, secret = Path(folder) / "data", Path(folder) / "password"
        secret.write_text(VALUES["POSTGRES_PASSWORD"])
        shutil.chown(secret, user)

        def run(*words: str, environment: dict[str, str] | None = None) -> None:
            command = [str(found[-1] / words[0]), *words[1:]]
            with (Path(folder) / "said").open("w+") as said:
                code = subprocess.run(
                    command, user=user, cwd=folder, env=environment, stdout=said, stderr=said, check=False
                ).returncode
                said.seek(0)
                assert code == 0, said.read()

        run("initdb", "-D", str(data), "-U", "dagster", "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync")
        options = f"-c listen_addresses={host} -c unix_socket_directories={folder} -c fsync=off"
        run("pg_ctl", "start", "-w", "-D", str(data), "-l", str(data / "log"), "-o", options)
        try:
            run("createdb", "-h", host, "-U", "dagster", "dagster", environment={"PGPASSWORD": secret.read_text()})
            yield
        finally:
            run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", str(data))


def put_instance_together(root: Path) -> None:
    """/opt/dagster, as the Dockerfile makes it."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    (line,) = [line for line in text.splitlines() if "/opt/dagster/ecs/dagster.yaml" in line]
    steps = line.split("&&", 2)[2].replace("/opt/", f"{root}/opt/")
    subprocess.run(["/bin/sh", "-ec", steps], cwd=ROOT, check=True)


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    """Everything that `docker compose up` starts, well, and with a simulated market for the internet."""
    if not (BIN / "weed").exists():
        pytest.skip("SeaweedFS is not installed: make test installs it")
    told = subprocess.run(
        [str(BIN / "docker-compose"), "config", "--format", "json"],
        cwd=ROOT,
        env={**clean(), **VALUES},
        capture_output=True,
        check=True,
    )
    services = json.loads(told.stdout)["services"]
    # Each service has its own address and the ports that it has in its container.
    net = f"127.{1 + os.getpid() % 250}.{os.getpid() // 250 % 250}"
    hosts = {name: f"{net}.{i}" for i, name in enumerate(sorted(services), start=2)}
    put_instance_together(tmp_path)
    (tmp_path / "state").mkdir()
    found = Installation(tmp_path, services, hosts)
    with ExitStack() as stack:
        market = stack.enter_context(serve(Market(seed=7, n_assets=40)))
        own = {
            "CRYPTO_ASSETS_STATE_DIR": str(tmp_path / "state"),
            "CRYPTO_ASSETS_PROVIDERS": "coincap",
            "CRYPTO_ASSETS_COINCAP_BASE_URL": market.v3,
            "CRYPTO_ASSETS_COINCAP_CALLS_PER_MINUTE": "100000",
            "GOMEMLIMIT": "400MiB",
            "GOGC": "50",
        }
        stack.enter_context(postgres(hosts["postgres"]))
        for name in ("s3", "code", "webserver", "daemon"):
            command = found.command(name, services[name]["command"])
            environment = {**own, **found.environment(name)}
            child = stack.enter_context(spawned(name, command, environment, tmp_path / "logs"))
            if name == "s3":
                url = f"http://{hosts['s3']}:8333/healthz"
                until(lambda url=url: answers(url), 60, child.log)
            elif name == "code":
                until(lambda: found.is_well("code"), 60, child.log)
        for name in ("webserver", "daemon"):
            until(lambda name=name: found.is_well(name), 60, tmp_path / "logs" / f"{name}.log")
        yield found


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def test_a_run_goes_through_the_containers_commands_to_the_end(installation: Installation) -> None:
    before = files(installation.root / "opt")
    today = str(datetime.now(UTC).date())
    tables = (raw.RawCoincapAssets, trusted.AssetSnapshots)
    told = installation.ask(
        """mutation($run: ExecutionParams!) { launchRun(executionParams: $run) {
             __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }""",
        run={
            "selector": {
                "repositoryLocationName": "crypto_assets",
                "repositoryName": "__repository__",
                "jobName": "refresh",
                "assetSelection": [{"path": list(table.table.path)} for table in tables],
                "assetCheckSelection": [],
            },
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": today}]},
        },
    )["launchRun"]
    assert told["__typename"] == "LaunchRunSuccess", told
    run_id = told["run"]["runId"]

    def ended() -> str | None:
        query = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
        status = installation.ask(query, id=run_id)["runOrError"]["status"]
        return status if status in {"SUCCESS", "FAILURE", "CANCELED"} else None

    code_log = installation.root / "logs" / "code.log"
    assert until(ended, 90, code_log) == "SUCCESS", code_log.read_text()[-3000:]

    environment = installation.environment("code")
    options = {name: value for name, value in environment.items() if name.startswith("AWS_")}
    lake = Lake(environment["CRYPTO_ASSETS_LAKE_URI"], storage_options=options)
    for table in tables:
        assert lake.scan(table).select(pl.len()).collect().item() > 0, table
    store = boto3.client(
        "s3",
        endpoint_url=options["AWS_ENDPOINT_URL"],
        region_name=options["AWS_REGION"],
        aws_access_key_id=VALUES["S3_ACCESS_KEY"],
        aws_secret_access_key=VALUES["S3_SECRET_KEY"],
    )
    logs = store.list_objects_v2(Bucket="logs", Prefix=f"dagster/storage/{run_id}/")
    store.close()
    assert logs["KeyCount"] > 0
    # The image's own folders are read only: with this, nobody misses writing to them.
    assert files(installation.root / "opt") == before
    # The store is not open to whoever reaches it.
    assert httpx.get(f"{options['AWS_ENDPOINT_URL']}/lake").status_code == 403


def files(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
