-- Which records were refused, and for which reasons?
-- For: data engineers, when a provider changes its answers. Replaces: 001-21, 003-07.
-- Columns: table_name [1], date [UTC day], reason [1], n_records [1], newest_at [UTC]
select q.table_name, q.date, r.reason, count(*) as n_records, max(q.observed_at) as newest_at
from crypto_quality.quarantine as q
cross join unnest(split(q.reasons, ',')) as r(reason)
where q.date between date '2026-11-11' and date '2026-11-13'
group by q.table_name, q.date, r.reason
order by q.table_name, q.date, n_records desc, r.reason
