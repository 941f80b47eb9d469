-- What were supply and price of the ten largest assets at a moment, by their last snapshot before it?
-- For: a dashboard with a date picker. Replaces: 002-11.
-- Columns: asset_id [1], name [1], supply [units], price_usd [USD], market_cap_usd [USD], observed_at [UTC]
select asset_id, max_by(name, observed_at) as name, max_by(supply, observed_at) as supply,
       max_by(price_usd, observed_at) as price_usd, max_by(market_cap_usd, observed_at) as market_cap_usd,
       max(observed_at) as observed_at
from crypto_trusted.asset_snapshots
where date = date '2026-11-12' and observed_at <= timestamp '2026-11-12 12:00:00 UTC' and provider = 'coincap'
group by asset_id
order by market_cap_usd desc, asset_id
limit 10
