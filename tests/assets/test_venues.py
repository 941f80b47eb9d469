"""Bars, names and prices of venues through Dagster: in any order of days, by the hour, around a bad day."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from crypto_assets.assets.refined import venues
from crypto_assets.checks.asset_checks import checks_of
from crypto_assets.partitions import REFRESH_HOURS, REFRESH_TAG
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.lake import Lake
from crypto_assets.tables import refined, trusted
from crypto_assets.tables.contract import Contract, Write
from crypto_assets.tables.quality import CheckResults
from crypto_assets.tables.refined import BARS
from crypto_assets.tables.window import Window
from tests.rows import rows_of
from tests.tape_rows import candles_of, day, trades_of

BTC, TETHER = "binance:BTC/USDT", "kraken:USDT/USD"
VENUES: tuple[type[Contract], ...] = (
    refined.TradeBars1s,
    refined.TradeBars1m,
    *BARS.values(),
    refined.LatestQuotes,
    refined.AssetSymbolsDaily,
    refined.SymbolMap,
    refined.DimMarket,
    refined.PriceDaily,
)


@dataclass
class Chain:
    lake: Lake
    definitions: dg.Definitions
    instance: dg.DagsterInstance

    def run(self, first: date, last: date | None = None, *, tick: bool = False, **tags: str) -> Any:
        partition: dict[str, Any] = {"partition_key": str(first)}
        if tick:
            tags |= {REFRESH_TAG: REFRESH_HOURS}
        if last is not None:
            partition = {}
            tags |= {"dagster/asset_partition_range_start": str(first), "dagster/asset_partition_range_end": str(last)}
        job = self.definitions.resolve_job_def("venues")
        return job.execute_in_process(instance=self.instance, tags=tags, raise_on_error=False, **partition)

    def content(self) -> dict[str, pl.DataFrame]:
        return {contract.table.full_name: self.lake.read(contract) for contract in VENUES}

    def versions(self) -> dict[str, int]:
        states = {contract.table.full_name: self.lake.state(contract) for contract in VENUES}
        return {name: state.version for name, state in states.items() if state}


@contextmanager
def chain(home: Path, *, is_checked: bool = False) -> Iterator[Chain]:
    clock = FixedClock(day(28, month=12))
    lake = Lake(str(home / "lake"), clock=clock)
    assets = dg.load_assets_from_modules([venues])
    definitions = dg.Definitions(
        assets=assets,
        asset_checks=checks_of(assets, home / "data_docs") if is_checked else [],
        jobs=[dg.define_asset_job("venues", dg.AssetSelection.all())],
        resources={"lake": lake, "clock": clock},
        executor=dg.in_process_executor,
    )
    with dg.DagsterInstance.ephemeral() as instance:
        yield Chain(lake, definitions, instance)


def hold(lake: Lake, contract: type[Contract], *frames: pl.DataFrame) -> None:
    """Make the table hold the frames' rows, beside what other days hold."""
    rows = pl.concat(frames)
    lake.replace(contract, rows, Window.of_days(rows["date"].min(), rows["date"].max()))


