"""Each check of bars, names and prices passes on good rows and fails on rows that are broken for just its reason."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from crypto_assets.analytics import candles
from crypto_assets.checks.verdicts import Severity
from crypto_assets.resources.lake import Lake
from crypto_assets.tables import quality, refined, trusted
from crypto_assets.tables.conform import conform
from crypto_assets.tables.contract import Contract
from crypto_assets.tables.refined import BARS
from crypto_assets.tables.window import Window
from tests.checks.cases import failing, verdict
from tests.conftest import RowsOf
from tests.tape_rows import candles_of, day, trades_of

ON, AFTER = day(1).date(), day(2).date()
MARKET = "binance:BTC/USDT"


def hold(lake: Lake, contract: type[Contract], rows: pl.DataFrame) -> pl.DataFrame:
    lake.replace(contract, rows, Window.of_days(rows["date"].min(), rows["date"].max()))
    return rows


def bars_in(lake: Lake, *stated: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Two days' bars of every length, in the lake."""
    minutes = candles_of(MARKET, "1m", day(1), day(3))
    told = pl.concat([minutes, *stated]).lazy()
    found = {"1m": conform(refined.Ohlcv1m, candles.minutes(lake.scan(trusted.Trades), told).collect())}
    for interval, step in candles.STEPS.items():
        if step.finer:
            found[interval] = conform(
                BARS[interval], candles.rolled(interval, found[step.finer].lazy(), told).collect()
            )
    for interval, rows in found.items():
        hold(lake, BARS[interval], rows)
    return found


GOOD = {"open": 5, "high": 6, "low": 4, "close": 5, "vwap": 5, "volume_base": 2, "taker_buy_base": 1, "n_obs": 1}


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({"high": Decimal("4.9")}, "high, vwap"),
        ({"high": Decimal("5.9"), "close": 6, "vwap": None}, "high"),
        ({"low": Decimal("5.1"), "vwap": Decimal("5.2")}, "low"),
        ({"low": 0}, "low"),
        ({"vwap": Decimal("6.00001")}, "vwap"),
        ({"vwap": Decimal("3.99999")}, "vwap"),
        ({"taker_buy_base": 3}, "taker"),
    ],
    ids=str,
)
def test_a_bar_is_well_formed(lake: Lake, rows_of: RowsOf, change: dict[str, Any], broken: str) -> None:
    # Of half a unit a venue's value, printed to 8 decimals, gives a vwap that is 1e-8 off.
    rounded = {**GOOD, "volume_base": Decimal("0.5"), "taker_buy_base": 0, "vwap": Decimal("6.00000001")}
    quiet = {**GOOD, "volume_base": 0, "vwap": None, "taker_buy_base": None}
    good = rows_of(refined.Ohlcv1h, GOOD, rounded, quiet)
    told = verdict("bars", lake, refined.Ohlcv1h, good)
    assert (told.passed, told.observed) == (True, "0 of 3 bars broken")
    told = verdict("bars", lake, refined.Ohlcv1h, rows_of(refined.Ohlcv1h, GOOD, {**GOOD, **change}))
    assert (told.passed, told.observed, told.n_failed) == (False, "1 of 2 bars broken", 1)
    assert failing(told)[0]["broken"] == broken
    assert told.is_blocking


@pytest.mark.parametrize("interval", [i for i, step in candles.STEPS.items() if step.finer])
def test_bars_whose_shorter_ones_were_computed_again_without_them_are_seen(lake: Lake, interval: str) -> None:
    bars = bars_in(lake)
    finer = candles.STEPS[interval].finer or ""
    first = None if interval in ("1w", "1mo") else ON
    days = {"first": first or bars[interval]["date"].min(), "last": AFTER}
    told = verdict("rolled_up", lake, BARS[interval], bars[interval], **days)
    assert told.passed, told
    assert told.is_blocking
    for change in ({"close": "low"}, {"volume_base": "taker_buy_base"}, {"high": "low"}, {"low": "high"}):
        ((name, other),) = change.items()
        restated = bars[finer].with_columns(pl.col(other).alias(name))
        hold(lake, BARS[finer], restated)
        told = verdict("rolled_up", lake, BARS[interval], bars[interval], **days)
        assert not told.passed, name
        assert told.observed.endswith(f"rolled-up bars differ from refined.ohlcv_{finer}")
    lost = bars[finer].filter(pl.col("opened_at") != bars[finer]["opened_at"].min())
    lake.replace(BARS[finer], lost, Window.of_days(days["first"], AFTER))
    told = verdict("rolled_up", lake, BARS[interval], bars[interval], **days)
    assert (told.passed, told.n_failed) == (False, 1)


