"""Names and assets: what a ticker means, since when, and since when that is known."""

from __future__ import annotations

import datetime as dt
from itertools import combinations
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto_assets.analytics import identity
from crypto_assets.tables.conform import conform
from crypto_assets.tables.refined import AssetSymbolsDaily, DimMarket, Ohlcv1d, SymbolMap
from crypto_assets.tables.trusted import AssetSnapshots, Quotes
from tests.rows import rows_of
from tests.tape_rows import day


def borne(asset_id: str, symbol: str, rank: int | None, *days: int, **facts: Any) -> list[dict[str, Any]]:
    """An asset with a ticker in the snapshots of some days of January 2025, first at six o'clock."""
    plain = {"provider": "coincap", "provider_asset_id": asset_id, "asset_id": asset_id, "symbol": symbol, "rank": rank}
    return [{**plain, "date": dt.date(2025, 1, n), "first_seen_at": day(n, 6), **facts} for n in days]


def sold(market_id: str, *days: int) -> list[dict[str, Any]]:
    """A market with bars on some days."""
    return [
        {"venue": market_id.partition(":")[0], "market_id": market_id, "opened_at": day(n), "date": day(n).date()}
        for n in days
    ]


def mapped(
    symbols: list[dict[str, Any]], bars: list[dict[str, Any]], quotes: list[dict[str, Any]] | None = None
) -> pl.DataFrame:
    frames = (rows_of(AssetSymbolsDaily, *symbols), rows_of(Ohlcv1d, *bars), rows_of(Quotes, *(quotes or [])))
    return conform(SymbolMap, identity.symbol_map(*(frame.lazy() for frame in frames)).collect())


def told(table: pl.DataFrame, source: str, source_id: str) -> list[tuple[Any, ...]]:
    """Asset, valid from, valid to, recorded at and superseded at of a name, as days of January."""
    rows = table.filter(source=source, source_id=source_id).sort("recorded_at", "valid_from")
    times = [pl.col(c) for c in ("valid_from", "valid_to", "recorded_at", "superseded_at")]
    return rows.select("asset_id", *[t.dt.strftime("%d %H") for t in times]).rows()


def test_a_digest_of_a_day_says_which_id_and_ticker_named_which_asset() -> None:
    plain = {"provider": "coincap", "provider_asset_id": "ripple", "asset_id": "xrp", "symbol": "XRP"}
    rows = [
        {**plain, "rank": rank, "observed_at": day(1, hour), "ingested_at": day(1, hour, 1), "date": day(1).date()}
        for hour, rank in ((9, 4), (8, 3), (10, None))
    ]
    table = conform(AssetSymbolsDaily, identity.symbol_days(rows_of(AssetSnapshots, *rows).lazy()).collect())
    (row,) = table.to_dicts()
    assert (row["provider_asset_id"], row["asset_id"], row["rank"]) == ("ripple", "xrp", 3)
    assert (row["first_seen_at"], row["last_seen_at"], row["available_at"]) == (day(1, 8), day(1, 10), day(1, 10, 1))


def test_a_known_ticker_is_what_everyone_means_by_it_with_snapshots_or_without() -> None:
    impostor = borne("bitcoin-fake", "XBT", 1, 1, 2)
    table = mapped(impostor, sold("kraken:XBT/ZUSD", 2))
    assert told(table, "kraken", "XBT") == [("bitcoin", "02 00", None, "02 00", None)]
    assert told(table, "kraken", "ZUSD") == [("united-states-dollar", "02 00", None, "02 00", None)]
    assert set(table.filter(source="kraken")["method"]) == {"manual"}
    assert set(table.filter(source="kraken")["confidence"]) == {1.0}


def test_of_two_coins_with_one_ticker_the_better_ranked_is_meant_and_how_surely_is_told() -> None:
    symbols = borne("unicorn", "UNI", 900, 1) + borne("uniswap", "uni", 20, 1) + borne("near", "NEAR", 21, 1)
    table = mapped(symbols, sold("kraken:UNI/USD", 1) + sold("kraken:NEAR/USD", 1))
    assert told(table, "kraken", "UNI") == [("uniswap", "01 00", None, "01 06", None)]
    sure = dict(table.filter(source="kraken", method="rule").select("source_id", "confidence").rows())
    assert sure == {"UNI": pytest.approx(0.95 * (1 - 20 / 900), abs=1e-4), "NEAR": 0.95}


