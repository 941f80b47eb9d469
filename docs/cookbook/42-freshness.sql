-- How far behind the newest day is each table of market data, by its newest facts?
-- For: whoever is on call. Replaces: 003-07.
-- Columns: table_name [1], newest_at [UTC], arrived_at [UTC], n_rows [rows of the day]
select 'trusted.asset_snapshots' as table_name, max(observed_at) as newest_at, max(ingested_at) as arrived_at,
       count(*) as n_rows
from crypto_trusted.asset_snapshots
where date = date '2026-11-13'
union all
select 'trusted.exchange_snapshots', max(observed_at), max(ingested_at), count(*)
from crypto_trusted.exchange_snapshots
where date = date '2026-11-13'
union all
select 'trusted.market_snapshots', max(observed_at), max(ingested_at), count(*)
from crypto_trusted.market_snapshots
where date = date '2026-11-13'
union all
select 'trusted.fx_rates', max(observed_at), max(ingested_at), count(*)
from crypto_trusted.fx_rates
where date = date '2026-11-13'
union all
select 'trusted.quotes', max(observed_at), max(ingested_at), count(*)
from crypto_trusted.quotes
where date = date '2026-11-13'
order by table_name
