"""Cadence from plans: what fits, what is due, and a month of it that no plan's limit is exceeded in."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from crypto_assets.assets.handles import accounts, budget_of, budget_path
from crypto_assets.automation import cadence
from crypto_assets.automation.cadence import PERIODS, Rounds, affords, due, period, rounds, tick_minutes
from crypto_assets.providers import alpha_vantage, coincap
from crypto_assets.providers.answers import Cost
from crypto_assets.resources.budget import MONTH_S, BudgetExhausted, Limit, transaction
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.settings import Settings

START = datetime(2026, 10, 1, tzinfo=UTC)
N_DAYS = 31
TICK = timedelta(minutes=5)
# A plan that affords a round of CoinCap every six hours.
CREDITS = 100_000
# The providers whose plans have limits longer than a minute.
METERED = ("coincap", "alpha_vantage")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("COINCAP_API_KEY", "x")
    monkeypatch.setenv("ALPHAVANTAGE_API_KEY", "x")
    return Settings(
        state_dir=tmp_path, lake_uri=str(tmp_path), coincap_credits_per_month=CREDITS, coincap_calls_per_minute=200
    )


def minutes_of(settings: Settings) -> dict[str, int | None]:
    return {f"{each.feed.provider} {each.feed.name}": each.minutes for each in rounds(settings)}


# ---- arithmetic ----


@pytest.mark.parametrize(("amount", "minutes"), [(500, None), (20_000, 1440), (100_000, 360), (10**6, 30), (10**9, 5)])
def test_a_months_credits_last_for_its_rounds_and_its_histories(
    settings: Settings, amount: int, minutes: int | None
) -> None:
    told = settings.model_copy(update={"coincap_credits_per_month": amount})
    assert minutes_of(told)["coincap coincap"] == minutes
    if minutes is not None:
        n_rounds = 31 * 1440 // minutes + 1
        assert n_rounds * cadence.CREDITS_PER_ROUND + 31 * 2 * coincap.credits_of(100) <= amount


def test_the_retired_version_costs_no_credits(settings: Settings) -> None:
    told = settings.model_copy(update={"coincap_base_url": "https://api.coincap.io/v2", "coincap_credits_per_month": 1})
    assert minutes_of(told)["coincap coincap"] == 5


def test_every_providers_cadence_without_a_plan_of_credits(settings: Settings) -> None:
    assert minutes_of(settings) == {
        "coincap coincap": 360,
        "exchanges quotes and candles": 5,
        "exchanges listings": 1440,
        "coingecko coins": 60,
        "coingecko exchange scores": 1440,
        "mempool mempool": 60,
        "alpha_vantage rates": 240,
    }


@pytest.mark.parametrize("n_pairs", [1, 2, 3])
def test_a_days_calls_are_those_of_the_rates_and_of_each_series_once(settings: Settings, n_pairs: int) -> None:
    pairs = tuple(f"C{i}/USD" for i in range(n_pairs))
    told = settings.model_copy(update={"alpha_vantage_pairs": pairs})
    minutes = minutes_of(told)["alpha_vantage rates"]
    assert minutes is not None
    n_series = len(alpha_vantage.series_of(pairs, ["1m"]))
    assert (1440 // minutes + 1) * n_pairs + n_series <= alpha_vantage.CALLS_PER_DAY
    shorter = PERIODS[PERIODS.index(minutes) - 1]
    assert (1440 // shorter + 1) * n_pairs + n_series > alpha_vantage.CALLS_PER_DAY


def test_pairs_beyond_the_days_calls_are_left_to_people(settings: Settings) -> None:
    pairs = tuple(f"C{i}/USD" for i in range(12))
    assert minutes_of(settings.model_copy(update={"alpha_vantage_pairs": pairs}))["alpha_vantage rates"] is None


def test_a_slow_venue_with_many_markets_is_asked_less_often(settings: Settings) -> None:
    markets = tuple(f"kraken:C{i}/USD" for i in range(100))
    # 200 calls at one a second take more than half of five minutes.
    assert minutes_of(settings.model_copy(update={"markets": markets}))["exchanges quotes and candles"] == 10


def test_short_limits_only_take_time_and_long_ones_count_a_round_more_than_divide_them() -> None:
    assert period([Limit(1, 60, "calls")], Cost(2)) == 5
    assert period([Limit(1, 60, "calls")], Cost(3)) == 10
    assert period([Limit(25, 86_400, "calls")], Cost(1)) == 60
    assert period([Limit(24, 86_400, "calls")], Cost(1)) == 120
    assert period([Limit(32, MONTH_S, "credits")], Cost(1, 1)) == 1440
    assert period([Limit(31, MONTH_S, "credits")], Cost(1, 1)) is None
    assert period([], Cost(10**6)) == 5


def test_ticks_meet_every_round_and_no_round_of_one_provider_meets_another(settings: Settings) -> None:
    found = rounds(settings)
    assert tick_minutes(found) == 5
    moments = [START + n * TICK for n in range(288)]
    n_due = Counter(each.feed.name for moment in moments for each in found if each.is_due(moment))
    assert n_due == {
        "coincap": 4,
        "quotes and candles": 288,
        "listings": 1,
        "coins": 24,
        "exchange scores": 1,
        "mempool": 24,
        "rates": 6,
    }
    # More than its five calls a minute would make a tick wait.
    assert not any(sum(each.is_due(m) for each in found if each.feed.provider == "coingecko") > 1 for m in moments)
    only = settings.model_copy(update={"providers": ("coingecko",)})
    assert tick_minutes(rounds(only)) == 30
    assert tick_minutes(rounds(settings.model_copy(update={"providers": ()}))) is None


def test_the_next_round_is_the_next_that_is_due(settings: Settings) -> None:
    for each in rounds(settings):
        following = each.following(START + timedelta(hours=3, minutes=7))
        assert following is not None
        assert each.is_due(following)
        assert not any(
            each.is_due(START + timedelta(hours=3, minutes=minute))
            for minute in range(8, 600)
            if START + timedelta(hours=3, minutes=minute) < following
        )
    assert Rounds(rounds(settings)[0].feed, None).following(START) is None


def test_a_round_that_the_rest_of_the_budget_does_not_pay_for_is_not_begun(settings: Settings) -> None:
    clock = FixedClock(START)
    (feed,) = [each.feed for each in rounds(settings) if each.feed.provider == "coincap"]
    assert affords(settings, feed, clock)
    budget_of("coincap", "coincap", settings, clock).take(calls=1, credits=CREDITS - cadence.CREDITS_PER_ROUND + 1)
    assert not affords(settings, feed, clock)
    clock.sleep(MONTH_S + 1)
    assert affords(settings, feed, clock)


# ---- a month ----


def make_round(settings: Settings, moment: datetime) -> list[tuple[str, bool]]:
    """What a tick's run asks, and whether the budget let it: one entry a call."""
    clock = FixedClock(moment)
    asked: list[tuple[str, Cost]] = []
    for feed in due(settings, moment):
        if affords(settings, feed, clock):
            for account, takes in feed.takes.items():
                # Credits are booked at once, calls one by one.
                asked += [(account, takes)] if takes.credits else [(account, Cost(1))] * takes.calls
    if (moment.hour, moment.minute) == (0, 30):
        asked += [("alpha_vantage", Cost(1))] * len(alpha_vantage.series_of(settings.alpha_vantage_pairs, ["1m"]))
        asked += [("coincap", Cost(1, 2))] * len(settings.history_assets)
    done = []
    # New ones for each round, as after a restart.
    budgets = {account: budget_of(account, account, settings, clock) for account, _ in asked}
    for account, cost in asked:
        try:
            budgets[account].take(cost.calls, cost.credits)
        except BudgetExhausted:
            done.append((account, False))
        else:
            done.append((account, True))
    return done