def test_ranks_that_swap_every_day_change_nothing() -> None:
    symbols = borne("a", "T", 100, 1, 3) + borne("b", "T", 101, 1, 3) + borne("a", "T", 102, 2) + borne("b", "T", 90, 2)
    assert told(mapped(symbols, sold("kraken:T/USD", 1)), "kraken", "T") == [("a", "01 00", None, "01 06", None)]


def test_a_coin_ranked_twice_as_high_takes_the_ticker_over_from_then_on() -> None:
    symbols = borne("old", "T", 900, 1, 2, 3, 4) + borne("famous", "T", 30, 3, 4)
    assert told(mapped(symbols, sold("kraken:T/USD", 1)), "kraken", "T") == [
        ("old", "01 00", None, "01 06", "03 06"),
        ("old", "01 00", "03 06", "03 06", None),
        ("famous", "03 06", None, "03 06", None),
    ]


def test_a_renamed_ticker_leads_to_the_same_asset_under_both_names() -> None:
    """MATIC became POL: the coin is one, the venue lists the new ticker beside the old one's candles."""
    symbols = borne("polygon", "MATIC", 15, 1, 2) + borne("polygon", "POL", 15, 3, 4)
    table = mapped(symbols, sold("kraken:MATIC/USD", 1, 2) + sold("kraken:POL/USD", 3))
    assert told(table, "kraken", "MATIC") == [("polygon", "01 00", None, "01 06", None)]
    assert told(table, "kraken", "POL") == [("polygon", "03 00", None, "03 06", None)]
    assert told(table, "coincap", "polygon") == [
        ("polygon", "01 06", None, "01 06", "03 06"),
        ("polygon", "01 06", "03 06", "03 06", None),
        ("polygon", "03 06", None, "03 06", None),
    ]
    now = table.filter(pl.col("valid_to").is_null(), pl.col("superseded_at").is_null(), source="coincap")
    assert now["source_symbol"].to_list() == ["POL"]


def test_a_ticker_that_passes_to_another_coin_does_so_once_the_first_is_gone_for_two_days() -> None:
    """LUNA: the old coin was renamed to LUNC, and a new one took its ticker."""
    symbols = borne("terra-luna", "LUNA", 80, 1, 2) + borne("terra-luna", "LUNC", 80, 3, 4, 5)
    symbols += borne("terra-luna-v2", "LUNA", 70, 3, 4, 5)
    table = mapped(symbols, sold("kraken:LUNA/USD", 1))
    assert told(table, "kraken", "LUNA") == [
        ("terra-luna", "01 00", None, "01 06", "04 06"),
        ("terra-luna", "01 00", "04 06", "04 06", None),
        ("terra-luna-v2", "04 06", None, "04 06", None),
    ]


def test_a_coin_refused_in_one_days_snapshots_keeps_its_ticker() -> None:
    symbols = borne("a", "T", 100, 1, 3) + borne("b", "T", 101, 1, 2, 3)
    assert told(mapped(symbols, sold("kraken:T/USD", 1)), "kraken", "T") == [("a", "01 00", None, "01 06", None)]


def test_an_id_that_its_provider_renamed_leads_to_the_same_asset() -> None:
    symbols = borne("xrp", "XRP", 5, 1, provider_asset_id="ripple") + borne("xrp", "XRP", 5, 2)
    table = mapped(symbols, [])
    assert told(table, "coincap", "ripple") == [("xrp", "01 06", None, "01 06", None)]
    assert told(table, "coincap", "xrp") == [("xrp", "02 06", None, "02 06", None)]
    assert dict(table.select("source_id", "method").rows()) == {"ripple": "manual", "xrp": "provider"}


