-- Which assets were traded most on a day, and what share of it all is that?
-- For: the treemap of a market page. Replaces: 003-09.
-- Columns: volume_rank [1], symbol [1], volume_usd_24h [USD, rolling 24 h], share_pct [% of the liquid assets' volume]
select volume_rank, symbol, volume_usd_24h,
       100 * cast(volume_usd_24h as double) / sum(cast(volume_usd_24h as double)) over () as share_pct
from crypto_refined.movers
where date = date '2026-11-13'
order by volume_rank
limit 20
