"""The trusted zone: typed, exact, deduplicated facts, whichever provider they come from.

Prices, quantities and volumes are ``Decimal(38, 18)`` and equal the provider's text digit by digit. A record that
does not fit goes to ``quality.quarantine``; ``n_duplicates`` says how many further records repeated a row, so that for
every window raw records = trusted rows + their duplicates + quarantined records. What is computed from facts is in
``refined.py``.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import dataframely as dy
import polars as pl

from crypto_assets.tables import raw, stream
from crypto_assets.tables.contract import (
    CURRENCY_SLUG,
    Contract,
    Kind,
    Table,
    Write,
    Zone,
    clock,
    count,
    day,
    flag,
    key,
    money,
    number,
    period,
    slug,
    text,
)

# Providers' clocks run ahead of ours by less than this; a later time is a wrong unit or a wrong clock.
CLOCK_SKEW = timedelta(minutes=5)
# The genesis block; an earlier observation is a wrong unit (seconds read as milliseconds).
GENESIS = datetime(2009, 1, 3, tzinfo=UTC)
# No unit of any listed asset has ever cost a thousandth of this; a price above it is a provider's slip.
HIGHEST_PRICE_USD = 10**9
# More than the world is worth; a sum over every listed asset still fits the type.
HIGHEST_TOTAL_USD = 10**15


def _trusted_table(
    name: str, *sort_by: str, group: str = "market", cadence: str = "every 5 minutes", clock: str | None = "observed_at"
) -> Table:
    return Table(
        zone=Zone.TRUSTED, name=name, group=group, cadence=cadence, write=Write.REPLACE, sort_by=sort_by, clock=clock
    )


class Fact(Contract):
    """Columns of every trusted table that is parsed from raw answers."""

    provider = key("Provider that stated the fact.")
    observed_at = clock("Provider's time of the fact.", primary_key=True)
    ingested_at = clock("Our clock when the answer had arrived; of the newest record where several repeat the row.")
    pull_id = text("The pull in raw that the row comes from.")
    n_duplicates = count("Further raw records that repeated this row and were merged into it.", kind=Kind.INTERVAL)
    date = day()

    @dy.rule()
    def not_from_the_future(cls) -> pl.Expr:  # noqa: N805
        return pl.col("observed_at") <= pl.col("ingested_at") + CLOCK_SKEW

    @dy.rule()
    def not_before_bitcoin(cls) -> pl.Expr:  # noqa: N805
        return pl.col("observed_at") >= GENESIS


# Who is listened to where several providers state one thing. CoinCap first: it states volume-weighted prices to 18
# digits every few minutes, CoinGecko some six digits of a cached one. Others come after these, by name.
PREFERENCE = ("coincap", "coingecko")

_ASSET_BODIES = ("raw.coincap_assets.body", "raw.coingecko_markets.body")


class AssetSnapshots(Fact):
    """Every listed asset at one moment: price, market cap, supply, 24-hour volume and change, and rank.

    Several providers state the same asset: whoever sums or ranks takes one of them (``analytics.preference``). A record
    without a price is refused, for everything here is about one; every other number may be unknown.
    """

    table = _trusted_table("asset_snapshots", "asset_id", "observed_at")

    asset_id = slug("Our stable id of the asset.", sources=_ASSET_BODIES)
    provider_asset_id = text("The provider's own id, which it may rename.", sources=_ASSET_BODIES)
    symbol = text("Ticker; not unique, never a join key.", sources=_ASSET_BODIES)
    name = text("Display name.", sources=_ASSET_BODIES)
    rank = count(
        "Rank by market cap among the provider's ranked assets, 1 is the largest; null where it ranks it not.",
        low=1,
        nullable=True,
        sources=_ASSET_BODIES,
    )
    # Not rounded: a price finer than 18 digits is so small that what is cut off would be a part of it that matters.
    price_usd = money(
        "Volume-weighted price of one unit.",
        high=HIGHEST_PRICE_USD,
        unit="USD",
        sources=_ASSET_BODIES,
    )
    market_cap_usd = money("Supply times price.", nullable=True, high=HIGHEST_TOTAL_USD, sources=_ASSET_BODIES)
    supply = money("Units in circulation.", unit="units", nullable=True, sources=_ASSET_BODIES)
    max_supply = money(
        "Units that can ever exist; null where unlimited or unknown.",
        unit="units",
        nullable=True,
        sources=_ASSET_BODIES,
    )
    # Rounded: the volume of a coin that is hardly traded is a printed double, and no reason to refuse its price.
    volume_usd_24h = money(
        "Volume traded in the last 24 hours.",
        kind=Kind.ROLLING_24H,
        nullable=True,
        high=HIGHEST_TOTAL_USD,
        rounded=True,
        sources=_ASSET_BODIES,
    )
    change_pct_24h = money(
        "Price change over the last 24 hours.",
        unit="%",
        kind=Kind.ROLLING_24H,
        nullable=True,
        low=-100,
        rounded=True,
        sources=_ASSET_BODIES,
    )
    vwap_usd_24h = money(
        "Volume-weighted average price of the last 24 hours.",
        kind=Kind.ROLLING_24H,
        nullable=True,
        rounded=True,
        sources="raw.coincap_assets.body",
    )
    explorer_url = text("Block explorer.", nullable=True, sources="raw.coincap_assets.body")
    tokens = text("Contract addresses by chain id, as JSON text.", nullable=True, sources="raw.coincap_assets.body")
    updated_at = clock(
        "Provider's last update of the asset, which may be long before observed_at; null where it does not say.",
        nullable=True,
        sources="raw.coingecko_markets.body",
    )

    @dy.rule()
    def price_agrees_with_cap(cls) -> pl.Expr:  # noqa: N805
        """A price an order of magnitude off the provider's own cap and supply is a slip, however small it is."""
        price, supply, cap = (pl.col(c).cast(pl.Float64) for c in ("price_usd", "supply", "market_cap_usd"))
        can_tell = (supply > 0) & (cap > 0)
        return ~can_tell | (price * supply / cap).is_between(0.1, 10)


