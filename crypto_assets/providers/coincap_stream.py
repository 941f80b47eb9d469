"""CoinCap's stream of prices: a map of the assets whose price has changed, and nothing else.

Source: contracts of CoinCap's v2 and v3 websockets. It needs a key and a paid plan; a refusal is plain text that begins
with ``Unauthorized``. A price carries no time: our clock at its arrival is the time of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from crypto_assets.providers.feed import Control, Decoded, Feed, Messages, Sign, printable
from crypto_assets.providers.ticks import arrivals, decoded, prices, read

NAME = "coincap_stream"


def symbol(market: str) -> str | None:
    """An asset's id; markets have none here."""
    return None if ":" in market or "/" in market else market


def _address(base: str, symbols: Sequence[str], _: str | None) -> str:
    return f"{base}/prices?assets=" + quote(",".join(symbols), safe=",")


def _headers(key: str | None) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _control(message: bytes) -> Control:
    plain = printable(message)
    if plain.lower().startswith("unauthorized"):
        return Control(Sign.DENIED, plain)
    if message.startswith(b'{"error"'):
        return Control(Sign.ERROR, plain)
    return Control(Sign.BAD, f"unreadable: {plain}")


def decode(messages: Messages) -> Decoded:
    """Rows of prices in USD, as sent. A map with a key that was not asked for is none of prices."""
    found, places, bad = read(messages, dict[str, str])
    known: list[tuple[int, dict[str, str]]] = []
    for place, changed in zip(places, found, strict=True):
        if strangers := changed.keys() - messages.markets.keys():
            bad[place] = f"unknown asset {printable(min(strangers).encode())}"
        else:
            known.append((place, changed))
    arrived = arrivals(messages, [place for place, _ in known], [len(changed) for _, changed in known])
    told = [pair for _, changed in known for pair in changed.items()]
    columns = {"symbol": [asset for asset, _ in told], "price": [price for _, price in told]}
    return decoded(None, prices(messages, arrived, columns), bad)


FEED = Feed(
    name=NAME,
    service="coincap",
    url="wss://wss.coincap.io",
    symbol=symbol,
    address=_address,
    headers=_headers,
    opening=lambda _: (),
    is_data=lambda message: message.startswith(b'{"') and not message.startswith(b'{"error"'),
    control=_control,
    decode=decode,
    key_name="COINCAP_API_KEY",
    needs_key=True,
    has_trades=False,
    silent_after=60.0,
)
