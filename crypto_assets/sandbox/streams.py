"""Websockets of the sandbox's services: what happens at the venues is sent as the market's time passes.

Belongs here: connections, their clockwork and their faults. What a service's messages look like, and how it is
subscribed to, is in its own module (``binance_stream.py`` and its like); bytes are ``wire.py``'s.

A connection has sent everything before a moment of the market's time and nothing after it. Where the time is frozen and
moved, what lies between is sent; where it is moved back, nothing is, and the connection goes on from there. Messages
are made ahead, some thousands at a time, which is what makes fast streams cheap.

Three endpoints a service are known to faults (``faults.py``): ``<service>.ws``, ``.symbols`` and ``.frames``.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from starlette.responses import Response
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from crypto_assets.sandbox.faults import Fault, Kind
from crypto_assets.sandbox.ledger import Held, Traded
from crypto_assets.sandbox.market import Market
from crypto_assets.sandbox.replies import json_reply
from crypto_assets.sandbox.spot import SpotMarket
from crypto_assets.sandbox.state import SandboxState
from crypto_assets.sandbox.tape import SECOND_US, Tape, Trades, microseconds, tape_of, within
from crypto_assets.sandbox.wire import bomb, framed, in_pieces, wire_of

# How often a connection looks at the clock: what is due is sent so late at most.
_TICK_S = 0.02
# Messages are made for a span of the market's time that holds about so many.
_FEW, _MANY = 500, 4000
_FIRST_WIDTH_US, _LEAST_WIDTH_US, _MOST_WIDTH_US = 10 * SECOND_US, SECOND_US // 10, 3600 * SECOND_US
_REPLAYED = 100
_HUGE_BYTES = 3 * 2**20
# How far a replay looks back for its messages.
_REPLAY_US = 7 * 86_400 * SECOND_US

_OF_CONNECTIONS: frozenset[Kind] = frozenset({"drop", "abort", "freeze", "silence"})
_GOING_AWAY = 1001


class Message(NamedTuple):
    """A message, when it is due in the market's time, the symbol that it is about, and the trades that it holds."""

    due_us: int
    payload: bytes
    symbol: str
    holds: tuple[Held, ...]


