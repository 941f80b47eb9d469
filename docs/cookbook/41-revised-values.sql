-- Which values did a provider state differently later, and by how much?
-- For: auditors and backtests. Replaces: 002-06.
-- Columns: row_key [1], column_name [1], old_value [1], new_value [1], change_pct [%], new_available_at [UTC]
select row_key, column_name, old_value, new_value, 100 * relative_change as change_pct, new_available_at
from crypto_quality.revision_ledger
where table_name = 'trusted.candles' and date = date '2026-11-11' and column_name in ('close', 'volume_base')
order by abs(relative_change) desc, row_key, column_name
limit 50