class ExchangeSnapshots(Fact):
    """Every exchange at one moment: its share of the volume of all exchanges, volume, rank and number of pairs."""

    table = _trusted_table("exchange_snapshots", "exchange_id", "observed_at")

    exchange_id = slug("Our stable id of the exchange.", sources="raw.coincap_exchanges.body")
    name = text("Display name.", sources="raw.coincap_exchanges.body")
    rank = count("Rank by volume, 1 is the largest.", low=1, sources="raw.coincap_exchanges.body")
    volume_share_pct = money(
        "Share of the volume of all exchanges.",
        unit="%",
        kind=Kind.ROLLING_24H,
        nullable=True,
        high=100,
        rounded=True,
        sources="raw.coincap_exchanges.body",
    )
    volume_usd_24h = money(
        "Volume traded in the last 24 hours.",
        kind=Kind.ROLLING_24H,
        nullable=True,
        high=HIGHEST_TOTAL_USD,
        sources="raw.coincap_exchanges.body",
    )
    n_trading_pairs = count("Pairs traded.", nullable=True, sources="raw.coincap_exchanges.body")
    has_socket = flag("Whether the provider streams its trades.", nullable=True, sources="raw.coincap_exchanges.body")
    exchange_url = text("Website.", nullable=True, sources="raw.coincap_exchanges.body")
    updated_at = clock(
        "Provider's last update of the exchange; null when never.",
        nullable=True,
        sources="raw.coincap_exchanges.body",
    )


class MarketSnapshots(Fact):
    """Every market (an exchange and a pair) at one moment: price, volume, share of the exchange's volume."""

    table = _trusted_table("market_snapshots", "base_id", "exchange_id", "quote_id", "observed_at")

    market_id = text(
        "venue:BASE/QUOTE, as people write it; two pairs may share tickers.",
        sources="raw.coincap_markets.body",
    )
    exchange_id = slug("Our stable id of the exchange.", sources="raw.coincap_markets.body")
    base_id = slug("Our stable id of the asset traded.", sources="raw.coincap_markets.body")
    quote_id = slug(
        "Id of the asset or currency it is priced in.", pattern=CURRENCY_SLUG, sources="raw.coincap_markets.body"
    )
    base_symbol = text("Ticker of the asset traded.", sources="raw.coincap_markets.body")
    quote_symbol = text("Ticker it is priced in.", sources="raw.coincap_markets.body")
    rank = count("Rank of the market on its exchange.", low=1, nullable=True, sources="raw.coincap_markets.body")
    price_quote = money("Price in the quote.", unit="quote", nullable=True, sources="raw.coincap_markets.body")
    price_usd = money("Price in USD.", nullable=True, high=HIGHEST_PRICE_USD, sources="raw.coincap_markets.body")
    volume_usd_24h = money(
        "Volume traded in the last 24 hours.",
        kind=Kind.ROLLING_24H,
        nullable=True,
        high=HIGHEST_TOTAL_USD,
        sources="raw.coincap_markets.body",
    )
    exchange_share_pct = money(
        "Share of the exchange's volume.",
        unit="%",
        kind=Kind.ROLLING_24H,
        nullable=True,
        rounded=True,
        sources="raw.coincap_markets.body",
    )
    n_trades_24h = count(
        "Trades in the last 24 hours.",
        kind=Kind.ROLLING_24H,
        nullable=True,
        wide=True,
        sources="raw.coincap_markets.body",
    )
    updated_at = clock(
        "Provider's last update of the market; null when never.",
        nullable=True,
        sources="raw.coincap_markets.body",
    )


