-- What are a market's candles of 30 minutes, or of any other length?
-- For: chartists whose interval has no table of its own. Change 1800 (seconds). Replaces: 002-03.
-- Columns: bar_at [UTC], open [quote], high [quote], low [quote], close [quote], volume_base [base], n_minutes [min with a bar]
select from_unixtime(floor(to_unixtime(opened_at) / 1800) * 1800) as bar_at,
       min_by(open, opened_at) as open, max(high) as high, min(low) as low, max_by(close, opened_at) as close,
       sum(volume_base) as volume_base, count(*) as n_minutes
from crypto_refined.ohlcv_1m
where month = date '2026-11-01' and venue = 'binance' and market_id = 'binance:BTC/USDT'
  and opened_at >= timestamp '2026-11-12 00:00:00 UTC' and opened_at < timestamp '2026-11-13 00:00:00 UTC'
group by floor(to_unixtime(opened_at) / 1800)
order by bar_at
