-- How long after its time does a fact of each provider arrive?
-- For: data engineers who set look-back windows. Replaces: 002-06.
-- Columns: table_name [1], provider [1], n_rows [1], p50_s [s, worst day], p99_s [s, worst day], highest_s [s]
select table_name, provider, sum(n_rows) as n_rows, max(p50_s) as p50_s, max(p99_s) as p99_s, max(highest_s) as highest_s
from crypto_quality.lateness
where date between date '2026-11-11' and date '2026-11-13'
group by table_name, provider
order by table_name, provider
