-- What did an asset return from day to day, by the price that several sources agree on?
-- For: portfolio analysts.
-- Columns: date [UTC day], asset_id [1], price_usd [USD], return_pct [%], log_return [1], status [1]
select date, asset_id, price_usd,
       100 * (cast(price_usd as double) / lag(cast(price_usd as double)) over (partition by asset_id order by date) - 1)
           as return_pct,
       ln(cast(price_usd as double) / lag(cast(price_usd as double)) over (partition by asset_id order by date))
           as log_return,
       status
from crypto_refined.price_daily
where date between date '2026-11-11' and date '2026-11-13' and asset_id in ('bitcoin', 'ethereum')
order by asset_id, date
