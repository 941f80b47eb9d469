"""mempool.space's answers, as received.

Source: mempool.space, keyless. Today holds the state of now; a day that is over is asked for its daily series
(hashrate, difficulty, fees a block), and its fees and mempool can no longer be pulled.
"""

from crypto_assets.assets.raw.pulls import History, live_asset
from crypto_assets.providers.mempool import NAME, SERIES, Mempool
from crypto_assets.tables import raw

HISTORY = History(raw.RawMempool, NAME, subjects=lambda _: list(SERIES), pull=Mempool.past, cost=Mempool.past_cost)
mempool = live_asset(raw.RawMempool, NAME, Mempool.now, past=HISTORY)
