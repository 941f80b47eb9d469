"""Alpha Vantage from the sandbox through Dagster to quotes and candles: once, twice, day after day, on few calls."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from crypto_assets.assets.raw.alpha_vantage import HISTORY
from crypto_assets.providers.alpha_vantage import PROVIDER
from crypto_assets.sandbox import Fault, Market
from crypto_assets.tables import quality, raw, trusted
from crypto_assets.tables.window import Window
from tests.chain import failures
from tests.line import Line, line

TODAY = date(2026, 10, 14)
NOW = datetime(2026, 10, 14, 12, 30, tzinfo=UTC)
DAY = timedelta(days=1)
KEY = "CANARY-Key-5d2f40ab11"
MARKET = Market(7, n_assets=30)
RATES, SERIES = raw.RawAlphaVantageRates, raw.RawAlphaVantageSeries


def alpha_vantage(
    home: Path, *, pairs: Sequence[str] = ("BTC/USD", "ETH/USD"), key: str = KEY
) -> AbstractContextManager[Line]:
    """A line with Alpha Vantage alone."""
    return line(home, NOW, PROVIDER.name, kind=Line, market=MARKET, key=key, alpha_vantage_pairs=tuple(pairs))


def test_rates_become_quotes_and_every_rule_holds(tmp_path: Path) -> None:
    with alpha_vantage(tmp_path) as on:
        assert on.run(TODAY, select=[RATES, trusted.Quotes], has_checks=True).success
        held = on.lake.read(quality.CheckResults)
        assert set(held["table_name"]) == {"raw.alpha_vantage_rates", "trusted.quotes"}
        assert held.filter(~pl.col("passed")).is_empty()
        quotes = on.lake.read(trusted.Quotes)
        assert quotes["market_id"].to_list() == ["alpha_vantage:BTC/USD", "alpha_vantage:ETH/USD"]
        assert quotes["observed_at"].to_list() == [NOW, NOW]
        truth = [MARKET.price(asset, NOW) for asset in ("bitcoin", "ethereum")]
        assert [float(price) for price in quotes["exchange_rate"]] == pytest.approx(truth, rel=1e-9)
        assert (quotes["bid_price"] < quotes["exchange_rate"]).all()
        for contract in (RATES, trusted.Quotes):
            verdicts = on.verdicts(contract, Window.of_day(TODAY))
            assert all(passed for passed, _ in verdicts.values()), verdicts
        told = on.verdicts(trusted.Quotes, Window.of_day(TODAY))
        assert told["reconciled"][1] == "raw 2 = trusted 2 + quarantined 0 + duplicates 0"
        assert told["lossless"][1] == "6 values compared, 0 differ"


def test_a_whole_series_lands_once_and_serves_every_day_that_is_asked_for(tmp_path: Path) -> None:
    with alpha_vantage(tmp_path) as on:
        yesterday = TODAY - DAY
        assert on.run(yesterday, select=[SERIES, trusted.Candles]).success
        # No week or month of yesterday is over: two daily series, and one question that the plan has no intraday ones.
        assert on.n_calls() == 3
        held = on.lake.read(SERIES)
        assert set(held["outcome"]) == {"ok", "denied"}
        assert on.lake.read(trusted.Candles)["opened_at"].unique().to_list() == [datetime(2026, 10, 13, tzinfo=UTC)]

        first = date(2026, 1, 1)
        assert on.run(first, yesterday, select=[SERIES, trusted.Candles]).success
        assert on.n_calls() == 7
        candles = on.lake.read(trusted.Candles)
        counts = dict(candles.group_by("market_id", "interval").len().select("interval", "len").iter_rows())
        assert counts == {"1d": 286, "1w": 40, "1mo": 9}
        assert set(candles["n_duplicates"]) == {0}
        window = Window.of_days(first, yesterday)
        for contract in (SERIES, trusted.Candles):
            verdicts = on.verdicts(contract, window)
            # The refusal stands alone on its day: that nothing else was pulled for it is warned of.
            verdicts.pop("complete_pull", None)
            assert all(passed for passed, _ in verdicts.values()), verdicts
        assert on.verdicts(trusted.Candles, window)["reconciled"][1].startswith(f"raw {len(candles)} = trusted ")
        assert on.lake.read(quality.Quarantine).is_empty()


def test_twice_is_equal_and_makes_no_commit(tmp_path: Path) -> None:
    """D9: to materialize again changes no byte, and costs no call."""
    with alpha_vantage(tmp_path) as on:
        days, tables = (date(2026, 9, 1), TODAY - DAY), [SERIES, trusted.Candles]
        assert on.run(*days, select=tables).success
        once, calls = on.lake.read(trusted.Candles), on.n_calls()
        versions = [on.lake.state(contract) for contract in tables]
        assert on.run(*days, select=tables).success
        assert on.lake.read(trusted.Candles).equals(once)
        assert [on.lake.state(contract) for contract in tables] == versions
        assert on.n_calls() == calls


def test_day_after_day_is_the_same_as_all_at_once_on_one_call_a_series_and_day(tmp_path: Path) -> None:
    days = [date(2026, 9, 28) + n * DAY for n in range(7)]
    with alpha_vantage(tmp_path / "daily", pairs=["BTC/USD"]) as on:
        for day in days:
            on.sandbox.forget_calls()
            on.set_now(datetime(day.year, day.month, day.day, 0, 30, tzinfo=UTC) + DAY)
            for _ in range(2):
                assert on.run(day, select=[SERIES, trusted.Candles]).success
            asked = {name.partition(".")[2]: n for name, n in on.sandbox.calls()["calls"].items()}
            assert asked["digital_currency_daily"] == 1
            assert asked.get("digital_currency_weekly", 0) == (day.weekday() == 6)
            assert asked.get("digital_currency_monthly", 0) == (day == date(2026, 9, 30))
        # What the last week and month brought lies in days before the run's own: they are computed as Dagster is told.
        assert on.run(date(2026, 9, 1), days[-1], select=[trusted.Candles]).success
        daily = on.lake.read(trusted.Candles)
        assert set(daily["n_duplicates"]) == {0}
    with alpha_vantage(tmp_path / "once", pairs=["BTC/USD"]) as on:
        on.set_now(datetime(2026, 10, 5, 0, 30, tzinfo=UTC))
        assert on.run(date(2026, 9, 1), days[-1], select=[SERIES, trusted.Candles]).success
        once = on.lake.read(trusted.Candles)
    ours = ["ingested_at", "pull_id"]
    assert daily.drop(ours).equals(once.drop(ours))


def test_dagster_is_told_of_the_days_that_landed_beside_those_asked_for(tmp_path: Path) -> None:
    """A week's candle lands when the week is over and belongs to its Monday: what follows from it must be computed."""
    with alpha_vantage(tmp_path, pairs=["BTC/USD"]) as on:
        for day in (date(2026, 10, 4), date(2026, 10, 10)):
            on.set_now(datetime(day.year, day.month, day.day, 0, 30, tzinfo=UTC) + DAY)
            assert on.run(day, select=[SERIES]).success
        on.set_now(datetime(2026, 10, 12, 0, 30, tzinfo=UTC))
        result = on.run(date(2026, 10, 11), select=[SERIES])
        told = {event.partition for event in result.all_events if event.is_step_materialization and event.partition}
        assert told == {"2026-10-05", "2026-10-11"}


