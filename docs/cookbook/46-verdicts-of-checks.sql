-- Which checks failed, or passed, for each table and day?
-- For: data stewards. Replaces: 001-08, 003-07.
-- Columns: table_name [1], date [UTC day], severity [1], n_checks [1], n_failed_checks [1], n_failed_rows [1]
select table_name, date, severity, count(*) as n_checks, count_if(not passed) as n_failed_checks,
       sum(n_failed) as n_failed_rows
from crypto_quality.check_results
where date between date '2026-11-11' and date '2026-11-13'
group by table_name, date, severity
order by table_name, date, severity
