-- What did an asset cost in euro on each day?
-- For: European accountants. Replaces: 001-12.
-- Columns: date [UTC day], close_usd [USD], usd_per_eur [USD], close_eur [EUR]
select a.date, a.close_usd, r.usd_per_eur, cast(a.close_usd as double) / r.usd_per_eur as close_eur
from crypto_refined.asset_daily as a
join (
    select date, cast(max_by(rate_usd, observed_at) as double) as usd_per_eur
    from crypto_trusted.fx_rates
    where date between date '2026-11-01' and date '2026-11-30' and symbol = 'EUR'
    group by date
) as r on r.date = a.date
where a.date between date '2026-11-01' and date '2026-11-30' and a.asset_id = 'bitcoin' and a.provider = 'coincap'
order by a.date
