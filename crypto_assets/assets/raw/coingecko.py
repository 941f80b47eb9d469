"""CoinGecko's answers, as received.

Source: CoinGecko's public API, keyless or with a demo key. Live only: a day that is over can no longer be pulled.
"""

from datetime import timedelta

from crypto_assets.assets.raw.pulls import live_asset
from crypto_assets.providers.coingecko import NAME, CoinGecko
from crypto_assets.tables import raw

# Hourly and daily, short of what a tick may be early: a demo key's month affords 13 calls an hour, and keyless limits
# are not stated at all.
_HOURLY, _DAILY = timedelta(minutes=58), timedelta(hours=23, minutes=58)

coingecko_markets = live_asset(
    raw.RawCoingeckoMarkets, NAME, lambda coingecko: [CoinGecko.markets(coingecko)], every=lambda _: _HOURLY
)
coingecko_exchanges = live_asset(
    raw.RawCoingeckoExchanges, NAME, lambda coingecko: [CoinGecko.exchanges(coingecko)], every=lambda _: _DAILY
)
