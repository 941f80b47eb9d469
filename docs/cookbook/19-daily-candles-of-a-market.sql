-- What are a market's daily candles, and how much of each day do they cover?
-- For: backtests. Replaces: 002-03.
-- Columns: date [UTC day], open [quote], high [quote], low [quote], close [quote], volume_base [base], vwap [quote], completeness [1]
select date, open, high, low, close, volume_base, vwap, completeness
from crypto_refined.ohlcv_1d
where year = date '2026-01-01' and venue = 'binance' and market_id = 'binance:BTC/USDT'
order by date
