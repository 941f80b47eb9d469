-- Which exchanges does an independent score rank highest?
-- For: compliance officers. Replaces: 000-15.
-- Columns: exchange_id [1], trust_score [1 to 10], trust_score_rank [1], volume_btc_24h [BTC, rolling 24 h], year_established [year], country [1]
select exchange_id, trust_score, trust_score_rank, volume_btc_24h, year_established, country
from crypto_trusted.exchange_scores
where date = date '2026-11-13' and trust_score_rank <= 20
order by trust_score_rank
