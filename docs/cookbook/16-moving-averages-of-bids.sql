-- What are the moving averages of a pair's bids over its last 10, 30, 60 and 100 quotes?
-- For: whoever used the hourly job of the quotes pipeline; its windows were one quote too long. Replaces: 000-07, 000-08.
-- Columns: market_id [1], observed_at [UTC], bid_price [quote], sma_10 [quote], sma_30 [quote], sma_60 [quote], sma_100 [quote]
select market_id, observed_at, bid_price,
       if(nth >= 10, avg(bid) over (partition by market_id order by observed_at rows between 9 preceding and current row))
           as sma_10,
       if(nth >= 30, avg(bid) over (partition by market_id order by observed_at rows between 29 preceding and current row))
           as sma_30,
       if(nth >= 60, avg(bid) over (partition by market_id order by observed_at rows between 59 preceding and current row))
           as sma_60,
       if(nth >= 100, avg(bid) over (partition by market_id order by observed_at rows between 99 preceding and current row))
           as sma_100
from (
    select market_id, observed_at, bid_price, cast(bid_price as double) as bid,
           row_number() over (partition by market_id order by observed_at) as nth
    from crypto_trusted.quotes
    where date between date '2026-11-12' and date '2026-11-13' and bid_price is not null
) as bids
order by market_id, observed_at
