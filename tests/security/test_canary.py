"""A key goes through every path at debug level and is searched for in everything that was left behind.

Row 12 of the fault matrix, for whole runs under Dagster with its SQLite storage, and for what the webserver tells.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import polars as pl
import pytest

from crypto_assets.resources.lake import Lake
from crypto_assets.tables import raw, trusted
from tests.security.canary import MISUSES
from tests.security.search import found_in

REPOSITORY = Path(__file__).parents[2]
KEY = "CANARY/Key+4b1d8e02-f95c-47a3"
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300), pytest.mark.xdist_group("canary")]


def environment(home: Path) -> dict[str, str]:
    ours = ("CRYPTO_ASSETS_", "AWS_", "COINCAP_", "ALPHAVANTAGE_", "DAGSTER_")
    told = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    told.pop("PYTHONDONTWRITEBYTECODE", None)
    keys = {"COINCAP_API_KEY": KEY, "ALPHAVANTAGE_API_KEY": KEY}
    return {**told, "DAGSTER_HOME": str(home / "dagster_home"), **keys}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the key was used, misused and printed."""
    home = tmp_path_factory.mktemp("canary")
    (home / "dagster_home").mkdir()
    told = (REPOSITORY / "dagster.yaml").read_text()
    assert "python_log_level: INFO" in told
    (home / "dagster_home" / "dagster.yaml").write_text(told.replace("log_level: INFO", "log_level: DEBUG"))
    command = [sys.executable, "-W", "error::ResourceWarning", "-m", "tests.security.canary", str(home)]
    with (home / "stdout.txt").open("wb") as out, (home / "stderr.txt").open("wb") as err:
        subprocess.run(command, cwd=REPOSITORY, env=environment(home), stdout=out, stderr=err, check=True, timeout=240)
    # What the hostile provider heard is not ours.
    (home / "seen.bin").rename(home.parent / "seen.bin")
    return home


def test_the_key_was_used_and_misused(home: Path) -> None:
    assert (home.parent / "seen.bin").read_bytes().count(f"Bearer {KEY}".encode()) >= len(MISUSES)
    said = (home / "stdout.txt").read_text()
    assert "keyed run: True" in said
    landed = {"in a record", "poisoned", "drifted"}
    assert {name for name in MISUSES if f"{name}: landed" in said} == landed
    lake = Lake(str(home / "misused" / "lake"))
    bodies = lake.read(raw.RawCoincapAssets)["body"]
    assert sum(b"[redacted]" in body for body in bodies) >= 6
    assert "key in the query: True" in said
    assert "key repeated: False" in said
    repeated = Lake(str(home / "repeated")).read(raw.RawAlphaVantageRates).filter(outcome="quota_exhausted")
    assert b"We have detected your API key as [redacted] and" in repeated["body"].item()
    assert Lake(str(home / "lake")).read(trusted.AssetSnapshots).height == 20
    assert "DEBUG:" in (home / "debug.log").read_text()
    assert "GET localhost/v3/assets: denied, attempt 1" in (home / "stderr.txt").read_text()


@pytest.mark.fault(row=12, fault="the body repeats the key", promise="the key is in no table, file or error")
def test_the_key_is_nowhere(home: Path) -> None:
    assert found_in(home, KEY) == []


def test_the_search_finds_what_is_hidden(tmp_path: Path) -> None:
    """A search that finds nothing proves something only where it would have found it."""
    hidden = {
        "plain.txt": f"x{KEY}x".encode(),
        "url.log": quote(KEY, safe="").encode(),
        "pair.txt": base64.b64encode(f"user:{KEY}".encode()),
        "hex.txt": KEY.encode().hex().encode(),
        "json.txt": json.dumps({"k": KEY}).encode(),
    }
    for name, data in hidden.items():
        (tmp_path / name).write_bytes(data)
    pl.DataFrame({"body": [b"{}", f'{{"k":"{KEY}"}}'.encode()] * 50}).write_parquet(tmp_path / "t.parquet")
    with sqlite3.connect(tmp_path / "s.sqlite") as db:
        db.execute("create table t (v text)")
        db.execute("insert into t values (?)", (f"token={KEY}",))
    db.close()
    files = {Path(name.split(" (")[0]).name for name in found_in(tmp_path, KEY)}
    assert files == {*hidden, "t.parquet", "s.sqlite"}


# ---- the webserver over the same storage ----


@dataclass
class Web:
    url: str
    log: Path

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        told = httpx.post(f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=60).json()
        assert "errors" not in told, told["errors"]
        data: dict[str, Any] = told["data"]
        return data