class FxRates(Fact):
    """The USD value of one unit of each fiat and crypto currency at one moment."""

    table = _trusted_table("fx_rates", "currency_id", "observed_at")

    currency_id = slug("Provider-neutral id of the currency.", pattern=CURRENCY_SLUG, sources="raw.coincap_rates.body")
    symbol = text("Currency code.", sources="raw.coincap_rates.body")
    currency_symbol = text("Sign, such as €.", nullable=True, sources="raw.coincap_rates.body")
    currency_kind = text("fiat or crypto.", sources="raw.coincap_rates.body")
    rate_usd = money("USD for one unit.", high=HIGHEST_PRICE_USD, sources="raw.coincap_rates.body")


class AssetHistory(Fact):
    """An asset's past price at the provider's own interval, as backfilled; observed_at is the interval's stamp."""

    table = _trusted_table("asset_history", "asset_id", "observed_at", cadence="daily, and backfills", clock=None)

    asset_id = slug("Our stable id of the asset.", sources="raw.coincap_history.subject")
    interval = key("Spacing of the points, as the provider names it, e.g. d1.", sources="raw.coincap_history.request")
    price_usd = money("Price of one unit.", high=HIGHEST_PRICE_USD, sources="raw.coincap_history.body")
    circulating_supply = money("Units in circulation.", unit="units", nullable=True, sources="raw.coincap_history.body")


class AssetAttributes(Contract):
    """The slow facts of an asset through a day: one row at the day's first observation and one at each change.

    A digest of asset_snapshots, small enough that refined.dim_asset is recomputed from all its days in any order.
    """

    table = _trusted_table("asset_attributes", "asset_id", "observed_at", clock=None)

    provider = key("Provider that stated the facts.", sources="trusted.asset_snapshots.provider")
    asset_id = slug("Our stable id of the asset.", sources="trusted.asset_snapshots.asset_id")
    observed_at = clock(
        "First observation of these facts in a row.",
        primary_key=True,
        sources="trusted.asset_snapshots.observed_at",
    )
    last_observed_at = clock("Last observation of these facts in a row.", sources="trusted.asset_snapshots.observed_at")
    symbol = text("Ticker.", sources="trusted.asset_snapshots.symbol")
    name = text("Display name.", sources="trusted.asset_snapshots.name")
    explorer_url = text("Block explorer.", nullable=True, sources="trusted.asset_snapshots.explorer_url")
    max_supply = money(
        "Units that can ever exist.",
        unit="units",
        nullable=True,
        sources="trusted.asset_snapshots.max_supply",
    )
    date = day()


class ExchangeAttributes(Contract):
    """The slow facts of an exchange through a day: one row at the day's first observation and one at each change."""

    table = _trusted_table("exchange_attributes", "exchange_id", "observed_at", clock=None)

    provider = key("Provider that stated the facts.", sources="trusted.exchange_snapshots.provider")
    exchange_id = slug("Our stable id of the exchange.", sources="trusted.exchange_snapshots.exchange_id")
    observed_at = clock(
        "First observation of these facts in a row.",
        primary_key=True,
        sources="trusted.exchange_snapshots.observed_at",
    )
    last_observed_at = clock(
        "Last observation of these facts in a row.", sources="trusted.exchange_snapshots.observed_at"
    )
    name = text("Display name.", sources="trusted.exchange_snapshots.name")
    exchange_url = text("Website.", nullable=True, sources="trusted.exchange_snapshots.exchange_url")
    has_socket = flag(
        "Whether the provider streams its trades.",
        nullable=True,
        sources="trusted.exchange_snapshots.has_socket",
    )
    date = day()


