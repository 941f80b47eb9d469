"""SQL views over the lake, in Athena's dialect: the tables of the pipelines replaced here, under their own names.

One place for all engines: the local one expands them, and the catalog registers the same text. They differ from the
originals where those were wrong: histories are kept, ids are there to join by, and nothing is rounded away but what the
name promises.
"""

from __future__ import annotations

from collections.abc import Mapping

from crypto_assets.tables.trusted import PREFERENCE

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
}
