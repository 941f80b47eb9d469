-- How large is the whole market, and what share of it is bitcoin's and ether's?
-- For: market commentators. Replaces: 000-15.
-- Columns: opened_at [UTC hour], total_market_cap_usd [USD], btc_dominance [1], eth_dominance [1], top10_share [1], n_assets [1]
select opened_at, total_market_cap_usd, btc_dominance, eth_dominance, top10_share, n_assets
from crypto_refined.market_overview
where date between date '2026-11-11' and date '2026-11-13'
order by opened_at
