-- How well did each provider's endpoints answer?
-- For: whoever is on call. Replaces: 001-21.
-- Columns: provider [1], endpoint [1], n_calls [1], n_limited [1], n_failed [1], ok_pct [%], last_ok_at [UTC]
select provider, endpoint, sum(n_calls) as n_calls, sum(n_limited) as n_limited, sum(n_failed) as n_failed,
       100 * cast(sum(n_ok) as double) / sum(n_calls) as ok_pct, max(last_ok_at) as last_ok_at
from crypto_quality.source_health
where date between date '2026-11-11' and date '2026-11-13'
group by provider, endpoint
order by ok_pct, provider, endpoint
