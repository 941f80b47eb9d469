-- What are price, change and volume of each coin, with its name and explorer?
-- For: users of the coin dashboard's star schema. Replaces: 003-04, 003-05, 003-06.
-- Columns: name [1], symbol [1], rank [1], price_usd [USD], change_percent_24hr [%], volume_usd_24hr [USD, rolling 24 h], explorer [URL]
select c.name, c.symbol, f.rank, f.price_usd, f.change_percent_24hr, f.volume_usd_24hr, c.explorer
from crypto_refined.facts_coins as f
join crypto_refined.dim_coins as c on c.coin_id = f.coin_id
where f.date = date '2026-11-13' and f.observed_at >= timestamp '2026-11-13 10:00:00 UTC' and f.rank <= 100
order by f.rank
