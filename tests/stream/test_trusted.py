"""Streams' trades in the trusted zone: one row a trade, whichever way it came, and every record accounted for."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from crypto_assets.analytics.trade_bars import trade_bars
from crypto_assets.assets.lake_asset import settle_window
from crypto_assets.assets.trusted.facts import PARSERS
from crypto_assets.checks.reconciliation import lossless, reconciled
from crypto_assets.checks.verdicts import Case, Finding
from crypto_assets.commands.reconcile import counts
from crypto_assets.providers.feed import Messages
from crypto_assets.providers.feeds import FEEDS
from crypto_assets.providers.ticks import parse_trades
from crypto_assets.resources.lake import Lake
from crypto_assets.tables.conform import settle
from crypto_assets.tables.contract import polars_schema
from crypto_assets.tables.quality import Quarantine, RevisionLedger
from crypto_assets.tables.stream import RawTrades
from crypto_assets.tables.trusted import Trades
from crypto_assets.tables.window import HOUR, Window

NOON = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
DAY = Window.of_day(NOON.date())
NOON_MS = int(NOON.timestamp() * 1000)


def binance(ms: int, number: int, price: str = "30000.10", quantity: str = "0.5") -> bytes:
    told = {"e": "aggTrade", "s": "BTCUSDT", "a": number, "p": price, "q": quantity}
    trade = {**told, "f": number * 2, "l": number * 2 + 1, "T": NOON_MS + ms, "m": True}
    return json.dumps({"stream": "btcusdt@aggTrade", "data": trade}).encode()


def finnhub(*trades: tuple[int, str, str], symbol: str = "BINANCE:BTCUSDT") -> bytes:
    told = ",".join(f'{{"p":{p},"s":"{symbol}","t":{NOON_MS + ms},"v":{v}}}' for ms, p, v in trades)
    return f'{{"data":[{told}],"type":"trade"}}'.encode()


def coinbase(ms: int, number: int, kind: str = "match") -> bytes:
    told = {"trade_id": number, "side": "sell", "size": "0.1", "price": "3.0", "product_id": "BTC-USD"}
    return json.dumps({"type": kind, **told, "time": (NOON + dt.timedelta(milliseconds=ms)).isoformat()}).encode()


MARKETS = {
    "binance_stream": {"BTCUSDT": "binance:BTC/USDT"},
    "finnhub": {"BINANCE:BTCUSDT": "binance:BTC/USDT"},
    "coinbase_stream": {"BTC-USD": "coinbase:BTC/USD"},
}


def rows(feed: str, frames: Sequence[bytes], *, pull_id: str = "c:0", received_ms: int = 60_000) -> pl.DataFrame:
    received = [(NOON_MS + received_ms) * 1000 + i for i in range(len(frames))]
    return FEEDS[feed].decode(Messages(feed, pull_id, list(frames), received, MARKETS[feed])).trades


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def deliver(lake: Lake, *blocks: pl.DataFrame) -> None:
    for block in blocks:
        lake.append(RawTrades, block, app=block["pull_id"][0], version=0)


def case(lake: Lake, now: dt.datetime = NOON + 6 * HOUR, window: Window = DAY, **facts: Any) -> Case:
    return Case(lake, Trades, window, lake.read(Trades, window), now, **facts)


def judged(case: Case) -> tuple[Finding, Finding]:
    return reconciled(Trades)(case), lossless(Trades)(case)


def settled(lake: Lake, window: Window = DAY) -> None:
    settle_window(lake, Trades, PARSERS[Trades], window)


def test_a_trade_that_was_delivered_twice_is_one_row(lake: Lake) -> None:
    first = rows("binance_stream", [binance(0, 1), binance(5, 2), binance(5, 2)])
    again = rows("binance_stream", [binance(5, 2), binance(3, 3)], pull_id="c:1", received_ms=90_000)
    deliver(lake, first, again)
    settled(lake)
    held = lake.read(Trades)
    assert held.select("trade_id", "n_duplicates", "n_trades", "taker_side").rows() == [
        ("1", 0, 2, "sell"),
        ("3", 0, 2, "sell"),
        ("2", 2, 2, "sell"),
    ]
    # It was known since the first of them.
    minute, later = (NOON + dt.timedelta(seconds=n) for n in (60, 90))
    assert held["ingested_at"].to_list() == [minute, later, minute]
    assert held["pull_id"].to_list() == ["c:0", "c:1", "c:0"]
    assert lake.read(RevisionLedger).is_empty()
    sums, digits = judged(case(lake))
    assert (sums.passed, sums.observed) == (True, "raw 5 = trusted 3 + quarantined 0 + duplicates 2")
    assert (digits.passed, digits.observed) == (True, "6 values compared, 0 differ")


def test_a_trade_that_is_stated_otherwise_later_is_known_since_then(lake: Lake) -> None:
    corrected = rows("binance_stream", [binance(0, 1, price="7")], pull_id="c:1", received_ms=70_000)
    again = rows("binance_stream", [binance(0, 1, price="7")], pull_id="c:2", received_ms=90_000)
    deliver(lake, rows("binance_stream", [binance(0, 1)]), corrected, again)
    settled(lake)
    assert lake.read(Trades).select("price", "ingested_at", "pull_id", "n_duplicates").rows() == [
        (Decimal(7), NOON + dt.timedelta(seconds=70), "c:1", 2)
    ]
    assert lake.read(RevisionLedger).select("old_value", "new_value", "new_pull_id").rows() == [
        ("30000.100000000000000000", "7.000000000000000000", "c:1")
    ]
    assert all(finding.passed for finding in judged(case(lake)))


def test_a_trade_sent_again_does_not_make_its_bar_late(lake: Lake) -> None:
    first = rows("coinbase_stream", [coinbase(0, 7)], received_ms=40)
    deliver(lake, first, rows("coinbase_stream", [coinbase(0, 7, "last_match")], pull_id="c:1", received_ms=600_000))
    settled(lake)
    bar = trade_bars(lake.scan(Trades), "1s").collect().row(0, named=True)
    arrived = NOON + dt.timedelta(milliseconds=40)
    assert (bar["latency_max_ms"], bar["first_ingested_at"]) == (40, arrived)
    assert bar["available_at"] == NOON + dt.timedelta(seconds=1)


def test_equal_trades_of_one_message_are_two_and_sent_again_the_same_two(lake: Lake) -> None:
    message = finnhub((1, "30000.5", "0.25"), (1, "30000.5", "0.25"), (2, "1e-7", "3"))
    deliver(lake, rows("finnhub", [message]), rows("finnhub", [message], pull_id="c:1"))
    settled(lake)
    us = NOON_MS * 1000
    assert lake.read(Trades).sort("trade_id").select("trade_id", "price", "n_duplicates").rows() == [
        (f"{us + 1000}-30000.5-0.25-0", Decimal("30000.5"), 1),
        (f"{us + 1000}-30000.5-0.25-1", Decimal("30000.5"), 1),
        (f"{us + 2000}-1e-7-3.0-0", Decimal("0.0000001"), 1),
    ]
    assert all(finding.passed for finding in judged(case(lake)))


def test_what_cannot_be_is_quarantined_and_its_neighbours_are_not(lake: Lake) -> None:
    bad = [binance(1, 1, price="-5"), binance(10**13, 2), binance(2, 3, quantity="0.1234567890123456789")]
    unknown = finnhub((5, "1.5", "2"), symbol="BINANCE:XXXUSDT")
    deliver(lake, rows("binance_stream", [*bad, binance(3, 4)]), rows("finnhub", [unknown], pull_id="d:0"))
    settled(lake)
    assert lake.read(Trades)["trade_id"].to_list() == ["4"]
    refused = lake.read(Quarantine).sort("pull_id", "page")
    reasons = dict(refused.select(pl.format("{}/{}", "pull_id", "page"), "reasons").rows())
    assert set(reasons) == {"c:0/0", "c:0/1", "c:0/2", "d:0/0"}
    assert "price|min" in reasons["c:0/0"]
    assert "traded_at|nullability" in reasons["c:0/1"]
    assert reasons["c:0/2"] == "precision:quantity"
    assert "market_id|nullability" in reasons["d:0/0"]
    assert json.loads(refused["record"][0])["price"] == "-5"
    sums, digits = judged(case(lake))
    assert sums.observed == "raw 5 = trusted 1 + quarantined 4 + duplicates 0"
    assert sums.passed
    assert digits.passed


def test_a_window_changes_nothing_of_what_becomes_of_a_record(lake: Lake) -> None:
    """A block of mostly bad records across an hour's end: each record is judged alone, by the hour as by the day."""
    ms = 3_600_000
    frames = [binance(ms - 30 + n, n, price="-1" if n % 2 else "5") for n in range(60)]
    raw = rows("binance_stream", frames, received_ms=2 * ms)
    whole = settle(Trades, parse_trades(raw), DAY)
    hours = [Window(NOON + n * HOUR, NOON + (n + 1) * HOUR) for n in range(2)]
    parts = [settle(Trades, parse_trades(raw), hour) for hour in hours]
    assert pl.concat(part.rows for part in parts).equals(whole.rows)
    assert len(whole.rows) == 30
    assert sorted(pl.concat(part.rejected for part in parts)["page"]) == sorted(whole.rejected["page"])


