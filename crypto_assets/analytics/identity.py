"""Which asset a name means: who bore which ticker, the map from names to assets, and markets. Pure functions.

Nothing is joined on a ticker alone. A provider's ids are its own statements. A venue's ticker is taken from a table of
known names, else from the assets that bear it: the best ranked one, which stays until it no longer bears the ticker, or
until another is ranked far above it. What the map says is computed from the digests of all days, so that days may come
in any order; its times are those of the data.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime
from typing import Any, NamedTuple

import polars as pl

from crypto_assets.tables.contract import UTC_TIME, polars_schema
from crypto_assets.tables.refined import SymbolMap

USD = "united-states-dollar"
# What everyone means by these tickers, whatever else bears them: currencies, exchanges' own spellings, and the coins
# that others are priced in or that impostors are named after. A ticker that has passed from one coin to another (LUNA)
# has no place here.
KNOWN: Mapping[str, str] = {
    "USD": USD,
    "ZUSD": USD,
    "EUR": "euro",
    "ZEUR": "euro",
    "GBP": "british-pound-sterling",
    "ZGBP": "british-pound-sterling",
    "JPY": "japanese-yen",
    "ZJPY": "japanese-yen",
    "CHF": "swiss-franc",
    "CAD": "canadian-dollar",
    "AUD": "australian-dollar",
    "CNY": "chinese-yuan-renminbi",
    "KRW": "south-korean-won",
    "BRL": "brazilian-real",
    "TRY": "turkish-lira",
    "XBT": "bitcoin",
    "XXBT": "bitcoin",
    "XDG": "dogecoin",
    "XXDG": "dogecoin",
    "BTC": "bitcoin",
    "ETH": "ethereum",
    "XETH": "ethereum",
    "USDT": "tether",
    "USDC": "usd-coin",
    "DAI": "multi-collateral-dai",
    "BNB": "binance-coin",
    "XRP": "xrp",
    "SOL": "solana",
    "ADA": "cardano",
    "DOGE": "dogecoin",
    "TRX": "tron",
    "LTC": "litecoin",
    "BCH": "bitcoin-cash",
    "DOT": "polkadot",
    "LINK": "chainlink",
    "XLM": "stellar",
    "AVAX": "avalanche",
}
# Ranks of small coins change places every day; only one that stands twice as high is what a venue would mean by it.
OUTRANKED = 2
# An asset refused in one day's pulls has not given up its ticker: it must be missing from a second day as well.
MISSING_DAYS = 2
# A ticker that one asset alone bears may still be the venue's own for something that no provider lists.
SOLE_BEARER = 0.95
# A rank below all others, for an asset that its provider does not rank.
_UNRANKED = 10**6


def symbol_days(snapshots: pl.LazyFrame) -> pl.LazyFrame:
    """Rows of ``refined.asset_symbols_daily`` from rows of ``trusted.asset_snapshots``."""
    return snapshots.group_by("provider", "provider_asset_id", "asset_id", "symbol", "date").agg(
        rank=pl.col("rank").min(),
        first_seen_at=pl.col("observed_at").min(),
        last_seen_at=pl.col("observed_at").max(),
        available_at=pl.col("ingested_at").max(),
    )


def symbol_map(symbols: pl.LazyFrame, bars: pl.LazyFrame, quotes: pl.LazyFrame) -> pl.LazyFrame:
    """Rows of ``refined.symbol_map`` from all days of ``asset_symbols_daily``, ``ohlcv_1d`` and ``trusted.quotes``."""
    return pl.concat([_of_providers(symbols), _of_venues(symbols, _tickers(bars, quotes))])


def markets(bars: pl.LazyFrame, quotes: pl.LazyFrame, names: pl.LazyFrame) -> pl.LazyFrame:
    """Rows of ``refined.dim_market`` from all days of ``ohlcv_1d`` and ``trusted.quotes`` and from the symbol map."""
    today = names.filter(pl.col("superseded_at").is_null(), pl.col("valid_to").is_null())
    known = today.select(venue="source", symbol="source_id", asset_id="asset_id")
    seen = (
        _seen(bars, quotes)
        .group_by("market_id")
        .agg(first_seen_on=pl.col("first_at").min().dt.date(), last_seen_on=pl.col("last_at").max().dt.date())
        .with_columns(**pair(pl.col("market_id")))
    )
    return (
        seen.with_columns(newest_on=pl.col("last_seen_on").max().over("venue"))
        .join(known.rename({"symbol": "base_symbol", "asset_id": "base_asset_id"}), ["venue", "base_symbol"], "left")
        .join(known.rename({"symbol": "quote_symbol", "asset_id": "quote_asset_id"}), ["venue", "quote_symbol"], "left")
        .with_columns(
            status=pl.when(pl.col("last_seen_on") < pl.col("newest_on").dt.offset_by("-1d"))
            .then(pl.lit("quiet"))
            .otherwise(pl.lit("active"))
        )
    )


def pair(market_id: pl.Expr) -> dict[str, pl.Expr]:
    """Venue, base_symbol and quote_symbol of ``venue:BASE/QUOTE``."""
    symbols = market_id.str.extract(r"^[^:]*:(.*)$")
    return {
        "venue": market_id.str.extract(r"^([^:]*):"),
        "base_symbol": symbols.str.extract(r"^([^/]*)/"),
        "quote_symbol": symbols.str.extract(r"/(.*)$"),
    }


def valid_on(names: pl.LazyFrame, days: pl.LazyFrame) -> pl.LazyFrame:
    """For each ``date`` of ``days``, what each name meant at the end of that day, as is believed now.

    Columns: date, source, source_id, asset_id.
    """
    ends = pl.col("date").cast(UTC_TIME).dt.offset_by("1d")
    believed = names.filter(pl.col("superseded_at").is_null())
    return (
        days.select("date")
        .unique()
        .join(believed, how="cross")
        .filter(pl.col("valid_from") < ends, (pl.col("valid_to") >= ends).fill_null(value=True))
        .select("date", "source", "source_id", "asset_id")
    )


def _of_providers(symbols: pl.LazyFrame) -> pl.LazyFrame:
    """A row for each stretch in which a provider's id stood for one asset and ticker."""
    name = ["provider", "provider_asset_id"]
    said = pl.struct("asset_id", "symbol")
    changes = (
        symbols.sort("first_seen_at", "asset_id", "symbol")
        .with_columns(is_new=(said != said.shift(1)).over(name).fill_null(value=True))
        .filter("is_new")
        .with_columns(valid_to=pl.col("first_seen_at").shift(-1).over(name))
    )
    is_same = pl.col("provider_asset_id") == pl.col("asset_id")
    told = changes.select(
        source="provider",
        source_id="provider_asset_id",
        source_symbol="symbol",
        asset_id="asset_id",
        valid_from="first_seen_at",
        ends_at="valid_to",
        recorded_at="first_seen_at",
        method=pl.when(is_same).then(pl.lit("provider")).otherwise(pl.lit("manual")),
        confidence=pl.lit(1.0),
    )
    return _believed(told)


