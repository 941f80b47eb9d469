"""One price of an asset a day: the median of those who saw its end, and told when they do not agree."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from statistics import median
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto_assets.analytics import consensus
from crypto_assets.tables.conform import conform
from crypto_assets.tables.contract import polars_schema
from crypto_assets.tables.refined import AssetDaily, AssetHourly, LatestQuotes, Ohlcv1d, PriceDaily, SymbolMap
from crypto_assets.tables.trusted import Quotes
from tests.rows import rows_of
from tests.tape_rows import day

ON = dt.date(2025, 1, 1)
NAMES = {
    "BTC": "bitcoin",
    "USD": "united-states-dollar",
    "USDT": "tether",
    "USDC": "usd-coin",
    "EUR": "euro",
    "ETH": "ethereum",
}


def bar(market_id: str, close: str, **facts: Any) -> dict[str, Any]:
    plain = {"venue": market_id.partition(":")[0], "market_id": market_id, "close": Decimal(close)}
    return {
        **plain,
        "opened_at": day(1),
        "date": ON,
        "year": ON,
        "observed_at": day(2),
        "available_at": day(2),
        **facts,
    }


def snapshot(asset_id: str, price: str, provider: str = "coincap", **facts: Any) -> dict[str, Any]:
    plain = {"asset_id": asset_id, "provider": provider, "close_usd": Decimal(price), "opened_at": day(1, 23)}
    return {**plain, "date": ON, "observed_at": day(1, 23, 55), "available_at": day(1, 23, 56), **facts}


def names(**changes: str) -> pl.DataFrame:
    rows = [
        {"source": venue, "source_id": ticker, "asset_id": asset_id, "valid_from": day(1).replace(year=2018)}
        for venue in ("binance", "kraken", "coinbase", "bitstamp")
        for ticker, asset_id in (NAMES | changes).items()
    ]
    return rows_of(SymbolMap, *rows)


def priced(
    *bars: dict[str, Any],
    hours: list[dict[str, Any]] | None = None,
    history: list[dict[str, Any]] | None = None,
    known: pl.DataFrame | None = None,
) -> dict[str, dict[str, Any]]:
    """The day's prices by asset."""
    frames = (
        rows_of(Ohlcv1d, *bars),
        rows_of(AssetHourly, *(hours or [])),
        rows_of(AssetDaily, *(history or [])),
        names() if known is None else known,
    )
    table = conform(PriceDaily, consensus.price_daily(*(frame.lazy() for frame in frames)).collect())
    return {row["asset_id"]: row for row in table.to_dicts()}


def test_the_price_is_the_median_of_venues_and_providers() -> None:
    told = priced(
        bar("kraken:BTC/USD", "50000"),
        bar("coinbase:BTC/USD", "50010"),
        hours=[
            snapshot("bitcoin", "50001"),
            snapshot("bitcoin", "49000", opened_at=day(1, 22), observed_at=day(1, 22)),
        ],
    )
    assert list(told) == ["bitcoin"]
    bitcoin = told["bitcoin"]
    assert (bitcoin["price_usd"], bitcoin["status"], bitcoin["n_sources"]) == (50001, "ok", 3)
    assert bitcoin["sources"] == "coinbase, coincap, kraken"
    assert bitcoin["mad_bps"] == pytest.approx(1.4826 * 1 / 50001 * 1e4)
    assert (bitcoin["observed_at"], bitcoin["available_at"]) == (day(2), day(2))
    assert bitcoin["depeg_bps"] is None


def test_a_price_in_a_stablecoin_is_converted_by_what_that_was_worth_on_the_day() -> None:
    told = priced(bar("binance:BTC/USDT", "50000"), bar("kraken:USDT/USD", "0.97"), bar("coinbase:USDT/USD", "0.9702"))
    assert told["tether"]["price_usd"] == Decimal("0.9701")
    assert told["tether"]["depeg_bps"] == pytest.approx(-299)
    assert (told["bitcoin"]["price_usd"], told["bitcoin"]["status"]) == (Decimal(48505), "single_source")
    assert told["bitcoin"]["depeg_bps"] == pytest.approx(-299)


def test_a_price_in_what_has_no_price_is_unpriced_and_not_taken_at_par() -> None:
    (bitcoin,) = priced(bar("binance:BTC/USDT", "50000")).values()
    assert (bitcoin["price_usd"], bitcoin["status"], bitcoin["n_sources"], bitcoin["sources"]) == (
        None,
        "unpriced",
        0,
        "",
    )


