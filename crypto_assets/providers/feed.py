"""What a provider's websocket is to the house: how it is opened, what its messages mean, when it is dead.

A provider file with a stream ends with one ``FEED``; ``feeds.py`` lists them. A feed does no I/O: the collector
(``stream/collector.py``) asks it what to send and what it was sent, the consumer asks it for rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec
import polars as pl

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that a provider may send: no JSON or another shape, no UTF-8, too deep."""


class Sign(StrEnum):
    """What a message that holds no data means."""

    ALIVE = "alive"  # a heartbeat or an acknowledgement
    REFUSED = "refused"  # one symbol cannot be had; the others go on
    ERROR = "error"  # the provider complains
    DENIED = "denied"  # the key is refused, or used elsewhere: trying again at once makes it worse
    BAD = "bad"  # not a message of this feed


@dataclass(frozen=True)
class Control:
    """A message that holds no data: what it means, the symbol that it names, and one line without secrets."""

    sign: Sign
    detail: str = ""
    symbol: str | None = None


@dataclass(frozen=True)
class Messages:
    """The data messages of one block in the order of their arrival, or of several, one block after the other.

    Attributes:
        feed: the feed's name.
        pull_id: names the block.
        frames: the messages, as received.
        received_us: our clock at each, microseconds since 1970.
        markets: provider's symbol to the market or asset that was subscribed to.
        blocks: of several blocks the name of each and how many of the messages are its; read together they cost less.
    """

    feed: str
    pull_id: str
    frames: Sequence[bytes]
    received_us: Sequence[int]
    markets: Mapping[str, str]
    blocks: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True)
class Decoded:
    """Rows of ``raw.trades`` and of ``raw.stream_prices``, and the messages that cannot be read, or not all of them, by
    their place.
    """

    trades: pl.DataFrame
    prices: pl.DataFrame
    bad: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Feed:
    """A provider's stream.

    Attributes:
        name: the feed's name, ``provider`` in its rows.
        service: its name in the sandbox, whose websockets are below ``/<service>``.
        url: its own address.
        key_name: the environment variable of its key, where it takes one.
        needs_key: whether it is absent without.
        is_exclusive: whether a key may have one connection only.
        has_trades: whether it ever sends trades, which must not be dropped.
        max_symbols: the most that one connection may subscribe to.
        silent_after: seconds without any message after which a connection is dead.
        symbol: a market or asset of ours in the provider's words; None where the feed does not have it.
        address: where to connect: base address, symbols, key. What it returns may hold the key, and is never shown.
        headers: what the handshake carries: key.
        opening: what is sent once connected, for these symbols, in messages.
        is_data: whether a message holds trades or prices; asked of every message, so it must be cheap.
        control: what any other message means.
        decode: the rows of data messages. Never raises for what was sent.
    """

    name: str
    service: str
    url: str
    symbol: Callable[[str], str | None]
    address: Callable[[str, Sequence[str], str | None], str]
    opening: Callable[[Sequence[str]], Sequence[str]]
    is_data: Callable[[bytes], bool]
    control: Callable[[bytes], Control]
    decode: Callable[[Messages], Decoded]
    headers: Callable[[str | None], Mapping[str, str]] = lambda _: {}
    key_name: str | None = None
    needs_key: bool = False
    is_exclusive: bool = False
    has_trades: bool = True
    max_symbols: int = 200
    silent_after: float = 30.0


def printable(message: bytes) -> str:
    """The beginning of a foreign message, as it may be shown in one line of a terminal."""
    return "".join(c for c in message[:160].decode(errors="replace") if c.isprintable())