# What a market is called: venue:BASE/QUOTE in the venue's own tickers.
MARKET_ID = r"^[a-z0-9_]{1,32}:[^/\\\s:]{1,32}/[^/\\\s:]{1,32}$"
# How long each interval lasts, in milliseconds; a month is as long as it is.
INTERVALS: dict[str, int | None] = {
    "1m": 60_000,
    "3m": 180_000,
    "5m": 300_000,
    "15m": 900_000,
    "30m": 1_800_000,
    "1h": 3_600_000,
    "2h": 7_200_000,
    "4h": 14_400_000,
    "6h": 21_600_000,
    "8h": 28_800_000,
    "12h": 43_200_000,
    "1d": 86_400_000,
    "1w": 604_800_000,
    "1mo": None,
}


_CANDLES_RAW = ("exchange_candles", "binance_klines", "alpha_vantage_series")
_CANDLES_BODY, _CANDLES_REQUEST, _CANDLES_SUBJECT = (
    tuple(f"raw.{table}.{column}" for table in _CANDLES_RAW) for column in ("body", "request", "subject")
)


class Candles(Contract):
    """Finished candles as venues and archives state them; of several sources of one candle the newest arrival."""

    table = Table(
        zone=Zone.TRUSTED,
        name="candles",
        group="venues",
        cadence="every 5 minutes, and backfills",
        write=Write.REPLACE,
        partition_by=("month",),
        sort_by=("venue", "market_id", "interval", "opened_at"),
        clock="opened_at",
    )

    venue = slug("Venue where it was traded, or the provider that aggregates venues.", sources=_CANDLES_SUBJECT)
    market_id = slug("venue:BASE/QUOTE in the venue's own tickers.", pattern=MARKET_ID, sources=_CANDLES_SUBJECT)
    interval = key("Length of the candle: 1m to 1d, 1w from Monday, 1mo.", sources=_CANDLES_REQUEST)
    opened_at = clock("Start of the candle, UTC.", primary_key=True, sources=_CANDLES_BODY)
    provider = text("Provider that stated it: exchanges, binance_archive or alpha_vantage.")
    base_symbol = text("The venue's ticker of what is traded.", sources=_CANDLES_SUBJECT)
    quote_symbol = text("The venue's ticker of what it is priced in.", sources=_CANDLES_SUBJECT)
    open = money("First price.", unit="quote", sources=_CANDLES_BODY)
    high = money("Highest price.", unit="quote", sources=_CANDLES_BODY)
    low = money("Lowest price.", unit="quote", sources=_CANDLES_BODY)
    close = money("Last price.", unit="quote", sources=_CANDLES_BODY)
    volume_base = money("Amount traded.", unit="base", kind=Kind.INTERVAL, sources=_CANDLES_BODY)
    volume_quote = money(
        "Value traded; null where the venue does not state it.",
        unit="quote",
        kind=Kind.INTERVAL,
        nullable=True,
        sources=_CANDLES_BODY,
    )
    n_trades = count(
        "Trades; null where the venue does not state it.",
        kind=Kind.INTERVAL,
        nullable=True,
        wide=True,
        sources=_CANDLES_BODY,
    )
    taker_buy_base = money(
        "Amount bought by takers; null where the venue does not state it.",
        unit="base",
        kind=Kind.INTERVAL,
        nullable=True,
        sources=_CANDLES_BODY,
    )
    taker_buy_quote = money(
        "Value bought by takers; null where the venue does not state it.",
        unit="quote",
        kind=Kind.INTERVAL,
        nullable=True,
        sources=_CANDLES_BODY,
    )
    ingested_at = clock("Our clock when the answer had arrived; of the newest record where several state the candle.")
    pull_id = text("The pull in raw that the row comes from.")
    n_duplicates = count("Further raw records that stated this candle and were merged into it.", kind=Kind.INTERVAL)
    date = day("UTC day of opened_at.")
    month = period("UTC month of opened_at; the partition.")

    @dy.rule()
    def not_from_the_future(cls) -> pl.Expr:  # noqa: N805
        return pl.col("opened_at") <= pl.col("ingested_at") + CLOCK_SKEW

    @dy.rule()
    def not_before_bitcoin(cls) -> pl.Expr:  # noqa: N805
        return pl.col("opened_at") >= GENESIS

    @classmethod
    def _sampling_overrides(cls) -> dict[str, pl.Expr]:
        # No random word is an interval.
        return {"interval": pl.lit("1m")}

    @dy.rule()
    def known_interval(cls) -> pl.Expr:  # noqa: N805
        return pl.col("interval").is_in(list(INTERVALS))

    @dy.rule()
    def well_formed(cls) -> pl.Expr:  # noqa: N805
        """high >= open, close, low and low <= open, close, above zero."""
        top, bottom = pl.max_horizontal("open", "close", "low"), pl.min_horizontal("open", "close")
        return (pl.col("high") >= top) & (pl.col("low") <= bottom) & (pl.col("low") > 0)


