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
    text,
)

_ASSETS = "trusted.asset_snapshots."
_EXCHANGES = "trusted.exchange_snapshots."
_MARKETS = "trusted.market_snapshots."
_HOURLY = "refined.asset_hourly."
_DAILY = "refined.asset_daily."
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
        "active, or delisted where the asset is missing from the newest two days.",
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
        "active, or delisted where the exchange is missing from the newest two days.",
        sources="trusted.exchange_attributes.last_observed_at",
    )
    first_seen_on = day("UTC day on which the exchange was first observed.")
    last_seen_on = day("UTC day on which the exchange was last observed.")
    row_hash = text(
        "Hash of name, exchange_url and has_socket.",
        sources=tuple(f"trusted.exchange_attributes.{c}" for c in ("name", "exchange_url", "has_socket")),
    )


class LatestAssets(Contract):
    """The newest good observation of each asset within the newest two days of snapshots."""

    table = _small_table("latest_assets", "rank", group="market")

    provider = key("Provider that stated the facts.", sources=_ASSETS + "provider")
    asset_id = key("Our stable id of the asset.", sources=_ASSETS + "asset_id")
    symbol = text("Ticker.", sources=_ASSETS + "symbol")
    name = text("Display name.", sources=_ASSETS + "name")
    rank = count("Rank by market cap.", low=1, sources=_ASSETS + "rank")
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

    provider = key("Provider that stated the facts.", sources=_EXCHANGES + "provider")
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
    """Hourly bars of an asset from its snapshots: first, highest, lowest and last price in ``[hour, hour + 1 h)``."""

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
    rank = count("Rank at the last snapshot.", low=1, sources=_ASSETS + "rank")
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
    (``analytics.market.WRAPPED``), so that nothing is counted twice.
    """

    table = _window_table("market_overview", "opened_at", clock="opened_at")

    provider = key("Provider that stated the facts.", sources=_ASSETS + "provider")
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

    Liquid: 24-hour volume and market cap at or above the thresholds of ``analytics.market.movers``.
    """

    table = _window_table("movers", "gainer_rank")

    provider = key("Provider that stated the facts.", sources=_ASSETS + "provider")
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
)
