"""CoinGecko's answers, as received.

Source: CoinGecko's public API, keyless or with a demo key. Live only: a day that is over can no longer be pulled.
"""

from crypto_assets.assets.raw.pulls import live_asset
from crypto_assets.providers.coingecko import NAME, CoinGecko
from crypto_assets.tables import raw

coingecko_markets = live_asset(raw.RawCoingeckoMarkets, NAME, lambda coingecko: [CoinGecko.markets(coingecko)])
coingecko_exchanges = live_asset(raw.RawCoingeckoExchanges, NAME, lambda coingecko: [CoinGecko.exchanges(coingecko)])
