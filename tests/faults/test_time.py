"""Clocks jump, days are odd, ticks come late, twice or not at all: rows 29 to 33."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto_assets.automation.schedules import live
from crypto_assets.definitions import build_definitions
from crypto_assets.partitions import DAILY
from crypto_assets.providers import coincap
from crypto_assets.providers.answers import Pull
from crypto_assets.resources.http import Answer, Outcome
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.settings import Settings
from crypto_assets.tables import quality, raw, trusted
from crypto_assets.tables.conform import settle
from crypto_assets.tables.contract import Contract
from crypto_assets.tables.window import HOUR, Window
from tests.chain import DERIVED, LIVE, Chain, at, chain, failures, same
from tests.rows import rows_of

pytestmark = pytest.mark.timeout(240)

FIRST = date(2026, 10, 1)
RATES = (raw.RawCoincapRates, trusted.FxRates)


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Chain]:
    with chain(tmp_path, n_assets=5) as running:
        yield running


# ---- 29: our clock is wrong ----


@pytest.mark.fault(
    row=29,
    fault="our clock is two hours ahead or behind, or jumps between two pulls",
    promise="facts keep the provider's time; the same rows are in the same hours",
)
@pytest.mark.parametrize("jumps", [(2, 0), (-2, 0), (0, 2), (0, -2)], ids=lambda j: f"{j[0]:+d} h then {j[1]:+d} h")
def test_facts_keep_the_providers_time_when_our_clock_jumps(market: Chain, jumps: tuple[int, int]) -> None:
    for (hour, minute), jump in zip(((12, 0), (12, 5)), jumps, strict=True):
        market.sandbox.set_now(at(1, hour, minute))
        market.clock.set(at(1, hour, minute) + timedelta(hours=jump))
        assert market.run(FIRST, select=RATES, tick=True).success

    held = market.lake.read(trusted.FxRates)
    # A provider two hours ahead of us is not believed: what it says is stamped with our time.
    told = [at(1, 12) + timedelta(hours=min(jumps[0], 0)), at(1, 12, 5) + timedelta(hours=min(jumps[1], 0))]
    assert sorted(held["observed_at"].unique()) == sorted(told)
    assert held.height == 2 * held["currency_id"].n_unique()


@pytest.mark.fault(
    row=29.1,
    fault="our clock jumps back between two ticks of one hour",
    promise="the second tick's rows are refreshed all the same",
)
def test_a_tick_after_a_jump_back_is_not_overlooked(market: Chain) -> None:
    market.sandbox.set_now(at(1, 12))
    # Ten minutes ahead: within what is believed of the provider's clock, and then set right by NTP.
    market.clock.set(at(1, 12, 10))
    assert market.run(FIRST, select=RATES, tick=True).success
    market.set_now(at(1, 12, 5))
    assert market.run(FIRST, select=RATES, tick=True).success

    assert sorted(market.lake.read(trusted.FxRates)["observed_at"].unique()) == [at(1, 12), at(1, 12, 5)]


# ---- 30: odd days ----

ODD_DAYS = {
    "spring forward": date(2026, 3, 8),
    "fall back": date(2026, 11, 1),
    "leap day": date(2024, 2, 29),
    "year end": date(2026, 12, 31),
}


@pytest.fixture(params=["America/New_York", "Australia/Lord_Howe", "UTC"])
def time_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The machine's own time zone."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


@pytest.mark.fault(
    row=30,
    fault="daylight saving starts or ends, a leap day, the end of a year; a machine in any time zone",
    promise="a day is 24 hours of UTC; the last millisecond and the first are in their own days",
)
@pytest.mark.parametrize("day", ODD_DAYS.values(), ids=ODD_DAYS.keys())
def test_a_day_is_24_hours_of_utc_everywhere(lake: Lake, time_zone: str, day: date) -> None:
    window = Window.of_day(day)
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    assert (window.start, window.end, window.days) == (start, start + timedelta(hours=24), [day])
    key = DAILY.get_partition_key_for_timestamp(start.timestamp())
    assert key == str(day)
    assert DAILY.time_window_for_partition_key(key).start == start
    assert DAILY.time_window_for_partition_key(key).end == start + timedelta(hours=24)

    moments = [start, start + timedelta(hours=2, minutes=30), start + timedelta(hours=24, milliseconds=-1)]
    told = [{"observed_at": m, "date": m.date(), "currency_id": f"c{i}"} for i, m in enumerate(moments)]
    after = [{"observed_at": start + timedelta(hours=24), "date": day + timedelta(days=1)}]
    for each, rates in ((window, told), (Window.of_day(day + timedelta(days=1)), after)):
        lake.replace(trusted.FxRates, rows_of(trusted.FxRates, *rates), each)

    assert lake.read(trusted.FxRates, window)["observed_at"].to_list() == moments
    assert lake.days(trusted.FxRates) == [day, day + timedelta(days=1)]
    hours = [Window(start + i * HOUR, start + (i + 1) * HOUR) for i in range(24)]
    assert [len(lake.read(trusted.FxRates, hour)) for hour in hours] == [1, 0, 1, *[0] * 20, 1]


@pytest.mark.fault(
    row=30.1, fault="any instant of 1970 to 2100", promise="it is in exactly one day and in exactly one hour"
)
@given(moment=st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_every_instant_is_in_one_day_and_one_hour(moment: datetime) -> None:
    day = Window.of_day(moment.date())
    assert day.start <= moment < day.end
    near = [Window(day.start + i * HOUR, day.start + (i + 1) * HOUR) for i in range(-1, 25)]
    assert sum(hour.start <= moment < hour.end for hour in near) == 1


# ---- 31: the provider's clock is wrong ----


def stamped(timestamp: object, received_at: datetime) -> Pull:
    """What CoinCap's client makes of an answer with this timestamp."""
    body = json.dumps(
        {"data": [{"id": "euro", "symbol": "EUR", "type": "fiat", "rateUsd": "1.08"}], "timestamp": timestamp}
    ).encode()
    answer = Answer("rates", "GET /v3/rates", 200, Outcome.OK, body, received_at, "", 1)
    observed_at = coincap._timestamp(answer) or received_at
    return Pull("coincap", "rates", None, (answer,), True, observed_at, (observed_at, observed_at), (1,))


