-- How far are a venue's own candles of a minute from the bars, which are others only where they are made of trades?
-- For: data stewards. Replaces: 002-03.
-- Columns: market_id [1], opened_at [UTC minute], venue_close [quote], bar_close [quote], apart_bps [bps]
select c.market_id, c.opened_at, c.close as venue_close, b.close as bar_close,
       10000 * (cast(b.close as double) / cast(c.close as double) - 1) as apart_bps
from crypto_trusted.candles as c
join crypto_refined.ohlcv_1m as b on b.market_id = c.market_id and b.opened_at = c.opened_at
where c.month = date '2026-11-01' and c.interval = '1m' and b.month = date '2026-11-01'
  and c.market_id = 'kraken:BTC/USD' and c.opened_at >= timestamp '2026-11-13 09:00:00 UTC'
order by c.market_id, c.opened_at
