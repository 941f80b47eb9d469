"""Bars of seconds and minutes: equal to plain Python over the same trades, however they are cut or ordered."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal, localcontext
from statistics import median
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto_assets.analytics.candles import minutes
from crypto_assets.analytics.preference import of_venues
from crypto_assets.analytics.trade_bars import trade_bars
from crypto_assets.tables.conform import conform
from crypto_assets.tables.contract import polars_schema
from crypto_assets.tables.refined import TradeBars1m, TradeBars1s
from crypto_assets.tables.trusted import Candles, Trades
from tests.rows import rows_of

HOUR = dt.datetime(2026, 11, 22, 10, tzinfo=dt.UTC)
TABLES = {"1s": TradeBars1s, "1m": TradeBars1m}
LENGTHS = {"1s": dt.timedelta(seconds=1), "1m": dt.timedelta(minutes=1)}
UNIT = Decimal("1e-18")


def trade(ms: int, trade_id: int | str, price: str = "2", quantity: str = "3", **facts: Any) -> dict[str, Any]:
    at = HOUR + dt.timedelta(milliseconds=ms)
    return {
        "venue": "binance",
        "market_id": "binance:BTC/USDT",
        "trade_id": str(trade_id),
        "traded_at": at,
        "provider": "binance_stream",
        "price": Decimal(price),
        "quantity": Decimal(quantity),
        "ingested_at": at + dt.timedelta(milliseconds=40),
    } | facts


def bars(length: str, *trades: dict[str, Any]) -> pl.DataFrame:
    return conform(TABLES[length], trade_bars(rows_of(Trades, *trades).lazy(), length).collect())


def by_hand(length: str, trades: list[dict[str, Any]]) -> dict[tuple[str, dt.datetime], dict[str, Any]]:
    """The same bars, by Python's own decimals."""
    groups: dict[tuple[str, dt.datetime], list[dict[str, Any]]] = defaultdict(list)
    for each in sorted(trades, key=lambda t: (t["traded_at"], int(t["trade_id"]))):
        opened = HOUR + (each["traded_at"] - HOUR) // LENGTHS[length] * LENGTHS[length]
        groups[each["market_id"], opened].append(each)
    made = {}
    with localcontext() as context:
        context.prec = 100
        for key, group in groups.items():
            prices, amounts = [t["price"] for t in group], [t["quantity"] for t in group]
            value = sum(p * q for p, q in zip(prices, amounts, strict=True))
            late = [(t["ingested_at"] - t["traded_at"]) // dt.timedelta(milliseconds=1) for t in group]
            made[key] = {
                "open": prices[0],
                "high": max(prices),
                "low": min(prices),
                "close": prices[-1],
                "avg_price": sum(prices) / len(prices),
                "vwap": value / sum(amounts),
                "volume_base": sum(amounts),
                "volume_quote": value,
                "n_trades": sum(t["n_trades"] for t in group),
                "first_traded_at": group[0]["traded_at"],
                "last_traded_at": group[-1]["traded_at"],
                "first_ingested_at": min(t["ingested_at"] for t in group),
                "latency_p50_ms": median(late),
                "latency_max_ms": max(late),
                "available_at": max(*(t["ingested_at"] for t in group), key[1] + LENGTHS[length]),
            }
    return made


amounts = st.integers(1, 10**12).map(lambda n: Decimal(n).scaleb(-8))
some_trades = st.lists(
    st.builds(
        lambda ms, price, quantity, late, n, market: trade(
            ms,
            0,
            str(price),
            str(quantity),
            market_id=f"binance:{market}/USDT",
            n_trades=n,
            ingested_at=HOUR + dt.timedelta(milliseconds=ms + late),
        ),
        st.integers(0, 3_599_999),
        amounts,
        amounts,
        st.integers(-50, 5_000_000),
        st.integers(1, 9),
        st.sampled_from(["BTC", "ETH"]),
    ),
    max_size=30,
).map(lambda made: [{**each, "trade_id": str(number)} for number, each in enumerate(made)])


@pytest.mark.parametrize("length", list(TABLES))
@given(trades=some_trades)
@settings(max_examples=60, deadline=None)
def test_bars_are_those_of_plain_python(length: str, trades: list[dict[str, Any]]) -> None:
    found = bars(length, *trades) if trades else pl.DataFrame(schema=polars_schema(TABLES[length]))
    expected = by_hand(length, trades)
    assert {(row["market_id"], row["opened_at"]) for row in found.iter_rows(named=True)} == set(expected)
    for row in found.iter_rows(named=True):
        wanted = expected[row["market_id"], row["opened_at"]]
        rounded = {
            name: {wanted[name].quantize(UNIT, way) for way in (ROUND_HALF_UP, ROUND_HALF_EVEN)}
            for name in ("avg_price", "vwap")
        }
        assert all(row[name] in values for name, values in rounded.items())
        assert {name: row[name] for name in wanted if name not in rounded} == {
            name: value for name, value in wanted.items() if name not in rounded
        }


@given(trades=some_trades.filter(bool), cut=st.integers(1, 29))
@settings(max_examples=30, deadline=None)
def test_any_order_gives_the_same_bars(trades: list[dict[str, Any]], cut: int) -> None:
    assert bars("1s", *trades).equals(bars("1s", *trades[cut:], *trades[:cut]))


def test_one_bar_by_hand() -> None:
    made = bars("1s", trade(1000, 1, "10", "1"), trade(1500, 3, "13", "2"), trade(1500, 2, "11", "1", n_trades=4))
    row = made.row(0, named=True)
    assert row["opened_at"] == HOUR + dt.timedelta(seconds=1)
    assert [row[name] for name in ("open", "high", "low", "close")] == [10, 13, 10, 13]
    assert (row["avg_price"], row["vwap"]) == (Decimal("11.333333333333333333"), Decimal("11.75"))
    assert (row["volume_base"], row["volume_quote"], row["n_trades"]) == (4, 47, 6)
    assert (row["latency_p50_ms"], row["latency_max_ms"]) == (40.0, 40)
    assert row["available_at"] == HOUR + dt.timedelta(seconds=2)


def test_ids_are_in_the_order_of_their_numbers() -> None:
    row = bars("1m", trade(5, 10, "7"), trade(5, 9, "6")).row(0, named=True)
    assert (row["open"], row["close"]) == (6, 7)


def test_what_no_stream_brought_has_no_latency() -> None:
    refilled = trade(10, 1, provider="exchanges", ingested_at=HOUR + dt.timedelta(hours=2))
    row = bars("1m", refilled).row(0, named=True)
    assert (row["latency_p50_ms"], row["latency_max_ms"]) == (None, None)
    assert row["available_at"] == HOUR + dt.timedelta(hours=2)
    with_stream = bars("1m", refilled, trade(20, 2)).row(0, named=True)
    assert (with_stream["latency_p50_ms"], with_stream["latency_max_ms"]) == (40.0, 40)


def relayed(ms: int, price: str = "2") -> dict[str, Any]:
    return trade(ms, f"{ms}-{price}-3-0", price, provider="finnhub")


def test_a_relays_trades_do_not_count_where_the_venue_is_heard() -> None:
    next_hour = 3_600_000
    other = {**relayed(50), "market_id": "binance:ETH/USDT"}
    told = [trade(10, 1), relayed(10), relayed(900), other, relayed(next_hour + 5)]
    kept = of_venues(rows_of(Trades, *told).lazy()).collect()
    assert sorted(kept.select("market_id", "traded_at", "provider").rows()) == [
        ("binance:BTC/USDT", HOUR + dt.timedelta(milliseconds=10), "binance_stream"),
        ("binance:BTC/USDT", HOUR + dt.timedelta(hours=1, milliseconds=5), "finnhub"),
        ("binance:ETH/USDT", HOUR + dt.timedelta(milliseconds=50), "finnhub"),
    ]
    assert bars("1m", *told)["n_trades"].to_list() == [1, 1, 1]
    candles = pl.DataFrame(schema=polars_schema(Candles)).lazy()
    assert minutes(rows_of(Trades, *told).lazy(), candles).collect()["n_trades"].sum() == 3
