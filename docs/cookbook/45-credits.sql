-- What has each provider cost this month, and what will it have cost at its end?
-- For: whoever pays for the plans. Replaces: 000-01.
-- Columns: provider [1], date [UTC day], credits [credits], credits_month [credits], forecast_month_end [credits]
select provider, date, credits, credits_month, forecast_month_end
from crypto_quality.credit_ledger
where date between date '2026-11-01' and date '2026-11-30'
order by provider, date
