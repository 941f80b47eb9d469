"""The tape: trades are the same whoever asks in whatever order, and candles are what the trades make."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto_assets.sandbox import Events, Hole, Listing, Market, Outage
from crypto_assets.sandbox.noise import scrambled, scrambled_at
from crypto_assets.sandbox.tape import INTERVALS, Tape, aggregate, microseconds, opening, tape_of

MARKET = Market(7)
TAPE = tape_of(MARKET, Events())
BTC, DAI = "binance:BTC/USDT", "binance:DAI/USDT"
NOON = datetime(2024, 5, 17, 12, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def slow_candles(trades: list[dict[str, Any]], interval: str) -> list[dict[str, Any]]:
    """Candles as a person would make them: one trade after the other, in decimals."""
    groups: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for trade in trades:
        groups[opening(interval, trade["traded_us"])].append(trade)
    rows = []
    for opened, group in groups.items():
        prices = [trade["price"] for trade in group]
        bought = [trade for trade in group if trade["taker_side"] == "buy"]
        rows.append(
            {
                "opened_at": datetime.fromtimestamp(opened // 1_000_000, UTC),
                "open": prices[0],
                "high": max(prices),
                "low": min(prices),
                "close": prices[-1],
                "volume_base": sum((trade["quantity"] for trade in group), Decimal()),
                "volume_quote": sum((trade["quantity"] * trade["price"] for trade in group), Decimal()),
                "n_trades": sum(trade["n_trades"] for trade in group),
                "taker_buy_base": sum((trade["quantity"] for trade in bought), Decimal()),
                "taker_buy_quote": sum((trade["quantity"] * trade["price"] for trade in bought), Decimal()),
            }
        )
    return rows


def test_an_array_is_scrambled_as_each_of_its_numbers() -> None:
    places = np.array([0, 1, 2, 10**9, 2**62], dtype=np.int64)
    stride = 0x9E3779B97F4A7C15
    assert scrambled_at(2**63 + 5, places).tolist() == [
        scrambled(2**63 + 5 + place * stride) for place in places.tolist()
    ]


@settings(max_examples=25)
@given(
    market_id=st.sampled_from(sorted(TAPE.markets)),
    interval=st.sampled_from([name for name in INTERVALS if name not in ("1s", "1w", "1mo")]),
    start=st.integers(0, 1100 * 1440).map(lambda minutes: datetime(2021, 6, 1, tzinfo=UTC) + minutes * MINUTE),
    hours=st.integers(1, 30),
)
def test_a_candle_is_what_its_trades_make_in_every_field(
    market_id: str, interval: str, start: datetime, hours: int
) -> None:
    end = start + hours * HOUR
    candles = TAPE.candles(market_id, interval, start, end)
    step = timedelta(microseconds=INTERVALS[interval] or 0)
    trades = TAPE.trades(market_id, start - step, end + step).records()
    first, last = microseconds(start), microseconds(end)
    expected = [row for row in slow_candles(trades, interval) if first <= microseconds(row["opened_at"]) < last]
    assert candles.records() == expected
    assert all(row["low"] <= min(row["open"], row["close"]) for row in expected)


@pytest.mark.parametrize(("interval", "n"), [("1s", 3600), ("1w", 7), ("1mo", 2)])
def test_seconds_weeks_and_months_too(interval: str, n: int) -> None:
    start = datetime(2024, 3, 1, tzinfo=UTC)
    end = start + (HOUR if interval == "1s" else 50 * DAY)
    candles = TAPE.candles("kraken:XLM/USD", interval, start, end).records()
    trades = TAPE.trades("kraken:XLM/USD", start, end + 40 * DAY).records()
    expected = [row for row in slow_candles(trades, interval) if start <= row["opened_at"] < end]
    assert candles == expected
    assert len(TAPE.candles("kraken:XLM/USD", interval, start, end, is_filled=True)) == n
    if interval == "1w":
        assert {f"{candle['opened_at']:%A}" for candle in candles} == {"Monday"}


def test_trades_are_dense_ordered_and_on_the_steps() -> None:
    trades = TAPE.trades(BTC, NOON - 2 * DAY, NOON)
    assert len(trades) == pytest.approx(2 * 1440 * 8, rel=0.4)
    assert trades.agg_id.tolist() == list(range(int(trades.agg_id[0]), int(trades.agg_id[0]) + len(trades)))
    assert trades.first_id[1:].tolist() == (trades.last_id[:-1] + 1).tolist()
    assert (np.diff(trades.time_us) >= 0).all()
    assert (trades.price > 0).all()
    assert (trades.amount >= trades.last_id - trades.first_id + 1).all()
    assert 0.45 < trades.is_buyer_maker.mean() < 0.55
    per_minute = np.bincount((trades.time_us - trades.time_us[0]) // 60_000_000)
    assert 0.5 < per_minute.var() / per_minute.mean() < 2.0  # a Poisson count has 1
    spot = trades.spot
    assert (spot.price_places, spot.amount_places) == (2, 5)


@settings(max_examples=20)
@given(
    market_id=st.sampled_from([BTC, DAI, "coinbase:SHIB/USD"]),
    minutes=st.lists(st.integers(0, 6 * 1440), min_size=3, max_size=3, unique=True),
)
def test_any_order_and_any_cut_give_the_same_trades(market_id: str, minutes: list[int]) -> None:
    start, middle, end = (NOON + minute * MINUTE for minute in sorted(minutes))
    fresh = Tape(MARKET, Events())  # asked backwards, with nothing remembered
    late = fresh.trades(market_id, middle, end).records()
    early = fresh.trades(market_id, start, middle).records()
    assert early + late == TAPE.trades(market_id, start, end).records()
    ids = [trade["trade_id"] for trade in early + late]
    assert fresh.trades_from_id(market_id, ids[0], 50, microseconds(end)).agg_id.tolist() == ids[:50]
    assert fresh.last_trades(market_id, 50, microseconds(end)).agg_id.tolist()[-len(ids) :] == ids[-50:]


def test_another_process_makes_the_same_trades() -> None:
    program = (
        "from datetime import UTC, datetime; from crypto_assets.sandbox import Events, Market;"
        "from crypto_assets.sandbox.tape import tape_of;"
        f"print(tape_of(Market(7), Events()).trades('{BTC}', datetime(2024, 5, 17, 12, tzinfo=UTC),"
        " datetime(2024, 5, 17, 13, tzinfo=UTC)).records())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    said = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True, text=True)
    assert said.stdout.strip() == str(TAPE.trades(BTC, NOON, NOON + HOUR).records())
    assert (
        TAPE.trades(BTC, NOON, NOON + HOUR).records()
        != tape_of(Market(8), Events()).trades(BTC, NOON, NOON + HOUR).records()
    )


def test_raw_trades_add_up_to_their_aggregate() -> None:
    trades = TAPE.trades(BTC, NOON, NOON + HOUR)
    raw = trades.split()
    assert raw.first_id.tolist() == list(range(int(trades.first_id[0]), int(trades.last_id[-1]) + 1))
    assert (raw.amount > 0).all()
    assert len(raw) > len(trades)
    assert aggregate(raw, "1m").records() == TAPE.candles(BTC, "1m", NOON, NOON + HOUR).records()


def test_prices_follow_the_market_and_venues_differ_by_a_few_bps() -> None:
    gaps = []
    for hour in range(48):
        at = NOON + hour * HOUR
        true = MARKET.price("bitcoin", at)
        assert true is not None
        quotes = [TAPE.quote(f"{venue}:BTC/USD", microseconds(at)) for venue in ("kraken", "coinbase")]
        kraken, coinbase = (quote.last / 100 for quote in quotes if quote is not None)
        assert kraken == pytest.approx(true, rel=4e-3)
        gaps.append(abs(kraken / coinbase - 1) * 1e4)
    assert 0.5 < median(gaps) < 20


def test_a_quote_stands_around_the_last_trade() -> None:
    quote = TAPE.quote(BTC, microseconds(NOON))
    assert quote is not None
    assert quote.bid < quote.ask
    assert quote.last in (quote.bid, quote.ask)
    assert quote.last_us < microseconds(NOON)
    assert TAPE.quote("binance:SHIB/USDT", microseconds(datetime(2021, 5, 10, 7, tzinfo=UTC))) is None


def test_a_minute_without_trades_has_no_candle_unless_it_is_filled() -> None:
    bare = TAPE.candles(DAI, "1m", NOON, NOON + DAY)
    filled = TAPE.candles(DAI, "1m", NOON, NOON + DAY, is_filled=True)
    assert len(bare) < 1000
    assert len(filled) == 1440
    rows = filled.records()
    traded = {row["opened_at"]: row for row in bare.records()}
    before = TAPE.last_trades(DAI, 1, microseconds(NOON)).records()[0]["price"]
    for row in rows:
        if row["opened_at"] in traded:
            assert row == traded[row["opened_at"]]
        else:
            assert {row["open"], row["high"], row["low"], row["close"]} == {before}
            assert (row["volume_base"], row["volume_quote"], row["n_trades"]) == (0, 0, 0)
        before = row["close"]


def test_the_last_candle_is_as_far_as_the_clock() -> None:
    now = NOON + timedelta(minutes=3, seconds=20)
    candles = TAPE.candles(BTC, "5m", NOON - HOUR, NOON + HOUR, until=now).records()
    assert candles[-1]["opened_at"] == NOON
    assert candles[-1] == slow_candles(TAPE.trades(BTC, NOON, now).records(), "5m")[0]
    assert candles[:-1] == TAPE.candles(BTC, "5m", NOON - HOUR, NOON).records()


def test_in_an_outage_there_are_neither_trades_nor_candles_and_ids_go_on() -> None:
    start, end = NOON + timedelta(minutes=7, seconds=30), NOON + 26 * HOUR + timedelta(seconds=1)
    tape = Tape(MARKET, Events(outages=(Outage("binance", start, end),)))
    trades = tape.trades(BTC, NOON - HOUR, NOON + 30 * HOUR)
    times = trades.time_us
    assert not ((times >= microseconds(start)) & (times < microseconds(end))).any()
    assert trades.agg_id.tolist() == list(range(int(trades.agg_id[0]), int(trades.agg_id[0]) + len(trades)))
    assert trades.first_id[1:].tolist() == (trades.last_id[:-1] + 1).tolist()
    assert trades.where(times < microseconds(start)).records() == TAPE.trades(BTC, NOON - HOUR, start).records()
    filled = tape.candles(BTC, "1m", NOON, NOON + 27 * HOUR, is_filled=True).records()
    opened = [row["opened_at"] for row in filled]
    gaps = [(one, other) for one, other in pairwise(opened) if other - one != MINUTE]
    assert gaps == [(NOON + 7 * MINUTE, NOON + 26 * HOUR)]
    assert tape.is_down("binance", start)
    assert not tape.is_down("kraken", start)
    assert tape.trades("kraken:BTC/USD", NOON, end).records() == TAPE.trades("kraken:BTC/USD", NOON, end).records()


def test_a_halted_market_is_not_a_venue_that_is_down() -> None:
    halt = Outage("binance", NOON, NOON + HOUR, market_id=BTC)
    tape = Tape(MARKET, Events(outages=(halt,)))
    assert not tape.is_down("binance", NOON)
    assert not tape.is_open(BTC, NOON)
    assert tape.is_listed(BTC, NOON)
    assert len(tape.trades(BTC, NOON, NOON + HOUR)) == 0
    assert len(tape.trades("binance:ETH/USDT", NOON, NOON + HOUR)) > 0


def test_a_market_begins_and_ends_with_its_listing() -> None:
    start, end = NOON + timedelta(seconds=5), NOON + 3 * DAY
    tape = Tape(MARKET, Events(listings=(Listing(BTC, start, end),)))
    trades = tape.trades(BTC, NOON - DAY, NOON + 10 * DAY)
    assert trades.agg_id[0] == trades.first_id[0] == 0
    assert microseconds(start) <= trades.time_us[0] < microseconds(start + 2 * MINUTE)
    assert microseconds(end - 2 * MINUTE) < trades.time_us[-1] < microseconds(end)
    filled = tape.candles(BTC, "1m", NOON - DAY, NOON + 10 * DAY, is_filled=True).records()
    assert filled[0]["n_trades"] > 0
    assert len(filled) == 3 * 1440
    assert [tape.is_listed(BTC, at) for at in (NOON, start, end)] == [False, True, False]
    days = tape.candles(BTC, "1d", NOON - DAY, NOON + 10 * DAY).records()
    assert [row["opened_at"].day for row in days] == [17, 18, 19, 20]
    delisted = TAPE.markets[DAI].delisted_at
    assert delisted is not None
    assert len(TAPE.trades(DAI, delisted, delisted + DAY)) == 0
    assert len(TAPE.trades(DAI, delisted - DAY, delisted)) > 0


def test_holes_are_of_a_place_and_end_when_they_heal() -> None:
    hole = Hole(BTC, NOON, NOON + HOUR, ("rest",), healed_at=NOON + DAY)
    tape = Tape(MARKET, Events(holes=(hole,)))
    span = (microseconds(NOON), microseconds(NOON + HOUR))
    assert tape.hidden(BTC, "rest", NOON + DAY - MINUTE) == (span,)
    assert tape.hidden(BTC, "rest", NOON + DAY) == ()
    assert tape.hidden(BTC, "daily", NOON) == ()
    assert tape.hidden("binance:ETH/USDT", "rest", NOON) == ()
    assert tape.trades(BTC, NOON, NOON + HOUR).records() == TAPE.trades(BTC, NOON, NOON + HOUR).records()


def test_there_are_enough_markets_and_values_are_exact_in_eight_decimals() -> None:
    venues = [spot.venue for spot in TAPE.markets.values()]
    assert (venues.count("binance"), venues.count("kraken"), venues.count("coinbase")) == (27, 16, 17)
    assert all(spot.value_places <= 8 for spot in TAPE.markets.values())
    assert set(tape_of(Market(7, n_assets=3), Events()).markets) == {
        "binance:BTC/USDT",
        "binance:ETH/USDT",
        "binance:ETH/BTC",
        "binance:BTC/EUR",
        "kraken:BTC/USD",
        "kraken:ETH/USD",
        "kraken:BTC/EUR",
        "kraken:ETH/EUR",
        "kraken:ETH/BTC",
        "kraken:USDT/USD",
        "coinbase:BTC/USD",
        "coinbase:ETH/USD",
        "coinbase:BTC/EUR",
        "coinbase:ETH/BTC",
        "coinbase:USDT/USD",
    }


def test_no_sum_of_a_month_comes_near_what_an_integer_holds() -> None:
    start = datetime(2024, 3, 1, tzinfo=UTC)
    for market_id in ("binance:SHIB/USDT", "binance:BTC/USDT", "coinbase:SHIB/USD"):
        days = TAPE.candles(market_id, "1d", start, start + 2 * DAY)
        assert int(days.value.max()) * 31 * 1000 < 2**63


def test_a_month_of_minutes_takes_a_second_or_so() -> None:
    tape = Tape(Market(7), Events())
    began = time.process_time()
    candles = tape.candles("binance:ETH/USDT", "1m", datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 4, 1, tzinfo=UTC))
    assert len(candles) > 44_000
    assert time.process_time() - began < 3.0  # 0.6 alone on the machine; others may share it
