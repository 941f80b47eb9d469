"""A market on loopback: the providers' contracts, HTTP and websockets, served from a seeded market.

    >>> from crypto_assets.sandbox import Market, serve
    >>> with serve(Market(seed=7)) as sandbox:
    ...     sandbox.v2.startswith("http://127.0.0.1:")
    True

CoinCap's HTTP is served from recordings too.

Belongs here: what the demo and the tests use. Reading order: ``source.py``, ``market.py``, ``app.py``;
for the venues ``tape.py``, ``events.py``, ``binance.py``; for websockets ``streams.py``, ``binance_stream.py``.
"""

from crypto_assets.sandbox.events import Events, Hole, Listing, Outage, Restatement
from crypto_assets.sandbox.faults import Fault
from crypto_assets.sandbox.ledger import Opened, Sent, Traded
from crypto_assets.sandbox.market import Change, Market
from crypto_assets.sandbox.recording import Recording
from crypto_assets.sandbox.server import Sandbox, run_forever, serve

__all__ = [
    "Change",
    "Events",
    "Fault",
    "Hole",
    "Listing",
    "Market",
    "Opened",
    "Outage",
    "Recording",
    "Restatement",
    "Sandbox",
    "Sent",
    "Traded",
    "run_forever",
    "serve",
]
