-- In which minutes were two venues' prices of bitcoin in US dollars furthest apart?
-- For: arbitrage desks.
-- Columns: opened_at [UTC minute], n_venues [1], lowest [USD], highest [USD], apart_bps [bps of the lowest]
select opened_at, count(*) as n_venues, min(close) as lowest, max(close) as highest,
       10000 * (cast(max(close) as double) / cast(min(close) as double) - 1) as apart_bps
from crypto_refined.ohlcv_1m
where month = date '2026-11-01' and market_id in ('kraken:BTC/USD', 'coinbase:BTC/USD')
  and opened_at >= timestamp '2026-11-13 00:00:00 UTC' and opened_at < timestamp '2026-11-14 00:00:00 UTC'
group by opened_at
having count(*) = 2
order by apart_bps desc, opened_at
limit 20
