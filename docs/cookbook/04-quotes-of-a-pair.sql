-- How did bid and ask of one pair move through a day, and how long did each quote take to arrive?
-- For: an analyst of execution costs. Replaces: 000-01, 000-02, 000-05.
-- Columns: observed_at [UTC], from_currency_code [1], to_currency_code [1], bid_price [quote], ask_price [quote], exchange_rate [quote], delay_s [s]
select observed_at, from_currency_code, to_currency_code, bid_price, ask_price, exchange_rate,
       date_diff('second', observed_at, ingested_at) as delay_s
from crypto_trusted.quotes
where date = date '2026-11-13' and market_id = 'kraken:BTC/USD'
order by observed_at
