"""Live views: what streams are saying, as the tables will have it, read from the newest files alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from crypto_assets.analytics.preference import of_venues
from crypto_assets.analytics.trade_bars import trade_bars
from crypto_assets.commands.sql import engine
from crypto_assets.providers.ticks import parse_trades
from crypto_assets.resources.catalog import view_input
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.pruning import Pruning
from crypto_assets.tables import BY_NAME
from crypto_assets.tables.conform import conform, settle
from crypto_assets.tables.contract import Contract, polars_schema
from crypto_assets.tables.refined import TradeBars1m, TradeBars1s
from crypto_assets.tables.stream import RawStreamPrices, RawTrades
from crypto_assets.tables.trusted import Trades
from crypto_assets.tables.views import LIVE_MINUTES, VIEWS
from crypto_assets.tables.window import HOUR, Window
from tests.rows import rows_of

BTC, ETH = "binance:BTC/USDT", "binance:ETH/USDT"
LIVE = [name for name in VIEWS if any(part in name for part in ("live_", "latest_trades", "_now", "_trading_view"))]
EXACT = ["open", "high", "low", "close", "volume_base", "n_trades", "first_traded_at", "last_traded_at"]
MARKED = {"provider": "binance_stream", "symbol": "BTCUSDT", "subject": BTC, "n_trades": 2, "taker_side": "buy"}


def now() -> datetime:
    return datetime.now(UTC)


def sent(at: datetime, **facts: Any) -> dict[str, Any]:
    """A row of ``raw.trades``, arrived a moment later."""
    us = (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    cut = at.replace(microsecond=at.microsecond // 1000 * 1000)
    row = {**MARKED, "traded_us": us, "traded_at": cut, "ingested_at": cut + timedelta(milliseconds=70), "repeat": 0}
    return {**row, "price": "30000.5", "quantity": "0.25", **facts}


def block(name: str, rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    return rows_of(RawTrades, *({**row, "pull_id": name, "page": page} for page, row in enumerate(rows)))


def some(n: int, start: datetime, seconds: float, seed: int = 1) -> list[dict[str, Any]]:
    """Trades of a market in disorder, one in ten of them twice."""
    rng = random.Random(seed)  # noqa: S311 - disorder, not secrets
    told = [
        sent(
            start + timedelta(seconds=seconds * number / n),
            trade_id=str(seed * 10**6 + number),
            price=f"{30_000 + rng.randrange(100)}.{rng.randrange(10**6):06}",
            quantity=f"0.{rng.randrange(1, 10**8):08}",
        )
        for number in range(n)
    ]
    told += rng.sample(told, n // 10)
    rng.shuffle(told)
    return told


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    made = Lake(str(tmp_path / "lake"))
    for contract in (TradeBars1s, TradeBars1m):
        made.replace(contract, pl.DataFrame(schema=polars_schema(contract)), Window.of_day(now().date()))
    return made


def land(lake: Lake, *blocks: pl.DataFrame) -> None:
    for number, rows in enumerate(blocks):
        lake.append(RawTrades, rows, app=rows["pull_id"][0], version=number)


@pytest.fixture
def query(lake: Lake) -> Iterator[Any]:
    with engine(lake) as opened:
        yield opened.query


def as_settled(*blocks: pl.DataFrame) -> pl.DataFrame:
    """What ``trusted.trades`` will have of the blocks, of one provider for a market and hour."""
    window = Window.of_days((now() - timedelta(days=1)).date(), now().date())
    rows = settle(Trades, parse_trades(pl.concat(blocks)), window).rows
    return of_venues(rows.lazy()).collect()


def bars(trades: pl.DataFrame, length: str) -> pl.DataFrame:
    contract = {"1s": TradeBars1s, "1m": TradeBars1m}[length]
    return conform(contract, trade_bars(trades.lazy(), length).collect()).sort("market_id", "opened_at")


def same_bars(shown: pl.DataFrame, made: pl.DataFrame) -> None:
    shown = shown.sort("market_id", "opened_at")
    keys = ["venue", "market_id", "opened_at", "provider", "first_ingested_at", "latency_max_ms", "date"]
    columns = [*keys, *EXACT]
    assert shown.select(columns).rows() == made.select(columns).rows()
    for name in ("avg_price", "vwap", "volume_quote"):
        assert shown[name].to_list() == pytest.approx(made[name].cast(pl.Float64).to_list(), rel=1e-12)


def test_live_trades_are_those_that_the_table_will_have(lake: Lake, query: Any) -> None:
    start = now() - timedelta(minutes=8)
    first = block("c:1", some(300, start, 200))
    relay = {"provider": "finnhub", "trade_id": None, "n_trades": None, "taker_side": None, "price": "1e-7"}
    relayed = [sent(start + timedelta(seconds=n), **relay) for n in range(4)]
    alone = [{**row, "subject": ETH, "symbol": "BINANCE:ETHUSDT"} for row in (*relayed, {**relayed[0], "repeat": 1})]
    unknown = [sent(start, subject=None, trade_id="9"), sent(start, trade_id="8", quantity="-1")]
    second = block("d:1", [*relayed, *alone, *unknown, *some(300, start, 200)[:20]])
    long_ago = block("c:0", some(10, now() - timedelta(minutes=LIVE_MINUTES + 2), 1, seed=2))
    land(lake, long_ago, first, second)
    columns = ["venue", "market_id", "trade_id", "traded_at", "provider", "price", "quantity", "n_trades", "taker_side"]
    shown = query("select * from refined.live_trades").sort("market_id", "trade_id")
    made = as_settled(first, second).sort("market_id", "trade_id")
    assert shown.select(columns).rows() == made.select(columns).rows()
    # Of ETH the relay is all there is; of BTC none of its trades count, but where the hour has just begun.
    assert set(shown.filter(pl.col("market_id") == ETH)["provider"]) == {"finnhub"}
    assert len(shown) >= 305


@pytest.mark.parametrize("length", ["1s", "1m"])
def test_live_bars_are_the_bars_of_live_trades(lake: Lake, query: Any, length: str) -> None:
    told = block("c:1", some(500, now() - timedelta(minutes=10), 400))
    land(lake, told)
    same_bars(query(f"select * from refined.live_bars_{length}"), bars(as_settled(told), length))


@pytest.mark.parametrize("length", ["1s", "1m"])
def test_final_bars_and_those_of_now_are_one_view(lake: Lake, query: Any, length: str) -> None:
    contract: type[Contract] = {"1s": TradeBars1s, "1m": TradeBars1m}[length]
    opens = now().replace(minute=0, second=0, microsecond=0)
    since = opens - HOUR
    closed = block("c:1", some(200, since, 3599))
    seconds = (now() - opens).total_seconds()
    of_now = block("c:2", some(50, opens, max(seconds - 1, 0.5), seed=3))
    land(lake, closed, of_now)
    everything = bars(as_settled(closed, of_now), length)
    shown = query(f"select * from refined.trade_bars_{length}_now")
    assert not shown["is_final"].any()
    same_bars(shown, everything)
    final = bars(as_settled(closed), length)
    for day in final["date"].unique():
        lake.replace(contract, final.filter(date=day), Window.of_day(day))
    shown = query(f"select * from refined.trade_bars_{length}_now")
    same_bars(shown, everything)
    assert shown.filter(pl.col("is_final"))["opened_at"].max() < opens
    assert shown.filter(~pl.col("is_final"))["opened_at"].min() >= opens
    assert len(shown.filter(pl.col("is_final"))) == len(final)


def test_bars_of_the_hour_of_now_are_never_called_final(lake: Lake, query: Any) -> None:
    """Who computes the day in progress by hand writes bars of its hour that are not over."""
    start = now() - timedelta(seconds=40)
    told = block("c:1", some(20, start, 30))
    land(lake, told)
    early = bars(as_settled(told), "1s")
    for day in early["date"].unique():
        lake.replace(TradeBars1s, early.filter(date=day), Window.of_day(day))
    shown = query("select * from refined.trade_bars_1s_now")
    opens = now().replace(minute=0, second=0, microsecond=0)
    assert shown["opened_at"].sort().to_list() == early["opened_at"].sort().to_list()
    assert not shown.filter(pl.col("opened_at") >= opens)["is_final"].any()


def test_the_newest_trade_of_each_market(lake: Lake, query: Any) -> None:
    start = now() - timedelta(minutes=5)
    told = [
        sent(start, trade_id="10", price="3"),
        sent(start, trade_id="9", price="2"),
        sent(start - timedelta(hours=20), subject=ETH, trade_id="4", price="7"),
        sent(start - timedelta(hours=20, seconds=1), subject=ETH, trade_id="5", price="8"),
    ]
    land(lake, block("c:1", told))
    shown = query("select market_id, trade_id, price from refined.latest_trades order by market_id")
    assert shown.rows() == [(BTC, "10", 3), (ETH, "4", 7)]


def test_the_newest_price_of_each_asset(lake: Lake, query: Any) -> None:
    def told(at: datetime, price: str, page: int) -> dict[str, Any]:
        clocks = {"quoted_at": at, "ingested_at": at, "page": page, "pull_id": "p:1"}
        return {**clocks, "provider": "coincap_stream", "subject": "bitcoin", "symbol": "bitcoin", "price": price}

    at = (now() - timedelta(minutes=2)).replace(microsecond=0)
    rows = rows_of(RawStreamPrices, told(at, "65001.25", 0), told(at - timedelta(seconds=1), "65000", 1))
    lake.append(RawStreamPrices, rows, app="p", version=1)
    shown = query("select subject, price, quoted_at from refined.live_prices")
    assert shown.rows() == [("bitcoin", Decimal("65001.25"), at)]


def test_the_per_second_views_of_the_finnhub_pipeline(lake: Lake, query: Any) -> None:
    start = (now() - timedelta(minutes=3)).replace(microsecond=0)
    told = [sent(start, trade_id="1", price="10"), sent(start + timedelta(milliseconds=500), trade_id="2", price="14")]
    land(lake, block("c:1", told))
    [row] = query("select * from refined.btc_trading_view").to_dicts()
    assert row == {
        "trade_time": start,
        "createdtime": start + timedelta(milliseconds=70),
        "symbol": "BINANCE:BTCUSDT",
        "avg_price": 12.0,
        "volume": Decimal("0.5"),
        "date": start.date(),
    }
    assert query("select * from refined.eth_trading_view").is_empty()


@pytest.mark.parametrize("view", LIVE)
def test_only_the_newest_partitions_are_read(lake: Lake, view: str) -> None:
    days = [now() - timedelta(days=n) for n in (5, 4, 3, 2)]
    land(lake, *(block(f"c:{n}", some(50, day, 1, seed=n + 5)) for n, day in enumerate(days)))
    one = block("c:9", some(10, now() - timedelta(minutes=1), 1))
    lake.append(RawTrades, one, app="c:9", version=9)
    rows = rows_of(RawStreamPrices, {"quoted_at": now().replace(microsecond=0), "pull_id": "p", "provider": "p"})
    lake.append(RawStreamPrices, rows, app="p", version=1)
    pruning = Pruning({name: lake.uri(contract) for name, contract in BY_NAME.items() if lake.state(contract)}, VIEWS)
    read = pruning.reads(f"select * from {view}")
    assert read
    old = {f"date={day.date()}" for day in days}
    assert not [file for each in read for file in each.files if any(day in file for day in old)]


@pytest.mark.parametrize("view", ["refined.live_trades", "refined.live_bars_1s", "refined.live_bars_1m"])
def test_of_the_day_only_the_files_of_the_last_minutes_are_read(lake: Lake, view: str) -> None:
    for n, minutes in enumerate((90, 60, 30, 1)):
        told = block(f"c:{n}", some(5, now() - timedelta(minutes=minutes), 1, seed=n + 1))
        lake.append(RawTrades, told, app=f"c:{n}", version=n)
    pruning = Pruning({name: lake.uri(contract) for name, contract in BY_NAME.items() if lake.state(contract)}, VIEWS)
    [read] = pruning.reads(f"select * from {view}")
    assert (read.n_files, read.n_files_read) == (4, 1)


@pytest.mark.parametrize("view", LIVE)
def test_glue_can_hold_the_view(view: str) -> None:
    told = view_input(view, "crypto_")
    assert told["Name"] == view.partition(".")[2]
    assert all(column["Type"] for column in told["StorageDescriptor"]["Columns"])
