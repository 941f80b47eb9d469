-- In which hours did takers buy more than they sold?
-- For: traders who read order flow. Replaces: 000-15.
-- Columns: opened_at [UTC hour], close [quote], volume_base [base], buy_share_pct [% of the volume that takers bought]
select opened_at, close, volume_base, 100 * cast(taker_buy_base as double) / cast(volume_base as double) as buy_share_pct
from crypto_refined.ohlcv_1h
where year = date '2026-01-01' and venue = 'binance' and market_id = 'binance:BTC/USDT'
  and opened_at >= timestamp '2026-11-12 00:00:00 UTC' and volume_base > 0
order by opened_at