def test_a_ticker_that_nobody_bears_means_nothing() -> None:
    assert mapped(borne("a", "T", 1, 1), sold("kraken:NOSUCH/USD", 1)).filter(source_id="NOSUCH").is_empty()


def test_candles_older_than_all_snapshots_are_of_the_first_asset_known() -> None:
    table = mapped(borne("near", "NEAR", 20, 20), sold("kraken:NEAR/USD", 3))
    assert told(table, "kraken", "NEAR") == [("near", "03 00", None, "20 06", None)]


def test_what_a_ticker_meant_before_the_venue_had_it_is_not_the_venues_affair() -> None:
    symbols = borne("old", "T", 900, 1, 2) + borne("famous", "T", 30, 3, 4)
    table = mapped(symbols, sold("kraken:T/USD", 10))
    assert told(table, "kraken", "T") == [("famous", "10 00", None, "10 00", None)]


SYMBOLS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("TU"), st.integers(1, 50) | st.none(), st.integers(1, 9)),
    max_size=40,
    unique_by=lambda s: (s[0], s[1], s[3]),
)


@settings(max_examples=60)
@given(symbols=SYMBOLS, order=st.randoms(), seen=st.integers(1, 9))
def test_at_any_time_as_known_at_any_time_a_name_means_one_asset(symbols: Any, order: Any, seen: int) -> None:
    rows = [row for asset, symbol, rank, n in symbols for row in borne(asset, symbol, rank, n)]
    # A day's snapshots have an asset once.
    rows = list({(row["asset_id"], row["date"]): row for row in rows}.values())
    bars = sold("kraken:T/U", seen)
    table = mapped(rows, bars)
    for _, names in table.group_by("source", "source_id"):
        for one, other in combinations(names.to_dicts(), 2):
            assert not (
                _meet(one, other, "valid_from", "valid_to") and _meet(one, other, "recorded_at", "superseded_at")
            )
        believed = names.filter(pl.col("superseded_at").is_null()).sort("valid_from")
        assert believed["valid_to"].to_list() == [*believed["valid_from"].to_list()[1:], None]
    order.shuffle(rows)
    assert mapped(rows, bars).equals(table)


def _meet(one: dict[str, Any], other: dict[str, Any], start: str, end: str) -> bool:
    far = day(1).replace(year=3000)
    return bool(one[start] < (other[end] or far) and other[start] < (one[end] or far))


def test_a_market_says_what_is_traded_for_what_and_when_it_was_seen() -> None:
    bars = sold("kraken:XBT/USD", 1, 2, 5) + sold("kraken:NOSUCH/USD", 1) + sold("coinbase:BTC/USD", 1)
    quotes = [
        {
            "provider": "alpha_vantage",
            "market_id": "alpha_vantage:BTC/EUR",
            "observed_at": day(3, 9),
            "date": day(3).date(),
        }
    ]
    names = mapped([], bars, quotes)
    frames = (rows_of(Ohlcv1d, *bars), rows_of(Quotes, *quotes), names)
    table = conform(DimMarket, identity.markets(*(frame.lazy() for frame in frames)).collect())
    found = {row["market_id"]: row for row in table.to_dicts()}
    kraken = found["kraken:XBT/USD"]
    assert (kraken["base_symbol"], kraken["base_asset_id"]) == ("XBT", "bitcoin")
    assert (kraken["quote_symbol"], kraken["quote_asset_id"]) == ("USD", "united-states-dollar")
    assert (kraken["first_seen_on"].day, kraken["last_seen_on"].day) == (1, 5)
    assert (found["kraken:NOSUCH/USD"]["base_asset_id"], found["kraken:NOSUCH/USD"]["status"]) == (None, "quiet")
    # A venue of which nothing newer is known has not gone quiet.
    assert {market: row["status"] for market, row in found.items() if market != "kraken:NOSUCH/USD"} == {
        "kraken:XBT/USD": "active",
        "coinbase:BTC/USD": "active",
        "alpha_vantage:BTC/EUR": "active",
    }
    assert found["alpha_vantage:BTC/EUR"]["quote_asset_id"] == "euro"
