-- What does it cost to get into a block soon, and how full is the queue?
-- For: wallet developers. Replaces: 000-15.
-- Columns: metric [1], value [see unit], unit [1], observed_at [UTC]
select metric, max_by(value, observed_at) as value, max_by(unit, observed_at) as unit, max(observed_at) as observed_at
from crypto_trusted.onchain_stats
where date = date '2026-11-13' and chain = 'bitcoin'
  and metric in ('fee_fastest', 'fee_half_hour', 'fee_hour', 'mempool_transactions', 'mempool_size')
group by metric
order by metric
