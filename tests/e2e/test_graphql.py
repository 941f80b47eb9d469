"""Dagster as people use it: the webserver, its daemon, and a backfill of thirty days launched through GraphQL."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from crypto_assets.resources.lake import Lake
from crypto_assets.sandbox import Fault
from crypto_assets.tables import refined, trusted
from crypto_assets.tables.contract import fields
from tests.chain import DERIVED, at, chain
from tests.faults.seaweed import BUCKET, seaweed

REPOSITORY = Path(__file__).parents[2]
FIRST = date(2026, 10, 1)
# A bucket is there for the way, not for the amount.
N_DAYS = {"directory": 30, "s3": 3}
DAYS = {place: [FIRST + timedelta(days=i) for i in range(n)] for place, n in N_DAYS.items()}
# The day whose answers lack a field.
BAD_DAY = {"directory": date(2026, 10, 15), "s3": date(2026, 10, 2)}
# What Dagster keeps and shows of itself is the same wherever the lake is.
ONCE = pytest.mark.parametrize("dagster", ["directory"], indirect=True, scope="module")
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.xdist_group("dagster")]


@dataclass
class Dagster:
    url: str
    lake: Lake
    days: list[date]
    bad_day: date

    def ask(self, query: str, **variables: Any) -> Any:
        answer = httpx.post(f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=60).json()
        assert "errors" not in answer, answer["errors"]
        return answer["data"]


@contextmanager
def process(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
        try:
            yield child
        finally:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


def wait_for(what: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if found := what():
                return found
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.5)


@contextmanager
def lake_in(place: str, home: Path) -> Iterator[Lake]:
    """An empty lake in the directory, or on an S3 server with its data in the directory."""
    if place == "directory":
        yield Lake(str(home / "lake"))
        return
    with seaweed(home / "s3") as store:
        yield Lake(f"s3://{BUCKET}/lake", storage_options=store.options())


@pytest.fixture(scope="module", params=["directory", pytest.param("s3", marks=pytest.mark.s3)])
def dagster(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Dagster]:
    """A webserver and a daemon over a lake whose raw zone holds some days, one of them with a renamed field."""
    place: str = request.param
    home = tmp_path_factory.mktemp("dagster")
    with lake_in(place, home) as lake:
        yield from served(home, lake, DAYS[place], BAD_DAY[place])


def served(home: Path, lake: Lake, days: list[date], bad_day: date) -> Iterator[Dagster]:
    with chain(home, n_assets=40, lake=lake) as c:
        for i, day in enumerate(days):
            c.sandbox.set_faults([Fault("missing_field", "assets")] if day == bad_day else [])
            c.pull(at(1, 12) + timedelta(days=i))
    (home / "dagster_home").mkdir()
    shutil.copy(REPOSITORY / "dagster.yaml", home / "dagster_home")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("CRYPTO_ASSETS_", "AWS_"))},
        **lake.storage_options,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DAGSTER_HOME": str(home / "dagster_home"),
        "CRYPTO_ASSETS_LAKE_URI": lake.root,
        "CRYPTO_ASSETS_STATE_DIR": str(home / "state"),
        # A sandbox that is not there: nothing in these tests may pull.
        "CRYPTO_ASSETS_COINCAP_BASE_URL": "http://127.0.0.1:9/v2",
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    workspace = str(REPOSITORY / "workspace.yaml")
    bin_ = Path(sys.executable).parent
    web = [str(bin_ / "dagster-webserver"), "-h", "127.0.0.1", "-p", str(port), "-w", workspace]
    daemon = [str(bin_ / "dagster-daemon"), "run", "-w", workspace]
    with process(web, home / "web.log", environment):
        found = Dagster(f"http://127.0.0.1:{port}", lake, days, bad_day)
        wait_for(lambda: found.ask("{version}"), 120)
        stop_schedules(found)
        with process(daemon, home / "daemon.log", environment):
            yield found


def stop_schedules(dagster: Dagster) -> None:
    """The five-minute schedule would pull; it is not what is looked at here."""
    states = dagster.ask(
        """{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name }
             schedules { name scheduleState { id selectorId } } } } } }"""
    )["repositoriesOrError"]["nodes"]
    for node in states:
        for schedule in node["schedules"]:
            state = schedule["scheduleState"]
            dagster.ask("mutation($id: String!) { stopRunningSchedule(id: $id) { __typename } }", id=state["id"])


@pytest.fixture(scope="module")
def backfill(dagster: Dagster) -> dict[str, Any]:
    """Trusted and refined of all days, launched as the UI does and waited for."""
    launched = dagster.ask(
        """mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) {
             __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }""",
        p={
            "partitionNames": [str(day) for day in dagster.days],
            "assetSelection": [{"path": list(contract.table.path)} for contract in DERIVED],
        },
    )["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched

    def ended() -> dict[str, Any] | None:
        found = dagster.ask(
            """query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill {
                 status runs(limit: 50) { id status } assetBackfillData { assetBackfillStatuses {
                 ... on AssetPartitionsStatusCounts { assetKey { path } numPartitionsTargeted
                     numPartitionsMaterialized numPartitionsFailed } } } } } }""",
            id=launched["backfillId"],
        )["partitionBackfillOrError"]
        return None if found["status"] in ("REQUESTED", "FAILING") else found

    return wait_for(ended, 400)


def test_all_days_are_one_run(backfill: dict[str, Any]) -> None:
    assert [run["status"] for run in backfill["runs"]] == ["SUCCESS"]


def test_one_bad_day_fails_alone(dagster: Dagster, backfill: dict[str, Any]) -> None:
    counts = {
        ".".join(s["assetKey"]["path"]): (s["numPartitionsMaterialized"], s["numPartitionsFailed"])
        for s in backfill["assetBackfillData"]["assetBackfillStatuses"]
    }
    n = len(dagster.days)
    assert counts["trusted.asset_snapshots"] == (n - 1, 1)
    assert counts["refined.asset_daily"] == (n - 1, 1)
    assert counts["trusted.exchange_snapshots"] == (n, 0)
    assert counts["refined.exchange_daily"] == (n, 0)
    assert backfill["status"] == "COMPLETED_FAILED"
    days = set(dagster.lake.scan(refined.AssetHourly).select("date").unique().collect()["date"])
    assert days == set(dagster.days) - {dagster.bad_day}


@ONCE
def test_the_ui_knows_columns_with_units_lineage_checks_and_row_counts(
    dagster: Dagster, backfill: dict[str, Any]
) -> None:
    assert backfill
    node = dagster.ask(
        """query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
             dependencyKeys { path } dependedByKeys { path }
             metadataEntries { label ... on TableSchemaMetadataEntry {
               schema { columns { name description tags { key value } } } } }
             assetMaterializations(limit: 50) { partition
               metadataEntries { label ... on IntMetadataEntry { intValue } } }
             assetChecksOrError { ... on AssetChecks { checks { name blocking
                 executionForLatestMaterialization { status } } } } } } }""",
        key={"path": ["trusted", "asset_snapshots"]},
    )["assetNodeOrError"]
    assert sorted(key["path"][1] for key in node["dependencyKeys"]) == ["coincap_assets", "coingecko_markets"]
    assert {"path": ["refined", "asset_hourly"]} in node["dependedByKeys"]
    (columns,) = [e["schema"]["columns"] for e in node["metadataEntries"] if e["label"] == "dagster/column_schema"]
    assert [column["name"] for column in columns] == [field.name for field in fields(trusted.AssetSnapshots)]
    price = next(column for column in columns if column["name"] == "price_usd")
    assert {"key": "unit", "value": "USD"} in price["tags"]
    rows = {
        event["partition"]: entry["intValue"]
        for event in node["assetMaterializations"]
        for entry in event["metadataEntries"]
        if entry["label"] == "dagster/partition_row_count"
    }
    assert rows[str(FIRST)] == 40
    assert str(dagster.bad_day) not in rows
    checks = {check["name"]: check for check in node["assetChecksOrError"]["checks"]}
    assert checks["reconciled"]["blocking"]
    assert not checks["ranks"]["blocking"]


@ONCE
def test_check_verdicts_are_each_days_own(dagster: Dagster, backfill: dict[str, Any]) -> None:
    assert backfill
    found = dagster.ask(
        """query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
             assetChecksOrError { ... on AssetChecks { checks { name partitionStatuses {
               ... on AssetCheckTimePartitionStatuses { ranges { startKey endKey status } } } } } } } } }""",
        key={"path": ["trusted", "asset_snapshots"]},
    )["assetNodeOrError"]
    checks = {check["name"]: check["partitionStatuses"]["ranges"] for check in found["assetChecksOrError"]["checks"]}
    told = [(r["startKey"], r["endKey"], r["status"]) for r in checks["reconciled"] if r["status"] != "MISSING"]
    assert told == [
        ("2026-10-01", "2026-10-14", "SUCCEEDED"),
        ("2026-10-15", "2026-10-15", "FAILED"),
        ("2026-10-16", "2026-10-30", "SUCCEEDED"),
    ]


@ONCE
@pytest.mark.browser
def test_the_ui_shows_lineage_and_columns_with_units(
    dagster: Dagster, backfill: dict[str, Any], tmp_path: Path
) -> None:
    assert backfill
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        browser = player.chromium.launch(
            executable_path=chromium,
            args=["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"],
        )
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.goto(f"{dagster.url}/assets/trusted/asset_snapshots")
        page.get_by_text("Every listed asset at one moment").wait_for(timeout=60_000)
        page.get_by_text("Price change over the last 24 hours. [%; rolling_24h]").wait_for(timeout=60_000)
        page.goto(f"{dagster.url}/assets/refined/asset_daily?view=lineage&lineageScope=upstream")
        page.get_by_text("asset_hourly").first.wait_for(timeout=60_000)
        page.screenshot(path=str(tmp_path / "lineage.png"))
        browser.close()
    assert (tmp_path / "lineage.png").stat().st_size > 10_000


def test_a_read_only_lake_reader_sees_what_the_run_wrote(dagster: Dagster, backfill: dict[str, Any]) -> None:
    assert backfill
    rows = dagster.lake.scan(trusted.AssetSnapshots).select(pl.len(), pl.col("date").n_unique()).collect().row(0)
    n = len(dagster.days) - 1
    assert rows == (n * 40, n)
