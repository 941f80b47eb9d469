-- What are bid, ask and spread of every market now?
-- For: traders, the live page of a dashboard. Replaces: 000-02, 004-06.
-- Columns: market_id [1], exchange_rate [quote], bid_price [quote], ask_price [quote], mid_price [quote], spread_bps [bps of the mid], observed_at [UTC]
select market_id, exchange_rate, bid_price, ask_price, mid_price, spread_bps, observed_at
from crypto_refined.latest_quotes
order by market_id