_TRADES_BODY = tuple(f"raw.{table}.body" for table in ("exchange_trades", "binance_trades"))
_TRADES_SUBJECT = (*(f"raw.{table}.subject" for table in ("exchange_trades", "binance_trades")), "raw.trades.subject")
# Streams of trades. Some pass on what venues traded, without the venues' ids: the same trade again under another name.
TRADE_STREAMS = ("binance_stream", "coinbase_stream", "finnhub")
RELAYS = ("finnhub",)


class Trades(Contract):
    """Trades, or aggregates of one taker's trades at one price, as venues, archives and streams state them.

    A trade that came by several ways is one row, by the venue's id of it. A provider that relays trades without ids
    (``RELAYS``) names its own: whoever sums takes it only where the venue itself is not heard
    (``analytics.preference.of_venues``).
    """

    table = Table(
        zone=Zone.TRUSTED,
        name="trades",
        group="venues",
        cadence="with streams, and backfills",
        write=Write.REPLACE,
        sort_by=("market_id", "traded_at", "trade_id"),
        clock="traded_at",
        # A day of a large market is two million rows.
        batch="day",
        # Streams and refills deliver again what came in time.
        is_known_since_first=True,
    )

    venue = slug("Venue where it was traded.", sources=_TRADES_SUBJECT)
    market_id = slug("venue:BASE/QUOTE in the venue's own tickers.", pattern=MARKET_ID, sources=_TRADES_SUBJECT)
    trade_id = key(
        "The venue's id of the trade or of the aggregate; of a relay what it says of it.",
        sources=(*_TRADES_BODY, "raw.trades.trade_id"),
    )
    traded_at = clock("Venue's time of the trade, UTC.", sources=(*_TRADES_BODY, "raw.trades.traded_us"))
    traded_us = count(
        "The same in microseconds since 1970, where the venue is finer than a millisecond.",
        unit="us",
        kind=Kind.CLOCK,
        nullable=True,
        wide=True,
        sources=(*_TRADES_BODY, "raw.trades.traded_us"),
    )
    provider = text("Provider that stated it: exchanges, binance_archive or a stream.")
    price = money("Price of one unit.", unit="quote", sources=(*_TRADES_BODY, "raw.trades.price"))
    quantity = money("Amount traded.", unit="base", kind=Kind.INTERVAL, sources=(*_TRADES_BODY, "raw.trades.quantity"))
    n_trades = count(
        "Trades in the aggregate; 1 for a single one.",
        kind=Kind.INTERVAL,
        low=1,
        sources=(*_TRADES_BODY, "raw.trades.n_trades"),
    )
    taker_side = text(
        "buy or sell, by the taker; null where unknown.",
        nullable=True,
        sources=(*_TRADES_BODY, "raw.trades.taker_side"),
    )
    ingested_at = clock("Our clock when the answer had arrived; of the first that stated the trade as it stands.")
    pull_id = text("The pull in raw that the row comes from.")
    n_duplicates = count("Further raw records that stated this trade and were merged into it.", kind=Kind.INTERVAL)
    date = day("UTC day of traded_at; the partition.")

    @dy.rule()
    def not_from_the_future(cls) -> pl.Expr:  # noqa: N805
        return pl.col("traded_at") <= pl.col("ingested_at") + CLOCK_SKEW

    @dy.rule()
    def not_before_bitcoin(cls) -> pl.Expr:  # noqa: N805
        return pl.col("traded_at") >= GENESIS

    @dy.rule()
    def above_zero(cls) -> pl.Expr:  # noqa: N805
        return (pl.col("price") > 0) & (pl.col("quantity") > 0)


_QUOTES_BODY = tuple(f"raw.{table}.body" for table in ("alpha_vantage_rates", "exchange_tickers"))