def test_a_market_whose_tickers_nobody_knows_prices_nothing() -> None:
    assert priced(bar("binance:NOSUCH/USDT", "5"), bar("kraken:BTC/USD", "50000")).keys() == {"bitcoin"}
    assert priced(bar("kraken:BTC/NOSUCH", "5"))["bitcoin"]["status"] == "unpriced"


def test_a_venue_has_one_vote_however_many_markets_it_has() -> None:
    told = priced(
        bar("kraken:BTC/USD", "50000", volume_base=Decimal(10)),
        bar("kraken:BTC/EUR", "46000", volume_base=Decimal(3)),
        bar("kraken:EUR/USD", "1.1"),
        bar("coinbase:BTC/USD", "50020"),
    )
    assert (told["bitcoin"]["price_usd"], told["bitcoin"]["n_sources"]) == (50010, 2)
    assert told["euro"]["price_usd"] == Decimal("1.1")


def test_an_outlier_is_left_out_and_counted() -> None:
    told = priced(
        bar("kraken:BTC/USD", "100"),
        bar("coinbase:BTC/USD", "100.1"),
        bar("bitstamp:BTC/USD", "105"),
    )["bitcoin"]
    assert (told["price_usd"], told["n_sources"], told["n_outliers"], told["status"]) == (Decimal("100.05"), 2, 1, "ok")
    assert told["sources"] == "coinbase, kraken"


@pytest.mark.parametrize(("other", "status"), [("101", "ok"), ("101.1", "disputed")])
def test_two_sources_a_percent_apart_are_a_dispute_and_neither_is_the_outlier(other: str, status: str) -> None:
    told = priced(bar("kraken:BTC/USD", "100"), bar("coinbase:BTC/USD", other))["bitcoin"]
    assert (told["status"], told["n_sources"], told["n_outliers"]) == (status, 2, 0)
    assert told["price_usd"] == (100 + Decimal(other)) / 2


def test_who_did_not_see_the_end_of_the_day_has_no_vote_while_others_did() -> None:
    early = bar("coinbase:BTC/USD", "90000", observed_at=day(1, 21))
    told = priced(bar("kraken:BTC/USD", "50000"), early)["bitcoin"]
    assert (told["price_usd"], told["status"], told["sources"]) == (50000, "single_source", "kraken")
    # Of another asset it is all there is.
    told = priced(bar("kraken:BTC/USD", "50000"), {**early, "market_id": "coinbase:ETH/USD"})["ethereum"]
    assert (told["price_usd"], told["status"]) == (90000, "stale")


def test_a_day_in_progress_is_judged_by_its_newest_moment() -> None:
    told = priced(
        bar("kraken:BTC/USD", "50000", observed_at=day(1, 9)), bar("coinbase:BTC/USD", "50010", observed_at=day(1, 8))
    )["bitcoin"]
    assert (told["n_sources"], told["status"]) == (2, "ok")


def test_a_price_from_a_history_is_used_only_where_nobody_saw_the_end() -> None:
    past = {"asset_id": "bitcoin", "provider": "coincap", "date": ON, "source_kind": "history", "close_usd": 49000}
    told = priced(bar("kraken:BTC/USD", "50000"), history=[past])["bitcoin"]
    assert (told["price_usd"], told["status"]) == (50000, "single_source")
    told = priced(history=[past])["bitcoin"]
    assert (told["price_usd"], told["status"], told["sources"]) == (49000, "stale", "coincap")


def test_a_ticker_is_read_by_what_it_meant_on_that_day() -> None:
    changed = day(1, 12)
    luna = {"source": "kraken", "source_id": "LUNA"}
    known = rows_of(
        SymbolMap,
        {
            **luna,
            "asset_id": "terra",
            "valid_from": day(1).replace(year=2020),
            "recorded_at": day(1),
            "superseded_at": changed,
        },
        {
            **luna,
            "asset_id": "terra",
            "valid_from": day(1).replace(year=2020),
            "valid_to": changed,
            "recorded_at": changed,
        },
        {**luna, "asset_id": "terra-2", "valid_from": changed, "recorded_at": changed},
        {
            "source": "kraken",
            "source_id": "USD",
            "asset_id": "united-states-dollar",
            "valid_from": day(1).replace(year=2018),
        },
    )
    today = bar("kraken:LUNA/USD", "6")
    yesterday = {**today, "opened_at": day(31).replace(year=2024, month=12), "date": dt.date(2024, 12, 31), "close": 60}
    told = priced(today, yesterday, known=known)
    assert {asset: (row["date"], row["price_usd"]) for asset, row in told.items()} == {
        "terra": (dt.date(2024, 12, 31), 60),
        "terra-2": (ON, 6),
    }


