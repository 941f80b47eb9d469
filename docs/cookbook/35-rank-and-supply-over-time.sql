-- How did rank, supply and market cap of a coin change against others?
-- For: researchers. Replaces: 002-08.
-- Columns: date [UTC day], asset_id [1], rank [1], supply [units], market_cap_usd [USD], close_usd [USD]
select date, asset_id, rank, supply, market_cap_usd, close_usd
from crypto_refined.asset_daily
where date between date '2026-11-11' and date '2026-11-13' and provider = 'coincap'
  and asset_id in ('bitcoin', 'ethereum', 'tether', 'solana')
order by asset_id, date