@pytest.fixture(scope="module")
def web(home: Path) -> Iterator[Web]:
    """Dagster's webserver, read-only, over what the runs left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "dagster-webserver"), "--read-only", "-h", "127.0.0.1"]
    command += ["-p", str(port), "-w", str(REPOSITORY / "workspace.yaml")]
    told = {"CRYPTO_ASSETS_LAKE_URI": str(home / "lake"), "CRYPTO_ASSETS_STATE_DIR": str(home / "state")}
    log = home / "web.log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            command, cwd=REPOSITORY, env={**environment(home), **told}, stdout=out, stderr=subprocess.STDOUT
        )
        try:
            deadline = time.monotonic() + 120
            while True:
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                try:
                    httpx.get(f"http://127.0.0.1:{port}/server_info", timeout=5)
                    break
                except httpx.TransportError:
                    time.sleep(0.3)
            yield Web(f"http://127.0.0.1:{port}", log)
        finally:
            server.terminate()
            server.wait(30)


SELECTOR = """{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }"""
RESOURCES = """query($s: RepositorySelector!) { allTopLevelResourceDetailsOrError(repositorySelector: $s) {
  ... on ResourceDetailsList { results { name description resourceType
    configFields { name configTypeKey defaultValueAsJson } configuredValues { key value type } } } } }"""
RUNS = """{ runsOrError { ... on Runs { results { runId status runConfigYaml tags { key value }
  eventConnection(limit: 1000) { events { __typename ... on MessageEvent { message }
    ... on ErrorEvent { error { message stack causes: cause { message stack } } }
    ... on ExecutionStepFailureEvent { failureMetadata { metadataEntries { label } } } } } } } } }"""


@pytest.mark.fault(row=12, fault="the body repeats the key", promise="the key is in no table, file or error")
def test_the_webserver_tells_resources_runs_and_events_without_the_key(web: Web, home: Path) -> None:
    (node,) = web.ask(SELECTOR)["repositoriesOrError"]["nodes"]
    selector = {"repositoryName": node["name"], "repositoryLocationName": node["location"]["name"]}
    resources = json.dumps(web.ask(RESOURCES, s=selector))
    assert '"COINCAP_API_KEY"' in resources
    assert '"ALPHAVANTAGE_API_KEY"' in resources
    runs = web.ask(RUNS)
    told = json.dumps(runs)
    assert len(runs["runsOrError"]["results"]) == 4 + len(MISUSES)
    assert "check COINCAP_API_KEY" in told
    assert "ended denied" in told
    answers = home / "graphql"
    answers.mkdir()
    (answers / "resources.json").write_text(resources)
    (answers / "runs.json").write_text(told)
    assert found_in(answers, KEY) == []
    assert found_in(home / "dagster_home", KEY) == []
    assert KEY not in web.log.read_text()


MUTATIONS = [
    "mutation { reloadWorkspace { __typename } }",
    'mutation { terminateRun(runId: "x") { __typename } }',
    'mutation { deletePipelineRun(runId: "x") { __typename } }',
    """mutation { launchPartitionBackfill(backfillParams: {partitionNames: ["2026-10-01"],
         assetSelection: [{path: ["trusted", "fx_rates"]}]}) { __typename } }""",
    'mutation { wipeAssets(assetPartitionRanges: [{assetKey: {path: ["trusted", "fx_rates"]}}]) { __typename } }',
]


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.fault(row=104, fault="a change asked of a read-only webserver", promise="refused")
def test_a_read_only_webserver_refuses_every_mutation(web: Web, mutation: str) -> None:
    told = httpx.post(f"{web.url}/graphql", json={"query": mutation}, timeout=60).json()
    assert [result["__typename"] for result in told["data"].values()] == ["UnauthorizedError"]


def test_a_read_only_webserver_changes_no_pool(web: Web) -> None:
    limits = "{ instance { concurrencyLimits { concurrencyKey limit } } }"
    before = web.ask(limits)
    change = 'mutation { setConcurrencyLimit(concurrencyKey: "coincap", limit: 100) }'
    told = httpx.post(f"{web.url}/graphql", json={"query": change}, timeout=60).json()
    assert "Unauthorized" in told["errors"][0]["message"], told
    assert web.ask(limits) == before


def test_another_sites_form_is_refused(web: Web) -> None:
    """What a browser sends across origins without asking first is a plain form, and is no query here."""
    told = httpx.post(
        f"{web.url}/graphql", content=json.dumps({"query": "{version}"}), headers={"Content-Type": "text/plain"}
    )
    assert told.status_code >= 400
