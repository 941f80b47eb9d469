-- Which pairs made up most of an exchange's volume at the last snapshot of a day?
-- For: exchange analysts. Replaces: 002-03.
-- Columns: market_id [1], price_usd [USD], volume_usd_24h [USD, rolling 24 h], exchange_share_pct [%], n_trades_24h [1, rolling 24 h]
select market_id, price_usd, volume_usd_24h, exchange_share_pct, n_trades_24h
from (
    select market_id, price_usd, volume_usd_24h, exchange_share_pct, n_trades_24h,
           rank() over (order by observed_at desc) as newest
    from crypto_trusted.market_snapshots
    where date = date '2026-11-12' and exchange_id = 'binance'
) as snapshots
where newest = 1
order by volume_usd_24h desc, market_id
limit 10
