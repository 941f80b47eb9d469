"""CoinCap's answers, as received.

Source: CoinCap v3 (needs a key; v2 answers are read too). ``assets``, ``exchanges``, ``rates`` and ``markets`` are live
only: a day that is over can no longer be pulled. ``history`` can be asked for the past.
"""

from collections.abc import Callable

from crypto_assets.assets.raw.pulls import History, live_asset
from crypto_assets.providers.answers import Pull
from crypto_assets.providers.coincap import NAME, CoinCap
from crypto_assets.tables import raw


def _one(pull: Callable[[CoinCap], Pull]) -> Callable[[CoinCap], list[Pull]]:
    return lambda coincap: [pull(coincap)]


coincap_assets = live_asset(raw.RawCoincapAssets, NAME, _one(CoinCap.assets))
coincap_exchanges = live_asset(raw.RawCoincapExchanges, NAME, _one(CoinCap.exchanges))
coincap_rates = live_asset(raw.RawCoincapRates, NAME, _one(CoinCap.rates))
coincap_markets = live_asset(raw.RawCoincapMarkets, NAME, _one(CoinCap.markets))

HISTORY = History(
    raw.RawCoincapHistory,
    NAME,
    subjects=lambda coincap: coincap.history_assets,
    pull=CoinCap.history,
    cost=CoinCap.history_cost,
)
coincap_history = HISTORY.asset()
