-- How far from the price that all sources agree on did each venue close the day?
-- For: data stewards and venue analysts. Replaces: 000-16.
-- Columns: date [UTC day], market_id [1], close [quote], consensus_usd [USD], deviation_bps [bps of the consensus]
select b.date, b.market_id, b.close, p.price_usd as consensus_usd,
       10000 * (cast(b.close as double) / cast(p.price_usd as double) - 1) as deviation_bps
from crypto_refined.ohlcv_1d as b
join crypto_refined.dim_market as m on m.market_id = b.market_id
join crypto_refined.price_daily as p on p.asset_id = m.base_asset_id and p.date = b.date
where b.year = date '2026-01-01' and b.date between date '2026-11-11' and date '2026-11-13'
  and m.quote_symbol = 'USD' and p.price_usd > 0
order by b.date, b.market_id
