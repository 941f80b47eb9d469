"""The refined zone: answers to questions, computed from trusted facts by pure functions in ``analytics/``.

Every column names the columns it comes from, which is the column lineage in the Dagster UI. ``available_at`` is the
earliest moment at which anyone could have used the row. SQL views over these tables are in ``views.py``.
"""

from __future__ import annotations

from crypto_assets.tables.contract import (
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
from crypto_assets.tables.trusted import MARKET_ID

_ASSETS = "trusted.asset_snapshots."
_EXCHANGES = "trusted.exchange_snapshots."
_MARKETS = "trusted.market_snapshots."
_HOURLY = "refined.asset_hourly."
_DAILY = "refined.asset_daily."
_CANDLES = "trusted.candles."
_TRADES = "trusted.trades."
_QUOTES = "trusted.quotes."
_DAY_BARS = "refined.ohlcv_1d."
_AVAILABLE = "Earliest moment anyone could have used the row: the newest arrival among its inputs."


def _window_table(name: str, *sort_by: str, group: str = "market", clock: str | None = None) -> Table:
    return Table(
        zone=Zone.REFINED,
        name=name,
        group=group,
        cadence="every 5 minutes",
        write=Write.REPLACE,
        sort_by=sort_by,
        clock=clock,
    )


def _small_table(name: str, *sort_by: str, group: str, cadence: str = "every 5 minutes") -> Table:
    return Table(
        zone=Zone.REFINED,
        name=name,
        group=group,
        cadence=cadence,
        write=Write.MERGE,
        partition_by=(),
        sort_by=sort_by,
    )


class DimAsset(Contract):
    """Assets and their slow facts through time (SCD2): each version holds from valid_from until valid_to."""

    table = _small_table("dim_asset", "asset_id", "version", group="dimensions", cadence="when facts change")

    asset_id = key("Our stable id of the asset.", sources="trusted.asset_attributes.asset_id")
    version = count(
        "Version of the asset's facts, from 1.",
        low=1,
        kind=Kind.ATTRIBUTE,
        sources="trusted.asset_attributes.observed_at",
    )
    valid_from = clock(
        "First observation of this version.", primary_key=True, sources="trusted.asset_attributes.observed_at"
    )
    valid_to = clock(
        "First observation of the next version; null for the current one.",
        nullable=True,
        sources="trusted.asset_attributes.observed_at",
    )
    is_current = flag("Whether this is the newest version.", sources="trusted.asset_attributes.observed_at")
    symbol = text("Ticker.", sources="trusted.asset_attributes.symbol")
    name = text("Display name.", sources="trusted.asset_attributes.name")
    explorer_url = text("Block explorer.", nullable=True, sources="trusted.asset_attributes.explorer_url")
    max_supply = money(
        "Units that can ever exist.",
        unit="units",
        nullable=True,
        sources="trusted.asset_attributes.max_supply",
    )
    status = text(
        "active, or delisted where the asset is missing from the newest two days of every provider that listed it.",
        sources="trusted.asset_attributes.last_observed_at",
    )
    first_seen_on = day("UTC day on which the asset was first observed.")
    last_seen_on = day("UTC day on which the asset was last observed.")
    row_hash = text(
        "Hash of symbol, name, explorer_url and max_supply.",
        sources=tuple(f"trusted.asset_attributes.{c}" for c in ("symbol", "name", "explorer_url", "max_supply")),
    )


class DimExchange(Contract):
    """Exchanges and their slow facts through time (SCD2): each version holds from valid_from until valid_to."""

    table = _small_table("dim_exchange", "exchange_id", "version", group="dimensions", cadence="when facts change")

    exchange_id = key("Our stable id of the exchange.", sources="trusted.exchange_attributes.exchange_id")
    version = count(
        "Version of the exchange's facts, from 1.",
        low=1,
        kind=Kind.ATTRIBUTE,
        sources="trusted.exchange_attributes.observed_at",
    )
    valid_from = clock(
        "First observation of this version.",
        primary_key=True,
        sources="trusted.exchange_attributes.observed_at",
    )
    valid_to = clock(
        "First observation of the next version; null for the current one.",
        nullable=True,
        sources="trusted.exchange_attributes.observed_at",
    )
    is_current = flag("Whether this is the newest version.", sources="trusted.exchange_attributes.observed_at")
    name = text("Display name.", sources="trusted.exchange_attributes.name")
    exchange_url = text("Website.", nullable=True, sources="trusted.exchange_attributes.exchange_url")
    has_socket = flag(
        "Whether the provider streams its trades.",
        nullable=True,
        sources="trusted.exchange_attributes.has_socket",
    )
    status = text(
        "active, or delisted where the exchange is missing from the newest two days of every provider that listed it.",
        sources="trusted.exchange_attributes.last_observed_at",
    )
    first_seen_on = day("UTC day on which the exchange was first observed.")
    last_seen_on = day("UTC day on which the exchange was last observed.")
    row_hash = text(
        "Hash of name, exchange_url and has_socket.",
        sources=tuple(f"trusted.exchange_attributes.{c}" for c in ("name", "exchange_url", "has_socket")),
    )


class LatestAssets(Contract):
    """The newest good observation of each asset within the newest two days of snapshots.

    Of the preferred provider (``analytics.preference``) among those that saw the asset in its newest hour.
    """

    table = _small_table("latest_assets", "rank", group="market")

    provider = text("Provider that stated the facts.", sources=_ASSETS + "provider")
    asset_id = key("Our stable id of the asset.", sources=_ASSETS + "asset_id")
    symbol = text("Ticker.", sources=_ASSETS + "symbol")
    name = text("Display name.", sources=_ASSETS + "name")
    rank = count("Rank by market cap; null where unranked.", low=1, nullable=True, sources=_ASSETS + "rank")
    price_usd = money("Price of one unit.", sources=_ASSETS + "price_usd")
    market_cap_usd = money("Supply times price.", nullable=True, sources=_ASSETS + "market_cap_usd")
    supply = money("Units in circulation.", unit="units", nullable=True, sources=_ASSETS + "supply")
    max_supply = money("Units that can ever exist.", unit="units", nullable=True, sources=_ASSETS + "max_supply")
    volume_usd_24h = money(
        "Volume traded in the last 24 hours.",
        kind=Kind.ROLLING_24H,
        nullable=True,
        sources=_ASSETS + "volume_usd_24h",
    )
    change_pct_24h = money(
        "Price change over the last 24 hours.",
        unit="%",
        kind=Kind.ROLLING_24H,
        low=-100,
        nullable=True,
        sources=_ASSETS + "change_pct_24h",
    )
    vwap_usd_24h = money(
        "Volume-weighted average price of the last 24 hours.",
        kind=Kind.ROLLING_24H,
        nullable=True,
        sources=_ASSETS + "vwap_usd_24h",
    )
    explorer_url = text("Block explorer.", nullable=True, sources=_ASSETS + "explorer_url")
    observed_at = clock("Provider's time of the observation.", sources=_ASSETS + "observed_at")
    available_at = clock(_AVAILABLE, sources=_ASSETS + "ingested_at")


class LatestExchanges(Contract):
    """The newest good observation of each exchange within the newest two days of snapshots."""

    table = _small_table("latest_exchanges", "rank", group="market")

    provider = text("Provider that stated the facts.", sources=_EXCHANGES + "provider")
    exchange_id = key("Our stable id of the exchange.", sources=_EXCHANGES + "exchange_id")
    name = text("Display name.", sources=_EXCHANGES + "name")
    rank = count("Rank by volume.", low=1, sources=_EXCHANGES + "rank")
    volume_share_pct = money(
        "Share of the volume of all exchanges.",
        unit="%",
        kind=Kind.ROLLING_24H,
        nullable=True,
        sources=_EXCHANGES + "volume_share_pct",
    )
    volume_usd_24h = money(
        "Volume traded in the last 24 hours.",
        kind=Kind.ROLLING_24H,
        nullable=True,
        sources=_EXCHANGES + "volume_usd_24h",
    )
    n_trading_pairs = count("Pairs traded.", nullable=True, sources=_EXCHANGES + "n_trading_pairs")
    exchange_url = text("Website.", nullable=True, sources=_EXCHANGES + "exchange_url")
    observed_at = clock("Provider's time of the observation.", sources=_EXCHANGES + "observed_at")
    available_at = clock(_AVAILABLE, sources=_EXCHANGES + "ingested_at")


class AssetHourly(Contract):
    """Hourly bars of an asset by provider: first, highest, lowest and last snapshot price in ``[hour, hour + 1 h)``."""

    table = _window_table("asset_hourly", "asset_id", "opened_at", clock="opened_at")

    provider = key("Provider that stated the facts.", sources=_ASSETS + "provider")
    asset_id = key("Our stable id of the asset.", sources=_ASSETS + "asset_id")
    opened_at = clock("Start of the hour.", primary_key=True, sources=_ASSETS + "observed_at")
    open_usd = money("First price.", kind=Kind.INTERVAL, sources=_ASSETS + "price_usd")
    high_usd = money("Highest price.", kind=Kind.INTERVAL, sources=_ASSETS + "price_usd")
    low_usd = money("Lowest price.", kind=Kind.INTERVAL, sources=_ASSETS + "price_usd")
    close_usd = money("Last price.", kind=Kind.INTERVAL, sources=_ASSETS + "price_usd")
    mean_usd = number(
        "Mean of the observed prices.", unit="USD", kind=Kind.INTERVAL, low=0, sources=_ASSETS + "price_usd"
    )
    n_obs = count("Snapshots in the hour.", kind=Kind.INTERVAL, low=1, sources=_ASSETS + "observed_at")
    market_cap_usd = money("Market cap at the last snapshot.", nullable=True, sources=_ASSETS + "market_cap_usd")
    supply = money(
        "Units in circulation at the last snapshot.", unit="units", nullable=True, sources=_ASSETS + "supply"
    )
    volume_usd_24h = money(
        "24-hour volume at the last snapshot.",
        kind=Kind.ROLLING_24H,
        nullable=True,
        sources=_ASSETS + "volume_usd_24h",
    )
    rank = count("Rank at the last snapshot; null where unranked.", low=1, nullable=True, sources=_ASSETS + "rank")
    observed_at = clock("Time of the last snapshot.", sources=_ASSETS + "observed_at")
    available_at = clock(_AVAILABLE, sources=_ASSETS + "ingested_at")
    date = day("UTC day of opened_at; the partition.")


class AssetDaily(Contract):
    """Daily bars of an asset: from its hourly bars, or from the provider's history where no snapshot was taken."""

    table = _window_table("asset_daily", "asset_id", "date")

    provider = key("Provider that stated the facts.", sources=(_HOURLY + "provider", "trusted.asset_history.provider"))
    asset_id = key("Our stable id of the asset.", sources=(_HOURLY + "asset_id", "trusted.asset_history.asset_id"))
    date = day("UTC day of the bar; the partition.", primary_key=True)
    source_kind = text(
        "snapshots, or history (one price a day, stamped 00:00 UTC).",
        sources=(_HOURLY + "n_obs", "trusted.asset_history.interval"),
    )
    open_usd = money(
        "First price.", kind=Kind.INTERVAL, sources=(_HOURLY + "open_usd", "trusted.asset_history.price_usd")
    )
    high_usd = money(
        "Highest price.",
        kind=Kind.INTERVAL,
        sources=(_HOURLY + "high_usd", "trusted.asset_history.price_usd"),
    )
    low_usd = money(
        "Lowest price.", kind=Kind.INTERVAL, sources=(_HOURLY + "low_usd", "trusted.asset_history.price_usd")
    )
    close_usd = money(
        "Last price.", kind=Kind.INTERVAL, sources=(_HOURLY + "close_usd", "trusted.asset_history.price_usd")
    )
    mean_usd = number(
        "Mean of the observed prices.",
        unit="USD",
        kind=Kind.INTERVAL,
        low=0,
        sources=(_HOURLY + "mean_usd", "trusted.asset_history.price_usd"),
    )
    n_obs = count(
        "Observations in the day.",
        kind=Kind.INTERVAL,
        low=1,
        sources=(_HOURLY + "n_obs", "trusted.asset_history.observed_at"),
    )
    n_hours = count("Hours of the day with an observation.", kind=Kind.INTERVAL, sources=_HOURLY + "opened_at")
    market_cap_usd = money("Market cap at the last snapshot.", nullable=True, sources=_HOURLY + "market_cap_usd")
    supply = money(
        "Units in circulation at the last observation.",
        unit="units",
        nullable=True,
        sources=(_HOURLY + "supply", "trusted.asset_history.circulating_supply"),
    )
    volume_usd_24h = money(
        "24-hour volume at the last snapshot.",
        kind=Kind.ROLLING_24H,
        nullable=True,
        sources=_HOURLY + "volume_usd_24h",
    )
    rank = count("Rank at the last snapshot.", low=1, nullable=True, sources=_HOURLY + "rank")
    available_at = clock(_AVAILABLE, sources=(_HOURLY + "available_at", "trusted.asset_history.ingested_at"))


class ExchangeDaily(Contract):
    """An exchange's day: its last rank, share, volume and pairs, and the mean share of the day's snapshots."""

    table = _window_table("exchange_daily", "exchange_id", "date")

    provider = key("Provider that stated the facts.", sources=_EXCHANGES + "provider")
    exchange_id = key("Our stable id of the exchange.", sources=_EXCHANGES + "exchange_id")
    date = day("UTC day; the partition.", primary_key=True)
    name = text("Display name.", sources=_EXCHANGES + "name")
    rank = count("Rank at the last snapshot.", low=1, sources=_EXCHANGES + "rank")
    volume_share_pct = money(
        "Share of volume at the last snapshot.",
        unit="%",
        kind=Kind.ROLLING_24H,
        nullable=True,
        sources=_EXCHANGES + "volume_share_pct",
    )
    mean_share_pct = number(
        "Mean share over the day's snapshots.",
        unit="%",
        nullable=True,
        low=0,
        high=100,
        sources=_EXCHANGES + "volume_share_pct",
    )
    volume_usd_24h = money(
        "24-hour volume at the last snapshot.",
        kind=Kind.ROLLING_24H,
        nullable=True,
        sources=_EXCHANGES + "volume_usd_24h",
    )
    n_trading_pairs = count("Pairs at the last snapshot.", nullable=True, sources=_EXCHANGES + "n_trading_pairs")
    n_obs = count("Snapshots in the day.", kind=Kind.INTERVAL, low=1, sources=_EXCHANGES + "observed_at")
    observed_at = clock("Time of the last snapshot.", sources=_EXCHANGES + "observed_at")
    available_at = clock(_AVAILABLE, sources=_EXCHANGES + "ingested_at")


class MarketOverview(Contract):
    """The whole market in each hour, by each asset's last snapshot: total cap, dominance, concentration of exchanges.

    The universe of caps is every listed asset except wrapped and staked duplicates of another one
    (``analytics.market.WRAPPED``), so that nothing is counted twice, as one provider states them: the preferred one
    (``analytics.preference``) among those with a snapshot in the hour.
    """

    table = _window_table("market_overview", "opened_at", clock="opened_at")

    provider = text("Provider that stated the facts.", sources=_ASSETS + "provider")
    opened_at = clock("Start of the hour.", primary_key=True, sources=_ASSETS + "observed_at")
    observed_at = clock("Time of the hour's last asset snapshot.", sources=_ASSETS + "observed_at")
    n_assets = count("Assets in the universe.", sources=_ASSETS + "asset_id")
    total_market_cap_usd = money("Sum of market caps in the universe.", sources=_ASSETS + "market_cap_usd")
    total_volume_usd_24h = money(
        "Sum over assets of their 24-hour volumes.", kind=Kind.ROLLING_24H, sources=_ASSETS + "volume_usd_24h"
    )
    btc_dominance = number(
        "Bitcoin's share of the total market cap.",
        unit="1",
        nullable=True,
        low=0,
        high=1,
        sources=_ASSETS + "market_cap_usd",
    )
    eth_dominance = number(
        "Ether's share of the total market cap.",
        unit="1",
        nullable=True,
        low=0,
        high=1,
        sources=_ASSETS + "market_cap_usd",
    )
    top10_share = number(
        "Share of the ten largest market caps.", unit="1", low=0, high=1, sources=_ASSETS + "market_cap_usd"
    )
    asset_hhi = number(
        "Herfindahl-Hirschman index of market caps.",
        unit="1",
        low=0,
        high=1,
        sources=_ASSETS + "market_cap_usd",
    )
    n_exchanges = count(
        "Exchanges that report volume in the hour's last exchange snapshot.",
        nullable=True,
        sources=_EXCHANGES + "exchange_id",
    )
    exchange_hhi = number(
        "Herfindahl-Hirschman index of exchange volume.",
        unit="1",
        nullable=True,
        low=0,
        high=1,
        sources=_EXCHANGES + "volume_usd_24h",
    )
    exchange_cr4 = number(
        "Share of the four largest exchanges.",
        unit="1",
        nullable=True,
        low=0,
        high=1,
        sources=_EXCHANGES + "volume_usd_24h",
    )
    available_at = clock(_AVAILABLE, sources=(_ASSETS + "ingested_at", _EXCHANGES + "ingested_at"))
    date = day("UTC day of opened_at; the partition.")


class Movers(Contract):
    """Gainers, losers and most traded assets of a day, by each asset's last snapshot, liquid enough to mean something.

    Liquid: 24-hour volume and market cap at or above the thresholds of ``analytics.market.movers``. A day is ranked by
    the preferred provider (``analytics.preference``) among those with a snapshot in its last hour.
    """

    table = _window_table("movers", "gainer_rank")

    provider = text("Provider that stated the facts.", sources=_ASSETS + "provider")
    asset_id = key("Our stable id of the asset.", sources=_ASSETS + "asset_id")
    date = day("UTC day; the partition.", primary_key=True)
    symbol = text("Ticker.", sources=_ASSETS + "symbol")
    name = text("Display name.", sources=_ASSETS + "name")
    price_usd = money("Price of one unit.", sources=_ASSETS + "price_usd")
    change_pct_24h = money(
        "Price change over 24 hours.",
        unit="%",
        kind=Kind.ROLLING_24H,
        low=-100,
        sources=_ASSETS + "change_pct_24h",
    )
    volume_usd_24h = money("24-hour volume.", kind=Kind.ROLLING_24H, sources=_ASSETS + "volume_usd_24h")
    market_cap_usd = money("Market cap.", sources=_ASSETS + "market_cap_usd")
    gainer_rank = count("1 is the largest rise.", low=1, sources=_ASSETS + "change_pct_24h")
    loser_rank = count("1 is the largest fall.", low=1, sources=_ASSETS + "change_pct_24h")
    volume_rank = count("1 is the most traded.", low=1, sources=_ASSETS + "volume_usd_24h")
    observed_at = clock("Time of the snapshot.", sources=_ASSETS + "observed_at")
    available_at = clock(_AVAILABLE, sources=_ASSETS + "ingested_at")


class AssetVenuesDaily(Contract):
    """Which asset traded on which venue through a day: a digest of market_snapshots."""

    table = _window_table("asset_venues_daily", "asset_id", "exchange_id", group="venues")

    provider = key("Provider that stated the facts.", sources=_MARKETS + "provider")
    asset_id = key("Our stable id of the asset.", sources=_MARKETS + "base_id")
    exchange_id = key("Our stable id of the exchange.", sources=_MARKETS + "exchange_id")
    date = day("UTC day; the partition.", primary_key=True)
    n_markets = count("Pairs of the asset seen on the venue.", kind=Kind.INTERVAL, low=1, sources=_MARKETS + "quote_id")
    volume_usd_24h = money(
        "24-hour volume of those pairs at the day's last snapshot.",
        kind=Kind.ROLLING_24H,
        nullable=True,
        sources=_MARKETS + "volume_usd_24h",
    )
    first_seen_at = clock("First snapshot of the day with a pair of the asset.", sources=_MARKETS + "observed_at")
    last_seen_at = clock("Last snapshot of the day with a pair of the asset.", sources=_MARKETS + "observed_at")
    available_at = clock(_AVAILABLE, sources=_MARKETS + "ingested_at")


class AssetAvailability(Contract):
    """Which asset trades on which venue, and when it was first and last seen there."""

    table = _small_table("asset_availability", "asset_id", "exchange_id", group="venues")

    provider = key("Provider that stated the facts.", sources="refined.asset_venues_daily.provider")
    asset_id = key("Our stable id of the asset.", sources="refined.asset_venues_daily.asset_id")
    exchange_id = key("Our stable id of the exchange.", sources="refined.asset_venues_daily.exchange_id")
    first_seen_on = day("UTC day of the first sighting.")
    last_seen_on = day("UTC day of the last sighting.")
    n_days = count("Days with a sighting.", kind=Kind.CUMULATIVE, low=1, sources="refined.asset_venues_daily.date")
    n_markets = count("Pairs on the last day.", low=1, sources="refined.asset_venues_daily.n_markets")
    volume_usd_24h = money(
        "24-hour volume on the last day.",
        kind=Kind.ROLLING_24H,
        nullable=True,
        sources="refined.asset_venues_daily.volume_usd_24h",
    )
    is_listed = flag(
        "Whether it was seen on the newest two days of the table.", sources="refined.asset_venues_daily.date"
    )


class AssetSymbolsDaily(Contract):
    """Which id and which ticker named which asset through a day: a digest of asset_snapshots, for symbol_map."""

    table = _window_table("asset_symbols_daily", "provider", "provider_asset_id", group="dimensions")

    provider = key("Provider that stated the facts.", sources=_ASSETS + "provider")
    provider_asset_id = key("The provider's own id, which it may rename.", sources=_ASSETS + "provider_asset_id")
    asset_id = key("Our stable id of the asset.", sources=_ASSETS + "asset_id")
    symbol = key("Ticker.", sources=_ASSETS + "symbol")
    date = day("UTC day; the partition.", primary_key=True)
    rank = count("Best rank of the day; null where unranked.", low=1, nullable=True, sources=_ASSETS + "rank")
    first_seen_at = clock("First observation of the day.", sources=_ASSETS + "observed_at")
    last_seen_at = clock("Last observation of the day.", sources=_ASSETS + "observed_at")
    available_at = clock(_AVAILABLE, sources=_ASSETS + "ingested_at")


class SymbolMap(Contract):
    """Which asset a provider's id or a venue's ticker means, in the world and in our knowledge (bitemporal).

    A row holds in the world from valid_from until valid_to, and was believed from recorded_at until superseded_at.
    Both are times of the data, so that a rebuild gives the same rows.
    """

    table = _small_table("symbol_map", "source", "source_id", group="dimensions", cadence="when names change")

    source = key(
        "Provider or venue whose name it is.", sources=("refined.asset_symbols_daily.provider", _DAY_BARS + "venue")
    )
    source_id = key(
        "The provider's id of the asset, or the venue's ticker.",
        sources=("refined.asset_symbols_daily.provider_asset_id", _DAY_BARS + "market_id", _QUOTES + "market_id"),
    )
    source_symbol = text("The ticker there.", sources="refined.asset_symbols_daily.symbol")
    asset_id = text("Our stable id of the asset.", sources="refined.asset_symbols_daily.asset_id")
    valid_from = clock(
        "From when the name means the asset.",
        primary_key=True,
        sources=("refined.asset_symbols_daily.first_seen_at", _DAY_BARS + "opened_at", _QUOTES + "observed_at"),
    )
    valid_to = clock(
        "Until when; null while it does.", nullable=True, sources="refined.asset_symbols_daily.first_seen_at"
    )
    recorded_at = clock(
        "From when the data told so.",
        primary_key=True,
        sources=("refined.asset_symbols_daily.first_seen_at", _DAY_BARS + "opened_at", _QUOTES + "observed_at"),
    )
    superseded_at = clock(
        "When they told otherwise; null for what is believed now.",
        nullable=True,
        sources="refined.asset_symbols_daily.first_seen_at",
    )
    method = text(
        "manual (a table of known names), provider (its own statement) or rule (best rank among the ticker's bearers).",
        sources="refined.asset_symbols_daily.rank",
    )
    confidence = number(
        "1 where it was stated; by rule less, the closer the next bearer's rank is.",
        unit="1",
        low=0,
        high=1,
        sources="refined.asset_symbols_daily.rank",
    )


class DimMarket(Contract):
    """Markets of venues: what is traded for what, by which assets that is today, and when it was seen."""

    table = _small_table("dim_market", "market_id", group="dimensions", cadence="when markets appear")

    market_id = key(
        "venue:BASE/QUOTE in the venue's own tickers.", sources=(_DAY_BARS + "market_id", _QUOTES + "market_id")
    )
    venue = text("Venue, or the provider that aggregates venues.", sources=(_DAY_BARS + "venue", _QUOTES + "market_id"))
    base_symbol = text(
        "The venue's ticker of what is traded.", sources=(_DAY_BARS + "market_id", _QUOTES + "market_id")
    )
    quote_symbol = text(
        "The venue's ticker of what it is priced in.", sources=(_DAY_BARS + "market_id", _QUOTES + "market_id")
    )
    base_asset_id = text(
        "What is traded; null where no asset is known by that ticker.",
        nullable=True,
        sources="refined.symbol_map.asset_id",
    )
    quote_asset_id = text(
        "What it is priced in; null where no asset is known by that ticker.",
        nullable=True,
        sources="refined.symbol_map.asset_id",
    )
    first_seen_on = day("UTC day of the first bar or quote.")
    last_seen_on = day("UTC day of the last bar or quote.")
    status = text(
        "active, or quiet where the market is missing from the newest two days of its venue.",
        sources=(_DAY_BARS + "opened_at", _QUOTES + "observed_at"),
    )


class LatestQuotes(Contract):
    """The newest quote of each market within the newest two days of quotes."""

    table = _small_table("latest_quotes", "market_id", group="venues")

    provider = key("Provider that stated the quote.", sources=_QUOTES + "provider")
    market_id = key("venue:FROM/TO.", sources=_QUOTES + "market_id")
    from_currency_code = text("Ticker of what is priced.", sources=_QUOTES + "from_currency_code")
    to_currency_code = text("Ticker of what it is priced in.", sources=_QUOTES + "to_currency_code")
    exchange_rate = money("Rate, or the last traded price.", unit="quote", sources=_QUOTES + "exchange_rate")
    bid_price = money("Best bid.", unit="quote", nullable=True, sources=_QUOTES + "bid_price")
    ask_price = money("Best ask.", unit="quote", nullable=True, sources=_QUOTES + "ask_price")
    mid_price = money(
        "Half way between bid and ask.",
        unit="quote",
        nullable=True,
        sources=(_QUOTES + "bid_price", _QUOTES + "ask_price"),
    )
    spread_bps = number(
        "Ask less bid, in ten-thousandths of the mid; below zero where they cross.",
        unit="bps",
        nullable=True,
        sources=(_QUOTES + "bid_price", _QUOTES + "ask_price"),
    )
    observed_at = clock("Provider's time of the quote.", sources=_QUOTES + "observed_at")
    available_at = clock(_AVAILABLE, sources=_QUOTES + "ingested_at")


class Ohlcv(Contract):
    """Columns of every table of bars. A bar covers ``[opened_at, opened_at + length)``; nothing is filled in.

    Each bar is made of the finest source that covers it whole, else of the one that covers most of it: trades, 1m
    candles, coarser candles. A minute that a venue states as empty (no volume) is an observation and counts as one, but
    its price, which is the one before, does not enter coarser bars. ``vwap`` is ``volume_quote / volume_base`` rounded
    to 18 digits, and re-weighted in that way by every roll-up; null where nothing was traded or the venue does not
    state the value traded.
    """

    venue = slug("Venue, or the provider that aggregates venues.", sources=(_CANDLES + "venue", _TRADES + "venue"))
    market_id = slug(
        "venue:BASE/QUOTE in the venue's own tickers.",
        pattern=MARKET_ID,
        sources=(_CANDLES + "market_id", _TRADES + "market_id"),
    )
    opened_at = clock(
        "Start of the bar, UTC.", primary_key=True, sources=(_CANDLES + "opened_at", _TRADES + "traded_at")
    )
    open = money("First price.", unit="quote", kind=Kind.INTERVAL, sources=(_CANDLES + "open", _TRADES + "price"))
    high = money("Highest price.", unit="quote", kind=Kind.INTERVAL, sources=(_CANDLES + "high", _TRADES + "price"))
    low = money("Lowest price.", unit="quote", kind=Kind.INTERVAL, sources=(_CANDLES + "low", _TRADES + "price"))
    close = money("Last price.", unit="quote", kind=Kind.INTERVAL, sources=(_CANDLES + "close", _TRADES + "price"))
    volume_base = money(
        "Amount traded.", unit="base", kind=Kind.INTERVAL, sources=(_CANDLES + "volume_base", _TRADES + "quantity")
    )
    volume_quote = money(
        "Value traded; null where a part of it is not stated.",
        unit="quote",
        kind=Kind.INTERVAL,
        nullable=True,
        sources=(_CANDLES + "volume_quote", _TRADES + "price", _TRADES + "quantity"),
    )
    n_trades = count(
        "Trades; null where a part of them is not counted.",
        kind=Kind.INTERVAL,
        nullable=True,
        wide=True,
        sources=(_CANDLES + "n_trades", _TRADES + "n_trades"),
    )
    vwap = money(
        "Volume-weighted average price.",
        unit="quote",
        kind=Kind.INTERVAL,
        nullable=True,
        sources=(_CANDLES + "volume_quote", _CANDLES + "volume_base", _TRADES + "price", _TRADES + "quantity"),
    )
    taker_buy_base = money(
        "Amount bought by takers; null where a part of it is not stated.",
        unit="base",
        kind=Kind.INTERVAL,
        nullable=True,
        sources=(_CANDLES + "taker_buy_base", _TRADES + "taker_side"),
    )
    is_closed = flag(
        "Whether something it is made of arrived after its end, so that it was over.",
        sources=(_CANDLES + "ingested_at", _TRADES + "ingested_at"),
    )
    source_kind = text(
        "trades, or candles_1m to candles_1mo: the coarsest of what it is made of.",
        sources=(_CANDLES + "interval", _TRADES + "trade_id"),
    )
    n_obs = count(
        "Minutes of it that are observed: with a trade, or within a candle.",
        unit="min",
        kind=Kind.INTERVAL,
        low=1,
        sources=(_CANDLES + "opened_at", _TRADES + "traded_at"),
    )
    n_expected = count("Minutes that it has.", unit="min", kind=Kind.INTERVAL, low=1, sources=_CANDLES + "interval")
    completeness = number(
        "Share of its minutes that is observed.",
        unit="1",
        low=0,
        high=1,
        sources=(_CANDLES + "opened_at", _TRADES + "traded_at"),
    )
    observed_at = clock(
        "End of the last minute or candle in it.", sources=(_CANDLES + "opened_at", _TRADES + "traded_at")
    )
    available_at = clock(
        "Earliest moment anyone could have used all of it: its end, or the newest arrival of an input where later.",
        sources=(_CANDLES + "ingested_at", _TRADES + "ingested_at"),
    )
    date = day("UTC day of opened_at.")


class OhlcvByMonth(Ohlcv):
    """Bars in partitions of a month."""

    month = period("UTC month of opened_at; the partition.")


class OhlcvByYear(Ohlcv):
    """Bars in partitions of a year."""

    year = period("UTC year of opened_at; the partition.")


def _bar_table(interval: str, partition: str, *, bucket: str | None = None, clock: str | None = "opened_at") -> Table:
    return Table(
        zone=Zone.REFINED,
        name=f"ohlcv_{interval}",
        group="venues",
        cadence="every 5 minutes, and backfills",
        write=Write.REPLACE,
        partition_by=(partition,),
        sort_by=("venue", "market_id", "opened_at"),
        clock=clock,
        bucket=bucket,
    )


class Ohlcv1m(OhlcvByMonth):
    """Bars of a minute, from trades where they agree with the venue's own candle, else from that candle."""

    table = _bar_table("1m", "month")


class Ohlcv5m(OhlcvByMonth):
    """Bars of 5 minutes, from bars of a minute and the venues' own candles."""

    table = _bar_table("5m", "month")


class Ohlcv15m(OhlcvByMonth):
    """Bars of 15 minutes, from bars of 5 minutes and the venues' own candles."""

    table = _bar_table("15m", "month")


class Ohlcv1h(OhlcvByYear):
    """Bars of an hour, from bars of 15 minutes and the venues' own candles."""

    table = _bar_table("1h", "year")


class Ohlcv4h(OhlcvByYear):
    """Bars of 4 hours, from bars of an hour and the venues' own candles."""

    table = _bar_table("4h", "year", bucket="4h")


class Ohlcv1d(OhlcvByYear):
    """Bars of a UTC day, from bars of 4 hours and the venues' own candles."""

    table = _bar_table("1d", "year", bucket="1d", clock=None)


class Ohlcv1w(OhlcvByYear):
    """Bars of a week from Monday, from bars of a day and the venues' own candles."""

    table = _bar_table("1w", "year", bucket="1w", clock=None)


class Ohlcv1mo(OhlcvByYear):
    """Bars of a UTC calendar month, from bars of a day and the venues' own candles."""

    table = _bar_table("1mo", "year", bucket="1mo", clock=None)


class TradeBars(Contract):
    """Columns of the bars of trades. A bar covers ``[opened_at, opened_at + length)``; nothing is filled in.

    They are final: a bar is written when its hour is over, and again where a trade of it came later. What streams have
    brought since is in the views ``refined.live_bars_1s`` and ``refined.live_bars_1m``.
    """

    venue = slug("Venue where it was traded.", sources=_TRADES + "venue")
    market_id = slug("venue:BASE/QUOTE in the venue's own tickers.", pattern=MARKET_ID, sources=_TRADES + "market_id")
    opened_at = clock("Start of the bar, UTC.", primary_key=True, sources=_TRADES + "traded_at")
    provider = text(
        "Provider that stated its trades; the first by name where they came by several ways.",
        sources=_TRADES + "provider",
    )
    open = money("First price.", unit="quote", kind=Kind.INTERVAL, sources=_TRADES + "price")
    high = money("Highest price.", unit="quote", kind=Kind.INTERVAL, sources=_TRADES + "price")
    low = money("Lowest price.", unit="quote", kind=Kind.INTERVAL, sources=_TRADES + "price")
    close = money("Last price.", unit="quote", kind=Kind.INTERVAL, sources=_TRADES + "price")
    avg_price = money(
        "Simple mean of its trades' prices, an aggregate counting once; null where it is too large to hold.",
        unit="quote",
        kind=Kind.INTERVAL,
        nullable=True,
        sources=_TRADES + "price",
    )
    vwap = money(
        "Volume-weighted average price; null where it is too large to hold.",
        unit="quote",
        kind=Kind.INTERVAL,
        nullable=True,
        sources=(_TRADES + "price", _TRADES + "quantity"),
    )
    volume_base = money("Amount traded.", unit="base", kind=Kind.INTERVAL, sources=_TRADES + "quantity")
    volume_quote = money(
        "Value traded.", unit="quote", kind=Kind.INTERVAL, sources=(_TRADES + "price", _TRADES + "quantity")
    )
    n_trades = count("Trades.", kind=Kind.INTERVAL, low=1, wide=True, sources=_TRADES + "n_trades")
    first_traded_at = clock("Venue's time of its first trade.", sources=_TRADES + "traded_at")
    last_traded_at = clock("Venue's time of its last trade.", sources=_TRADES + "traded_at")
    first_ingested_at = clock("Our clock when the first of its trades had arrived.", sources=_TRADES + "ingested_at")
    latency_p50_ms = number(
        "Half of the trades that a stream brought arrived within; null where none came by a stream.",
        unit="ms",
        kind=Kind.INTERVAL,
        nullable=True,
        sources=(_TRADES + "ingested_at", _TRADES + "traded_at"),
    )
    latency_max_ms = count(
        "All trades that a stream brought arrived within; null where none came by a stream.",
        unit="ms",
        kind=Kind.INTERVAL,
        low=None,
        nullable=True,
        wide=True,
        sources=(_TRADES + "ingested_at", _TRADES + "traded_at"),
    )
    available_at = clock(
        "Earliest moment anyone could have used all of it: its end, or the newest arrival of a trade where later.",
        sources=_TRADES + "ingested_at",
    )
    date = day("UTC day of opened_at; the partition.")


def _trade_bar_table(length: str) -> Table:
    return Table(
        zone=Zone.REFINED,
        name=f"trade_bars_{length}",
        group="venues",
        cadence="when a stream's hour is over, and backfills",
        write=Write.REPLACE,
        sort_by=("market_id", "opened_at"),
        clock="opened_at",
        # As many rows as trades, where a market is quiet.
        batch="day",
    )


class TradeBars1s(TradeBars):
    """Bars of a second, from trades alone."""

    table = _trade_bar_table("1s")


class TradeBars1m(TradeBars):
    """Bars of a minute, from trades alone; where a venue's candles are to stand in for missing trades, ohlcv_1m."""

    table = _trade_bar_table("1m")


class PriceDaily(Contract):
    """One price of an asset for a UTC day, agreed on by independent sources: the median of their prices at its end.

    A source is a venue (its most traded market of the asset, in USD or converted by the day's price of what it is
    quoted in) or a provider's last snapshot. Sources beyond ``max(5 x MAD, 50 bps)`` of the median are left out.
    """

    table = _window_table("price_daily", "asset_id", "date")

    asset_id = key("Our stable id of the asset.", sources=("refined.symbol_map.asset_id", _HOURLY + "asset_id"))
    date = day("UTC day; the partition.", primary_key=True)
    price_usd = money(
        "Median of the sources; null where unpriced.",
        nullable=True,
        sources=(_DAY_BARS + "close", _HOURLY + "close_usd", _DAILY + "close_usd"),
    )
    status = text(
        "ok; single_source; disputed (half of the sources lie further than 50 bps from the median); stale (no source "
        "saw the end of the day); unpriced (traded only against what has no USD price).",
        sources=(_DAY_BARS + "observed_at", _HOURLY + "observed_at", _DAILY + "source_kind"),
    )
    n_sources = count(
        "Sources that the price is of.",
        kind=Kind.INTERVAL,
        sources=(_DAY_BARS + "venue", _HOURLY + "provider", _DAILY + "provider"),
    )
    n_outliers = count(
        "Sources left out as too far off.",
        kind=Kind.INTERVAL,
        sources=(_DAY_BARS + "close", _HOURLY + "close_usd", _DAILY + "close_usd"),
    )
    mad_bps = number(
        "Spread of all sources: 1.4826 x their median absolute deviation, in ten-thousandths of the median.",
        unit="bps",
        nullable=True,
        low=0,
        sources=(_DAY_BARS + "close", _HOURLY + "close_usd", _DAILY + "close_usd"),
    )
    depeg_bps = number(
        "How far a stablecoin that prices were converted from (or that the asset is) was from 1 USD: the furthest.",
        unit="bps",
        nullable=True,
        sources=(_DAY_BARS + "close", _HOURLY + "close_usd"),
    )
    sources = text(
        "Names of the sources that the price is of, comma-separated.",
        sources=(_DAY_BARS + "venue", _HOURLY + "provider", _DAILY + "provider"),
    )
    observed_at = clock(
        "Time of the newest price among them.", sources=(_DAY_BARS + "observed_at", _HOURLY + "observed_at")
    )
    available_at = clock(
        _AVAILABLE, sources=(_DAY_BARS + "available_at", _HOURLY + "available_at", _DAILY + "available_at")
    )


TABLES: tuple[type[Contract], ...] = (
    DimAsset,
    DimExchange,
    LatestAssets,
    LatestExchanges,
    AssetHourly,
    AssetDaily,
    ExchangeDaily,
    MarketOverview,
    Movers,
    AssetVenuesDaily,
    AssetAvailability,
    AssetSymbolsDaily,
    SymbolMap,
    DimMarket,
    LatestQuotes,
    Ohlcv1m,
    Ohlcv5m,
    Ohlcv15m,
    Ohlcv1h,
    Ohlcv4h,
    Ohlcv1d,
    Ohlcv1w,
    Ohlcv1mo,
    TradeBars1s,
    TradeBars1m,
    PriceDaily,
)

# The bars of each length.
BARS: dict[str, type[Ohlcv]] = {
    table.table.name.removeprefix("ohlcv_"): table for table in TABLES if issubclass(table, Ohlcv)
}
