"""What spot venues answer, as received: listings and tickers of now, candles and trades of the past.

Source: any venue that ccxt knows, without a key; Binance, Kraken and Coinbase by default. Candles and trades are asked
for by what raw does not hold yet, up to now. Of Kraken's candles only the newest 720 can be had: what is older is on
record as not_found, and not asked for again.
"""

from datetime import timedelta

from crypto_assets.assets.raw.pulls import History, live_asset
from crypto_assets.providers.exchanges import Exchanges
from crypto_assets.providers.venues import NAME
from crypto_assets.tables import raw

exchange_markets = live_asset(raw.RawExchangeMarkets, NAME, Exchanges.listings)
exchange_tickers = live_asset(raw.RawExchangeTickers, NAME, Exchanges.tickers)

# Venues add the last trades of a candle seconds after its end, and clocks differ: a minute later neither matters, and
# to ask for a candle or two again costs no call.
_SETTLES_IN = timedelta(minutes=1)

CANDLES = History(
    raw.RawExchangeCandles,
    NAME,
    subjects=lambda exchanges: exchanges.candle_subjects,
    pull=Exchanges.candles,
    cost=Exchanges.candles_cost,
    has_today=True,
    settles_in=_SETTLES_IN,
    opens=Exchanges.archived_until,
)
TRADES = History(
    raw.RawExchangeTrades,
    NAME,
    subjects=lambda exchanges: exchanges.markets,
    pull=Exchanges.trades,
    cost=Exchanges.trades_cost,
    has_today=True,
    settles_in=_SETTLES_IN,
    opens=Exchanges.archived_until,
)
exchange_candles = CANDLES.asset()
exchange_trades = TRADES.asset()
