"""The block: messages of one connection that were made durable together, and the unit of everything after.

A collector numbers its blocks 0, 1, 2... and a block never changes: it lies in the journal, travels through Kinesis or
Kafka as one record, and becomes rows named by ``collector:number`` and a place. A block that arrives twice, because an
answer was lost on the way, is known by its number.

Exactly once, in one paragraph: a message is acknowledged when its block is on disk (``journal.py``). Transports may
repeat blocks, but never reorder those of one lane (``number % lanes``). The consumer appends a block's rows together
with two facts in the same Delta commit: up to where the transport was read, and the next block number of the lane
(``consumer.py``). Whoever comes next, after whatever kill, reads both from the table and goes on from there.
"""

from __future__ import annotations

import zlib

import msgspec

from crypto_assets.errors import DataError
from crypto_assets.providers.feed import UNREADABLE


class Event(msgspec.Struct, array_like=True, frozen=True):
    """Something that happened to the connection; microseconds since 1970, ``starts_us == ends_us`` for a moment."""

    kind: str
    starts_us: int
    ends_us: int
    detail: str = ""
    subject: str | None = None
    n: int = 0


MARGIN_US = 5_000_000
"""A trade may be a moment older than its message, and a subscription takes effect a moment after it is sent."""


def hole(start_us: int, end_us: int, why: str, market: str) -> Event:
    """What may have been missed of a market between two moments, microseconds since 1970, with the margin around."""
    return Event("hole", start_us - MARGIN_US, end_us + MARGIN_US, why, subject=market)


TOLD_TO_STOP = "told to stop"
"""The detail of a collector's last event, ``stopped``, where it is not missed: it was told to, and has not failed."""


class Block(msgspec.Struct, array_like=True, frozen=True):
    """Messages of one connection.

    Attributes:
        collector: who received them; an id that stays with a collector's journal while it stays where it is.
        number: the block's place in that journal, from 0.
        lanes: into how many lanes the collector deals its blocks.
        feed: the name of the feed.
        markets: provider's symbol to market, as subscribed to.
        received_us: our clock at each message, microseconds since 1970, never falling.
        frames: the messages that hold data, as received.
        events: what happened to the connection meanwhile.
        newest_us: our clock at the newest message that the collector had had by then, in this block or before; 0 for
            none. What comes after it may have been missed.
        since: the number of the first block that this collector ever gave.
    """

    collector: str
    number: int
    lanes: int
    feed: str
    markets: dict[str, str]
    received_us: list[int]
    frames: list[bytes]
    events: list[Event]
    newest_us: int = 0
    since: int = 0

    @property
    def pull_id(self) -> str:
        """Names the block in the tables."""
        return f"{self.collector}:{self.number}"

    @property
    def lane(self) -> str:
        """The lane that it travels in: blocks of one lane keep their order."""
        return f"{self.collector}/{self.number % self.lanes}"

    @property
    def first_of_lane(self) -> int:
        """The number of the first block that ever travelled in its lane."""
        return self.since + (self.number - self.since) % self.lanes


def app_of(lane: str) -> str:
    """The application transaction under which a table says the number of a lane's next block."""
    return f"block/{lane}"


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Block)
_CHECKSUM_BYTES = 4


def encode(block: Block) -> bytes:
    """The block as bytes: a CRC-32 of what follows, and MessagePack."""
    body = _ENCODER.encode(block)
    return zlib.crc32(body).to_bytes(_CHECKSUM_BYTES, "big") + body


def decode(told: bytes | memoryview) -> Block:
    """The block that these bytes are.

    Raises:
        DataError: they are none; a foreign record on a shared stream, or damage on the way.
    """
    body = told[_CHECKSUM_BYTES:]
    try:
        if zlib.crc32(body) == int.from_bytes(told[:_CHECKSUM_BYTES], "big"):
            return _DECODER.decode(body)
    except UNREADABLE:
        pass
    raise DataError(
        f"a record of {len(told)} bytes is no block of a collector",
        where="stream",
        safe="it was left out, the others go on",
        hint="keep other producers off this stream",
    )