def test_a_bar_that_a_venue_states_itself_need_not_be_the_sum_of_others(lake: Lake) -> None:
    hour = candles_of(MARKET, "1h", day(2, 23), day(3)).with_columns(
        pl.lit(Decimal(1)).alias("volume_base").cast(pl.Decimal(38, 18))
    )
    bars = bars_in(lake)["1h"].filter(pl.col("opened_at") != day(2, 23))
    stated = conform(refined.Ohlcv1h, candles.rolled("1h", lake.scan(refined.Ohlcv15m).head(0), hour.lazy()).collect())
    told = verdict("rolled_up", lake, refined.Ohlcv1h, pl.concat([bars, stated]), first=ON, last=AFTER)
    assert (told.passed, told.observed) == (True, "0 of 47 rolled-up bars differ from refined.ohlcv_15m")


def test_a_day_that_may_not_be_published_is_missed_by_nobody(lake: Lake, rows_of: RowsOf) -> None:
    bars = bars_in(lake)
    stop = {"table_name": "refined.ohlcv_1d", "check_name": "bars", "date": AFTER, "passed": False, "is_blocking": True}
    week = candles.rolled("1w", bars["1d"].filter(pl.col("date") == ON).lazy(), lake.scan(trusted.Candles)).collect()
    rows = conform(refined.Ohlcv1w, week)
    assert not verdict("rolled_up", lake, refined.Ohlcv1w, rows, first=ON).passed
    hold(lake, quality.CheckResults, rows_of(quality.CheckResults, stop))
    assert verdict("rolled_up", lake, refined.Ohlcv1w, rows, first=ON).passed


@pytest.mark.parametrize("field", ["open", "high", "low", "close", "volume_quote", "n_trades", "taker_buy_base"])
def test_minutes_made_of_trades_equal_the_venues_candles(lake: Lake, field: str) -> None:
    hold(lake, trusted.Trades, trades_of(MARKET, day(1), day(2)))
    own = hold(lake, trusted.Candles, candles_of(MARKET, "1m", day(1), day(2)))
    bars = conform(refined.Ohlcv1m, candles.minutes(lake.scan(trusted.Trades), own.lazy()).collect())
    told = verdict("agree_with_candles", lake, refined.Ohlcv1m, bars, first=ON)
    assert (told.passed, told.observed) == (True, f"0 of {len(own)} minutes with both differ")
    other = pl.when(pl.col("opened_at") == day(1, 9)).then(pl.col(field) + 1).otherwise(field).cast(own.schema[field])
    hold(lake, trusted.Candles, own.with_columns(other.alias(field)))
    told = verdict("agree_with_candles", lake, refined.Ohlcv1m, bars, first=ON)
    assert (told.passed, told.n_failed) == (False, 1)
    assert failing(told)[0]["opened_at"] == "2025-01-01T09:00:00+00:00"
    assert failing(told)[0][field] != failing(told)[0][f"{field}_stated"]
    # What a venue does not state cannot differ.
    silent = own.with_columns(volume_quote=None, n_trades=None, taker_buy_base=None).cast(own.schema)
    hold(lake, trusted.Candles, silent)
    assert verdict("agree_with_candles", lake, refined.Ohlcv1m, bars, first=ON).passed
    assert not told.is_blocking


def test_a_busy_market_with_missing_minutes_is_named_and_a_quiet_one_is_not(lake: Lake, rows_of: RowsOf) -> None:
    plain = {"is_closed": True, "n_expected": 1440}
    good = [
        {**plain, "market_id": "k:A/B", "n_obs": 1368, "n_trades": 20_000, "completeness": 0.95},
        {**plain, "market_id": "k:C/D", "n_obs": 900, "n_trades": 8_999, "completeness": 0.625},
        {**plain, "market_id": "k:E/F", "n_obs": 60, "n_trades": 20_000, "completeness": 0.04, "is_closed": False},
    ]
    told = verdict("complete", lake, refined.Ohlcv1d, rows_of(refined.Ohlcv1d, *good))
    assert (told.passed, told.observed) == (True, "0 of 1 days incomplete")
    bad = [
        {**plain, "market_id": "k:G/H", "n_obs": 1300, "n_trades": 13_000, "completeness": 1300 / 1440},
        {**plain, "market_id": "k:I/J", "n_obs": 1300, "n_trades": None, "completeness": 0.9},
    ]
    told = verdict("complete", lake, refined.Ohlcv1d, rows_of(refined.Ohlcv1d, *good, *bad))
    assert (told.passed, told.observed) == (False, "2 of 3 days incomplete")
    assert {row["market_id"] for row in failing(told)} == {"k:G/H", "k:I/J"}
    assert told.severity is Severity.WARNING