def calls_made(settings: Settings, account: str) -> Iterator[tuple[datetime, int, int]]:
    with transaction(budget_path(account, settings)) as db:
        rows = db.execute("SELECT at, calls, credits FROM spent WHERE provider = ? ORDER BY at", (account,)).fetchall()
    for at, n_calls, n_credits in rows:
        yield datetime.fromtimestamp(0, UTC) + timedelta(microseconds=at), n_calls, n_credits


def fullest(entries: list[tuple[datetime, int]], span: timedelta) -> int:
    """The most that any window of this length holds."""
    return max(sum(n for other, n in entries if at - span < other <= at) for at in {moment for moment, _ in entries})


def test_a_month_of_ticks_exceeds_no_plan_and_is_never_refused(settings: Settings) -> None:
    settings = settings.model_copy(update={"providers": METERED})
    made: list[tuple[datetime, str]] = []
    for n in range(N_DAYS * 288):
        moment = START + n * TICK
        for account, is_allowed in make_round(settings, moment):
            assert is_allowed, (account, moment)
            made.append((moment, account))
    days = Counter((account, moment.date()) for moment, account in made)
    # Six rounds of two pairs, and eight series.
    assert {n for (account, _), n in days.items() if account == "alpha_vantage"} == {20}
    asked = [(moment, 1) for moment, account in made if account == "alpha_vantage"]
    assert fullest(asked, timedelta(days=1)) <= alpha_vantage.CALLS_PER_DAY
    spent = sum(n for _, _, n in calls_made(settings, "coincap"))
    assert spent == N_DAYS * (4 * cadence.CREDITS_PER_ROUND + 4)
    assert spent <= CREDITS