def _of_venues(symbols: pl.LazyFrame, tickers: pl.LazyFrame) -> pl.LazyFrame:
    """What each venue's tickers mean: known names, else the bearers of the ticker."""
    known = pl.LazyFrame({"ticker": list(KNOWN), "known_id": list(KNOWN.values())})
    named = tickers.with_columns(ticker=pl.col("source_id").str.to_uppercase()).join(known, "ticker", "left")
    manual = named.filter(pl.col("known_id").is_not_null()).select(
        "source",
        "source_id",
        asset_id="known_id",
        since=pl.col("first_at"),
        ends_at=pl.lit(None, UTC_TIME),
        method=pl.lit("manual"),
        confidence=pl.lit(1.0),
        first_at="first_at",
    )
    asked = named.filter(pl.col("known_id").is_null())
    tenures = _tenures(symbols, asked.select("ticker").unique())
    by_rule = (
        asked.join(tenures, "ticker")
        # What the ticker meant before the venue had it is not the venue's affair.
        .filter((pl.col("ends_at") > pl.col("first_at")).fill_null(value=True))
        .select(
            "source",
            "source_id",
            "asset_id",
            "since",
            "ends_at",
            method=pl.lit("rule"),
            confidence="confidence",
            first_at="first_at",
        )
    )
    name = ["source", "source_id"]
    is_first = pl.col("since") == pl.col("since").min().over(name)
    told = pl.concat([manual, by_rule]).with_columns(
        source_symbol="source_id",
        # The venue's candles may reach back to before anyone's snapshots: the first asset known is taken for them.
        valid_from=pl.when(is_first).then("first_at").otherwise("since"),
        recorded_at=pl.max_horizontal("since", "first_at"),
    )
    return _believed(told)


