"""The seeded market tells the truth: the same one every time, in the provider's words."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from statistics import stdev

import pytest

from crypto_assets.sandbox import Market

NOON = datetime(2024, 5, 17, 12, 34, 56, 789000, tzinfo=UTC)
MARKET = Market(7)


def decimals(text: str) -> int:
    return len(text.partition(".")[2])


def test_another_process_with_another_hash_seed_tells_the_same() -> None:
    program = (
        "from datetime import UTC, datetime; from crypto_assets.sandbox import Market;"
        "m, at = Market(7), datetime(2024, 5, 17, 12, 34, 56, 789000, tzinfo=UTC);"
        "print([m.assets(at), m.exchanges(at), m.rates(at), m.markets(at)])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONIOENCODING": "utf-8"}
    said = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, check=True, encoding="utf-8"
    ).stdout
    here = [MARKET.assets(NOON), MARKET.exchanges(NOON), MARKET.rates(NOON), MARKET.markets(NOON)]
    assert said.strip() == str(here)


def test_importing_the_sandbox_pulls_nothing_heavy() -> None:
    program = (
        "import sys, crypto_assets.sandbox; print([m for m in ('polars', 'dagster', 'uvicorn') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout
    assert said.strip() == "[]"


def test_another_seed_is_another_market() -> None:
    assert Market(8).price("bitcoin", NOON) != MARKET.price("bitcoin", NOON)
    assert [row["id"] for row in Market(8).assets(NOON)] != [row["id"] for row in MARKET.assets(NOON)]


@pytest.mark.parametrize("version", ["v2", "v3"])
@pytest.mark.parametrize("year", [2018, 2024, 2027])
def test_cap_is_supply_times_price_and_rank_goes_by_cap(version: str, year: int) -> None:
    rows = MARKET.assets(NOON.replace(year=year), version)  # type: ignore[arg-type]
    assert [row["rank"] for row in rows] == [str(rank) for rank in range(1, 251)]
    caps = [Decimal(row["marketCapUsd"]) for row in rows]
    assert caps == sorted(caps, reverse=True)
    for row, cap in zip(rows, caps, strict=True):
        # v2 keeps 16 decimals, which is few for a price of 0.00001
        assert abs(Decimal(row["supply"]) * Decimal(row["priceUsd"]) / cap - 1) < Decimal("1e-9")
        assert row["maxSupply"] is None or Decimal(row["maxSupply"]) >= Decimal(row["supply"])


def test_v2_pads_to_16_places_and_v3_to_18_except_two_fields() -> None:
    for row in MARKET.assets(NOON, "v2"):
        numbers = ("supply", "marketCapUsd", "volumeUsd24Hr", "priceUsd", "changePercent24Hr", "vwap24Hr")
        assert {decimals(row[name]) for name in numbers} == {16}
        assert "tokens" not in row
    shortest = set()
    for row in MARKET.assets(NOON, "v3"):
        assert {decimals(row[name]) for name in ("supply", "marketCapUsd", "volumeUsd24Hr", "priceUsd")} == {18}
        shortest |= {decimals(row["changePercent24Hr"]), decimals(row["vwap24Hr"])}
        assert "e" not in (row["changePercent24Hr"] + row["vwap24Hr"]).lower()
        assert isinstance(row["tokens"], dict)
    assert len(shortest) > 3
    assert max(shortest) <= 18


def test_a_v3_price_is_the_exact_text_of_the_double() -> None:
    price = MARKET.price("bitcoin", NOON)
    assert price is not None
    text = MARKET.assets(NOON)[0]["priceUsd"]
    assert Decimal(text) == Decimal(price).quantize(Decimal("1e-18"))
    assert float(text) == price


def test_nulls_come_as_often_as_measured_and_stay_where_they_are() -> None:
    rows = MARKET.assets(NOON)
    assert 0.40 <= sum(row["maxSupply"] is None for row in rows) / 250 <= 0.48
    assert sum(row["explorer"] is None for row in rows) == 5
    exchanges = MARKET.exchanges(NOON)
    silent = {row["exchangeId"] for row in exchanges if row["volumeUsd"] is None}
    assert (len(exchanges), len(silent)) == (35, 11)
    for row in exchanges:
        if row["exchangeId"] in silent:
            quiet = (row["percentTotalVolume"], row["tradingPairs"], row["socket"], row["updated"])
            assert quiet == (None, "0", None, 0)
    markets = MARKET.markets(NOON)
    assert 580 <= len(markets) <= 620
    assert round(sum(row["priceUsd"] is None for row in markets) / len(markets), 2) == 0.11
    assert all((row["priceUsd"] is None) == (row["volumeUsd24Hr"] is None) for row in markets)
    assert round(sum(row["tradesCount24Hr"] is None for row in markets) / len(markets), 2) == 0.43
    rates = MARKET.rates(NOON)
    assert len(rates) == 60
    assert round(sum(row["currencySymbol"] is None for row in rates) / 60, 2) == 0.28
    later = MARKET.exchanges(NOON + timedelta(days=400))
    assert {row["exchangeId"] for row in later if row["volumeUsd"] is None} == silent


def test_reporting_exchanges_hold_exactly_all_volume() -> None:
    percents = [row["percentTotalVolume"] for row in MARKET.exchanges(NOON) if row["percentTotalVolume"]]
    assert sum(map(Decimal, percents)) == 100
    assert {decimals(percent) for percent in percents} == {36}
    assert {percent[-18:] for percent in percents} == {"0" * 18}


def test_stablecoins_stay_at_a_dollar_and_wrapped_coins_at_their_own() -> None:
    for day in range(0, 3000, 97):
        prices = {row["id"]: float(row["priceUsd"]) for row in MARKET.assets(NOON - timedelta(days=day))}
        assert prices["tether"] == pytest.approx(1.0, abs=0.001)
        assert prices["usd-coin"] == pytest.approx(1.0, abs=0.001)
        assert prices["wrapped-bitcoin"] == pytest.approx(prices["bitcoin"], rel=0.003)


def test_daily_returns_look_like_a_crypto_market() -> None:
    points = MARKET.history("bitcoin", "d1", datetime(2019, 1, 1, tzinfo=UTC), NOON, now=NOON)
    assert points is not None
    prices = [float(point["priceUsd"]) for point in points]
    assert 0.015 < stdev(after / before - 1 for before, after in pairwise(prices)) < 0.045
    assert len(set(prices)) == len(prices)


def test_at_least_two_assets_share_a_ticker() -> None:
    shared = [symbol for symbol, n in Counter(row["symbol"] for row in MARKET.assets(NOON)).items() if n > 1]
    assert len(shared) == 1
    assert len({row["id"] for row in MARKET.assets(NOON)}) == 250


def test_markets_trade_what_exists_at_prices_that_agree() -> None:
    known = {row["id"] for row in MARKET.assets(NOON)} | {row["id"] for row in MARKET.rates(NOON)}
    reporting = {row["exchangeId"]: int(row["tradingPairs"]) for row in MARKET.exchanges(NOON)}
    rows = MARKET.markets(NOON)
    assert Counter(row["exchangeId"] for row in rows) == {name: n for name, n in reporting.items() if n}
    for row in rows:
        assert {row["baseId"], row["quoteId"]} <= known
        if row["priceUsd"] is not None:
            whole = MARKET.price(row["baseId"], NOON)
            assert float(row["priceUsd"]) == pytest.approx(whole, rel=0.0011)


def test_history_lies_on_the_grid_and_ends_with_the_last_interval_that_is_over() -> None:
    points = MARKET.history("bitcoin", "d1", now=datetime(2024, 3, 29, 14, 38, tzinfo=UTC))
    assert points is not None
    assert len(points) == 364
    assert points[0]["date"] == "2023-03-31T00:00:00.000Z"
    assert points[-1]["date"] == "2024-03-28T00:00:00.000Z"
    assert points[-1]["time"] == 1711584000000
    assert set(points[0]) == {"priceUsd", "time", "date"}
    minutes = MARKET.history("bitcoin", "m1", now=NOON)
    assert minutes is not None
    assert (len(minutes), minutes[-1]["date"]) == (1440, "2024-05-17T12:33:00.000Z")
    assert decimals(minutes[-1]["circulatingSupply"]) == 18


def test_a_history_window_takes_its_start_and_leaves_its_end() -> None:
    start, end = datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 5, 1, 6, tzinfo=UTC)
    points = MARKET.history("ethereum", "h1", start, end, now=NOON, version="v2")
    assert points is not None
    assert [point["date"][11:13] for point in points] == ["00", "01", "02", "03", "04", "05"]
    price = MARKET.price("ethereum", start)
    assert points[0]["priceUsd"] == f"{price:.16f}"
    beyond = MARKET.history("ethereum", "h1", NOON - timedelta(hours=2), NOON + timedelta(days=1), now=NOON)
    assert [point["date"][11:16] for point in beyond or []] == ["11:00"]


def test_every_change_shows_in_the_records_from_its_moment_on() -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    changes = MARKET.changes(start, start + timedelta(days=150))
    assert {change.field for change in changes} == {"name", "explorer", "maxSupply", "listed"}
    for change in changes:
        before = MARKET.asset(change.asset_id, change.at - timedelta(milliseconds=1))
        after = MARKET.asset(change.asset_id, change.at)
        if change.field == "listed":
            assert ("no" if before is None else "yes") == change.old
            assert ("no" if after is None else "yes") == change.new
        else:
            assert before is not None
            assert after is not None
            assert (before[change.field], after[change.field]) == (change.old, change.new)


def test_a_delisted_asset_has_no_history_and_a_new_one_none_before_its_listing() -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    listings = [c for c in MARKET.changes(start, start + timedelta(days=500)) if c.field == "listed"]
    gone = next(change for change in listings if change.new == "no")
    come = next(change for change in listings if change.new == "yes")
    assert MARKET.history(gone.asset_id, "d1", now=gone.at) is None
    points = MARKET.history(come.asset_id, "h1", start, come.at + timedelta(days=2), now=come.at + timedelta(days=2))
    assert points is not None
    assert points[0]["time"] == come.at.timestamp() * 1000
    assert len(points) == 48


def test_candles_enclose_their_ends_and_join_up() -> None:
    row = next(row for row in MARKET.markets(NOON) if row["quoteId"] == "tether")
    place = (row["exchangeId"], "h4", row["baseId"], "tether")
    candles = MARKET.candles(*place, start=NOON - timedelta(days=3), end=NOON, now=NOON)
    assert len(candles) == 17
    for before, after in pairwise(candles):
        assert after["period"] - before["period"] == 4 * 3_600_000
        assert after["open"] == before["close"]
        ends = (Decimal(after["open"]), Decimal(after["close"]))
        assert Decimal(after["low"]) <= min(ends) <= max(ends) <= Decimal(after["high"])
    assert MARKET.candles("binance", "h1", "no-such-coin", "tether", now=NOON) == []
    weeks = MARKET.candles(place[0], "w1", *place[2:], now=NOON)
    assert {datetime.fromtimestamp(week["period"] / 1000, UTC).weekday() for week in weeks} == {0}


@pytest.mark.parametrize("n_assets", [1, 5, 26, 60])
def test_small_markets_stand_too(n_assets: int) -> None:
    market = Market(3, n_assets=n_assets)
    assert len(market.assets(NOON)) == n_assets
    assert sum(Decimal(r["percentTotalVolume"]) for r in market.exchanges(NOON) if r["percentTotalVolume"]) == 100


def test_a_market_of_two_thousand_assets_has_as_many_names() -> None:
    rows = Market(7, n_assets=2000).assets(datetime(2026, 10, 1, tzinfo=UTC))
    assert len({row["id"] for row in rows}) == 2000