class Quotes(Fact):
    """The rate of a pair with bid and ask at one moment; observed_at is when the provider last refreshed it, in UTC."""

    table = _trusted_table("quotes", "market_id", "observed_at", group="venues")

    market_id = slug(
        "venue:FROM/TO; the venue is the provider where it aggregates.",
        pattern=MARKET_ID,
        sources=_QUOTES_BODY,
    )
    from_currency_code = text("Ticker of what is priced.", sources=_QUOTES_BODY)
    from_currency_name = text("Its name.", nullable=True, sources=_QUOTES_BODY)
    to_currency_code = text("Ticker of what it is priced in.", sources=_QUOTES_BODY)
    to_currency_name = text("Its name.", nullable=True, sources=_QUOTES_BODY)
    exchange_rate = money("Rate, or the last traded price.", unit="quote", sources=_QUOTES_BODY)
    last_refreshed = text("The provider's own words for observed_at.", sources=_QUOTES_BODY)
    time_zone = text("Time zone of last_refreshed.", sources=_QUOTES_BODY)
    bid_price = money("Best bid.", unit="quote", nullable=True, sources=_QUOTES_BODY)
    ask_price = money("Best ask.", unit="quote", nullable=True, sources=_QUOTES_BODY)


class OnchainStats(Fact):
    """A chain's fees, mempool, difficulty, hashrate and blocks: one metric and moment a row."""

    table = _trusted_table("onchain_stats", "chain", "metric", "observed_at", group="onchain", cadence="hourly")

    chain = slug("Chain, by the asset_id of its coin.", sources="raw.mempool.endpoint")
    metric = slug("What was measured, e.g. fee_fastest, hashrate, difficulty.", sources="raw.mempool.endpoint")
    # A hashrate has more integer digits than a Decimal(38, 18) holds.
    value = number("The measurement, in unit.", unit="see unit", kind=Kind.INSTANT, sources="raw.mempool.body")
    unit = text("Unit of the value, e.g. sat/vB, H/s, 1.", sources="raw.mempool.endpoint")
    height = count("Block height that it is of.", nullable=True, wide=True, sources="raw.mempool.body")


class ExchangeScores(Fact):
    """What CoinGecko makes of each exchange: trust score and 24-hour volume in bitcoin."""

    table = _trusted_table("exchange_scores", "exchange_id", "observed_at", group="venues", cadence="daily")

    exchange_id = slug("The provider's id of the exchange.", sources="raw.coingecko_exchanges.body")
    name = text("Display name.", sources="raw.coingecko_exchanges.body")
    trust_score = count("The provider's score, 1 to 10.", nullable=True, sources="raw.coingecko_exchanges.body")
    trust_score_rank = count("Rank by the score.", low=1, nullable=True, sources="raw.coingecko_exchanges.body")
    volume_btc_24h = money(
        "Volume traded in the last 24 hours.",
        unit="BTC",
        kind=Kind.ROLLING_24H,
        nullable=True,
        rounded=True,
        sources="raw.coingecko_exchanges.body",
    )
    year_established = count(
        "Year of its founding.", kind=Kind.ATTRIBUTE, nullable=True, sources="raw.coingecko_exchanges.body"
    )
    country = text("Country of its seat.", nullable=True, sources="raw.coingecko_exchanges.body")
    exchange_url = text("Website.", nullable=True, sources="raw.coingecko_exchanges.body")


TABLES: tuple[type[Contract], ...] = (
    AssetSnapshots,
    ExchangeSnapshots,
    MarketSnapshots,
    FxRates,
    AssetHistory,
    AssetAttributes,
    ExchangeAttributes,
    Candles,
    Trades,
    Quotes,
    OnchainStats,
    ExchangeScores,
)

# Which raw tables each parsed table comes from.
RAW_OF: dict[type[Contract], tuple[type[Contract], ...]] = {
    AssetSnapshots: (raw.RawCoincapAssets, raw.RawCoingeckoMarkets),
    ExchangeSnapshots: (raw.RawCoincapExchanges,),
    MarketSnapshots: (raw.RawCoincapMarkets,),
    FxRates: (raw.RawCoincapRates,),
    AssetHistory: (raw.RawCoincapHistory,),
    Candles: (raw.RawExchangeCandles, raw.RawBinanceKlines, raw.RawAlphaVantageSeries),
    Trades: (raw.RawExchangeTrades, raw.RawBinanceTrades, stream.RawTrades),
    Quotes: (raw.RawExchangeTickers, raw.RawAlphaVantageRates),
    OnchainStats: (raw.RawMempool,),
    ExchangeScores: (raw.RawCoingeckoExchanges,),
}