def test_a_redenominated_coin_has_its_new_price_once_most_sources_have() -> None:
    """A thousand old units became one: the sources change over at their own times, and the price says who is meant."""
    old, new = "0.005", "5"
    told = priced(bar("kraken:BTC/USD", old), bar("coinbase:BTC/USD", old), bar("bitstamp:BTC/USD", new))["bitcoin"]
    assert (told["price_usd"], told["n_outliers"], told["status"]) == (Decimal(old), 1, "ok")
    told = priced(bar("kraken:BTC/USD", old), bar("coinbase:BTC/USD", new))["bitcoin"]
    assert told["status"] == "disputed"
    told = priced(bar("kraken:BTC/USD", old), bar("coinbase:BTC/USD", new), bar("bitstamp:BTC/USD", new))["bitcoin"]
    assert (told["price_usd"], told["n_outliers"], told["sources"]) == (Decimal(new), 1, "bitstamp, coinbase")


VENUES = [f"venue-{n}" for n in range(7)]


@settings(max_examples=60)
@given(prices=st.lists(st.integers(1, 10**9), min_size=1, max_size=7))
def test_the_price_equals_a_plain_reading_of_the_rule(prices: list[int]) -> None:
    known = rows_of(
        SymbolMap,
        *(
            {"source": venue, "source_id": ticker, "asset_id": NAMES[ticker], "valid_from": day(1).replace(year=2018)}
            for venue in VENUES
            for ticker in ("BTC", "USD")
        ),
    )
    exact = [Decimal(price).scaleb(-4) for price in prices]
    told = priced(
        *(bar(f"{venue}:BTC/USD", str(price)) for venue, price in zip(VENUES, exact, strict=False)), known=known
    )["bitcoin"]

    middle = median(exact)
    mad = median(abs(price - middle) for price in exact)
    kept = [price for price in exact if abs(price - middle) <= max(5 * mad, middle * 50 / 10_000)]
    assert told["price_usd"] == median(kept)
    assert (told["n_sources"], told["n_outliers"]) == (len(kept), len(exact) - len(kept))
    is_disputed = mad * 10_000 > 50 * middle
    expected = "single_source" if len(exact) == 1 else "disputed" if is_disputed else "ok"
    # The spread is a double: at the very edge it may fall on either side.
    if abs(float(mad) * 1e4 / 50 / float(middle) - 1) > 1e-9:
        assert told["status"] == expected


def test_the_newest_quote_of_each_market_has_a_mid_and_a_spread() -> None:
    at = {"observed_at": day(1, 9), "ingested_at": day(1, 9, 1)}
    rows = [
        {"provider": "exchanges", "market_id": "kraken:BTC/USD", "bid_price": 99, "ask_price": 101, **at},
        {
            "provider": "exchanges",
            "market_id": "kraken:BTC/USD",
            "bid_price": 1,
            "ask_price": 2,
            "observed_at": day(1, 8),
        },
        {"provider": "exchanges", "market_id": "kraken:ETH/USD", "bid_price": None, "ask_price": 2, **at},
        {"provider": "exchanges", "market_id": "kraken:XYZ/USD", "bid_price": 0, "ask_price": 0, **at},
        {"provider": "exchanges", "market_id": "kraken:ABC/USD", "bid_price": 3, "ask_price": 1, **at},
    ]
    table = conform(LatestQuotes, consensus.latest_quotes(rows_of(Quotes, *rows).lazy()).collect())
    told = {row["market_id"][7:10]: (row["mid_price"], row["spread_bps"]) for row in table.to_dicts()}
    assert told == {"BTC": (100, 200.0), "ETH": (None, None), "XYZ": (0, None), "ABC": (2, -10_000.0)}
    assert table["available_at"].unique().to_list() == [day(1, 9, 1)]


def test_nothing_gives_no_prices_and_no_quotes() -> None:
    assert priced() == {}
    empty = pl.LazyFrame(schema=polars_schema(Quotes))
    assert conform(LatestQuotes, consensus.latest_quotes(empty).collect()).is_empty()


def test_a_venue_whose_largest_market_stopped_in_mid_day_votes_by_one_that_went_on() -> None:
    told = priced(
        bar("kraken:BTC/USD", "50000", volume_base=Decimal(5)),
        bar("binance:BTC/USDC", "47000", volume_base=Decimal(900), observed_at=day(1, 12)),
        bar("binance:BTC/USD", "50010", volume_base=Decimal(800)),
        hours=[snapshot("usd-coin", "1")],
    )
    bitcoin = told["bitcoin"]
    assert (bitcoin["price_usd"], bitcoin["status"], bitcoin["sources"]) == (50005, "ok", "binance, kraken")
