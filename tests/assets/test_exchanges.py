"""Spot venues from the sandbox through Dagster to candles, trades and quotes: once, twice, day by day, tick by tick."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl

from crypto_assets.assets.raw.exchanges import CANDLES, TRADES
from crypto_assets.assets.raw.pulls import covered
from crypto_assets.providers.exchanges import PROVIDER
from crypto_assets.sandbox import Fault, Market
from crypto_assets.sandbox.events import Events
from crypto_assets.sandbox.tape import tape_of
from crypto_assets.tables import quality, raw, trusted
from crypto_assets.tables.window import Window
from tests.chain import failures
from tests.line import Line, line

MARKETS = ("binance:BTC/USDT", "kraken:BTC/USD", "coinbase:BTC/USD")
MARKET = Market(7, n_assets=30)
TAPE = tape_of(MARKET, Events())
FIRST, LAST = date(2026, 10, 1), date(2026, 10, 3)
NOW = datetime(2026, 10, 4, 0, 30, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def venues(home: Path, *, markets: Sequence[str] = MARKETS, now: datetime = NOW) -> AbstractContextManager[Line]:
    """A line with the venues alone."""
    return line(home, now, PROVIDER.name, kind=Line, market=MARKET, markets=tuple(markets))


def test_candles_of_days_are_the_truth_and_every_rule_holds(tmp_path: Path) -> None:
    with venues(tmp_path) as on:
        assert on.run(FIRST, LAST, select=[raw.RawExchangeCandles, trusted.Candles], has_checks=True).success
        candles = on.lake.read(trusted.Candles)
        per_day = {
            market: candles.filter(market_id=market).group_by("date").len().sort("date")["len"].to_list()
            for market in MARKETS
        }
        assert per_day["binance:BTC/USDT"] == [1440] * 3
        # From 00:30 of the next day its newest 720 reach back to 12:32 at most: the rest is on record as unreachable.
        assert per_day["kraken:BTC/USD"] == [688]
        for market, prints_quiet in (("binance:BTC/USDT", True), ("coinbase:BTC/USD", False)):
            window = Window.of_days(FIRST, LAST)
            truth = TAPE.candles(market, "1m", window.start, window.end, is_filled=prints_quiet).records()
            ours = candles.filter(market_id=market).select("opened_at", "open", "high", "low", "close", "volume_base")
            assert ours.rows() == [tuple(row[name] for name in ours.columns) for row in truth]
        held = on.lake.read(quality.CheckResults)
        assert {"raw.exchange_candles", "trusted.candles"} <= set(held["table_name"])
        assert held.filter(~pl.col("passed"), pl.col("is_blocking")).is_empty()
        told = on.verdicts(trusted.Candles, Window.of_days(FIRST, LAST))
        assert told["reconciled"] == (
            True,
            f"raw {len(candles)} = trusted {len(candles)} + quarantined 0 + duplicates 0",
        )
        assert told["lossless"][0]
        unreachable = on.lake.read(raw.RawExchangeCandles).filter(outcome="not_found")
        assert unreachable["subject"].unique().to_list() == ["kraken:BTC/USD 1m"]
        assert unreachable["detail"].unique().to_list() == [
            "history unreachable: kraken serves its newest 720 candles only"
        ]


def test_twice_is_equal_and_costs_no_call(tmp_path: Path) -> None:
    with venues(tmp_path) as on:
        tables = [raw.RawExchangeCandles, trusted.Candles]
        assert on.run(FIRST, LAST, select=tables).success
        once, calls, landed = on.lake.read(trusted.Candles), on.n_calls(), on.lake.read(raw.RawExchangeCandles)
        versions = [on.lake.state(contract) for contract in tables]
        assert on.run(FIRST, LAST, select=tables).success
        assert on.n_calls() == calls
        assert on.lake.read(trusted.Candles).equals(once)
        assert on.lake.read(raw.RawExchangeCandles).equals(landed)
        assert [on.lake.state(contract) for contract in tables] == versions


def test_any_order_of_days_gives_the_same_candles(tmp_path: Path) -> None:
    ours = ["pull_id", "ingested_at"]
    with venues(tmp_path / "range", markets=MARKETS[::2]) as on:
        assert on.run(FIRST, LAST, select=[raw.RawExchangeCandles, trusted.Candles]).success
        together = on.lake.read(trusted.Candles)
    with venues(tmp_path / "single", markets=MARKETS[::2]) as on:
        for day in (LAST, FIRST, FIRST + DAY):
            assert on.run(day, select=[raw.RawExchangeCandles, trusted.Candles]).success
        alone = on.lake.read(trusted.Candles)
        assert on.run(FIRST, LAST, select=[trusted.Candles]).success
        assert on.lake.read(trusted.Candles).equals(alone)
    assert alone.drop(ours).equals(together.drop(ours))
    assert len(alone) > 2 * 3 * 1400


def test_the_day_in_progress_is_asked_for_what_is_new_only(tmp_path: Path) -> None:
    market = "binance:BTC/USDT"
    with venues(tmp_path, markets=[market]) as on:
        today = NOW.date()
        counts = []
        for minute in (1, 6, 11, 16):
            on.set_now(NOW + minute * MINUTE + timedelta(seconds=20))
            assert on.run(today, select=[raw.RawExchangeCandles, trusted.Candles]).success
            counts.append(len(on.lake.read(trusted.Candles)))
        assert counts == [31, 36, 41, 46]
        answers = on.lake.read(raw.RawExchangeCandles).sort("ingested_at")
        n_candles = [body.count(b"[") - 1 for body in answers["body"]]
        # One candle is asked for again each time: what ended less than a minute before may still have changed.
        assert n_candles == [31, 6, 6, 6]
        assert on.lake.read(trusted.Candles)["n_duplicates"].sum() == 3
        on.set_now(datetime(2026, 10, 5, 0, 1, 30, tzinfo=UTC))
        assert on.run(today, select=[raw.RawExchangeCandles, trusted.Candles]).success
        assert len(on.lake.read(trusted.Candles)) == 1440
        (span,) = covered(on.lake, raw.RawExchangeCandles, f"{market} 1m", Window.of_day(today), MINUTE)
        assert (span.start, span.end) == (Window.of_day(today).start, Window.of_day(today).end)
        calls = on.n_calls()
        assert on.run(today, select=[raw.RawExchangeCandles]).success
        assert on.n_calls() == calls


def test_ticks_fill_a_day_of_a_venue_that_keeps_half_a_day(tmp_path: Path) -> None:
    market = "kraken:BTC/USD"
    start = datetime(2026, 10, 4, tzinfo=UTC)
    with venues(tmp_path, markets=[market], now=start) as on:
        for hour in (8, 16, 24):
            on.set_now(start + hour * HOUR + 2 * MINUTE)
            assert on.run(start.date(), select=[raw.RawExchangeCandles]).success
        assert on.run(start.date(), select=[trusted.Candles]).success
        truth = TAPE.candles(market, "1m", start, start + DAY, is_filled=True).records()
        ours = on.lake.read(trusted.Candles)
        assert ours["opened_at"].to_list() == [row["opened_at"] for row in truth]
        assert ours["close"].to_list() == [row["close"] for row in truth]
        assert list(CANDLES.missing(on.lake, f"{market} 1m", Window.of_day(start.date()), on.clock.now())) == []


def test_trades_are_the_truth_and_every_rule_holds(tmp_path: Path) -> None:
    # Markets with few trades: a day of them is enough to see the pages and the edges.
    markets = ("binance:STX/USDT", "kraken:ADA/USD", "coinbase:DOGE/USD")
    with venues(tmp_path, markets=markets) as on:
        assert on.run(LAST, select=[raw.RawExchangeTrades, trusted.Trades], has_checks=True).success
        trades, day = on.lake.read(trusted.Trades), Window.of_day(LAST)
        for market in markets:
            truth = TAPE.trades(market, day.start, day.end)
            truth = truth if market.startswith("binance") else truth.split()
            ours = trades.filter(market_id=market).select("price", "quantity", "taker_side", "n_trades")
            expected = [tuple(row[name] for name in ours.columns) for row in truth.records()]
            assert sorted(ours.rows()) == sorted(expected)
            assert len(expected) > 500
        told = on.verdicts(trusted.Trades, day)
        assert all(passed for passed, _ in told.values()), told
        calls = on.n_calls()
        assert on.run(LAST, select=[raw.RawExchangeTrades]).success
        assert on.n_calls() == calls
        assert list(TRADES.missing(on.lake, markets[0], day, on.clock.now())) == []


def test_tickers_become_quotes_and_every_rule_holds(tmp_path: Path) -> None:
    with venues(tmp_path) as on:
        tables = [raw.RawExchangeTickers, raw.RawExchangeMarkets, trusted.Quotes]
        assert on.run(NOW.date(), select=tables, has_checks=True).success
        quotes = on.lake.read(trusted.Quotes)
        assert sorted(quotes["market_id"]) == sorted(MARKETS)
        assert (quotes["bid_price"] < quotes["ask_price"]).all()
        told = on.verdicts(trusted.Quotes, Window.of_day(NOW.date()))
        assert all(passed for passed, _ in told.values()), told
        assert told["lossless"][1] == "9 values compared, 0 differ"
        assert sorted(on.lake.read(raw.RawExchangeMarkets)["subject"]) == ["binance", "coinbase", "kraken"]
        on.set_now(NOW + 5 * MINUTE)
        assert on.run(NOW.date(), select=tables).success
        assert len(on.lake.read(trusted.Quotes)) == 2 * len(MARKETS)


def test_a_market_and_a_venue_that_fail_do_not_stop_the_others(tmp_path: Path) -> None:
    with venues(tmp_path, markets=("binance:NO/PE", *MARKETS)) as on:
        on.sandbox.set_faults([Fault("geo_block", "coinbase.candles")])
        result = on.run(LAST, select=[raw.RawExchangeCandles, trusted.Candles])
        told = failures(result)["raw.exchange_candles"]
        assert "ended denied (the venue does not serve this country (HTTP 451))" in told
        assert on.run(LAST, select=[trusted.Candles]).success
        assert set(on.lake.read(trusted.Candles)["venue"]) == {"binance", "kraken"}
        outcomes = on.lake.read(raw.RawExchangeCandles).select("subject", "outcome").unique().rows()
        assert {("binance:NO/PE 1m", "not_found"), ("coinbase:BTC/USD 1m", "denied")} <= set(outcomes)
        assert on.sandbox.calls()["calls"]["coinbase.candles"] == 1


def test_a_refused_record_is_in_quarantine_and_counted(tmp_path: Path) -> None:
    with venues(tmp_path, markets=["coinbase:BTC/USD"]) as on:
        on.sandbox.set_faults([Fault("negative_price", "coinbase.candles")])
        assert on.run(LAST, select=[raw.RawExchangeCandles, trusted.Candles]).success
        refused = on.lake.read(quality.Quarantine)
        assert len(refused) == 5
        assert all(record.startswith("[17") for record in refused["record"])
        told = on.verdicts(trusted.Candles, Window.of_day(LAST))
        assert told["reconciled"][0], told
        assert "quarantined 5" in told["reconciled"][1]
