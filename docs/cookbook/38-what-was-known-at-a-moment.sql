-- Which hourly prices could a strategy have known at a moment, and which is the newest of each asset?
-- For: backtests without look-ahead. Replaces: 001-22.
-- Columns: asset_id [1], opened_at [UTC hour], close_usd [USD], available_at [UTC]
select asset_id, max(opened_at) as opened_at, max_by(close_usd, opened_at) as close_usd,
       max_by(available_at, opened_at) as available_at
from crypto_refined.asset_hourly
where date between date '2026-11-12' and date '2026-11-13' and provider = 'coincap'
  and available_at <= timestamp '2026-11-13 06:00:00 UTC'
group by asset_id
order by asset_id
