"""Any order of writes, faults and rival writers, against a model that is three dictionaries: rows 36 and 37.

Hypothesis makes up the order and, where the lake and the model differ, the shortest one that shows it. Each step meets
up to three faults. In a directory they are made where the lake calls Delta; on S3, by the proxy. ``FAULT_SEED`` repeats
a run, ``FAULT_EXAMPLES`` makes it longer.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar
from unittest import mock

import deltalake.table
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from crypto_assets.resources import lake as lake_module
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.lake import Lake
from crypto_assets.tables.contract import Contract
from crypto_assets.tables.raw import RawCoincapRates
from crypto_assets.tables.refined import DimExchange
from crypto_assets.tables.trusted import FxRates
from tests.faults.conftest import Figure
from tests.faults.frames import NEXT, answers, exchanges, hour, rates
from tests.faults.naive import NaiveLake
from tests.faults.proxy import Fault, Proxy
from tests.faults.seaweed import BUCKET, Store
from tests.rows import NOON

pytestmark = pytest.mark.timeout(400)

SEED = int(os.environ.get("FAULT_SEED") or random.SystemRandom().randrange(2**32))
N_EXAMPLES = int(os.environ.get("FAULT_EXAMPLES", "60"))
# The naive writer is to be caught within this time.
CATCH_S = 60

_execute = deltalake.table.TableMerger.execute
HOURS = st.integers(0, 2)
PRICES = st.dictionaries(st.sampled_from(["euro", "won", "yen"]), st.integers(1, 3), max_size=3)
FAULTS = st.lists(st.sampled_from(["lost", "failed", "rival"]), max_size=3)
NAMES = st.dictionaries(st.sampled_from(["gdax", "kraken", "binance"]), st.sampled_from(["A", "B"]), max_size=3)


class LakeMachine(RuleBasedStateMachine):
    """Lake operations under faults. A subclass says which faults there are and how they are made to happen.

    Attributes:
        open: the lake as a process that has just started opens it.
        meeting: a block in which writes meet the faults, each one once; its other argument writes as another process.
    """

    open: Callable[[], Lake]
    meeting: Callable[[list[str], Callable[[Lake], object]], AbstractContextManager[None]]
    lake_type: ClassVar[type[Lake]] = Lake
    n_examples: ClassVar[int] = 0
    n_faults: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).n_examples += 1
        self.lake = self.open()
        self.n_appends = 0
        self.pulls: list[str] = []
        self.hours: dict[int, dict[str, int]] = {}
        self.names: dict[str, str] = {}

    # ---- operations ----

    @rule(faults=FAULTS)
    def append(self, faults: list[str]) -> None:
        self.n_appends += 1
        pull, other = f"p{self.n_appends}", f"rival{self.n_appends}"
        rivals: list[str] = []

        def rival(lake: Lake) -> None:
            if lake.append(RawCoincapRates, answers(other), app=f"rival/{other}", version=1).is_new:
                rivals.append(other)

        with self.meeting(faults, rival):
            self.lake.append(RawCoincapRates, answers(pull), app="coincap/rates", version=self.n_appends)
        self.pulls += [pull, *rivals]

    @rule()
    def append_again(self) -> None:
        """What Dagster does after a crash: the newest append once more."""
        if self.n_appends:
            newest = answers(f"p{self.n_appends}")
            assert not self.lake.append(RawCoincapRates, newest, app="coincap/rates", version=self.n_appends).is_new

    @rule(at=HOURS, usd=PRICES, others=PRICES, faults=FAULTS)
    def replace(self, at: int, usd: dict[str, int], others: dict[str, int], faults: list[str]) -> None:
        with self.meeting(faults, lambda lake: lake.replace(FxRates, rates(at, others), hour(at))):
            self.lake.replace(FxRates, rates(at, usd), hour(at))
        # The rival's rows came before ours were acknowledged: ours are the last.
        self.hours[at] = usd

    @rule(names=NAMES, others=NAMES, faults=FAULTS)
    def merge(self, names: dict[str, str], others: dict[str, str], faults: list[str]) -> None:
        with self.meeting(faults, lambda lake: lake.merge(DimExchange, exchanges(others))):
            self.lake.merge(DimExchange, exchanges(names))
        self.names = names

    @rule(contract=st.sampled_from([RawCoincapRates, FxRates, DimExchange]))
    def maintain(self, contract: type[Contract]) -> None:
        self.lake.maintain(contract, NEXT)

    @rule()
    def reopen(self) -> None:
        self.lake = self.open()

    # ---- what holds after each ----

    @invariant()
    def the_lake_equals_the_model(self) -> None:
        reader = self.open()
        assert sorted(reader.read(RawCoincapRates)["pull_id"]) == sorted(2 * self.pulls), "appends"
        held = reader.read(FxRates)
        told = sorted(zip(held["observed_at"].dt.hour(), held["currency_id"], map(int, held["rate_usd"]), strict=True))
        assert told == sorted((h, c, usd) for h, prices in self.hours.items() for c, usd in prices.items()), "replaced"
        merged = sorted(reader.read(DimExchange).select("exchange_id", "name").iter_rows())
        assert merged == sorted(self.names.items()), "merged"

    @invariant()
    def every_version_is_there(self) -> None:
        reader = self.open()
        for contract in (RawCoincapRates, FxRates, DimExchange):
            state = reader.state(contract)
            if state is not None:
                table = DeltaTable(state.uri, storage_options=reader.storage_options or None)
                log = sorted(commit["version"] for commit in table.history())
                assert log == list(range(log[0], state.version + 1)), contract.table.full_name


class InDirectory(LakeMachine):
    """Faults at the border to Delta."""

    @initialize()
    def begin(self) -> None:
        self.pending: list[str] = []

    def open(self) -> Lake:
        if not hasattr(self, "folder"):
            self.folder = tempfile.TemporaryDirectory()
        return self.lake_type(self.folder.name, clock=FixedClock(NOON), rng=random.Random(0))

    def teardown(self) -> None:
        self.folder.cleanup()

    @contextmanager
    def meeting(self, faults: list[str], rival: Callable[[Lake], object]) -> Iterator[None]:
        pending = list(faults)

        def faulty(real: Callable[..., Any]) -> Callable[..., Any]:
            def write(*arguments: Any, **options: Any) -> Any:
                fault = pending.pop(0) if pending else ""
                type(self).n_faults += bool(fault)
                if fault == "failed":
                    raise OSError("connection reset by peer")
                if fault == "rival":
                    with plain():
                        rival(Lake(self.folder.name, clock=FixedClock(NOON)))
                told = real(*arguments, **options)
                if fault == "lost":
                    raise CommitFailedError("the answer was lost") if len(pending) % 2 else OSError("connection reset")
                return told

            return write

        @contextmanager
        def plain() -> Iterator[None]:
            with (
                mock.patch.object(lake_module, "write_deltalake", write_deltalake),
                mock.patch.object(deltalake.table.TableMerger, "execute", _execute),
            ):
                yield

        with (
            mock.patch.object(lake_module, "write_deltalake", faulty(write_deltalake)),
            mock.patch.object(deltalake.table.TableMerger, "execute", faulty(_execute)),
        ):
            yield


class NaiveInDirectory(InDirectory):
    lake_type = NaiveLake
    n_examples = 0
    n_faults = 0

    @rule()
    def append_again(self) -> None:
        """Left out: the naive writer is to be caught at its retries, not at being run twice."""


def budget(n_examples: int, n_steps: int, *, shrink: bool = True) -> settings:
    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
    return settings(
        max_examples=n_examples,
        stateful_step_count=n_steps,
        deadline=None,
        derandomize=False,
        database=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


FAULT = "any order of writes, lost answers, failures and rival writers, up to three a step"
PROMISE = "after each step the tables equal a model in plain Python"


@pytest.mark.fault(row=36.2, fault=FAULT, promise=PROMISE)
def test_any_order_of_writes_and_faults_equals_the_model(figure: Figure) -> None:
    print(f"FAULT_SEED={SEED}")
    started = time.monotonic()
    machine = seed(SEED)(InDirectory)

    run_state_machine_as_test(machine, settings=budget(N_EXAMPLES, 8))

    assert machine.n_faults > N_EXAMPLES // 3
    figure(
        f"state machine, directory: {machine.n_examples} sequences, {machine.n_faults} faults, "
        f"{time.monotonic() - started:.0f} s (seed {SEED})"
    )


@pytest.mark.s3
@pytest.mark.fault(row=36.2, fault=FAULT, promise=PROMISE)
def test_any_order_of_writes_and_faults_on_s3_equals_the_model(
    store: Store, faults: Proxy, prefix: str, figure: Figure
) -> None:
    print(f"FAULT_SEED={SEED}")
    started = time.monotonic()
    machine = seed(SEED)(_on_s3(store, faults, prefix))

    run_state_machine_as_test(machine, settings=budget(max(N_EXAMPLES // 6, 5), 6, shrink=False))

    assert machine.n_faults > 5
    figure(
        f"state machine, S3 through the proxy: {machine.n_examples} sequences, {machine.n_faults} faults, "
        f"{time.monotonic() - started:.0f} s (seed {SEED})"
    )


@pytest.mark.fault(
    row=36.3,
    fault="a writer that blindly retries (kept as a test double)",
    promise="the same search catches it: the search can see what it is there to see",
)
def test_the_naive_writer_is_caught(figure: Figure) -> None:
    started = time.monotonic()

    with pytest.raises(AssertionError, match="appends") as caught:
        run_state_machine_as_test(seed(SEED)(NaiveInDirectory), settings=budget(200, 8, shrink=False))

    seconds = time.monotonic() - started
    assert seconds < CATCH_S
    assert "['p" in str(caught.value)
    figure(f"naive writer: caught at a doubled append after {NaiveInDirectory.n_examples} sequences, {seconds:.1f} s")


def _on_s3(store: Store, proxy: Proxy, prefix: str) -> type[LakeMachine]:
    """The machine with faults made by the proxy, each example in a folder of its own."""

    class OnS3(LakeMachine):
        n_examples = 0
        n_faults = 0

        def open(self) -> Lake:
            uri = f"s3://{BUCKET}/{prefix}/{self.n_examples}"
            return Lake(uri, storage_options=store.options(proxy.port), clock=FixedClock(NOON))

        @contextmanager
        def meeting(self, faults: list[str], rival: Callable[[Lake], object]) -> Iterator[None]:
            near = Lake(f"s3://{BUCKET}/{prefix}/{self.n_examples}", storage_options=store.options())
            # A rival is at work before ours, which does not know it: its snapshot is then old.
            if "rival" in faults and self.n_examples % 2:
                rival(near)
            kinds = {
                "lost": Fault("apply_drop"),
                "failed": Fault("drop"),
                "rival": Fault("apply_status", status=500, code="InternalError"),
            }
            proxy.inject(*(kinds[fault] for fault in faults))
            try:
                yield
            finally:
                type(self).n_faults += len(proxy.hits)
                proxy.clear()

    return OnS3
