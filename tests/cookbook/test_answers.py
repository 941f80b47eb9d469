"""Some of the cookbook's answers, computed once more without SQL from the rows of the tables."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from crypto_assets.resources.lake import Lake
from crypto_assets.resources.query import QueryEngine
from crypto_assets.tables import BY_NAME
from tests.cookbook.recipes import recipes

pytestmark = [pytest.mark.xdist_group("cookbook"), pytest.mark.e2e]

Row = dict[str, Any]
DAY = date(2026, 11, 12)
BTC = "binance:BTC/USDT"
TEXTS = {recipe.name[:2]: recipe.text for recipe in recipes()}


class Asked:
    def __init__(self, engine: QueryEngine, lake: Lake) -> None:
        self._engine, self._lake = engine, lake

    def answer(self, number: str) -> list[Row]:
        """The rows that a question of the cookbook finds."""
        return self._engine.query(TEXTS[number]).to_dicts()

    def rows(self, table: str, **equal: Any) -> list[Row]:
        """The rows of a table with these values, as the lake reads them."""
        found = self._lake.read(BY_NAME[table]).to_dicts()
        return [row for row in found if all(row[name] == value for name, value in equal.items())]


@pytest.fixture
def asked(engine: QueryEngine, market: Lake) -> Asked:
    return Asked(engine, market)


def at(day: int, hour: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, tzinfo=UTC)


def only(rows: Iterable[Row], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in rows]


def test_supply_and_price_at_a_moment_are_of_the_last_snapshot_before_it(asked: Asked) -> None:
    newest: dict[str, Row] = {}
    for row in asked.rows("trusted.asset_snapshots", date=DAY, provider="coincap"):
        held = newest.get(row["asset_id"])
        if row["observed_at"] <= at(12, 12) and (held is None or held["observed_at"] < row["observed_at"]):
            newest[row["asset_id"]] = row
    largest = sorted(newest.values(), key=lambda row: -row["market_cap_usd"])[:10]
    names = ("asset_id", "name", "supply", "price_usd", "market_cap_usd", "observed_at")
    assert only(asked.answer("07"), *names) == only(largest, *names)
    assert {row["observed_at"] for row in largest} == {at(12, 10)}


def test_movers_are_ranked_by_their_change(asked: Asked) -> None:
    day = asked.rows("refined.movers", date=date(2026, 11, 13))
    by_change = sorted(day, key=lambda row: row["change_pct_24h"])
    assert [row["change_pct_24h"] for row in asked.answer("08")] == [r["change_pct_24h"] for r in by_change[:-11:-1]]
    assert [row["change_pct_24h"] for row in asked.answer("09")] == [r["change_pct_24h"] for r in by_change[:10]]
    total = sum(row["volume_usd_24h"] for row in day)
    shares = sorted((100 * row["volume_usd_24h"] / total for row in day), reverse=True)[:20]
    assert [row["share_pct"] for row in asked.answer("10")] == pytest.approx([float(share) for share in shares])


def test_dominance_is_a_share_of_all_caps_of_its_day(asked: Asked) -> None:
    caps: dict[date, dict[str, Decimal]] = defaultdict(dict)
    for row in asked.rows("refined.asset_daily", provider="coincap"):
        if row["market_cap_usd"] is not None:
            caps[row["date"]][row["asset_id"]] = row["market_cap_usd"]
    told = asked.answer("12")
    assert len(told) == 3 * 3
    for row in told:
        day = caps[row["date"]]
        assert row["share_pct"] == pytest.approx(float(100 * day[row["asset_id"]] / sum(day.values())))


def test_returns_are_of_one_day_to_the_next(asked: Asked) -> None:
    prices = {
        (row["asset_id"], row["date"]): float(row["price_usd"])
        for row in asked.rows("refined.price_daily")
        if row["asset_id"] in ("bitcoin", "ethereum")
    }
    told = asked.answer("13")
    assert only(told, "asset_id", "date") == sorted(prices)
    for row in told:
        before = prices.get((row["asset_id"], row["date"] - timedelta(days=1)))
        growth = None if before is None else prices[row["asset_id"], row["date"]] / before
        assert row["return_pct"] == (None if growth is None else pytest.approx(100 * (growth - 1)))
        assert row["log_return"] == (None if growth is None else pytest.approx(math.log(growth)))


def test_volatility_is_the_deviation_of_hourly_log_returns(asked: Asked) -> None:
    told = {row["market_id"]: row for row in asked.answer("14")}
    assert set(told) == {BTC, "kraken:BTC/USD", "coinbase:BTC/USD"}
    for market_id, row in told.items():
        bars = sorted(asked.rows("refined.ohlcv_1h", market_id=market_id), key=lambda bar: bar["opened_at"])
        returns = [math.log(float(b["close"]) / float(a["close"])) for a, b in pairwise(bars)]
        assert row["n_hours"] == len(returns) > 10
        assert row["hourly_stddev"] == pytest.approx(statistics.stdev(returns))
        assert row["yearly_volatility_pct"] == pytest.approx(100 * math.sqrt(8760) * statistics.stdev(returns))


def test_a_moving_average_is_of_exactly_so_many_closes(asked: Asked) -> None:
    bars = [
        float(row["close"])
        for row in sorted(asked.rows("refined.ohlcv_1m", market_id=BTC), key=lambda bar: bar["opened_at"])
        if at(13, 6) <= row["opened_at"] < at(13, 10)
    ]
    told = asked.answer("15")
    assert len(told) == len(bars) == 240
    for n in (10, 30, 60, 100):
        expected = [None] * (n - 1) + [statistics.fmean(bars[i - n : i]) for i in range(n, len(bars) + 1)]
        assert [row[f"sma_{n}"] for row in told] == [None if e is None else pytest.approx(e) for e in expected]


def test_candles_of_half_an_hour_are_made_of_minutes(asked: Asked) -> None:
    buckets: dict[datetime, list[Row]] = defaultdict(list)
    for row in sorted(asked.rows("refined.ohlcv_1m", market_id=BTC, date=DAY), key=lambda bar: bar["opened_at"]):
        opened = row["opened_at"]
        buckets[opened.replace(minute=opened.minute // 30 * 30)].append(row)
    expected = [
        (bar_at, b[0]["open"], max(r["high"] for r in b), min(r["low"] for r in b), b[-1]["close"], len(b))
        for bar_at, b in buckets.items()
    ]
    told = asked.answer("17")
    assert only(told, "bar_at", "open", "high", "low", "close", "n_minutes") == expected
    assert [row["volume_base"] for row in told] == [sum(r["volume_base"] for r in b) for b in buckets.values()]


def test_seconds_are_weighed_by_what_was_traded(asked: Asked) -> None:
    seconds: dict[datetime, list[Row]] = defaultdict(list)
    for row in asked.rows("trusted.trades", market_id=BTC):
        seconds[row["traded_at"].replace(microsecond=0)].append(row)
    told = asked.answer("18")
    assert [row["second_at"] for row in told] == sorted(seconds)
    for row in told:
        trades = seconds[row["second_at"]]
        volume = sum(trade["quantity"] for trade in trades)
        assert (row["volume_base"], row["n_trades"]) == (volume, sum(trade["n_trades"] for trade in trades))
        assert row["mean_price"] == pytest.approx(statistics.fmean(float(trade["price"]) for trade in trades))
        value = sum(trade["price"] * trade["quantity"] for trade in trades)
        assert row["vwap"] == pytest.approx(float(value / volume))
    assert any(row["vwap"] != pytest.approx(row["mean_price"], rel=1e-12) for row in told)


def test_shares_of_venues_sum_to_all_of_a_day(asked: Asked) -> None:
    markets = {row["market_id"] for row in asked.rows("refined.dim_market", base_asset_id="bitcoin")}
    volumes: dict[tuple[date, str], Decimal] = defaultdict(Decimal)
    for row in asked.rows("refined.ohlcv_1d"):
        if row["market_id"] in markets and row["volume_base"] > 0:
            volumes[row["date"], row["venue"]] += row["volume_base"]
    told = asked.answer("20")
    assert {(row["date"], row["venue"]): row["volume_base"] for row in told} == volumes
    for day in {row["date"] for row in told}:
        assert sum(row["share_pct"] for row in told if row["date"] == day) == pytest.approx(100)


def test_the_widest_minutes_between_venues_come_first(asked: Asked) -> None:
    closes: dict[datetime, list[float]] = defaultdict(list)
    for market_id in ("kraken:BTC/USD", "coinbase:BTC/USD"):
        for row in asked.rows("refined.ohlcv_1m", market_id=market_id, date=date(2026, 11, 13)):
            closes[row["opened_at"]].append(float(row["close"]))
    apart = sorted((1e4 * (max(c) / min(c) - 1) for c in closes.values() if len(c) == 2), reverse=True)
    assert [row["apart_bps"] for row in asked.answer("21")] == pytest.approx(apart[:20])


def test_pairs_are_of_the_exchanges_last_snapshot(asked: Asked) -> None:
    rows = asked.rows("trusted.market_snapshots", date=DAY, exchange_id="binance")
    newest = max(row["observed_at"] for row in rows)
    last = [row for row in rows if row["observed_at"] == newest]
    last.sort(key=lambda row: (row["volume_usd_24h"] is None, -(row["volume_usd_24h"] or 0), row["market_id"]))
    assert newest == at(12, 22)
    names = ("market_id", "volume_usd_24h", "n_trades_24h")
    assert only(asked.answer("28"), *names) == only(last[:10], *names)


def test_euros_are_converted_by_the_days_last_rate(asked: Asked) -> None:
    rates: dict[date, tuple[datetime, Decimal]] = {}
    for row in asked.rows("trusted.fx_rates", symbol="EUR"):
        rates[row["date"]] = max(rates.get(row["date"], (at(1), Decimal(0))), (row["observed_at"], row["rate_usd"]))
    bars = asked.rows("refined.asset_daily", asset_id="bitcoin", provider="coincap")
    expected = {row["date"]: float(row["close_usd"]) / float(rates[row["date"]][1]) for row in bars}
    told = {row["date"]: row["close_eur"] for row in asked.answer("31")}
    assert told == pytest.approx(expected)
    assert len(told) == 3


def test_the_replaced_model_joins_values_to_coins_by_id(asked: Asked) -> None:
    told = asked.answer("33")
    rates = {(r["currency_id"], r["observed_at"]): r["rate_usd"] for r in asked.rows("trusted.fx_rates")}
    snapshots = {
        (row["asset_id"], row["observed_at"]): row
        for row in asked.rows("trusted.asset_snapshots", date=DAY, provider="coincap")
        if row["rank"] is not None and row["rank"] <= 10
    }
    assert {(row["currency_id"], row["timestamp"]) for row in told} == set(snapshots)
    for row in told:
        key = (row["currency_id"], row["timestamp"])
        assert (row["price_usd"], row["rate_usd"]) == (snapshots[key]["price_usd"], rates.get(key))
    assert sum(row["rate_usd"] is not None for row in told) > 2


def test_a_ticker_means_what_was_believed_then(asked: Asked) -> None:
    moment, known = at(13, 10), at(13, 12)
    expected = [
        row
        for row in asked.rows("refined.symbol_map", source_symbol="BTC")
        if row["valid_from"] <= moment < (row["valid_to"] or datetime.max.replace(tzinfo=UTC))
        and row["recorded_at"] <= known < (row["superseded_at"] or datetime.max.replace(tzinfo=UTC))
    ]
    expected.sort(key=lambda row: (row["source"], row["source_id"]))
    assert only(asked.answer("36"), "source", "source_id", "asset_id") == only(
        expected, "source", "source_id", "asset_id"
    )
    assert len({row["source"] for row in expected}) >= 4


def test_nothing_is_known_before_it_arrived(asked: Asked) -> None:
    newest: dict[str, Row] = {}
    for row in sorted(asked.rows("refined.asset_hourly", provider="coincap"), key=lambda row: row["opened_at"]):
        if row["date"] >= DAY and row["available_at"] <= at(13, 6):
            newest[row["asset_id"]] = row
    told = asked.answer("38")
    names = ("asset_id", "opened_at", "close_usd", "available_at")
    assert only(told, *names) == only((newest[asset_id] for asset_id in sorted(newest)), *names)
    assert max(row["opened_at"] for row in told) == at(13, 4)


def test_reasons_are_counted_one_by_one(asked: Asked) -> None:
    expected: Counter[tuple[str, date, str]] = Counter()
    for row in asked.rows("quality.quarantine"):
        for reason in row["reasons"].split(","):
            expected[row["table_name"], row["date"], reason] += 1
    told = {(row["table_name"], row["date"], row["reason"]): row["n_records"] for row in asked.answer("40")}
    assert told == expected
    assert ("trusted.asset_snapshots", date(2026, 11, 11), "price_usd|min") in told
    assert all(json.loads(row["record"]) is not None for row in asked.rows("quality.quarantine"))


def test_gaps_are_told_by_cause(asked: Asked) -> None:
    missing: Counter[tuple[str, str]] = Counter()
    for row in asked.rows("quality.gap_ledger"):
        missing[row["key"], row["cause"]] += row["n_missing"]
    told = {(row["key"], row["cause"]): row["n_missing"] for row in asked.answer("39")}
    assert told == missing
    assert told["binance:ETH/USDT 1m", "no_trades"] == 40
    assert {cause for _, cause in told} == {"no_trades", "not_listed"}


def test_revisions_are_of_the_restated_day_the_largest_first(asked: Asked) -> None:
    told = asked.answer("41")
    changes = [
        abs(row["relative_change"])
        for row in asked.rows("quality.revision_ledger", date=date(2026, 11, 11))
        if row["column_name"] in ("close", "volume_base") and row["relative_change"] is not None
    ]
    assert [abs(row["change_pct"]) for row in told] == pytest.approx([100 * c for c in sorted(changes)[:-51:-1]])
    for row in told:
        before, after = Decimal(row["old_value"]), Decimal(row["new_value"])
        assert row["change_pct"] == pytest.approx(float(100 * (after / before - 1)))


def test_health_is_the_share_of_calls_that_brought_data(asked: Asked) -> None:
    calls: Counter[tuple[str, str]] = Counter()
    good: Counter[tuple[str, str]] = Counter()
    for row in asked.rows("quality.source_health"):
        calls[row["provider"], row["endpoint"]] += row["n_calls"]
        good[row["provider"], row["endpoint"]] += row["n_ok"]
    told = {(row["provider"], row["endpoint"]): row for row in asked.answer("44")}
    assert {key: row["n_calls"] for key, row in told.items()} == calls
    assert {key: row["ok_pct"] for key, row in told.items()} == {k: 100 * good[k] / n for k, n in calls.items()}
    assert min(row["ok_pct"] for row in told.values()) < 100
