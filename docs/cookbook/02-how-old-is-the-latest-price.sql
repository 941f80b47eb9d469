-- How much older than the newest price is each asset's price?
-- For: a trading bot, before it trusts a price. Replaces: 001-05, 001-22.
-- Columns: asset_id [1], price_usd [USD], observed_at [UTC], behind_s [s], took_s [s between the fact and its arrival]
select asset_id, price_usd, observed_at,
       date_diff('second', observed_at, max(observed_at) over ()) as behind_s,
       date_diff('second', observed_at, available_at) as took_s
from crypto_refined.latest_assets
order by behind_s desc, asset_id
limit 50
