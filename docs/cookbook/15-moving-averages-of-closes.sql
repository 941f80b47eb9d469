-- What are the moving averages over 10, 30, 60 and 100 minutes of a market's closes?
-- For: chartists. A window that is not full yet gives null. Replaces: 000-08.
-- Columns: opened_at [UTC minute], close [quote], sma_10 [quote], sma_30 [quote], sma_60 [quote], sma_100 [quote]
select opened_at, close,
       if(nth >= 10, avg(price) over (order by opened_at rows between 9 preceding and current row)) as sma_10,
       if(nth >= 30, avg(price) over (order by opened_at rows between 29 preceding and current row)) as sma_30,
       if(nth >= 60, avg(price) over (order by opened_at rows between 59 preceding and current row)) as sma_60,
       if(nth >= 100, avg(price) over (order by opened_at rows between 99 preceding and current row)) as sma_100
from (
    select opened_at, close, cast(close as double) as price, row_number() over (order by opened_at) as nth
    from crypto_refined.ohlcv_1m
    where month = date '2026-11-01' and venue = 'binance' and market_id = 'binance:BTC/USDT'
      and opened_at >= timestamp '2026-11-13 06:00:00 UTC' and opened_at < timestamp '2026-11-13 10:00:00 UTC'
) as minutes
order by opened_at
