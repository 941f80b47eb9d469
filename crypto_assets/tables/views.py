"""SQL views over the lake, in Athena's dialect: the tables of the pipelines replaced here, under their own names.

One place for all engines: the local one expands them, and the catalog registers the same text. They differ from the
originals where those were wrong: histories are kept, ids are there to join by, and nothing is rounded away but what the
name promises.
"""

from __future__ import annotations

from collections.abc import Mapping

from crypto_assets.tables.trusted import PREFERENCE, RELAYS

_PLACES = " ".join(f"when '{provider}' then {place}" for place, provider in enumerate(PREFERENCE))
# Each asset's snapshots of an hour by its preferred provider, as in `analytics.preference`: several would take turns.
# The date is among what is ranked within, so that a condition on it reaches the table and other days are not read.
_SNAPSHOTS = f"""(
            select *, rank() over (
                partition by asset_id, date, date_trunc('hour', observed_at)
                order by case provider {_PLACES} else {len(PREFERENCE)} end, provider
            ) as preference
            from trusted.asset_snapshots
        ) as snapshots
        where preference = 1"""  # noqa: S608 - names of providers, all above

# How much of now live views show; as much as reads a few of a stream's newest files.
LIVE_MINUTES = 15
_MINUTES_AGO = f"current_timestamp - interval '{LIVE_MINUTES}' minute"
_LIVE_SINCE = f"date_trunc('minute', {_MINUTES_AGO})"
_A_DAY_AGO = "current_timestamp - interval '1' day"
_RELAYS = ", ".join(f"'{name}'" for name in RELAYS)


def _delivered(since: str, first_day: str = _A_DAY_AGO) -> str:
    """Trades of streams since a moment, as ``trusted.trades`` will have them: typed, once each, of one provider for a
    market and hour. The condition on the day keeps the files of other days closed, whatever the moment is."""
    return f"""
        select cast(split_part(market_id, ':', 1) as varchar) as venue, market_id, trade_id, traded_at, traded_us,
               provider, price, quantity, n_trades, taker_side, ingested_at, date
        from (
            select *, row_number() over (
                       partition by market_id, trade_id order by ingested_at desc, pull_id desc, page desc
                   ) as delivery,
                   case when provider in ({_RELAYS}) then 1 else 0 end as place,
                   min(case when provider in ({_RELAYS}) then 1 else 0 end) over (
                       partition by market_id, date_trunc('hour', traded_at)
                   ) as preferred
            from (
                select subject as market_id,
                       coalesce(trade_id, concat(cast(traded_us as varchar), '-', price, '-', quantity, '-',
                                                 cast(repeat as varchar))) as trade_id,
                       traded_at, traded_us, provider, try_cast(price as decimal(38, 18)) as price,
                       try_cast(quantity as decimal(38, 18)) as quantity, coalesce(n_trades, 1) as n_trades, taker_side,
                       ingested_at, pull_id, page, date
                from raw.trades
                where date >= cast({first_day} as date) and traded_at >= {since} and subject is not null
            ) as sent
            where price > 0 and quantity > 0
        ) as numbered
        where delivery = 1 and place = preferred"""  # noqa: S608 - all of it from here


def _bars_of(trades: str, unit: str) -> str:
    """Bars of trades that are not final, as in ``analytics.trade_bars``; products in double precision."""
    opened = f"date_trunc('{unit}', traded_at)"
    return f"""
        select venue, market_id, cast(opened_at as timestamp(3) with time zone) as opened_at,
               min(provider) as provider,
               max(case when place = 1 then price end) as open, max(price) as high, min(price) as low,
               max(case when place = n_places then price end) as close,
               avg(cast(price as double)) as avg_price,
               sum(cast(price as double) * cast(quantity as double)) / sum(cast(quantity as double)) as vwap,
               sum(quantity) as volume_base,
               sum(cast(price as double) * cast(quantity as double)) as volume_quote,
               cast(sum(n_trades) as bigint) as n_trades,
               min(traded_at) as first_traded_at, max(traded_at) as last_traded_at,
               min(ingested_at) as first_ingested_at,
               cast(approx_percentile(date_diff('millisecond', traded_at, ingested_at), 0.5) as double)
                   as latency_p50_ms,
               cast(max(date_diff('millisecond', traded_at, ingested_at)) as bigint) as latency_max_ms,
               max(ingested_at) as available_at, cast(opened_at as date) as date
        from (
            select *, {opened} as opened_at,
                   row_number() over (
                       partition by market_id, {opened}
                       order by traded_us, try_cast(trade_id as bigint) nulls last, trade_id
                   ) as place,
                   count(*) over (partition by market_id, {opened}) as n_places
            from ({trades}) as trades
        ) as placed
        group by venue, market_id, opened_at"""  # noqa: S608 - all of it from here


