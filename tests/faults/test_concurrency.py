"""Many processes on one table of a real S3 server: rows 37, 44 and 45."""

from __future__ import annotations

import multiprocessing.synchronize
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from crypto_assets.resources.lake import Lake
from crypto_assets.tables.raw import RawCoincapRates
from crypto_assets.tables.trusted import FxRates
from tests.faults.conftest import Figure
from tests.faults.history import History, check, versions
from tests.faults.seaweed import BUCKET, Store
from tests.faults.worker import append_many, context, create_and_append, replace_hour, running, work_until_killed

pytestmark = [pytest.mark.s3, pytest.mark.timeout(600)]

N_PROCESSES = 8
N_COMMITS = 50


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "history.jsonl")


def together(lake: Lake, history: History, target: Callable[..., None], arguments: list[tuple[Any, ...]]) -> float:
    """Run one process for each of the arguments at once; returns the seconds until all had ended well."""
    common = (lake.root, lake.storage_options, str(history.path))
    made = context()
    with ExitStack() as stack:
        started = time.monotonic()
        processes = [stack.enter_context(running(made, target, *common, *each)) for each in arguments]
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0] * len(processes)
        return time.monotonic() - started


@pytest.mark.fault(
    row=37.1,
    fault="8 processes append 50 commits each to one table at once",
    promise="all 400 land, each row once, without an error",
)
def test_eight_processes_append_fifty_commits_each(
    store: Store, bucket_lake: Lake, history: History, figure: Figure
) -> None:
    bucket_lake.append(RawCoincapRates, bucket_lake.read(RawCoincapRates), app="none", version=0)
    n_versions = len(versions(bucket_lake, RawCoincapRates))

    seconds = together(bucket_lake, history, append_many, [(n, N_COMMITS) for n in range(N_PROCESSES)])

    fresh = Lake(f"s3://{BUCKET}/{bucket_lake.root.rpartition('/')[2]}", storage_options=store.options())
    held = fresh.read(RawCoincapRates)
    assert held.height == N_PROCESSES * N_COMMITS * 10
    assert held.select("pull_id", "page").n_unique() == held.height
    assert len(history.events("ack")) == N_PROCESSES * N_COMMITS
    log = versions(fresh, RawCoincapRates)
    assert not check(history, held["pull_id"], log)
    assert len(log) == n_versions + N_PROCESSES * N_COMMITS
    each = seconds / (N_PROCESSES * N_COMMITS)
    figure(
        f"{N_PROCESSES} processes x {N_COMMITS} appends to one table on S3: {N_PROCESSES * N_COMMITS} landed, "
        f"{held.height} rows exact, {seconds:.0f} s, {each:.3f} s a commit"
    )


@pytest.mark.fault(
    row=37.2,
    fault="8 processes replace different hours of one day at once",
    promise="all land; each hour holds its last writer's rows",
)
def test_eight_processes_replace_different_hours_of_one_day(
    bucket_lake: Lake, history: History, figure: Figure
) -> None:
    n_times = 3

    seconds = together(bucket_lake, history, replace_hour, [(hour, n_times) for hour in range(N_PROCESSES)])

    held = bucket_lake.read(FxRates)
    assert sorted(held.select(held["observed_at"].dt.hour(), "rate_usd").rows()) == [
        (hour, n_times) for hour in range(N_PROCESSES) for _ in range(3)
    ]
    assert len(history.events("ack")) == N_PROCESSES * n_times
    figure(f"{N_PROCESSES} processes x {n_times} replacements in one day on S3: {seconds:.1f} s")


@pytest.mark.fault(
    row=45.1, fault="processes race to make one table", promise="it is made once, and holds the rows of all"
)
@pytest.mark.parametrize("attempt", range(3))
def test_racing_to_make_a_table_makes_it_once(bucket_lake: Lake, history: History, attempt: int) -> None:
    barrier: multiprocessing.synchronize.Barrier = context().Barrier(4)

    together(bucket_lake, history, create_and_append, [(n, barrier) for n in range(4)])

    held = bucket_lake.read(RawCoincapRates)
    assert not check(history, held["pull_id"], versions(bucket_lake, RawCoincapRates))
    assert held.height == 40


@pytest.mark.fault(
    row=44,
    fault="two processes do the same work at once (an orphaned step beside its retry, two laptops on one lake)",
    promise="both end well, and the tables equal one run's",
)
def test_the_same_work_twice_at_once_equals_once(bucket_lake: Lake, history: History, tmp_path: Path) -> None:
    together(bucket_lake, history, work_until_killed, [(0, 3), (0, 3), (0, 3)])

    alone = Lake(str(tmp_path / "alone"))
    work_until_killed(alone.root, {}, str(tmp_path / "alone.jsonl"), 0, 3)
    for contract in (RawCoincapRates, FxRates):
        assert bucket_lake.read(contract).equals(alone.read(contract))
