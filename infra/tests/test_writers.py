"""The application under its roles: real writes and vacuums against an S3 that asks the synthesized policies."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from gate import Log, key_of, serve
from judge import Judge
from templates import ACCOUNT, REGION, Policies

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv" / "bin" / "python"
BUCKET = f"crypto-assets-dev-lake-{ACCOUNT}"
Step = Callable[[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def store(judge: Judge, policies: Policies) -> Iterator[tuple[str, Log]]:
    (key,) = (arn for arn in policies.resources if ":kms:" in arn)
    with serve(judge, key) as (url, log):
        boto3.client(
            "s3",
            endpoint_url=url,
            region_name=REGION,
            aws_access_key_id=key_of("admin"),
            aws_secret_access_key="none",
        ).create_bucket(Bucket=BUCKET)
        yield url, log


@pytest.fixture(scope="module")
def step(store: tuple[str, Log]) -> Step:
    """A step of ``writer.py`` under a component's role."""
    url, _ = store

    def run(component: str, name: str) -> dict[str, Any]:
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("AWS_")},
            "PYTHONPATH": str(ROOT),
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": key_of(component),
            "AWS_SECRET_ACCESS_KEY": "none",
            "AWS_REGION": REGION,
        }
        command = [PYTHON, Path(__file__).with_name("writer.py"), name, f"s3://{BUCKET}/lake"]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    return run


@pytest.fixture(scope="module")
def written(step: Step, store: tuple[str, Log]) -> Log:
    """The log of a run that wrote in every way that the lake knows."""
    assert step("run", "write") == {
        "raw.coincap_rates": 22,
        "trusted.fx_rates": 1,
        "refined.dim_exchange": 1,
        "quality.gap_ledger": 1,
    }
    return store[1]


def test_a_run_writes_all_there_is_and_is_refused_nothing(written: Log) -> None:
    assert written.refused == []
    assert "s3:DeleteObject" not in written.actions("run")
    assert {"s3:PutObject", "s3:GetObject", "s3:ListBucket", "kms:GenerateDataKey"} <= written.actions("run")


def test_every_commit_was_conditional(written: Log) -> None:
    assert len(written.commits) > 25
    assert [key for key, is_conditional in written.commits if not is_conditional] == []


def test_a_run_cannot_vacuum_and_maintenance_can(step: Step, store: tuple[str, Log], written: Log) -> None:
    assert step("maintenance", "compact")["raw.coincap_rates"]["compacted"] == 22
    before = step("maintenance", "files")["raw"]
    _, log = store
    log.clear()

    assert "Access" in step("run", "vacuum")["error"]
    assert {action for _, action, _ in log.refused} == {"s3:DeleteObject"}
    assert step("maintenance", "files")["raw"] == before + 1  # the vacuum's own note in the log

    assert step("maintenance", "vacuum") == {"vacuumed": 22}
    # 22 files less, and two notes of the vacuum more.
    assert step("maintenance", "files")["raw"] == before + 1 - 22 + 2
    assert step("run", "read_raw") == {"rows": 22}


def test_a_consumer_writes_what_streams_bring(step: Step, store: tuple[str, Log]) -> None:
    store[1].clear()
    told = step("stream-consume", "consume")
    assert told == dict.fromkeys(("raw.trades", "raw.stream_prices", "raw.stream_events"), 1)
    assert store[1].refused == []


def test_a_consumer_takes_its_share_of_the_shards(step: Step, store: tuple[str, Log]) -> None:
    store[1].clear()
    assert step("stream-consume", "share") == {"shared": ["shard-0", "shard-1"]}
    assert store[1].refused == []


def test_streams_and_schedules_keep_to_their_own_leases(judge: Judge) -> None:
    creates = {"s3:ObjectCreationOperation": "true"}
    owned = {"code": "schedules", "stream-collect": "stream-x", "stream-consume": "consumers-x"}
    for component, own in owned.items():
        for name in owned.values():
            place = f"arn:aws:s3:::{BUCKET}/lake/_lease/{name}.json"
            assert judge.allows(component, "s3:PutObject", place, creates) == (name == own), (component, name)


def test_schedules_hold_their_lease_from_the_code_location(step: Step, store: tuple[str, Log]) -> None:
    store[1].clear()
    assert step("code", "hold") == {"counter": 1}
    assert store[1].refused == []


@pytest.mark.parametrize("component", ["dashboard", "analyst", "stream-consume"])
def test_who_may_not_read_raw_is_told_so_in_one_line(step: Step, written: Log, component: str) -> None:
    told = step(component, "read_raw")["error"]
    assert told.startswith("NeedsYouError: raw.coincap_rates: the store denies access")
    assert "\n" not in told


def test_the_dashboard_reads_refined(step: Step, written: Log) -> None:
    assert step("dashboard", "read_refined") == {"rows": 1}