def _now(length: str, unit: str) -> str:
    """Final bars, and those of the hours that have none yet, as far as they go: ``is_final`` tells them apart."""
    table = f"refined.trade_bars_{length}"
    columns = "venue, market_id, opened_at, provider, open, high, low, close"
    sums = "volume_base, cast(volume_quote as double) as volume_quote, n_trades, first_traded_at, last_traded_at"
    arrivals = "first_ingested_at, latency_p50_ms, latency_max_ms, available_at, date"
    final = f"""
            select least(coalesce(date_trunc('hour', max(opened_at)) + interval '1' hour, {_A_DAY_AGO}),
                         date_trunc('hour', current_timestamp))
            from {table}
            where date >= cast({_A_DAY_AGO} as date)"""  # noqa: S608 - all of it from here
    means = "cast(avg_price as double) as avg_price, cast(vwap as double) as vwap"
    return f"""
        select {columns}, {means}, {sums}, {arrivals}, true as is_final
        from {table}
        where opened_at < ({final})
        union all
        select {columns}, {means}, {sums}, {arrivals}, false as is_final
        from ({_bars_of(_delivered(f"({final})"), unit)}) as live
    """  # noqa: S608 - all of it from here


def _trading_view(base: str) -> str:
    return f"""
        select opened_at as trade_time, first_ingested_at as createdtime, 'BINANCE:{base}USDT' as symbol, avg_price,
               volume_base as volume, date
        from refined.trade_bars_1s_now
        where market_id = 'binance:{base}/USDT'
    """  # noqa: S608 - a name of ours


VIEWS: Mapping[str, str] = {
    # Raw/Trusted/Refined zones over CoinCap: currencies, their metrics, their values.
    "refined.currency": """
        select currency_id, currency_symbol as currency_special_symbol, symbol as currency_symbol,
               case currency_kind when 'fiat' then 'f' else 'c' end as currency_type
        from (
            select currency_id, currency_symbol, symbol, currency_kind,
                   row_number() over (partition by currency_id order by observed_at desc, provider) as newest
            from trusted.fx_rates
        ) as rates
        where newest = 1
        union all
        select asset_id, cast(null as varchar), symbol, 'c'
        from refined.dim_asset
        where is_current and asset_id not in (select currency_id from trusted.fx_rates)
    """,
    "refined.crypto_data": f"""
        select asset_id as currency_id, name, rank, price_usd, max_supply, supply, vwap_usd_24h as vwap_24hr,
               volume_usd_24h as vol_usd_24hr, market_cap_usd, change_pct_24h as diff_percent_24hr,
               explorer_url as explorer, observed_at as "timestamp", date
        from {_SNAPSHOTS}
    """,  # noqa: S608
    "refined.currency_value": """
        select currency_id, rate_usd, observed_at as "timestamp", date
        from trusted.fx_rates
    """,
    # The dbt models of the dashboard pipeline: staging, dimension and facts of coins.
    "refined.stg_coinsdata": """
        select concat(asset_id, '-', symbol) as id, name, symbol, asset_id as coin_id, rank, price_usd,
               round(change_pct_24h, 4) as change_percent_24hr, volume_usd_24h as volume_usd_24hr,
               vwap_usd_24h as vwap_24hr, supply, max_supply, market_cap_usd, explorer_url as explorer, observed_at
        from refined.latest_assets
    """,
    "refined.dim_coins": """
        select d.name, d.symbol, d.asset_id as coin_id, d.explorer_url as explorer, l.supply, d.max_supply
        from refined.dim_asset as d
        left join refined.latest_assets as l on l.asset_id = d.asset_id
        where d.is_current
    """,
    "refined.facts_coins": f"""
        select asset_id as coin_id, name, rank, price_usd, round(change_pct_24h, 4) as change_percent_24hr,
               market_cap_usd, volume_usd_24h as volume_usd_24hr, vwap_usd_24h as vwap_24hr, observed_at, date
        from {_SNAPSHOTS}
    """,  # noqa: S608
    # What streams are saying: continuous views of the last minutes, seconds after the trades.
    "refined.live_trades": _delivered(_LIVE_SINCE, _MINUTES_AGO),
    "refined.live_bars_1s": _bars_of(_delivered(_LIVE_SINCE, _MINUTES_AGO), "second"),
    "refined.live_bars_1m": _bars_of(_delivered(_LIVE_SINCE, _MINUTES_AGO), "minute"),
    "refined.latest_trades": f"""
        select venue, market_id, provider, trade_id, price, quantity, taker_side, traded_at, ingested_at
        from (
            select *, row_number() over (
                       partition by market_id
                       order by traded_us desc, try_cast(trade_id as bigint) desc nulls last, trade_id desc
                   ) as newest
            from ({_delivered(_A_DAY_AGO)}) as trades
        ) as numbered
        where newest = 1
    """,  # noqa: S608
    "refined.live_prices": f"""
        select provider, subject, symbol, price, quoted_at, ingested_at
        from (
            select provider, subject, symbol, try_cast(price as decimal(38, 18)) as price, quoted_at, ingested_at,
                   row_number() over (
                       partition by provider, symbol order by quoted_at desc, ingested_at desc, pull_id desc, page desc
                   ) as newest
            from raw.stream_prices
            where date >= cast({_MINUTES_AGO} as date) and quoted_at >= {_LIVE_SINCE}
        ) as prices
        where newest = 1
    """,  # noqa: S608
    # Final bars and those of now, together; and the per-second views of the Finnhub pipeline.
    "refined.trade_bars_1s_now": _now("1s", "second"),
    "refined.trade_bars_1m_now": _now("1m", "minute"),
    "refined.btc_trading_view": _trading_view("BTC"),
    "refined.eth_trading_view": _trading_view("ETH"),
}
