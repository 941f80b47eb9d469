-- How concentrated is trading on few exchanges?
-- For: regulators and researchers. Replaces: 002-09.
-- Columns: opened_at [UTC hour], n_exchanges [1], exchange_hhi [1], exchange_cr4 [1]
select opened_at, n_exchanges, exchange_hhi, exchange_cr4
from crypto_refined.market_overview
where date between date '2026-11-11' and date '2026-11-13' and exchange_hhi is not null
order by opened_at
