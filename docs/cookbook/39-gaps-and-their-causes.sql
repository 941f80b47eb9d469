-- What is missing where, why, and what became of it?
-- For: data engineers. Replaces: 002-06.
-- Columns: table_name [1], key [1], cause [1], state [1], n_gaps [1], n_missing [rows], oldest_at [UTC]
select table_name, key, cause, state, count(*) as n_gaps, sum(n_missing) as n_missing, min(gap_start_at) as oldest_at
from crypto_quality.gap_ledger
group by table_name, key, cause, state
order by n_missing desc, table_name, key