def test_crossed_quotes_are_named(lake: Lake, rows_of: RowsOf) -> None:
    good = rows_of(refined.LatestQuotes, {"market_id": "a", "spread_bps": 0.0}, {"market_id": "b", "spread_bps": None})
    assert verdict("uncrossed", lake, refined.LatestQuotes, good).passed
    bad = rows_of(refined.LatestQuotes, {"market_id": "a", "spread_bps": -0.1})
    told = verdict("uncrossed", lake, refined.LatestQuotes, bad)
    assert (told.passed, told.observed, told.is_blocking) == (False, "1 of 1 quotes crossed", False)


NAME = {"source": "kraken", "source_id": "LUNA", "asset_id": "old", "method": "rule"}
BELIEVED = [
    {**NAME, "valid_from": day(1), "recorded_at": day(1), "superseded_at": day(4)},
    {**NAME, "valid_from": day(1), "valid_to": day(4), "recorded_at": day(4)},
    {**NAME, "asset_id": "new", "valid_from": day(4), "recorded_at": day(4)},
]


def test_a_name_means_one_asset_at_any_time(lake: Lake, rows_of: RowsOf) -> None:
    other = {**BELIEVED[0], "source": "coinbase", "superseded_at": None}
    good = rows_of(refined.SymbolMap, *BELIEVED, other)
    told = verdict("one_meaning", lake, refined.SymbolMap, good)
    assert (told.passed, told.observed) == (True, "0 names with two meanings, 0 rows that never hold")
    for row, change in ((0, {"superseded_at": day(5)}), (1, {"valid_to": day(5)}), (2, {"valid_from": day(3)})):
        bad = [{**held, **(change if n == row else {})} for n, held in enumerate(BELIEVED)]
        told = verdict("one_meaning", lake, refined.SymbolMap, rows_of(refined.SymbolMap, *bad))
        assert (told.passed, told.is_blocking) == (False, True), change
        assert failing(told)[0]["source_id"] == "LUNA"
    told = verdict(
        "one_meaning", lake, refined.SymbolMap, rows_of(refined.SymbolMap, {**BELIEVED[1], "valid_to": day(1)})
    )
    assert (told.passed, told.observed) == (False, "0 names with two meanings, 1 rows that never hold")


def test_two_coins_with_one_ticker_of_a_venue_are_listed(lake: Lake, rows_of: RowsOf) -> None:
    lake.merge(
        refined.LatestAssets,
        rows_of(
            refined.LatestAssets,
            {"asset_id": "uniswap", "symbol": "UNI"},
            {"asset_id": "unicorn", "symbol": "uni"},
            {"asset_id": "bitcoin", "symbol": "BTC"},
            {"asset_id": "fake", "symbol": "BTC"},
            {"asset_id": "near", "symbol": "NEAR"},
        ),
    )
    now = {"source": "kraken", "valid_from": day(1), "recorded_at": day(1)}
    rows = [
        {**now, "source_id": "BTC", "asset_id": "bitcoin", "method": "manual"},
        {**now, "source_id": "NEAR", "asset_id": "near", "method": "rule"},
    ]
    assert verdict("ticker_collisions", lake, refined.SymbolMap, rows_of(refined.SymbolMap, *rows)).passed
    uni = {**now, "source_id": "UNI", "asset_id": "uniswap", "method": "rule", "confidence": 0.9}
    told = verdict("ticker_collisions", lake, refined.SymbolMap, rows_of(refined.SymbolMap, *rows, uni))
    assert (told.passed, told.observed, told.is_blocking) == (False, "1 of 2 tickers have several bearers", False)
    assert failing(told) == [
        {
            "source": "kraken",
            "source_id": "UNI",
            "asset_id": "uniswap",
            "bearers": "unicorn, uniswap",
            "confidence": 0.9,
        }
    ]