def test_a_late_provider_is_asked_again_the_next_day_and_nothing_is_lost(tmp_path: Path) -> None:
    with alpha_vantage(tmp_path, pairs=["BTC/USD"]) as on:
        # It is the 15th, and the provider has not begun it: the 14th is not settled.
        on.clock.set(datetime(2026, 10, 15, 0, 30, tzinfo=UTC))
        on.sandbox.set_now(datetime(2026, 10, 14, 23, 59, tzinfo=UTC))
        assert on.run(TODAY, select=[SERIES, trusted.Candles]).success
        assert on.lake.read(trusted.Candles).is_empty()
        calls = on.n_calls()
        assert on.run(TODAY, select=[SERIES, trusted.Candles]).success
        assert on.n_calls() == calls
        on.set_now(datetime(2026, 10, 16, 0, 30, tzinfo=UTC))
        assert on.run(TODAY, TODAY + DAY, select=[SERIES, trusted.Candles]).success
        days = on.lake.read(trusted.Candles).filter(interval="1d")["opened_at"].dt.date().to_list()
        assert days == [TODAY, TODAY + DAY]


def test_again_asks_again_for_the_days_and_their_newest_answer_counts(tmp_path: Path) -> None:
    with alpha_vantage(tmp_path, pairs=["BTC/USD"]) as on:
        day = date(2026, 10, 7)
        assert on.run(day, select=[SERIES]).success
        on.clock.sleep(60)
        again = {"subjects": ["BTC/USD 1d", "BTC/USD 1w"], "again": True}
        assert on.run(day, select=[SERIES], config={SERIES.table.full_name: again}).success
        assert on.run(date(2026, 10, 5), date(2026, 10, 8), select=[trusted.Candles]).success
        candles = on.lake.read(trusted.Candles).select("interval", "opened_at", "n_duplicates", "ingested_at")
        stamped = {(row[0], f"{row[1]:%d}"): row[2] for row in candles.iter_rows()}
        assert stamped == {("1d", "05"): 0, ("1d", "06"): 0, ("1d", "07"): 1, ("1d", "08"): 0, ("1w", "05"): 1}
        assert set(candles.filter(n_duplicates=1)["ingested_at"]) == {NOW + timedelta(seconds=60, milliseconds=2)}


