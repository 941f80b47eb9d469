-- On which venues was an asset traded on each day, and what share did each have?
-- For: whoever chooses where to trade. Replaces: 002-10.
-- Columns: date [UTC day], venue [1], volume_base [base], share_pct [%]
select b.date, b.venue, sum(b.volume_base) as volume_base,
       100 * cast(sum(b.volume_base) as double) / sum(cast(sum(b.volume_base) as double)) over (partition by b.date)
           as share_pct
from crypto_refined.ohlcv_1d as b
join crypto_refined.dim_market as m on m.market_id = b.market_id
where b.year = date '2026-01-01' and m.base_asset_id = 'bitcoin' and b.volume_base > 0
group by b.date, b.venue
order by b.date, volume_base desc, b.venue