def test_a_lost_a_doubled_and_a_changed_row_are_seen(lake: Lake) -> None:
    deliver(lake, rows("binance_stream", [binance(n, n) for n in range(10)]))
    settled(lake)
    held = lake.read(Trades)
    lake.replace(Trades, held.head(9), DAY)
    assert judged(case(lake))[0].observed == "raw 10 is not trusted 9 + quarantined 0 + duplicates 0"
    changed = held.with_columns(price=pl.col("price") + pl.when(pl.col("trade_id") == "3").then(1).otherwise(0))
    lake.replace(Trades, changed.cast(dict(polars_schema(Trades))), DAY)
    sums, digits = judged(case(lake))
    assert sums.passed
    assert not digits.passed
    assert digits.failing.select("column", "stored", "sent").rows() == [
        ("price", "30001.100000000000000000", "30000.10")
    ]


def test_what_came_since_the_last_closed_hour_is_nothing_lost(lake: Lake) -> None:
    late = 3_600_000
    deliver(lake, rows("binance_stream", [binance(n, n) for n in range(4)]))
    settled(lake, Window(NOON, NOON + HOUR))
    deliver(lake, rows("binance_stream", [binance(late + 5, 9)], pull_id="c:1", received_ms=late + 10))
    now = NOON + HOUR + dt.timedelta(minutes=5)
    assert judged(case(lake, now))[0].observed == "raw 4 = trusted 4 + quarantined 0 + duplicates 0"
    assert [(count.n_raw, count.is_equal) for count in counts(lake, DAY, now)] == [(4, True)]
    # A late trade of the closed hour is missed until its hour is computed again.
    deliver(lake, rows("binance_stream", [binance(900, 8)], pull_id="c:2", received_ms=late + 20))
    assert not judged(case(lake, now))[0].passed
    settled(lake, Window(NOON, NOON + HOUR))
    assert judged(case(lake, now))[0].observed == "raw 5 = trusted 5 + quarantined 0 + duplicates 0"


