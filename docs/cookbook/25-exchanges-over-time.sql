-- How did volume, share and rank of the largest exchanges change from day to day?
-- For: exchange analysts. Replaces: 002-02, 002-05, 002-09.
-- Columns: date [UTC day], exchange_id [1], rank [1], volume_share_pct [%], volume_usd_24h [USD, rolling 24 h], rank_change [1, below 0 is up]
select date, exchange_id, rank, volume_share_pct, volume_usd_24h, rank_change
from (
    select date, exchange_id, rank, volume_share_pct, volume_usd_24h,
           rank - lag(rank) over (partition by exchange_id order by date) as rank_change
    from crypto_refined.exchange_daily
    where date between date '2026-11-11' and date '2026-11-13'
) as days
where rank <= 10
order by date, rank