def filled(lake: Lake) -> None:
    """Two markets over the end of a month and of a week: by trades and minutes, by minutes and hours."""
    start, end = day(30), day(4, month=2)
    hold(
        lake,
        trusted.Candles,
        candles_of(BTC, "1m", start, end),
        candles_of(TETHER, "1m", start, end, is_filled=True),
        candles_of(TETHER, "1h", start, end),
    )
    hold(lake, trusted.Trades, trades_of(BTC, start, end))


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Five days of two markets, computed in one run with its checks."""
    with chain(tmp_path_factory.mktemp("at_once"), is_checked=True) as c:
        filled(c.lake)
        assert c.run(day(30).date(), day(3, month=2).date()).success
        yield c


def days(*order: int) -> Iterator[date]:
    """Days from the thirtieth of January on, counted from 0."""
    return (day(30).date() + timedelta(days=n) for n in order)


def test_bars_of_every_length_come_from_one_run_and_pass_their_checks(at_once: Chain) -> None:
    rows = {name: table.height for name, table in at_once.content().items()}
    assert rows["refined.ohlcv_1d"] == 10
    assert rows["refined.ohlcv_1w"] == 4
    assert rows["refined.ohlcv_1mo"] == 4
    assert rows["refined.ohlcv_1h"] == 2 * 5 * 24
    verdicts = at_once.lake.read(CheckResults)
    names = set(verdicts["check_name"])
    assert {"bars", "rolled_up", "agree_with_candles", "complete", "one_meaning", "statuses"} <= names
    assert verdicts.filter(~pl.col("passed"))["check_name"].to_list() == []
    kinds = at_once.lake.read(refined.Ohlcv1m).group_by("market_id").agg(pl.col("source_kind").unique())
    assert dict(kinds.rows()) == {BTC: ["trades"], TETHER: ["candles_1m"]}


def test_a_price_a_day_is_converted_by_what_the_venues_say_of_the_stablecoin(at_once: Chain) -> None:
    markets = at_once.lake.read(refined.DimMarket)
    assert dict(markets.select("market_id", "base_asset_id").rows()) == {BTC: "bitcoin", TETHER: "tether"}
    prices = at_once.lake.read(refined.PriceDaily).filter(pl.col("date") == day(31).date())
    bars = at_once.lake.read(refined.Ohlcv1d).filter(pl.col("date") == day(31).date())
    close = dict(bars.select("market_id", "close").rows())
    told = {row["asset_id"]: row for row in prices.to_dicts()}
    assert told["tether"]["price_usd"] == close[TETHER]
    expected = float(close[BTC]) * float(close[TETHER])
    assert float(told["bitcoin"]["price_usd"]) == pytest.approx(expected, rel=1e-15)
    assert told["bitcoin"]["depeg_bps"] == pytest.approx(1e4 * (float(close[TETHER]) - 1))


def test_the_same_run_again_writes_nothing(at_once: Chain) -> None:
    content, versions = at_once.content(), at_once.versions()
    assert at_once.run(day(30).date(), day(3, month=2).date()).success
    assert at_once.versions() == versions
    assert differing(content, at_once.content()) == []


def test_days_in_any_order_give_the_tables_of_one_run(at_once: Chain, tmp_path: Path) -> None:
    with chain(tmp_path) as c:
        filled(c.lake)
        for on in days(4, 0, 2, 1, 3):
            assert c.run(on).success
        assert differing(at_once.content(), c.content()) == []


def test_a_day_inside_a_week_and_a_month_computes_them_whole_and_counts_its_own_rows(
    at_once: Chain, tmp_path: Path
) -> None:
    with chain(tmp_path) as c:
        filled(c.lake)
        for on in days(0, 1, 2, 4):
            assert c.run(on).success
        result = c.run(*days(3))
        opened = {refined.Ohlcv1w: day(27), refined.Ohlcv1mo: day(1, month=2)}
        for contract, n_days in ((refined.Ohlcv1w, 4), (refined.Ohlcv1mo, 3)):
            ours = c.lake.read(contract).filter(pl.col("opened_at") == opened[contract])
            theirs = at_once.lake.read(contract).filter(pl.col("opened_at") == opened[contract])
            assert ours.equals(theirs)
            assert ours.filter(pl.col("market_id") == TETHER)["n_obs"].to_list() == [n_days * 1440]
            (made,) = result.asset_materializations_for_node("__".join(contract.table.path))
            assert made.metadata["written_rows"].value == 0


def test_hour_by_hour_a_day_becomes_what_it_is_at_once(tmp_path: Path) -> None:
    """Candles arrive a minute after their end, late ones and trades hours later; each tick replaces whole buckets."""
    start, end = day(8), day(9)
    late = (pl.col("opened_at").dt.hour() == 3) & (pl.col("opened_at").dt.minute() < 30)
    arrives = pl.when(late).then(pl.lit(day(8, 9))).otherwise(pl.col("opened_at").dt.offset_by("2m"))
    candles = candles_of(BTC, "1m", start, end).with_columns(ingested_at=arrives)
    trades = trades_of(BTC, start, end).filter(pl.col("traded_at") < day(8, 6)).with_columns(ingested_at=day(8, 14))
    with chain(tmp_path) as c:
        for now in (day(8, 3, 50), day(8, 4, 10), day(8, 9, 35), day(8, 14, 20), end):
            tick = now + timedelta(minutes=5)
            hold(c.lake, trusted.Candles, candles.filter(pl.col("ingested_at") <= tick))
            known = trades.filter(pl.col("ingested_at") <= tick)
            if len(known):
                hold(c.lake, trusted.Trades, known)
            assert c.run(start.date(), tick=True).success
            if now == day(8, 9, 35):
                assert c.lake.notes(refined.Ohlcv4h)[0].window == Window(day(8, 8), day(8, 12))
                assert c.lake.notes(refined.Ohlcv1h)[0].window == Window(day(8, 9), day(8, 10))
        by_ticks, versions = c.content(), c.versions()
        assert set(by_ticks["refined.ohlcv_1m"]["source_kind"]) == {"trades", "candles_1m"}
        assert by_ticks["refined.ohlcv_1d"]["n_obs"].to_list() == [candles.height]
        assert c.run(start.date()).success
        assert differing(by_ticks, c.content()) == []
        assert c.versions() == versions


def test_a_day_that_may_not_be_published_is_left_out_of_its_week_until_it_may(tmp_path: Path) -> None:
    bad, good = day(7).date(), day(8).date()
    with chain(tmp_path) as c:
        hold(c.lake, trusted.Candles, candles_of(BTC, "1h", day(6), day(9)))
        assert c.run(day(6).date(), good).success
        (whole,) = c.lake.read(refined.Ohlcv1w).to_dicts()
        verdict = {"table_name": "refined.ohlcv_1d", "check_name": "bars", "date": bad, "passed": False}
        window, where = Window.of_day(bad), {"table_name": "refined.ohlcv_1d"}
        c.lake.replace(CheckResults, rows_of(CheckResults, {**verdict, "is_blocking": True}), window, where=where)
        assert c.run(good).success
        (part,) = c.lake.read(refined.Ohlcv1w).to_dicts()
        assert (whole["n_obs"], part["n_obs"]) == (3 * 1440, 2 * 1440)
        c.lake.replace(CheckResults, rows_of(CheckResults), window, where=where)
        assert c.run(good).success
        assert c.lake.read(refined.Ohlcv1w).to_dicts() == [whole]


def test_candles_of_a_day_alone_give_days_weeks_and_months(tmp_path: Path) -> None:
    with chain(tmp_path) as c:
        hold(c.lake, trusted.Candles, candles_of(BTC, "1d", day(1), day(1, month=2)))
        assert c.run(day(1).date(), day(31).date()).success
        heights = {name: table.height for name, table in c.content().items() if "ohlcv" in name}
        assert heights == {
            **{f"refined.ohlcv_{interval}": 0 for interval in ("1m", "5m", "15m", "1h", "4h")},
            "refined.ohlcv_1d": 31,
            "refined.ohlcv_1w": 5,
            "refined.ohlcv_1mo": 1,
        }
        assert c.lake.read(refined.Ohlcv1mo)["completeness"].to_list() == [1.0]


def differing(left: dict[str, pl.DataFrame], right: dict[str, pl.DataFrame]) -> list[str]:
    return [name for name, table in left.items() if not table.equals(right[name])]


def test_every_table_of_venues_is_written_in_this_module() -> None:
    made = {".".join(key.path) for asset in dg.load_assets_from_modules([venues]) for key in asset.keys}
    assert made == {contract.table.full_name for contract in VENUES}
    assert {c.table.write for c in VENUES} == {Write.REPLACE, Write.MERGE}