def test_what_a_stream_appends_during_a_run_is_the_next_ones(lake: Lake) -> None:
    deliver(lake, rows("binance_stream", [binance(n, n) for n in range(4)]))
    lake.pin(RawTrades)
    deliver(lake, rows("binance_stream", [binance(50, 50)], pull_id="c:1"))
    settled(lake)
    assert judged(case(lake))[0].observed == "raw 4 = trusted 4 + quarantined 0 + duplicates 0"
    assert len(lake.scan(RawTrades).collect()) == 5


def test_only_the_hours_of_a_run_are_judged(lake: Lake) -> None:
    deliver(lake, rows("binance_stream", [binance(n * 3_600_000, n) for n in range(3)], received_ms=10**7))
    hour = Window(NOON + HOUR, NOON + 2 * HOUR)
    settled(lake, hour)
    one = Case(lake, Trades, DAY, lake.read(Trades, hour), NOON + 4 * HOUR, hours=(hour,))
    assert judged(one)[0].observed == "raw 1 = trusted 1 + quarantined 0 + duplicates 0"


def test_fifty_deliveries_of_each_trade_are_one_row_each() -> None:
    many = pl.concat([rows("binance_stream", [binance(n, n) for n in range(1000)])] * 50).with_columns(
        page=pl.int_range(pl.len(), dtype=pl.Int32)
    )
    made = settle(Trades, parse_trades(many), DAY)
    assert (len(made.rows), made.rows["n_duplicates"].sum(), len(made.rejected)) == (1000, 49_000, 0)
