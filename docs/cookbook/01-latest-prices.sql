-- What do the twenty largest assets cost now?
-- For: traders and dashboards, all day long. Replaces: 002-07, 003-04.
-- Columns: rank [1], asset_id [1], symbol [1], price_usd [USD], change_pct_24h [%], volume_usd_24h [USD, rolling 24 h], market_cap_usd [USD], observed_at [UTC]
select rank, asset_id, symbol, price_usd, change_pct_24h, volume_usd_24h, market_cap_usd, observed_at
from crypto_refined.latest_assets
where rank <= 20
order by rank