def _believed(told: pl.LazyFrame) -> pl.LazyFrame:
    """Rows of the map from stretches that end at ``ends_at`` (null: still hold).

    Until a stretch ended it was believed to hold for ever; since then it is believed to have ended.
    """
    columns = polars_schema(SymbolMap).names()
    forever = told.with_columns(valid_to=pl.lit(None, UTC_TIME), superseded_at="ends_at")
    ended = told.filter(pl.col("ends_at").is_not_null()).with_columns(
        valid_to="ends_at", recorded_at="ends_at", superseded_at=pl.lit(None, UTC_TIME)
    )
    return pl.concat([forever.select(columns), ended.select(columns)])


def _seen(bars: pl.LazyFrame, quotes: pl.LazyFrame) -> pl.LazyFrame:
    """First and last sighting of each market."""
    at = {"first_at": pl.col("at").min(), "last_at": pl.col("at").max()}
    return pl.concat(
        frame.group_by("market_id").agg(**at)
        for frame in (bars.select("market_id", at="opened_at"), quotes.select("market_id", at="observed_at"))
    )


def _tickers(bars: pl.LazyFrame, quotes: pl.LazyFrame) -> pl.LazyFrame:
    """Each venue's tickers with their first sighting: source, source_id, first_at."""
    seen = _seen(bars, quotes).with_columns(**pair(pl.col("market_id")))
    both = pl.concat(
        seen.select(source="venue", source_id=symbol, first_at="first_at") for symbol in ("base_symbol", "quote_symbol")
    )
    return both.group_by("source", "source_id").agg(pl.col("first_at").min())


def _tenures(symbols: pl.LazyFrame, asked: pl.LazyFrame) -> pl.LazyFrame:
    """Which asset each ticker stood for, and when: ticker, asset_id, since, ends_at (null: still), confidence."""
    by_day = (
        symbols.with_columns(ticker=pl.col("symbol").str.to_uppercase())
        .join(asked, "ticker", "semi")
        .group_by("ticker", "date", "asset_id")
        .agg(rank=pl.col("rank").min().fill_null(_UNRANKED), seen_at=pl.col("first_seen_at").min())
    )
    # Where one asset alone ever bore the ticker, its first day says all: only the others are gone through.
    is_contested = pl.col("asset_id").n_unique().over("ticker") > 1
    is_first = pl.col("date") == pl.col("date").min().over("ticker")
    held_days = symbols.select(pl.col("date").unique().sort().implode())
    schema = {
        "ticker": pl.String(),
        "asset_id": pl.String(),
        "since": UTC_TIME,
        "ends_at": UTC_TIME,
        "confidence": pl.Float64(),
    }

    def go_through(frame: pl.DataFrame) -> pl.DataFrame:
        found: list[tuple[Any, ...]] = []
        for (ticker,), rows in frame.sort("ticker", "date", "rank", "asset_id").group_by("ticker", maintain_order=True):
            days = rows["held"][0].to_list()
            bearers = (Bearer(*row) for row in rows.select("date", "asset_id", "rank", "seen_at").iter_rows())
            tenures = list(incumbents(days, bearers))
            ends = [since for _, since, _ in tenures[1:]] + [None]
            found += [(ticker, *tenure[:2], end, tenure[2]) for tenure, end in zip(tenures, ends, strict=True)]
        return pl.DataFrame(found, schema=schema, orient="row")

    rows = by_day.filter(is_contested | is_first).join(held_days.rename({"date": "held"}), how="cross")
    return rows.map_batches(go_through, schema=schema)


class Bearer(NamedTuple):
    """An asset that bore a ticker on a day, with its best rank and its first observation of the day."""

    date: date
    asset_id: str
    rank: int
    seen_at: datetime


def incumbents(days: Iterable[date], bearers: Iterable[Bearer]) -> Iterator[tuple[str, datetime, float]]:
    """The assets that a ticker stood for, one after the other: asset, since when, and how surely at that time.

    ``days`` are all days with snapshots, in order; ``bearers`` are in order of day and rank.
    """
    by_day: dict[date, list[Bearer]] = {}
    for bearer in bearers:
        by_day.setdefault(bearer.date, []).append(bearer)
    holder, n_missing = None, 0
    for day in days:
        found = by_day.get(day, [])
        held = next((bearer for bearer in found if bearer.asset_id == holder), None)
        n_missing = 0 if held else n_missing + 1
        if not found:
            continue
        best = found[0]
        is_outranked = held is not None and held.rank > OUTRANKED * best.rank
        is_gone = held is None and n_missing >= MISSING_DAYS
        if holder is None or is_outranked or is_gone:
            holder, n_missing = best.asset_id, 0
            lead = 1 - best.rank / found[1].rank if len(found) > 1 else 1.0
            yield holder, best.seen_at, round(SOLE_BEARER * lead, 4)