def test_a_premium_refusal_is_said_and_stops_neither_the_series_nor_the_run(tmp_path: Path) -> None:
    with alpha_vantage(tmp_path) as on:
        assert on.run(TODAY - DAY, select=[SERIES, trusted.Candles]).success
        assert on.sandbox.calls()["calls"]["alpha_vantage.crypto_intraday"] == 1
        denied = on.lake.read(SERIES).filter(outcome="denied")
        assert denied["detail"].to_list() == ["premium: the plan does not include this function"]
        assert set(on.lake.read(trusted.Candles)["interval"]) == {"1d"}
        # For the rest of the day nobody asks again, whichever pair is meant.
        for pair in ("BTC/USD", "DOGE/USD"):
            assert list(HISTORY.missing(on.lake, f"{pair} 1m", Window.of_day(TODAY - DAY), NOW)) == []


def test_a_premium_plan_has_its_intraday_candles(tmp_path: Path) -> None:
    with alpha_vantage(tmp_path, pairs=["BTC/USD"], key="premium-key") as on:
        config = {SERIES.table.full_name: {"subjects": ["BTC/USD 15m"]}}
        assert on.run(TODAY - 2 * DAY, TODAY - DAY, select=[SERIES, trusted.Candles], config=config).success
        candles = on.lake.read(trusted.Candles)
        assert candles.height == 192
        assert set(candles["interval"]) == {"15m"}
        assert all(value == value.to_integral_value() for value in candles["volume_base"])
        window = Window.of_days(TODAY - 2 * DAY, TODAY - DAY)
        verdicts = on.verdicts(trusted.Candles, window)
        assert all(passed for passed, _ in verdicts.values()), verdicts
        assert on.run(TODAY - 2 * DAY, TODAY - DAY, select=[SERIES], config=config).success
        assert on.n_calls() == 1


