import multiprocessing
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from crypto_assets.resources.budget import MONTH_S, Budget, BudgetExhausted, Limit
from crypto_assets.resources.clock import FixedClock, SystemClock

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PER_MINUTE = Limit(5, 60, "calls")
PER_DAY = Limit(25, 86_400, "calls")
PER_MONTH = Limit(500, MONTH_S, "credits")


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(NOON)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "budget.sqlite"


def test_a_full_minute_is_waited_for(path: Path, clock: FixedClock) -> None:
    budget = Budget(path, "coincap", [PER_MINUTE], clock)
    for _ in range(5):
        budget.take()
        clock.sleep(2)
    budget.take()
    assert clock.now() == NOON + timedelta(seconds=60)  # when the first of the five left the window
    assert budget.spent(PER_MINUTE) == 5


def test_a_full_month_is_refused_at_once_and_says_when_it_frees(path: Path, clock: FixedClock) -> None:
    budget = Budget(path, "coincap", [PER_MINUTE, PER_MONTH], clock)
    budget.take(credits=498)
    with pytest.raises(BudgetExhausted, match=r"coincap budget.*3 more credits.*2026-04-01 12:00:00 UTC") as refused:
        budget.take(credits=3)
    assert refused.value.frees_at == NOON + timedelta(days=31)
    assert refused.value.exit_code == 4
    assert clock.now() == NOON
    budget.take(credits=2)


def test_a_full_day_is_refused_even_while_the_minute_is_full_too(path: Path, clock: FixedClock) -> None:
    budget = Budget(path, "alpha_vantage", [Limit(2, 60, "calls"), Limit(2, 86_400, "calls")], clock)
    budget.take(calls=2)
    with pytest.raises(BudgetExhausted):
        budget.take()
    assert clock.now() == NOON


def test_more_than_a_limit_will_ever_allow_is_refused(path: Path, clock: FixedClock) -> None:
    budget = Budget(path, "coincap", [PER_MINUTE], clock)
    with pytest.raises(BudgetExhausted, match="ever allow") as refused:
        budget.take(calls=6)
    assert refused.value.frees_at is None


def test_the_real_cost_replaces_the_estimate_and_counts_even_past_the_limit(path: Path, clock: FixedClock) -> None:
    budget = Budget(path, "coincap", [PER_MONTH], clock)
    first = budget.take(credits=10)
    budget.take(credits=10)
    budget.settle(2)  # the last one
    budget.settle(600, first)
    assert budget.spent(PER_MONTH) == 602
    assert budget.remaining() == {PER_MONTH: 0}
    with pytest.raises(BudgetExhausted):
        budget.take(credits=1)
    clock.sleep(MONTH_S)
    assert budget.spent(PER_MONTH) == 0


def test_settling_before_anything_was_taken_is_a_mistake(path: Path, clock: FixedClock) -> None:
    with pytest.raises(ValueError, match="nothing was taken"):
        Budget(path, "coincap", [], clock).settle(1)


def test_a_plan_is_affordable_when_the_long_windows_carry_it(path: Path, clock: FixedClock) -> None:
    budget = Budget(path, "coincap", [PER_MINUTE, PER_DAY, PER_MONTH], clock)
    budget.take(credits=100)
    assert budget.affords(calls=24, credits=400)  # more than a minute allows: it only takes longer
    assert not budget.affords(calls=25, credits=0)
    assert not budget.affords(calls=1, credits=401)


def test_remaining_is_what_each_limit_still_allows(path: Path, clock: FixedClock) -> None:
    budget = Budget(path, "coincap", [PER_MINUTE, PER_MONTH], clock)
    budget.take(calls=2, credits=30)
    assert budget.remaining() == {PER_MINUTE: 3, PER_MONTH: 470}


def test_a_restart_remembers_what_was_spent_and_what_was_blocked(path: Path, clock: FixedClock) -> None:
    before = Budget(path, "coincap", [PER_MONTH], clock)
    before.take(credits=44)
    before.block_until(NOON + timedelta(days=3))
    after = Budget(path, "coincap", [PER_MONTH], clock)
    assert after.spent(PER_MONTH) == 44
    assert not after.affords(calls=1, credits=1)
    assert after.remaining() == {PER_MONTH: 0}
    with pytest.raises(BudgetExhausted, match="2026-03-04 12:00:00 UTC"):
        after.take()
    after.block_until(clock.now())
    after.take()


def test_a_short_block_is_waited_for(path: Path, clock: FixedClock) -> None:
    budget = Budget(path, "finnhub", [], clock)
    budget.block_until(NOON + timedelta(seconds=30))
    budget.take()
    assert clock.now() == NOON + timedelta(seconds=30)


def test_providers_do_not_spend_each_others_budget(path: Path, clock: FixedClock) -> None:
    one, other = (Budget(path, name, [PER_DAY], clock) for name in ("coincap", "finnhub"))
    one.take(calls=25)
    one.block_until(NOON + timedelta(days=1))
    other.take(calls=25)
    assert other.spent(PER_DAY) == 25


def test_a_clock_set_back_does_not_make_everybody_wait_for_the_future(path: Path, clock: FixedClock) -> None:
    budget = Budget(path, "coincap", [PER_MINUTE], clock)
    clock.set(NOON + timedelta(hours=2))
    budget.take(calls=5)
    clock.set(NOON)
    budget.take()
    assert clock.now() == NOON + timedelta(seconds=60)


def test_what_no_window_needs_is_forgotten(path: Path, clock: FixedClock) -> None:
    budget = Budget(path, "coincap", [PER_MINUTE], clock)
    for _ in range(50):
        budget.take()
        clock.sleep(60)
    db = sqlite3.connect(path)
    assert db.execute("SELECT count(*) FROM spent").fetchone() == (1,)
    db.close()


def test_the_file_can_lie_on_a_network_s_file_system(path: Path, clock: FixedClock) -> None:
    path.parent.mkdir(parents=True)
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode = WAL")
    db.close()
    # Made by WAL, it is no more after the next who opens it.
    Budget(path, "coincap", [PER_MINUTE], clock).take()
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    db.close()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_what_costs_no_credits_is_not_held_up_by_them(path: Path, clock: FixedClock) -> None:
    budget = Budget(path, "coincap", [PER_DAY, PER_MONTH], clock)
    budget.settle(600, budget.take(credits=1))
    budget.take(credits=0)
    assert budget.spent(PER_DAY) == 2


@pytest.mark.parametrize(("amount", "seconds"), [(0, 60), (5, 0)])
def test_a_limit_of_nothing_is_a_mistake(amount: int, seconds: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Limit(amount, seconds, "calls")


SECONDS = [Limit(10, 1, "calls"), Limit(30, 2, "credits")]


def _take_ten(path: str) -> None:
    # Opening is part of the race: four processes create the file at once.
    budget = Budget(Path(path), "coincap", [*SECONDS, PER_MONTH], SystemClock())
    for _ in range(10):
        budget.take(credits=2)


def test_four_processes_together_never_exceed_a_window(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_take_ten, args=(str(path),)) for _ in range(4)]
    began = time.monotonic()
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert time.monotonic() - began >= 4  # 80 credits at 30 in two seconds

    db = sqlite3.connect(path)
    rows = db.execute("SELECT at, calls, credits FROM spent ORDER BY at").fetchall()
    db.close()
    assert len(rows) == 40
    for limit, column in zip(SECONDS, (1, 2), strict=True):
        width = limit.seconds * 1_000_000
        windows = [sum(row[column] for row in rows if start <= row[0] < start + width) for start, *_ in rows]
        assert max(windows) == limit.amount
