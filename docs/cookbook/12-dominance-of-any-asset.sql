-- What share of all listed market caps is one asset's, day by day?
-- For: researchers of other coins than the two largest. Replaces: 002-08.
-- Columns: date [UTC day], asset_id [1], market_cap_usd [USD], share_pct [% of all caps that are stated]
select date, asset_id, market_cap_usd, share_pct
from (
    select date, asset_id, market_cap_usd,
           100 * cast(market_cap_usd as double) / sum(cast(market_cap_usd as double)) over (partition by date) as share_pct
    from crypto_refined.asset_daily
    where date between date '2026-11-11' and date '2026-11-13' and provider = 'coincap'
) as shares
where asset_id in ('bitcoin', 'ethereum', 'tether')
order by date, asset_id