def test_an_unknown_pair_is_skipped_and_the_others_are_published(tmp_path: Path) -> None:
    with alpha_vantage(tmp_path, pairs=["NOPE/USD", "BTC/USD"]) as on:
        assert on.run(TODAY, select=[RATES, trusted.Quotes]).success
        assert on.lake.read(trusted.Quotes)["market_id"].to_list() == ["alpha_vantage:BTC/USD"]
        assert on.run(TODAY - DAY, select=[SERIES, trusted.Candles]).success
        calls = on.n_calls()
        assert on.run(TODAY - DAY, select=[SERIES, trusted.Candles]).success
        assert on.n_calls() == calls
        unknown = on.lake.read(SERIES).filter(subject="NOPE/USD 1d")
        assert unknown.select("outcome", "detail").rows() == [("not_found", "no data for this pair")]


def test_a_used_up_quota_fails_the_run_in_one_line_and_leaves_no_key(tmp_path: Path) -> None:
    with alpha_vantage(tmp_path) as on:
        on.sandbox.set_faults([Fault("quota_429", "alpha_vantage.currency_exchange_rate", after=1, times=1)])
        told = failures(on.run(TODAY, select=[RATES]))["raw.alpha_vantage_rates"]
        assert "the day's calls are used up; no more calls until 2026-10-15 12:30:00 UTC" in told
        assert KEY not in told
        # The first pair's rate has landed all the same, and is published by the next run.
        assert on.run(TODAY, select=[trusted.Quotes]).success
        assert on.lake.read(trusted.Quotes).height == 1
        on.clock.sleep(4 * 3600)
        assert "quota is used up" in failures(on.run(TODAY, select=[RATES]))["raw.alpha_vantage_rates"]
        assert on.n_calls() == 2
        bodies = on.lake.read(RATES)["body"].to_list()
        assert any(b"API key as [redacted] and" in body for body in bodies)


def test_a_rate_of_before_midnight_that_arrives_after_it_is_in_its_own_day(tmp_path: Path) -> None:
    with alpha_vantage(tmp_path, pairs=["BTC/USD"]) as on:
        on.sandbox.set_now(datetime(2026, 10, 14, 23, 59, 58, tzinfo=UTC))
        on.clock.set(datetime(2026, 10, 15, 0, 0, 1, tzinfo=UTC))
        assert on.run(date(2026, 10, 15), select=[RATES]).success
        assert on.run(TODAY, date(2026, 10, 15), select=[trusted.Quotes]).success
        quotes = on.lake.read(trusted.Quotes)
        assert quotes["date"].to_list() == [TODAY]
        assert on.verdicts(trusted.Quotes, Window.of_days(TODAY, date(2026, 10, 15)))["reconciled"][0]


def test_a_repeated_quote_of_a_provider_that_stands_still_is_one_row(tmp_path: Path) -> None:
    with alpha_vantage(tmp_path, pairs=["BTC/USD"]) as on:
        assert on.run(TODAY, select=[RATES]).success
        on.clock.sleep(6 * 3600)
        assert on.run(TODAY, select=[RATES, trusted.Quotes]).success
        quotes = on.lake.read(trusted.Quotes)
        assert quotes.select("n_duplicates").rows() == [(1,)]
        assert on.verdicts(trusted.Quotes, Window.of_day(TODAY))["reconciled"][1].startswith("raw 2 = trusted 1")
        assert on.lake.read(RATES).height == 2


def test_a_changed_decimal_and_a_lost_row_are_seen_by_the_second_reading(tmp_path: Path) -> None:
    """The checks of candles see what they are there to see."""
    with alpha_vantage(tmp_path, pairs=["BTC/USD"]) as on:
        days = Window.of_days(date(2026, 10, 5), date(2026, 10, 7))
        assert on.run(days.days[0], days.days[-1], select=[SERIES, trusted.Candles]).success
        good = on.lake.read(trusted.Candles)
        on.lake.replace(trusted.Candles, good.head(len(good) - 1), days)
        assert not on.verdicts(trusted.Candles, days)["reconciled"][0]
        changed = good.with_columns(volume_base=pl.col("volume_base") + pl.lit("0.00000001").str.to_decimal(scale=18))
        on.lake.replace(trusted.Candles, changed.cast(good.schema), days)
        assert not on.verdicts(trusted.Candles, days)["lossless"][0]
