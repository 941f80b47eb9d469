"""``wire.py`` on uvicorn's websocket, whose handshake, control frames and closing it leaves alone.

``tests/sandbox/test_sockets.py`` pins what is leaned on.
"""

from __future__ import annotations

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from crypto_assets.sandbox.wire import NAME


class UvicornWire(WebSocketsSansIOProtocol):
    """The ``Wire`` of a connection; its app finds it in its scope."""

    is_frozen = False

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        # The app's task has been made and has not begun.
        if self.response.status_code == 101:
            self.scope["extensions"] = {**self.scope["extensions"], NAME: self}  # type: ignore[dict-item]

    def data_received(self, data: bytes) -> None:
        if not self.is_frozen:
            super().data_received(data)

    @property
    def is_open(self) -> bool:
        return not (self.is_frozen or self.close_sent or self.disconnected or self.transport.is_closing())

    def write(self, data: bytes) -> bool:
        if not self.is_open:
            return False
        self.transport.write(data)
        return True

    async def drained(self) -> None:
        await self.writable.wait()

    def abort(self) -> None:
        self.transport.abort()
