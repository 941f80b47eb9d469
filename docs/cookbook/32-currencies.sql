-- Which currencies and coins are there, with their signs and kinds?
-- For: users of the three-table model of currencies. Replaces: 001-10, 001-13.
-- Columns: currency_id [1], currency_special_symbol [1], currency_symbol [1], currency_type [f fiat, c crypto]
-- Whole table: every currency that was ever seen is one of them; trusted.fx_rates is small.
select currency_id, currency_special_symbol, currency_symbol, currency_type
from crypto_refined.currency
order by currency_type desc, currency_id
