"""A websocket below ASGI, which has one message a call and no broken connection: what ``streams.py`` writes to.

Belongs here: how messages become bytes, and what a connection can do. That it can is ``uvicorn_wire.py``'s, which is
imported only where something listens.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Protocol

from starlette.websockets import WebSocket

NAME = "sandbox.wire"
"""Where a websocket's scope has its wire, among the extensions."""
# A whole text message, unmasked as a server's are; one that goes on, its pieces, and one that is packed.
_TEXT, _BEGUN, _PIECE, _LAST_PIECE, _PACKED = 0x81, 0x01, 0x00, 0x80, 0xC1


class Wire(Protocol):
    """A connection that can be written to in pieces, cut off, and left hanging.

    ``is_frozen`` is for the app to set: what comes is taken and forgotten, pings and closes too, and nothing goes.
    """

    is_frozen: bool

    @property
    def is_open(self) -> bool:
        """Whether what is written now can arrive."""
        ...

    def write(self, data: bytes) -> bool:
        """Hand over what ``framed`` made; False where the connection is over."""
        ...

    async def drained(self) -> None:
        """Until the other side has taken most of what was written, or the connection is over."""
        ...

    def abort(self) -> None:
        """End the connection without a close."""
        ...


def wire_of(socket: WebSocket) -> Wire:
    """The connection below a websocket of ``serve``."""
    wire: Wire = socket.scope["extensions"][NAME]
    return wire


def _header(length: int, kind: int = _TEXT) -> bytes:
    if length < 126:
        return bytes((kind, length))
    if length < 1 << 16:
        return struct.pack("!BBH", kind, 126, length)
    return struct.pack("!BBQ", kind, 127, length)


# Nearly every message is shorter; making the header anew costs as much as all else about it.
_HEADERS = [_header(length) for length in range(4096)]


def framed(messages: Iterable[bytes]) -> bytes:
    """Text messages as they go over the wire (RFC 6455), one after the other."""
    parts = []
    for message in messages:
        length = len(message)
        parts.append(_HEADERS[length] if length < len(_HEADERS) else _header(length))
        parts.append(message)
    return b"".join(parts)


def in_pieces(message: bytes) -> bytes:
    """A text message in three frames."""
    third = len(message) // 3
    parts = (_BEGUN, message[:third]), (_PIECE, message[third : 2 * third]), (_LAST_PIECE, message[2 * third :])
    return b"".join(_header(len(part), kind) + part for kind, part in parts)


@lru_cache(maxsize=1)
def bomb(n_bytes: int) -> bytes:
    """A packed text message (RFC 7692) of blanks, a thousandth of its size."""
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(b" " * n_bytes) + packer.flush(zlib.Z_SYNC_FLUSH)
    message = packed.removesuffix(b"\x00\x00\xff\xff")
    return _header(len(message), _PACKED) + message
