-- What did a block's fees come to in US dollars, day by day?
-- For: analysts of miners. Replaces: 000-15.
-- Columns: date [UTC day], n_blocks [1, sampled], mean_fees_btc [BTC a block], price_usd [USD], mean_fees_usd [USD a block]
select f.date, f.n_blocks, f.mean_fees_btc, p.price_usd, f.mean_fees_btc * cast(p.price_usd as double) as mean_fees_usd
from (
    select date, count(*) as n_blocks, avg(value) / 100000000 as mean_fees_btc
    from crypto_trusted.onchain_stats
    where date between date '2026-11-11' and date '2026-11-13' and chain = 'bitcoin' and metric = 'block_fees'
    group by date
) as f
join crypto_refined.price_daily as p on p.date = f.date
where p.date between date '2026-11-11' and date '2026-11-13' and p.asset_id = 'bitcoin'
order by f.date
