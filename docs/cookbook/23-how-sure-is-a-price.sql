-- How many assets' prices of a day are agreed on, of a single source, disputed, stale or unknown?
-- For: data stewards, before a report goes out. Replaces: 000-16.
-- Columns: date [UTC day], status [1], n_assets [1], widest_mad_bps [bps]
select date, status, count(*) as n_assets, max(mad_bps) as widest_mad_bps
from crypto_refined.price_daily
where date between date '2026-11-11' and date '2026-11-13'
group by date, status
order by date, status