def test_markets_are_spelt_by_their_parts_and_both_sides_are_known(lake: Lake, rows_of: RowsOf) -> None:
    good = {"market_id": "kraken:XBT/USD", "venue": "kraken", "base_symbol": "XBT", "quote_symbol": "USD"}
    good |= {
        "base_asset_id": "bitcoin",
        "quote_asset_id": "united-states-dollar",
        "first_seen_on": ON,
        "last_seen_on": ON,
    }
    for name in ("markets", "named"):
        assert verdict(name, lake, refined.DimMarket, rows_of(refined.DimMarket, good)).passed
    for change in ({"base_symbol": "BTC"}, {"venue": "x"}, {"first_seen_on": AFTER}):
        told = verdict("markets", lake, refined.DimMarket, rows_of(refined.DimMarket, {**good, **change}))
        assert (told.passed, told.is_blocking) == (False, True)
    for change in ({"base_asset_id": None}, {"quote_asset_id": None}):
        told = verdict("named", lake, refined.DimMarket, rows_of(refined.DimMarket, {**good, **change}))
        assert (told.passed, told.is_blocking) == (False, False)
        assert failing(told)[0]["market_id"] == "kraken:XBT/USD"


def test_prices_are_counted_by_status_and_disputed_and_missing_ones_are_named(lake: Lake, rows_of: RowsOf) -> None:
    def price(asset_id: str, status: str, **facts: Any) -> dict[str, Any]:
        return {"asset_id": asset_id, "date": ON, "status": status, **facts}

    good = [price("a", "ok"), price("b", "ok"), price("c", "single_source"), price("d", "stale")]
    told = verdict("statuses", lake, refined.PriceDaily, rows_of(refined.PriceDaily, *good))
    assert (told.passed, told.observed) == (True, "2 ok, 1 single_source, 1 stale")
    bad = [*good, price("e", "unpriced"), price("f", "disputed")]
    told = verdict("statuses", lake, refined.PriceDaily, rows_of(refined.PriceDaily, *bad))
    assert (told.passed, told.n_failed, told.is_blocking) == (False, 2, False)
    assert [row["asset_id"] for row in failing(told)] == ["e", "f"]
    assert told.observed == "1 disputed, 2 ok, 1 single_source, 1 stale, 1 unpriced"


def test_a_stablecoin_off_its_peg_is_named(lake: Lake, rows_of: RowsOf) -> None:
    def price(asset_id: str, off: float | None) -> dict[str, Any]:
        return {"asset_id": asset_id, "date": ON, "depeg_bps": off, "status": "ok"}

    good = rows_of(refined.PriceDaily, price("tether", -100.0), price("bitcoin", -500.0), price("dai", None))
    assert verdict("pegs", lake, refined.PriceDaily, good).passed
    told = verdict("pegs", lake, refined.PriceDaily, rows_of(refined.PriceDaily, price("tether", -100.1)))
    assert (told.passed, told.observed, told.is_blocking) == (False, "1 of 1 prices of stablecoins off", False)
    assert failing(told)[0]["depeg_bps"] == -100.1


@pytest.mark.parametrize(
    ("price", "supply", "is_split"),
    [("5", "1000", True), ("0.001", "5000000", True), ("5", "1000000", False), ("0.005", "1000", False)],
    ids=["a thousand to one", "one to five", "a rally", "a burn"],
)
def test_a_redenominated_coin_is_seen_and_a_rally_is_not_one(
    lake: Lake, rows_of: RowsOf, price: str, supply: str, is_split: bool
) -> None:
    before = {"asset_id": "coin", "date": ON, "close_usd": Decimal("0.005"), "supply": 1_000_000}
    today = {**before, "date": AFTER, "close_usd": Decimal(price), "supply": Decimal(supply)}
    rows = hold(lake, refined.AssetDaily, rows_of(refined.AssetDaily, before, today))
    for judged, first in ((rows, ON), (rows.filter(pl.col("date") == AFTER), AFTER)):
        told = verdict("redenominated", lake, refined.AssetDaily, judged, first=first, last=AFTER)
        assert told.passed != is_split
    if is_split:
        assert failing(told)[0]["asset_id"] == "coin"
    assert not told.is_blocking
    assert verdict("redenominated", lake, refined.AssetDaily, rows.filter(pl.col("date") == ON), first=ON).passed