NOON_MS = round(at(1, 12).timestamp() * 1000)


@pytest.mark.fault(
    row=31,
    fault="the provider's timestamp is in seconds or microseconds, in the future, of 1970, or absent",
    promise="no unit is guessed: an impossible time is replaced by ours, and no row leaves its day",
)
@pytest.mark.parametrize(
    ("timestamp", "observed_at"),
    [
        (NOON_MS, at(1, 12)),
        (NOON_MS // 1000, at(1, 12, 1)),
        (NOON_MS * 1000, at(1, 12, 1)),
        (NOON_MS + 7_200_000, at(1, 12, 1)),
        (0, at(1, 12, 1)),
        (-1, at(1, 12, 1)),
        (None, at(1, 12, 1)),
        (2**62, at(1, 12, 1)),
    ],
    ids=["ms", "s", "us", "two hours ahead", "1970", "1969", "absent", "beyond all years"],
)
def test_an_impossible_time_of_the_provider_is_replaced_by_ours(
    lake: Lake, timestamp: int | None, observed_at: datetime
) -> None:
    from crypto_assets.assets.raw.pulls import land

    land(lake, raw.RawCoincapRates, [stamped(timestamp, at(1, 12, 1))])
    window = Window.of_day(FIRST)
    settled = settle(trusted.FxRates, coincap.parse_rates(lake.read(raw.RawCoincapRates, window)), window)

    assert settled.rows.select("currency_id", "observed_at", "rate_usd").rows() == [
        ("euro", observed_at, Decimal("1.08"))
    ]
    assert settled.rejected.height == 0


# ---- 32: ticks that were missed ----


@pytest.mark.fault(
    row=32,
    fault="the machine is off for six hours",
    promise="the next tick refreshes all that came; the day equals one computed at once",
)
def test_after_six_hours_off_the_next_tick_refreshes_what_is_new(market: Chain, tmp_path: Path) -> None:
    market.pull(at(1, 8))
    # Checks take most of a run: the tick that catches up is the one to be judged.
    assert market.run(FIRST, tick=True, has_checks=False).success
    # Landed, and then the power went: nothing was computed from it.
    market.pull(at(1, 9))
    market.pull(at(1, 15))
    assert market.run(FIRST, tick=True).success
    by_ticks = market.content()
    opened = by_ticks["refined.asset_hourly"]["opened_at"]
    assert opened.unique().sort().to_list() == [at(1, 8), at(1, 9), at(1, 15)]

    assert market.run(FIRST, has_checks=False).success
    assert same(by_ticks, market.content()) == []


@pytest.mark.fault(
    row=32.1,
    fault="the machine is off for a whole day",
    promise="the day fails by name and is on the gap ledger, once; the other days of the catch-up are computed",
)
def test_a_day_without_any_pull_is_a_named_gap_and_stops_no_other_day(market: Chain) -> None:
    for day in (1, 3):
        market.pull(at(day, 12))
    market.set_now(at(4, 1))
    for _ in range(2):
        result = market.run(FIRST, date(2026, 10, 3), select=RATES)
        assert result.success, failures(result)

    gaps = market.lake.read(quality.GapLedger)
    assert gaps.select("table_name", "date", "state").rows() == [
        ("raw.coincap_rates", date(2026, 10, 2), "unrecoverable")
    ]
    assert market.lake.days(trusted.FxRates) == [date(2026, 10, 1), date(2026, 10, 3)]


@pytest.mark.fault(
    row=32.2, fault="a tick is evaluated late", promise="it is of the day that it was scheduled for, not of today"
)
def test_a_late_tick_is_of_the_day_it_was_scheduled_for(tmp_path: Path) -> None:
    settings = Settings(
        lake_uri=str(tmp_path / "lake"),
        coincap_base_url="http://127.0.0.1:1/v2",
        state_dir=tmp_path / "state",
        providers=("coincap",),
    )
    repository = build_definitions(settings).get_repository_def()
    (schedule,) = live(settings)
    scheduled = datetime(2026, 10, 1, 23, 55, tzinfo=UTC)

    # A schedule asks its instance what is under way, and for that the instance must be one that is kept.
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        context = dg.build_schedule_context(
            instance=instance, scheduled_execution_time=scheduled, repository_def=repository
        )
        told: Any = schedule(context)

    requests = [told] if isinstance(told, dg.RunRequest) else [r for r in told if isinstance(r, dg.RunRequest)]
    assert [(request.partition_key, request.run_key) for request in requests] == [("2026-10-01", "2026-10-01T23:55Z")]
    assert schedule.execution_timezone == "UTC"


# ---- 33: a tick that comes twice ----


@pytest.mark.fault(
    row=33,
    fault="the same tick is launched twice (two daemons, or a crash in between)",
    promise="the second changes nothing: no row, no version",
)
def test_the_same_tick_twice_changes_nothing(market: Chain) -> None:
    market.set_now(at(1, 12))
    everything: tuple[type[Contract], ...] = (*DERIVED, *LIVE)
    assert market.run(FIRST, select=everything, tick=True).success
    content, versions = market.content(everything), market.versions()
    assert market.run(FIRST, select=everything, tick=True).success

    assert same(content, market.content(everything)) == []
    assert market.versions() == versions
    assert content["refined.asset_hourly"].height == 5
    assert content["raw.coincap_rates"].height == 1