def _worker(settings: Settings, line: Connection) -> None:
    """A process that makes its rounds when it is told the time."""
    while (moment := line.recv()) is not None:
        line.send(make_round(settings, moment))


def test_two_processes_that_both_make_every_round_and_are_restarted_exceed_no_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COINCAP_API_KEY", "x")
    monkeypatch.setenv("ALPHAVANTAGE_API_KEY", "x")
    # Half of what two of them would spend.
    settings = Settings(
        state_dir=tmp_path,
        lake_uri=str(tmp_path),
        providers=METERED,
        coincap_credits_per_month=20_000,
        coincap_calls_per_minute=200,
    )
    assert minutes_of(settings)["coincap coincap"] == 1440
    context = multiprocessing.get_context("fork")
    made: list[tuple[datetime, str]] = []
    n_refused = 0
    moments = [START + n * TICK for n in range(N_DAYS * 288)]
    with_calls = [m for m in moments if (m.hour, m.minute) == (0, 30) or (m.minute == 0 and m.hour % 4 == 0)]
    for week in range(0, len(with_calls), 50):
        lines, processes = [], []
        for _ in range(2):
            ours, theirs = context.Pipe()
            process = context.Process(target=_worker, args=(settings, theirs))
            process.start()
            lines.append(ours)
            processes.append(process)
        for moment in with_calls[week : week + 50]:
            for line in lines:
                line.send(moment)
            for line in lines:
                for account, is_allowed in line.recv():
                    n_refused += not is_allowed
                    if is_allowed:
                        made.append((moment, account))
        # Killed, not stopped: what was booked stays booked.
        for process in processes:
            process.kill()
            process.join()
    asked = [(moment, 1) for moment, account in made if account == "alpha_vantage"]
    assert fullest(asked, timedelta(days=1)) == alpha_vantage.CALLS_PER_DAY
    assert sum(n for _, _, n in calls_made(settings, "coincap")) <= 20_000
    assert len(asked) <= N_DAYS * alpha_vantage.CALLS_PER_DAY
    assert n_refused > 0
    assert accounts("coincap", settings)["coincap"][1].amount == 20_000