class Connection:
    """One websocket: its subscriptions, how far it has sent, and the faults that it has met."""

    def __init__(self, stream: Stream, socket: WebSocket, struck: Sequence[Fault]) -> None:
        self.stream, self.socket, self._wire = stream, socket, wire_of(socket)
        self._state = stream.state
        self._opened = self._state.ledger.opened(stream.service, self._state.now())
        # A test may have begun to count anew while this one was open.
        self._ledger = self._state.ledger
        self.symbols: dict[str, None] = {}
        self._lock = asyncio.Lock()
        self._sent_us = 0
        self._made: list[Message] = []
        self._place, self._made_until_us = 0, 0
        self._made_of: object = None
        self._width_us = _FIRST_WIDTH_US
        self._faults = self._state.faults
        now = asyncio.get_running_loop().time()
        self._coming = [(now + fault.seconds, fault) for fault in struck if fault.kind in _OF_CONNECTIONS]
        self._starts_in = max((fault.seconds for fault in struck if fault.kind == "slow_start"), default=0.0)
        self._replayed = max((fault.size or _REPLAYED for fault in struck if fault.kind == "replay"), default=0)
        self._is_silent = False
        self._late: list[Message] = []
        self._beside: list[asyncio.Task[None]] = []

    # What services do with it

    def say(self, *messages: bytes) -> None:
        """Send messages that hold no trades."""
        if messages and self._wire.write(framed(messages)):
            self._opened.n_messages += len(messages)

    async def subscribe(self, symbols: Iterable[str]) -> None:
        """Send what happens to these too, from now on; those of other connections and times are not touched."""
        async with self._lock:
            await self._catch_up()
            new = [name for name in symbols if name not in self.symbols]
            self.symbols |= dict.fromkeys(new)
            self._subscribed()
            if self._replayed and new:
                n, self._replayed = self._replayed, 0
                self._send(self.stream.before(list(self.symbols), self._sent_us, n))

    async def unsubscribe(self, symbols: Iterable[str]) -> None:
        """Send no more of these; those that it has not are none."""
        async with self._lock:
            await self._catch_up()
            for name in symbols:
                self.symbols.pop(name, None)
            self._subscribed()

    def send(self, messages: Sequence[Message]) -> None:
        """Send messages beside those that are due."""
        self._send(messages)

    @property
    def sent_us(self) -> int:
        """The moment before which everything has been sent."""
        return self._sent_us

    def soon(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this beside the rest, while the connection lasts."""
        self._beside.append(asyncio.create_task(work))

    def is_refused(self, symbol: str) -> bool:
        """Whether a fault refuses the subscription of this symbol."""
        struck = self._state.faults.strike(f"{self.stream.service}.symbols", 0, symbol, {"refused_symbol"})
        return bool(struck)

    async def close(self, code: int, why: str) -> None:
        """End the connection as the protocol says."""
        self._opened.ended = self._opened.ended or why
        # It may be over already, which is what was wanted.
        with suppress(RuntimeError, WebSocketDisconnect):
            await self.socket.close(code)

    def abort(self, why: str) -> None:
        """End the connection without a word."""
        self._opened.ended = self._opened.ended or why
        self._wire.abort()

    # Its life

    async def run(self) -> None:
        """From the handshake to the end."""
        try:
            await asyncio.sleep(self._starts_in)
            self.soon(self._pump())
            await self.stream.greet(self)
            while (heard := await self.socket.receive())["type"] != "websocket.disconnect":
                await self.stream.heard(self, heard.get("text") or "")
            self._opened.ended = self._opened.ended or "closed by the client"
        finally:
            self._opened.closed_at = self._state.now()
            self.stream.left(self)
            for task in self._beside:
                task.cancel()
            for task in self._beside:
                with suppress(asyncio.CancelledError):
                    await task

    async def _pump(self) -> None:
        loop = asyncio.get_running_loop()
        pulse_s = self._state.pulses.get(self.stream.service, self.stream.pulse_s)
        next_pulse = loop.time() + pulse_s
        try:
            while await self._goes_on(loop.time()):
                if self._is_silent:
                    self._sent_us = max(self._sent_us, self._boundary())
                    self._unmake()
                else:
                    if loop.time() >= next_pulse:
                        next_pulse += pulse_s
                        self.say(*self.stream.pulse(self))
                    async with self._lock:
                        await self._catch_up()
                await asyncio.sleep(_TICK_S)
        except BaseException as error:
            # A fault of ours must not look like a silent provider.
            if not isinstance(error, asyncio.CancelledError):
                self.abort(f"the sandbox failed: {error!r}")
            raise

    async def _goes_on(self, now: float) -> bool:
        """Let the faults that are due happen; False where one of them was the end."""
        if self._faults is not self._state.faults:
            self._faults = self._state.faults
            struck = self._faults.strike(f"{self.stream.service}.ws", 0, "", _OF_CONNECTIONS)
            self._coming += [(now + fault.seconds, fault) for fault in struck]
        for at, fault in self._coming:
            if now < at:
                continue
            if fault.kind == "drop":
                await self.close(_GOING_AWAY, "dropped")
                return False
            if fault.kind == "abort":
                self.abort("cut off")
                return False
            if fault.kind == "freeze":
                self._opened.ended = "frozen"
                self._wire.is_frozen = True
                return False
            self._is_silent = True
            self._opened.ended = "silent"
        if self.stream.is_down():
            await self.close(_GOING_AWAY, "the venue is down")
            return False
        return True

    # What is sent

    def _boundary(self) -> int:
        window = self.stream.window_us(self._state.speed)
        return microseconds(self._state.now()) // window * window

    def _unmake(self) -> None:
        self._made, self._place, self._made_until_us = [], 0, 0

    def _subscribed(self) -> None:
        self._unmake()
        self._ledger.subscribed(self._opened, self.symbols, self.stream.markets(self.symbols))

    async def _catch_up(self) -> None:
        """Send everything that is due and not sent."""
        until = self._boundary()
        # A window that is longer than the one before may begin before what was sent: that is no step back.
        if microseconds(self._state.now()) < self._sent_us:
            self._sent_us = until
            self._unmake()
        if not self.symbols:
            self._sent_us = until
        made_of = (self.stream.tape, self.stream.window_us(self._state.speed))
        if made_of != self._made_of:
            self._made_of = made_of
            self._unmake()
        while self._sent_us < until and self._wire.is_open:
            await self._wire.drained()
            if self._sent_us >= self._made_until_us:
                self._make()
            upto = min(until, self._made_until_us)
            place = bisect_left(self._made, upto, self._place, key=_due)
            self._send(self._made[self._place : place])
            self._place, self._sent_us = place, upto
            # The pen is handed on, also where the other side takes all at once.
            await asyncio.sleep(0)

    def _make(self) -> None:
        window = self.stream.window_us(self._state.speed)
        start = self._sent_us
        end = (start + max(self._width_us, 2 * window)) // window * window
        self._made = self.stream.messages(list(self.symbols), start, end)
        self._place, self._made_until_us = 0, end
        if len(self._made) < _FEW:
            self._width_us = min(2 * self._width_us, _MOST_WIDTH_US)
        elif len(self._made) > _MANY:
            self._width_us = max(self._width_us // 2, _LEAST_WIDTH_US)

    def _send(self, messages: Sequence[Message]) -> None:
        if not messages:
            return
        if self._state.faults.concerns(f"{self.stream.service}.frames"):
            for message in messages:
                self._send_spoiled(message)
        elif self._wire.write(framed([message.payload for message in messages])):
            self._note(messages)

    def _send_spoiled(self, message: Message) -> None:
        """One message, and what the faults make of it."""
        struck = self._state.faults.strike(f"{self.stream.service}.frames", 0, message.symbol)
        kinds = {fault.kind for fault in struck}
        size = max((fault.size or 0 for fault in struck), default=0) or _HUGE_BYTES
        before = [
            said
            for kind, said in (
                ("error_frame", self.stream.error),
                ("plain_text", self.stream.plain),
                ("bad_json", message.payload[: len(message.payload) // 2]),
                ("echoed_address", self._echo),
                ("unknown_type", b'{"type":"surprise","data":{"of":"a new kind"}}'),
            )
            if kind in kinds
        ]
        if "huge_frame" in kinds:
            before.append(b'{"type":"surprise","data":"' + b"x" * (size - 29) + b'"}')
        self.say(*before)
        if "bomb" in kinds:
            self._wire.write(bomb(size))
        if "price_update" in kinds:
            message = self.stream.with_update(message)
        if "sent_late" in kinds and not self._late:
            self._late.append(message)
            return
        now = [message] * (2 if "sent_twice" in kinds else 1) + self._late
        self._late = []
        whole = (in_pieces(each.payload) if "in_pieces" in kinds else framed([each.payload]) for each in now)
        if self._wire.write(b"".join(whole)):
            self._note(now)

    @property
    def _echo(self) -> bytes:
        return msgspec.json.encode({"type": "error", "msg": f"bad request to {self.socket.url}"})

    def _note(self, messages: Sequence[Message]) -> None:
        add, opened = self._ledger.add, self._opened
        opened.n_messages += len(messages)
        for message in messages:
            for held in message.holds:
                add(opened, held)


def _due(message: Message) -> int:
    return message.due_us


class Stream(ABC):
    """A service's websocket. A subclass says how it is subscribed to and what its messages are."""

    paths: tuple[str, ...] = ("/ws",)
    venue: str | None = None
    pulse_s = 60.0
    error: bytes
    plain: bytes = b"Internal server error, please try again later"

    def __init__(self, service: str, market: Market, state: SandboxState) -> None:
        self.service, self.market, self.state = service, market, state

    def routes(self) -> list[WebSocketRoute]:
        """The routes below the service's own."""
        return [WebSocketRoute(path, self._meet, name=f"{self.service}.ws") for path in self.paths]

    async def _meet(self, socket: WebSocket) -> None:
        refused, struck = await self.state.met(f"{self.service}.ws")
        if any(fault.kind == "geo_block" for fault in struck):
            refused = json_reply(451, {"msg": "Service unavailable from a restricted location"})
        if self.is_down():
            refused = json_reply(503, {"msg": "Service Unavailable"})
        refused = refused or self.refused(socket)
        if refused is not None:
            await socket.send_denial_response(refused)
            return
        await socket.accept()
        await Connection(self, socket, struck).run()

    @property
    def tape(self) -> Tape:
        """The trades, with what has happened by now."""
        return tape_of(self.market, self.state.events)

    def is_down(self) -> bool:
        """Whether the venue is out."""
        return self.venue is not None and self.tape.is_down(self.venue, self.state.now())

    def happened(self, start: datetime, end: datetime, markets: Collection[str] | None = None) -> list[Traded]:
        """Every trade in [start, end), by time: of these markets, else of those that were subscribed to."""
        wanted = list(self.state.ledger.markets.get(self.service, ())) if markets is None else list(markets)
        first, last = microseconds(start), microseconds(end)
        rows = [row for market_id in wanted for row in self.truth(market_id, first, last)]
        return sorted(rows, key=lambda row: row.traded_us)

    def trades(self, spot: SpotMarket, start: int, end: int) -> Trades:
        """The trades of [start, end) that the stream does not keep to itself."""
        trades = self.tape.trades_us(spot.market_id, start, end)
        hidden = self.tape.hidden(spot.market_id, "stream", self.state.now())
        return trades.where(~within(trades.time_us, hidden)) if hidden else trades

    def before(self, symbols: Sequence[str], us: int, n: int) -> list[Message]:
        """The last ``n`` messages before a moment, as far back as a week."""
        width = 60 * SECOND_US
        while True:
            found = self.messages(symbols, us - width, us)
            if len(found) >= n or width >= _REPLAY_US:
                return found[-n:]
            width *= 4

    # What a service says

    @abstractmethod
    def spots(self) -> Mapping[str, SpotMarket]:
        """The markets that are listed now, by the service's symbols."""

    def markets(self, symbols: Iterable[str]) -> list[str]:
        """The market ids of symbols."""
        spots = self.spots()
        return [spots[name].market_id for name in symbols if name in spots]

    @abstractmethod
    def messages(self, symbols: Sequence[str], start: int, end: int) -> list[Message]:
        """What is sent about [start, end) microseconds, by when it is due; it ends where a window does."""

    @abstractmethod
    def truth(self, market_id: str, start: int, end: int) -> list[Traded]:
        """What happened in a market in [start, end) microseconds."""

    @abstractmethod
    async def greet(self, connection: Connection) -> None:
        """After the handshake."""

    @abstractmethod
    async def heard(self, connection: Connection, text: str) -> None:
        """A message of the client's."""

    def window_us(self, speed: float) -> int:
        """Messages hold what happened in one such span of the market's time; 1: each trade is sent by itself."""
        return 1

    def pulse(self, connection: Connection) -> list[bytes]:
        """What is said every ``pulse_s`` seconds."""
        return []

    def refused(self, socket: WebSocket) -> Response | None:
        """The answer to a handshake that is refused."""
        return None

    def left(self, connection: Connection) -> None:  # noqa: B027 - most services have nothing to do
        """A connection is over."""

    def with_update(self, message: Message) -> Message:
        """The message with a price that is no trade, where the service has such."""
        return message
