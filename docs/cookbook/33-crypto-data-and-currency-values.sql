-- What were market cap, supply and value of the largest coins through a day?
-- For: users of the three-table model of currencies. Replaces: 001-01, 001-09, 001-11, 001-12.
-- Columns: currency_id [1], timestamp [UTC], price_usd [USD], market_cap_usd [USD], supply [units], diff_percent_24hr [%], rate_usd [USD by the rates' endpoint]
select d.currency_id, d."timestamp", d.price_usd, d.market_cap_usd, d.supply, d.diff_percent_24hr, v.rate_usd
from crypto_refined.crypto_data as d
left join crypto_refined.currency_value as v
    on v.currency_id = d.currency_id and v."timestamp" = d."timestamp" and v.date = d.date
where d.date = date '2026-11-12' and d.rank <= 10
order by d."timestamp", d.rank
