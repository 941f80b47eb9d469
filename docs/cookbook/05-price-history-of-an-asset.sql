-- What did one asset cost on each day?
-- For: everyone. Replaces: 000-18, 001-03, 003-10.
-- Columns: date [UTC day], open_usd [USD], high_usd [USD], low_usd [USD], close_usd [USD], volume_usd_24h [USD, rolling 24 h], source_kind [1]
select date, open_usd, high_usd, low_usd, close_usd, volume_usd_24h, source_kind
from crypto_refined.asset_daily
where date between date '2026-11-01' and date '2026-11-30' and asset_id = 'bitcoin' and provider = 'coincap'
order by date
