"""Real daemons of Dagster: two on one home, and two homes on one lake. Rows 33 and 45.

The daemons are started as ``crypto-assets up`` starts its own; ``location.py`` is what they load, ``daemon.py`` how a
tick is due at once. The second test kills the daemons of the first, so that three starts are enough for both.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.scheduler.instigation import InstigatorTick, TickStatus

from crypto_assets.commands.run import instance_at
from crypto_assets.commands.up import Child, spawned
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.lease import Holder, Lease, look, slot_of, this_installation
from crypto_assets.sandbox import Market, serve
from crypto_assets.tables.raw import RawCoincapRates
from crypto_assets.tables.trusted import FxRates
from tests.faults.conftest import Figure
from tests.faults.daemon import selector
from tests.faults.history import versions
from tests.faults.location import AHEAD, MEETING

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240), pytest.mark.xdist_group("dagster")]

ROOT = Path(__file__).parents[2]
N_AT_ONCE = 4
# Each process imports Dagster, each code server the product; four of them share two cores with other tests.
PATIENCE_S = 60.0
LIVE = ("live", "*/5 * * * *", timedelta(minutes=5))
MAINTENANCE = ("nightly_maintenance", "30 3 * * *", timedelta(days=1))
# Longer than two and a half cadences of five minutes.
AFTER_EXPIRY_S = 13 * 60


@dataclass
class Home:
    """A DAGSTER_HOME and a state directory, as one laptop has them, on the common lake."""

    folder: Path
    environment: dict[str, str]

    @property
    def dagster(self) -> Path:
        return self.folder / "dagster"

    @property
    def holder(self) -> Holder:
        return this_installation(self.folder / "state")

    @contextmanager
    def daemon(self, name: str, schedule: str, cron: str, due_since: timedelta) -> Iterator[Child]:
        since = datetime.now(UTC) - due_since
        words = [str(self.dagster), schedule, cron, str(since.timestamp())]
        command = [sys.executable, "-m", "tests.faults.daemon", *words]
        with spawned(name, command, self.environment, self.folder / "logs") as child:
            yield child

    def ticks(self, schedule: str) -> list[InstigatorTick]:
        origin = selector(schedule)
        with instance_at(self.dagster) as instance:
            return list(instance.get_ticks(origin.get_id(), origin.get_selector().get_id()))

    def runs(self) -> list[dg.DagsterRun]:
        with instance_at(self.dagster) as instance:
            return list(instance.get_runs())


@dataclass
class Two:
    """A lake, a home whose two daemons were started together, and a second home that has none yet."""

    lake: Lake
    ahead: Path
    meeting: Path
    first: Home
    second: Home
    daemons: list[Child]

    @property
    def lease(self) -> Lease | None:
        return look(slot_of(self.lake.root, {}))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    folder = tmp_path_factory.mktemp("daemons")
    ours = ("CRYPTO_ASSETS_", "AWS_", "COINCAP_", "DAGSTER_")
    with pytest.MonkeyPatch.context() as patch, serve(Market(7, n_assets=5)) as sandbox, ExitStack() as stack:
        for name in [name for name in os.environ if name.startswith(ours)]:
            patch.delenv(name)
        # The provider's moment is one for all, so that a tick that runs twice is told the same twice.
        sandbox.set_now(datetime.now(UTC))
        common = {
            "PYTHONPATH": str(ROOT),
            "CRYPTO_ASSETS_LAKE_URI": str(folder / "lake"),
            "CRYPTO_ASSETS_PROVIDERS": "coincap",
            "CRYPTO_ASSETS_COINCAP_BASE_URL": sandbox.v2,
            "CRYPTO_ASSETS_COINCAP_CALLS_PER_MINUTE": "100000",
            AHEAD: str(folder / "ahead"),
        }

        def home(name: str, **more: str) -> Home:
            places = {"DAGSTER_HOME": str(folder / name / "dagster")}
            return Home(
                folder / name, common | places | more | {"CRYPTO_ASSETS_STATE_DIR": str(folder / name / "state")}
            )

        first = home("first", **{MEETING: str(folder / "meeting")})
        daemons = [stack.enter_context(first.daemon(f"daemon-{n}", *LIVE)) for n in range(2)]
        yield Two(Lake(str(folder / "lake")), folder / "ahead", folder / "meeting", first, home("second"), daemons)


def until(what: Callable[[], bool], daemons: list[Child]) -> None:
    """Wait until it is so; a daemon that ends before is the failure."""
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        require_alive(daemons)
        assert time.monotonic() < deadline, "\n".join(child.log.read_text()[-3000:] for child in daemons)
        time.sleep(0.3)


def require_alive(daemons: list[Child]) -> None:
    for child in daemons:
        assert child.process.poll() is None, child.log.read_text()[-3000:]


def kill(child: Child) -> None:
    """As a power cut: the daemon, its code server and its runs, which are the process group that we started."""
    os.killpg(child.process.pid, signal.SIGKILL)
    child.process.wait()


@pytest.mark.fault(
    row=33.1,
    fault="two real daemons share one home and evaluate the same tick at the same moment",
    promise="both live; the pull is landed once and no row is doubled",
)
def test_two_daemons_on_one_home_land_a_tick_once(two: Two, figure: Figure) -> None:
    started = time.monotonic()
    done = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}

    def is_over() -> bool:
        runs = two.first.runs()
        return bool(runs) and all(run.status in done for run in runs)

    until(is_over, two.daemons)

    require_alive(two.daemons)
    assert len(list(two.meeting.iterdir())) == 2, "the daemons did not evaluate the tick at the same time"
    runs = two.first.runs()
    assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
    pulled = two.lake.read(RawCoincapRates)
    assert pulled.select("pull_id", "page").n_unique() == pulled.height
    assert pulled["pull_id"].n_unique() == 1
    # Made, and appended to once.
    assert versions(two.lake, RawCoincapRates) == [0, 1]
    rates = two.lake.read(FxRates)
    assert rates.height == rates.select("currency_id", "observed_at").n_unique() == rates["currency_id"].n_unique() > 0
    lease = two.lease
    assert lease is not None
    assert (lease.holder, lease.counter) == (two.first.holder, 1)
    moments = {run.tags["dagster/run_key"] for run in runs}
    figure(
        f"two daemons on one home: {len(runs)} runs of {len(moments)} ticks, {pulled.height} pull landed, "
        f"{rates.height} rows, none doubled, {time.monotonic() - started:.0f} s"
    )


@pytest.mark.fault(
    row=45,
    fault="a second laptop's daemon on the same lake; then the first laptop dies",
    promise="its ticks are skipped and say who holds the lake's lease; once that has expired it takes over",
)
def test_the_second_home_waits_for_the_lease_and_takes_it_over(two: Two, figure: Figure) -> None:
    started = time.monotonic()
    until(lambda: two.lease is not None, two.daemons)

    with two.second.daemon("waiting", *MAINTENANCE) as daemon:
        until(lambda: is_told(two.second, "nightly_maintenance"), [daemon])
        tick, *_ = two.second.ticks("nightly_maintenance")
        assert tick.status is TickStatus.SKIPPED
        assert (tick.skip_reason or "").startswith(f"{two.first.holder} has run this lake's schedules since ")
        assert "stop the daemon there or here" in (tick.skip_reason or "")
        assert two.second.runs() == []
        kill(daemon)

    require_alive(two.daemons)
    for child in two.daemons:
        kill(child)
    assert two.lease is not None
    assert (two.lease.holder, two.lease.counter) == (two.first.holder, 1)
    two.ahead.write_text(str(AFTER_EXPIRY_S))
    with two.second.daemon("taking over", *LIVE) as daemon:
        until(lambda: is_told(two.second, "live"), [daemon])
        tick, *_ = two.second.ticks("live")
        assert tick.status is TickStatus.SUCCESS
        assert tick.run_ids
    assert two.lease is not None
    assert (two.lease.holder, two.lease.counter) == (two.second.holder, 2)
    figure(f"two homes on one lake: skipped, killed, taken over in {time.monotonic() - started:.0f} s")


def is_told(home: Home, schedule: str) -> bool:
    return any(tick.status is not TickStatus.STARTED for tick in home.ticks(schedule))


@pytest.mark.fault(
    row=45.2,
    fault="processes open a fresh DAGSTER_HOME at the same moment",
    promise="it is made once, and none fails in the making of its SQLite tables",
)
def test_a_fresh_home_is_made_once(tmp_path: Path) -> None:
    script = (
        "import sys, time, dagster; from pathlib import Path; from crypto_assets.commands.run import instance_at\n"
        "print(flush=True); sys.stdin.readline(); instance_at(Path(sys.argv[1])).dispose()"
    )
    with ExitStack() as stack:
        openers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", script, str(tmp_path / "dagster")],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(N_AT_ONCE)
        ]
        for opener in openers:
            assert opener.stdout is not None
            opener.stdout.readline()
        ends = []
        for opener in openers:
            assert opener.stdin is not None
            opener.stdin.write("\n")
            opener.stdin.flush()
        for opener in openers:
            _, said = opener.communicate(timeout=60)
            ends.append((opener.returncode, said))
    assert [code for code, _ in ends] == [0] * N_AT_ONCE, ends
    assert (tmp_path / "dagster" / "history" / "runs.db").exists()
