-- What did every asset cost at the end of one day?
-- For: a quantitative analyst who ranks assets by day. Replaces: 003-01.
-- Columns: asset_id [1], rank [1], close_usd [USD], market_cap_usd [USD], volume_usd_24h [USD, rolling 24 h], supply [units]
select asset_id, rank, close_usd, market_cap_usd, volume_usd_24h, supply
from crypto_refined.asset_daily
where date = date '2026-11-12' and provider = 'coincap'
order by rank, asset_id
