-- What was each currency worth in US dollars at the last pull of a day?
-- For: accountants. Replaces: 001-02, 001-12.
-- Columns: currency_id [1], symbol [1], currency_kind [1], rate_usd [USD for one unit], observed_at [UTC]
select currency_id, max_by(symbol, observed_at) as symbol, max_by(currency_kind, observed_at) as currency_kind,
       max_by(rate_usd, observed_at) as rate_usd, max(observed_at) as observed_at
from crypto_trusted.fx_rates
where date = date '2026-11-12'
group by currency_id
order by currency_id
