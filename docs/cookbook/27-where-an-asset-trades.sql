-- On which exchanges does an asset trade, since when, and how much?
-- For: traders who look for liquidity. Replaces: 002-10.
-- Columns: exchange_id [1], first_seen_on [UTC day], last_seen_on [UTC day], n_markets [1], volume_usd_24h [USD, rolling 24 h], is_listed [1]
select exchange_id, first_seen_on, last_seen_on, n_markets, volume_usd_24h, is_listed
from crypto_refined.asset_availability
where asset_id = 'bitcoin'
order by volume_usd_24h desc, exchange_id
