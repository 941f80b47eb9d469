"""Spot venues from the sandbox through Dagster to candles, trades and quotes: once, twice, day by day, tick by tick."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import dagster as dg
import polars as pl

from crypto_assets.assets.handles import connected, provider_urls
from crypto_assets.assets.raw.exchanges import CANDLES, TRADES
from crypto_assets.assets.raw.pulls import covered
from crypto_assets.checks.rules import rules_of
from crypto_assets.checks.verdicts import Case
from crypto_assets.definitions import build_definitions
from crypto_assets.providers.exchanges import PROVIDER, Exchanges
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.settings import Settings
from crypto_assets.sandbox import Fault, Market, Sandbox, serve
from crypto_assets.sandbox.events import Events
from crypto_assets.sandbox.tape import Tape, tape_of
from crypto_assets.tables import quality, raw, trusted
from crypto_assets.tables.contract import Contract
from crypto_assets.tables.window import Window
from tests.chain import failures

MARKETS = ("binance:BTC/USDT", "kraken:BTC/USD", "coinbase:BTC/USD")
FIRST, LAST = date(2026, 10, 1), date(2026, 10, 3)
NOW = datetime(2026, 10, 4, 0, 30, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@dataclass
class Line:
    """A sandbox, a lake and definitions with the venues alone."""

    sandbox: Sandbox
    lake: Lake
    clock: FixedClock
    exchanges: Exchanges
    definitions: dg.Definitions
    instance: dg.DagsterInstance
    tape: Tape

    def set_now(self, now: datetime) -> None:
        self.clock.set(now)
        self.sandbox.set_now(now)

    def run(
        self,
        first: date,
        last: date | None = None,
        *,
        select: Sequence[type[Contract]],
        subjects: Sequence[str] = (),
        is_judged: bool = False,
    ) -> dg.ExecuteInProcessResult:
        tags = {
            "dagster/asset_partition_range_start": str(first),
            "dagster/asset_partition_range_end": str(last or first),
        }
        asked = [c for c in select if c in (raw.RawExchangeCandles, raw.RawExchangeTrades)]
        config = {f"raw__{c.table.name}": {"config": {"subjects": list(subjects)}} for c in asked if subjects}
        job = self.definitions.resolve_job_def("refresh")
        keys = frozenset(dg.AssetKey(list(c.table.path)) for c in select)
        part = job.get_subset(asset_selection=keys, asset_check_selection=None if is_judged else frozenset())
        told: Any = {"ops": config} if config else None
        return part.execute_in_process(instance=self.instance, raise_on_error=False, tags=tags, run_config=told)

    def n_calls(self) -> int:
        return sum(self.sandbox.calls()["calls"].values())

    def verdicts(self, contract: type[Contract], window: Window) -> dict[str, tuple[bool, str]]:
        """What each rule of the table's says."""
        case = Case(self.lake, contract, window, self.lake.read(contract, window), self.clock.now())
        return {check.name: (v.passed, v.observed) for check in rules_of(contract) for v in check.judge(case)}


@contextmanager
def line(home: Path, *, markets: Sequence[str] = MARKETS, now: datetime = NOW) -> Iterator[Line]:
    clock, market = FixedClock(now), Market(7, n_assets=30)
    with serve(market) as sandbox:
        sandbox.set_now(now)
        settings = Settings(
            lake_uri=str(home / "lake"),
            state_dir=home / "state",
            sandbox_url=sandbox.url,
            providers=("exchanges",),
            markets=tuple(markets),
        )
        lake, urls = Lake(settings.lake_root), provider_urls(PROVIDER, sandbox.url)
        opened = connected(PROVIDER, home / "state", clock, urls=urls, key=None, asked=settings.asked, is_local=True)
        with opened as provider, dg.DagsterInstance.ephemeral() as instance:
            definitions = build_definitions(settings, {"lake": lake, "clock": clock, "exchanges": provider})
            tape = tape_of(market, Events())
            yield Line(sandbox, lake, clock, cast("Exchanges", provider), definitions, instance, tape)


def test_candles_of_days_are_the_truth_and_every_rule_holds(tmp_path: Path) -> None:
    with line(tmp_path) as on:
        assert on.run(FIRST, LAST, select=[raw.RawExchangeCandles, trusted.Candles], is_judged=True).success
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
            truth = on.tape.candles(market, "1m", window.start, window.end, is_filled=prints_quiet).records()
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
    with line(tmp_path) as on:
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
    with line(tmp_path / "range", markets=MARKETS[::2]) as on:
        assert on.run(FIRST, LAST, select=[raw.RawExchangeCandles, trusted.Candles]).success
        together = on.lake.read(trusted.Candles)
    with line(tmp_path / "single", markets=MARKETS[::2]) as on:
        for day in (LAST, FIRST, FIRST + DAY):
            assert on.run(day, select=[raw.RawExchangeCandles, trusted.Candles]).success
        alone = on.lake.read(trusted.Candles)
        assert on.run(FIRST, LAST, select=[trusted.Candles]).success
        assert on.lake.read(trusted.Candles).equals(alone)
    assert alone.drop(ours).equals(together.drop(ours))
    assert len(alone) > 2 * 3 * 1400


def test_the_day_in_progress_is_asked_for_what_is_new_only(tmp_path: Path) -> None:
    market = "binance:BTC/USDT"
    with line(tmp_path, markets=[market]) as on:
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
    with line(tmp_path, markets=[market], now=start) as on:
        for hour in (8, 16, 24):
            on.set_now(start + hour * HOUR + 2 * MINUTE)
            assert on.run(start.date(), select=[raw.RawExchangeCandles]).success
        assert on.run(start.date(), select=[trusted.Candles]).success
        truth = on.tape.candles(market, "1m", start, start + DAY, is_filled=True).records()
        ours = on.lake.read(trusted.Candles)
        assert ours["opened_at"].to_list() == [row["opened_at"] for row in truth]
        assert ours["close"].to_list() == [row["close"] for row in truth]
        assert list(CANDLES.missing(on.lake, f"{market} 1m", Window.of_day(start.date()), on.clock.now())) == []


def test_trades_are_the_truth_and_every_rule_holds(tmp_path: Path) -> None:
    # Markets with few trades: a day of them is enough to see the pages and the edges.
    markets = ("binance:STX/USDT", "kraken:ADA/USD", "coinbase:DOGE/USD")
    with line(tmp_path, markets=markets) as on:
        assert on.run(LAST, select=[raw.RawExchangeTrades, trusted.Trades], is_judged=True).success
        trades, day = on.lake.read(trusted.Trades), Window.of_day(LAST)
        for market in markets:
            truth = on.tape.trades(market, day.start, day.end)
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
    with line(tmp_path) as on:
        tables = [raw.RawExchangeTickers, raw.RawExchangeMarkets, trusted.Quotes]
        assert on.run(NOW.date(), select=tables, is_judged=True).success
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
    with line(tmp_path, markets=("binance:NO/PE", *MARKETS)) as on:
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
    with line(tmp_path, markets=["coinbase:BTC/USD"]) as on:
        on.sandbox.set_faults([Fault("negative_price", "coinbase.candles")])
        assert on.run(LAST, select=[raw.RawExchangeCandles, trusted.Candles]).success
        refused = on.lake.read(quality.Quarantine)
        assert len(refused) == 5
        assert all(record.startswith("[17") for record in refused["record"])
        told = on.verdicts(trusted.Candles, Window.of_day(LAST))
        assert told["reconciled"][0], told
        assert "quarantined 5" in told["reconciled"][1]
