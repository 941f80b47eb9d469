-- How volatile was each market of an asset, by its hourly returns, over a year of hours?
-- For: risk managers. Replaces: 000-15.
-- Columns: market_id [1], n_hours [1], hourly_stddev [1], yearly_volatility_pct [% a year]
select market_id, count(log_return) as n_hours, stddev_samp(log_return) as hourly_stddev,
       100 * sqrt(8760) * stddev_samp(log_return) as yearly_volatility_pct
from (
    select market_id,
           ln(cast(close as double) / lag(cast(close as double)) over (partition by market_id order by opened_at))
               as log_return
    from crypto_refined.ohlcv_1h
    where year = date '2026-01-01' and market_id in ('binance:BTC/USDT', 'kraken:BTC/USD', 'coinbase:BTC/USD')
) as returns
group by market_id
order by market_id
