-- What were name, ticker and highest supply of assets at a moment, and which facts have changed since?
-- For: auditors. Replaces: 001-13, 003-05.
-- Columns: asset_id [1], symbol [1], name [1], max_supply [units], valid_from [UTC], is_current [1], status [1]
select asset_id, symbol, name, max_supply, valid_from, is_current, status
from crypto_refined.dim_asset
where valid_from <= timestamp '2026-11-12 00:00:00 UTC'
  and (valid_to is null or valid_to > timestamp '2026-11-12 00:00:00 UTC')
order by asset_id
