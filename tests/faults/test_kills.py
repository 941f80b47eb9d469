"""A process is killed, at every failpoint and at random moments: row 40, in a directory and on a real S3 server.

``FAULT_KILLS=200`` kills more often, ``FAULT_SEED`` repeats a run. A quarter of the random kills are on S3, where each
takes longer.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from crypto_assets.resources import failpoints
from crypto_assets.resources.lake import Lake
from crypto_assets.tables.quality import CheckResults, Quarantine
from crypto_assets.tables.raw import RawCoincapRates
from crypto_assets.tables.trusted import FxRates
from tests.faults.conftest import Figure
from tests.faults.history import History, check, versions
from tests.faults.seaweed import BUCKET, Store
from tests.faults.worker import FIRST, N_GOOD, N_PAGES, context, pull_of, running, work_until_killed

pytestmark = pytest.mark.timeout(900)

N_KILLS = int(os.environ.get("FAULT_KILLS", "60"))
SEED = int(os.environ.get("FAULT_SEED", "20240101"))
# Hours of data that a killed process may be in the middle of.
N_BATCHES = 2


@dataclass
class Victim:
    """A lake, the notes of what was done to it, and processes that are killed while they work on it."""

    lake: Lake
    history: History
    is_naive: bool = False
    first: int = 0
    n_killed: int = 0
    n_finished: int = 0

    def start(self, *, failpoint: str = "", after_s: float | None = None) -> None:
        """Work on the next hours in a process that dies at the failpoint, or after so many seconds of work."""
        arguments = (
            self.lake.root,
            self.lake.storage_options,
            str(self.history.path),
            self.first,
            N_BATCHES,
            failpoint,
            self.is_naive,
        )
        with running(context(), work_until_killed, *arguments) as process:
            if after_s is not None:
                self._wait_for_work(process.is_alive)
                time.sleep(after_s)
                process.kill()
            process.join(60)
            assert process.exitcode in (0, -signal.SIGKILL), f"the worker ended with {process.exitcode}"
            self.n_killed += process.exitcode != 0
            self.n_finished += process.exitcode == 0

    def _wait_for_work(self, is_alive: Callable[[], bool]) -> None:
        n_before = self._n_notes()
        deadline = time.monotonic() + 60
        while self._n_notes() == n_before and is_alive() and time.monotonic() < deadline:
            time.sleep(0.002)

    def _n_notes(self) -> int:
        return self.history.path.stat().st_size if self.history.path.exists() else 0

    def check(self) -> None:
        """Whatever is there is whole, once, and includes all that was acknowledged."""
        names = {pull_of(batch).pull_id: str(batch) for batch in range(self.first + N_BATCHES)}
        landed = [names[pull_id] for pull_id in self.lake.read(RawCoincapRates)["pull_id"]]
        assert not check(self.history, landed, versions(self.lake, RawCoincapRates) if landed else [])
        held = self._rows_by_hour(FxRates)
        assert set(held.values()) <= {N_GOOD}, f"an hour is half visible: {held}"
        assert {int(batch) for batch in self.history.events("settled")} <= held.keys()
        # Refused records are written before the rows that they were refused from.
        refused = self._rows_by_hour(Quarantine)
        assert set(refused.values()) <= {1}
        assert held.keys() <= refused.keys()

    def finish(self) -> None:
        """The next run just works, and leaves what one undisturbed run would have left."""
        finished = self.n_finished
        self.start()
        assert self.n_finished == finished + 1
        self.first += N_BATCHES
        hours = set(range(self.first))
        landed = Counter(self.lake.read(RawCoincapRates)["pull_id"])
        assert landed == {pull_of(batch).pull_id: N_PAGES for batch in hours}
        assert self._rows_by_hour(FxRates) == dict.fromkeys(hours, N_GOOD)
        assert self._rows_by_hour(Quarantine) == dict.fromkeys(hours, 1)
        days = {(FIRST + timedelta(hours=batch)).date() for batch in hours}
        assert sorted(self.lake.read(CheckResults)["date"]) == sorted(days)

    def _rows_by_hour(self, contract: type[FxRates] | type[Quarantine]) -> Mapping[int, int]:
        hour = (pl.col("observed_at") - FIRST).dt.total_hours().alias("hour")
        return dict(self.lake.scan(contract).group_by(hour).len().collect().iter_rows())


@pytest.fixture
def local(tmp_path: Path) -> Victim:
    return Victim(Lake(str(tmp_path / "lake")), History(tmp_path / "history.jsonl"))


@pytest.fixture
def on_s3(store: Store, prefix: str, tmp_path: Path) -> Victim:
    lake = Lake(f"s3://{BUCKET}/{prefix}", storage_options=store.options())
    return Victim(lake, History(tmp_path / "history.jsonl"))


def at_every_failpoint(victim: Victim, figure: Figure, where: str) -> None:
    started = time.monotonic()
    # The second pass too: of the lake's writes the first makes a table, and the second of an hour is the quarantine.
    for name in failpoints.NAMES:
        for nth in (1, 2, 5):
            n_killed = victim.n_killed
            victim.start(failpoint=f"{name}:{nth}")
            expected = nth <= (N_BATCHES * 4 if "commit" in name else N_BATCHES)
            assert victim.n_killed - n_killed == expected, f"{name}:{nth}"
            if expected:
                victim.check()
                victim.finish()
            else:
                victim.first += N_BATCHES
    assert victim.n_killed == 14
    figure(f"{victim.n_killed} kills at failpoints, {where}: {time.monotonic() - started:.0f} s")


FAULT = "a process is killed (SIGKILL) at any failpoint, or at any moment"
PROMISE = "nothing acknowledged is lost, nothing is doubled, nothing is half visible; the next run just works"


@pytest.mark.fault(row=40, fault=FAULT, promise=PROMISE)
def test_a_process_killed_at_any_failpoint_loses_and_doubles_nothing(local: Victim, figure: Figure) -> None:
    at_every_failpoint(local, figure, "directory")


@pytest.mark.s3
@pytest.mark.fault(row=40, fault=FAULT, promise=PROMISE)
def test_a_process_killed_at_any_failpoint_on_s3_loses_and_doubles_nothing(on_s3: Victim, figure: Figure) -> None:
    at_every_failpoint(on_s3, figure, "S3")


def at_random_moments(victim: Victim, n_kills: int, longest_s: float, figure: Figure, where: str) -> None:
    rng = random.Random(SEED)
    started = time.monotonic()
    while victim.n_killed < n_kills:
        victim.start(after_s=rng.uniform(0, longest_s))
        victim.check()
        victim.finish()
        assert victim.n_finished < 4 * n_kills, "most workers end before they are killed: kill earlier"
    acked = victim.history.events("ack")
    figure(
        f"{victim.n_killed} kills at random moments, {where}: {len(acked)} pulls acknowledged, 0 lost, 0 doubled, "
        f"0 half visible, {time.monotonic() - started:.0f} s (seed {SEED})"
    )


@pytest.mark.fault(row=40, fault=FAULT, promise=PROMISE)
def test_a_process_killed_at_random_loses_and_doubles_nothing(local: Victim, figure: Figure) -> None:
    at_random_moments(local, N_KILLS * 3 // 4, 0.25, figure, "directory")


@pytest.mark.s3
@pytest.mark.fault(row=40, fault=FAULT, promise=PROMISE)
def test_a_process_killed_at_random_on_s3_loses_and_doubles_nothing(on_s3: Victim, figure: Figure) -> None:
    at_random_moments(on_s3, N_KILLS // 4, 0.7, figure, "S3")


@pytest.mark.fault(
    row=40.1,
    fault="the same kills against a writer that does not look for what it wrote (a test double)",
    promise="the doubled rows are found: the check can see what it is there to see",
)
def test_the_naive_writer_is_caught_by_a_kill(local: Victim) -> None:
    local.is_naive = True
    local.start(failpoint="after_land")

    with pytest.raises(AssertionError):
        local.finish()
    local.first = 0
    with pytest.raises(AssertionError, match=r"doubled=\['0'\]"):
        local.check()


def test_the_checker_sees_what_it_is_there_to_see(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    for batch in ("kept", "lost", "doubled", "half"):
        history.note("attempt", "w", batch, 2)
        history.note("ack", "w", batch, 2)
    history.note("attempt", "w", "unanswered", 2)

    found = check(history, [*2 * ["kept"], *4 * ["doubled"], "half", *2 * ["unanswered"], "unknown"], [0, 1, 3])

    assert vars(found) == {
        "lost": ["lost"],
        "doubled": ["doubled"],
        "partial": ["half"],
        "invented": ["unknown"],
        "gaps": [2],
    }
    assert not check(history, 2 * ["kept", "lost", "doubled", "half"], [0, 1, 2])
