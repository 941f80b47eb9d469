-- How far from one US dollar was each stablecoin on a day?
-- For: treasurers.
-- Columns: asset_id [1], price_usd [USD], off_bps [bps of 1 USD], n_sources [1]
select asset_id, price_usd, 10000 * (cast(price_usd as double) - 1) as off_bps, n_sources
from crypto_refined.price_daily
where date = date '2026-11-13' and asset_id in ('tether', 'usd-coin', 'multi-collateral-dai', 'true-usd')
order by asset_id
