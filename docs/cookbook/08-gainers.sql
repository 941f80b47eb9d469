-- Which ten liquid assets rose most on a day?
-- For: the first panel of a market page. Replaces: 003-09.
-- Columns: gainer_rank [1], symbol [1], name [1], price_usd [USD], change_pct_24h [%], volume_usd_24h [USD, rolling 24 h]
select gainer_rank, symbol, name, price_usd, change_pct_24h, volume_usd_24h
from crypto_refined.movers
where date = date '2026-11-13' and gainer_rank <= 10
order by gainer_rank
