-- Which asset did a venue's ticker mean at a moment, by what was known at another?
-- For: whoever joins data of several venues, and reruns a study. Replaces: 002-10.
-- Columns: source [1], source_id [1], asset_id [1], method [1], confidence [1]
select source, source_id, asset_id, method, confidence
from crypto_refined.symbol_map
where source_symbol = 'BTC'
  and valid_from <= timestamp '2026-11-13 10:00:00 UTC'
  and (valid_to is null or valid_to > timestamp '2026-11-13 10:00:00 UTC')
  and recorded_at <= timestamp '2026-11-13 12:00:00 UTC'
  and (superseded_at is null or superseded_at > timestamp '2026-11-13 12:00:00 UTC')
order by source, source_id
