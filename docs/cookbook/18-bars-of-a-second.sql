-- What are mean price, volume-weighted price and volume of each second of trading?
-- For: the live page of a dashboard. Replaces: 004-01, 004-02.
-- Columns: second_at [UTC second], mean_price [quote], vwap [quote], volume_base [base], n_trades [1], delay_s [s, longest]
select date_trunc('second', traded_at) as second_at, avg(cast(price as double)) as mean_price,
       sum(cast(price as double) * cast(quantity as double)) / sum(cast(quantity as double)) as vwap,
       sum(quantity) as volume_base, sum(n_trades) as n_trades,
       max(date_diff('second', traded_at, ingested_at)) as delay_s
from crypto_trusted.trades
where date = date '2026-11-13' and market_id = 'binance:BTC/USDT'
group by date_trunc('second', traded_at)
order by second_at
