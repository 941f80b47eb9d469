"""The collector: one websocket of one feed, kept open, and all that it says put on disk.

What belongs here: connecting, the watchdog, reconnecting, holes, and dealing messages into blocks. What a message means
is the feed's (``providers/``), where blocks go is ``journal.py`` and the transports.

Messages wait in memory until their block is on disk, at most ``most_s`` or ``most_bytes`` of them: that is what a kill
may cost, and it is a hole like any other. Where the disk stands still the socket is no longer read, so that the sender
waits: trades are never dropped. Of a feed that has prices only the oldest are, and counted.

A hole ``[t0, t1)`` is written down each time that messages may have been missed: from the last one before to the first
one after, with a margin for those that were on their way.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import msgspec
from picows import WSCloseCode, WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from crypto_assets.errors import NeedsYouError, TransientError
from crypto_assets.providers.feed import Control, Feed, Sign, printable
from crypto_assets.resources.clock import Clock
from crypto_assets.stream.blocks import TOLD_TO_STOP, Block, Event, hole
from crypto_assets.stream.journal import Journal

log = logging.getLogger(__name__)

_US = 1_000_000
# The largest message of any feed is a tenth of it.
MOST_MESSAGE_BYTES = 2**20
# After a disk has stood still more is waiting than one record of Kinesis (1 MiB, compressed) or Kafka can hold.
_MOST_BLOCK_BYTES = 2**20
# So many unreadable messages in a row are another protocol, and a new connection may bring back the known one.
_MOST_BAD = 20
# A quiet market is no dead connection: where a new one says nothing either, patience doubles so often.
_MOST_PATIENCE = 4
# What a provider complains of is shown once a connection, and so many complaints at most.
_MOST_SHOWN = 20
# The handshake's answers after which trying again at once makes it worse: no key, wrong key, no plan, too often.
_DENIALS = frozenset({401, 402, 403, 429})
# Shorter keys are none, and would be found in every price.
_LEAST_KEY = 8
# For the websocket library, whose words would hold the address, and with it the key: apart from all other loggers, so
# that no configuration makes it heard.
_UNHEARD = logging.Logger("crypto_assets.stream.unheard", logging.CRITICAL + 1)  # noqa: LOG001
# How long a collector that was killed keeps others from its feed.
LEASE_S = 30.0


@dataclass(frozen=True)
class Subscription:
    """What one connection is for.

    Attributes:
        feed: the feed.
        markets: provider's symbol to market or asset.
        address: the base address; the feed's own, or the sandbox's.
        key: the key, or None; what is shown of a subscription leaves it out.
    """

    feed: Feed
    markets: Mapping[str, str]
    address: str
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Pace:
    """How long a collector waits for what, in seconds, and how much it holds meanwhile.

    Attributes:
        handshake: for the provider's answer to the handshake.
        ping_every, ping_reply: a connection that is silent for so long is asked for a sign, and has so long to give it.
        first_wait, longest_wait: a new connection is tried after a random time up to the first, doubled each time up to
            the longest (full jitter); at least half the longest where the provider refuses.
        stable: a connection that held for so long makes the next wait a first one.
        counts_every: between two events that say what was counted.
        retry_disk: before a disk that refused is tried again.
        most_waiting_bytes: held in memory, beside the block that is being written.
    """

    handshake: float = 15.0
    ping_every: float = 10.0
    ping_reply: float = 10.0
    first_wait: float = 1.0
    longest_wait: float = 60.0
    stable: float = 60.0
    counts_every: float = 60.0
    retry_disk: float = 1.0
    most_waiting_bytes: int = 16 * 2**20


@dataclass
class _Filling:
    """Messages that are not on disk yet."""

    frames: list[bytes] = field(default_factory=list)
    received_us: list[int] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    n_bytes: int = 0

    def count(self, event: Event) -> None:
        """Add an event; of many that are alike there is one, which counts them."""
        for place, known in enumerate(self.events):
            if known.kind == event.kind and known.subject == event.subject:
                self.events[place] = msgspec.structs.replace(known, ends_us=event.ends_us, n=known.n + event.n)
                return
        self.events.append(event)

    def parts(self) -> list[_Filling]:
        """The same in parts that one record of a transport can hold, the events before the messages."""
        if self.n_bytes + sum(map(_size, self.events)) <= _MOST_BLOCK_BYTES:
            return [self]
        found, room = [_Filling()], _MOST_BLOCK_BYTES

        def part_for(size: int) -> _Filling:
            nonlocal room
            if size > room and (found[-1].frames or found[-1].events):
                found.append(_Filling())
                room = _MOST_BLOCK_BYTES
            room -= size
            return found[-1]

        for event in _joined(self.events):
            part_for(_size(event)).events.append(event)
        for frame, received_us in zip(self.frames, self.received_us, strict=True):
            part = part_for(len(frame))
            part.frames.append(frame)
            part.received_us.append(received_us)
            part.n_bytes += len(frame)
        return found

    def without_oldest(self) -> Event:
        """Drop the older half of the messages, and say so."""
        n = (len(self.frames) + 1) // 2
        dropped = Event("dropped", self.received_us[0], self.received_us[n - 1], "the disk stood still", n=n)
        del self.frames[:n], self.received_us[:n]
        self.n_bytes = sum(map(len, self.frames))
        return dropped


def _size(event: Event) -> int:
    """How many bytes an event takes in a block, or a few more."""
    return 64 + len(event.detail.encode()) + len((event.subject or "").encode())


def _joined(events: Sequence[Event]) -> list[Event]:
    """The events; holes of one market that touch are one, with the reason of the first."""
    found: list[Event] = []
    holes: dict[str | None, int] = {}
    for event in events:
        place = holes.get(event.subject) if event.kind == "hole" else None
        if place is not None and found[place].starts_us <= event.starts_us <= found[place].ends_us:
            ends_us = max(found[place].ends_us, event.ends_us)
            found[place] = msgspec.structs.replace(found[place], ends_us=ends_us)
            continue
        if event.kind == "hole":
            holes[event.subject] = len(found)
        found.append(event)
    return found


class Collector:
    """Keeps one connection open and its messages on disk, until it is told to stop.

    Args:
        subscription: what for.
        journal: where to.
        clock: the time.
        rng: jitter.
        most_s, most_bytes: a block is written when its first message is so old or it holds so much.
        may_connect: asked before each connection and every few seconds; raises NeedsYouError where another collector
            holds the feed, TransientError where that cannot be found out.
        tell: what a person should see, in one line.
        pace: how long it waits for what.
    """

    def __init__(
        self,
        subscription: Subscription,
        journal: Journal,
        *,
        clock: Clock,
        rng: random.Random,
        most_s: float = 0.2,
        most_bytes: int = 2**18,
        may_connect: Callable[[], None] = lambda: None,
        tell: Callable[[str], None] = log.warning,
        pace: Pace = Pace(),
    ) -> None:
        self._sub = subscription
        self._feed = subscription.feed
        self._journal = journal
        self._clock = clock
        self._rng = rng
        self._most_s, self._most_bytes = most_s, most_bytes
        self._may_connect = may_connect
        self._tell = tell
        self._pace = pace
        self._secrets = _forms(subscription.key)
        self._filling = _Filling()
        self._full = asyncio.Event()
        self._transport: WSTransport | None = None
        self._is_paused = False
        self._is_over = False
        self._n_bad = 0
        self._n_silent = 0
        self._problem = "not connected yet"
        self._shown: set[str] = set()
        self._newest_us = _newest(journal.last)
        self._reason = "the collector was not running"
        self._hole_from_us: int | None = self._newest_us or None
        self.counts: Counter[str] = Counter()

    @property
    def is_connected(self) -> bool:
        """Whether a connection is open."""
        return self._transport is not None

    @property
    def problem(self) -> str:
        """Why no connection is open; empty where one is."""
        return "" if self.is_connected else self._problem

    @property
    def newest_us(self) -> int | None:
        """Our clock at the newest message, microseconds since 1970."""
        return self._newest_us or None

    # ---- the life of a collector ----

    async def run(self, stop: asyncio.Event) -> None:
        """Collect until told to stop; then what is in memory is on disk and the connection closed.

        Raises:
            NeedsYouError: another collector holds the feed; or the disk refuses what is in memory at the end.
        """
        writer = asyncio.create_task(self._write())
        others = [asyncio.create_task(work()) for work in (self._stay_connected, self._keep_lease, self._count)]
        stopping = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait({stopping, writer, *others}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (stopping, *others):
                task.cancel()
            await asyncio.gather(stopping, *others, return_exceptions=True)
            now = self.now_us()
            self._event(Event("stopped", now, now, TOLD_TO_STOP if stop.is_set() else "failed"))
            self._is_over = True
            self._full.set()
            await writer
        for task in done:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            # A store that is away for a moment does not end a stream: others cannot take the lease there either.
            with contextlib.suppress(TransientError):
                await asyncio.to_thread(self._may_connect)

    async def _stay_connected(self) -> None:
        pace, n_failures = self._pace, 0
        while True:
            opened = self._clock.monotonic()
            try:
                await asyncio.to_thread(self._may_connect)
                reason, is_denied = await self._connection()
            except TransientError as error:
                reason, is_denied = str(error), False
            now = self.now_us()
            if self._clock.monotonic() - opened >= pace.stable:
                n_failures = 0
            self.counts["lost"] += 1
            self._problem = reason
            self._event(Event("lost", now, now, reason))
            most = min(pace.longest_wait, pace.first_wait * 2 ** min(n_failures, 30))
            n_failures += 1
            wait = self._rng.uniform(0, most)
            if is_denied:
                wait = pace.longest_wait * self._rng.uniform(0.5, 1.0)
            hint = f"; check {self._feed.key_name}" if is_denied and self._feed.key_name else ""
            self._tell(f"{self._feed.name}: {reason}{hint}; connecting again in {wait:.1f} s, what is missed is noted")
            await asyncio.sleep(wait)

    async def _connection(self) -> tuple[str, bool]:
        """One connection from its handshake to its end: why it ended, and whether the provider refuses us."""
        listener = _Listener(self)
        sub = self._sub
        try:
            transport, _ = await ws_connect(
                lambda: listener,
                self._feed.address(sub.address, list(sub.markets), sub.key),
                websocket_handshake_timeout=self._pace.handshake,
                logger_name=_UNHEARD,
                max_frame_size=MOST_MESSAGE_BYTES,
                max_redirects=0,
                extra_headers=dict(self._feed.headers(sub.key)),
            )
        except (WSError, OSError, TimeoutError, ValueError) as error:
            return _refusal(error), _status(error) in _DENIALS
        try:
            for message in self._feed.opening(list(sub.markets)):
                transport.send(WSMsgType.TEXT, message.encode())
            await self._watch(listener, transport)
        finally:
            self._transport = None
            if not transport.is_disconnected:
                transport.send_close(WSCloseCode.OK)
                transport.disconnect()
        return listener.reason or self.goodbye(transport), listener.is_denied

    async def _watch(self, listener: _Listener, transport: WSTransport) -> None:
        """Until the connection ends, or says nothing for too long."""
        pace, clock = self._pace, self._clock
        patience = self._feed.silent_after * 2**self._n_silent
        asked: float | None = None
        ended = asyncio.create_task(transport.wait_disconnected())
        try:
            while not (await asyncio.wait({ended}, timeout=min(1.0, patience / 4, pace.ping_reply / 4)))[0]:
                now = clock.monotonic()
                if self._is_paused:
                    # We do not listen: that nothing is heard says nothing.
                    listener.heard = listener.alive = now
                    asked = None
                    continue
                silent = now - listener.heard
                if asked is not None and listener.alive >= asked:
                    asked = None
                if silent >= patience:
                    self._n_silent = min(self._n_silent + 1, _MOST_PATIENCE)
                    self._give_up(listener, transport, f"silent for {silent:.0f} s", silent)
                elif asked is not None and now - asked >= pace.ping_reply:
                    self._give_up(listener, transport, f"no answer to a ping for {now - asked:.0f} s", silent)
                elif asked is None and now - listener.alive >= pace.ping_every:
                    asked = now
                    transport.send_ping()
        finally:
            if ended.done() and not ended.cancelled():
                # What the library found wrong is in the close that it sent.
                ended.exception()
            ended.cancel()

    def _give_up(self, listener: _Listener, transport: WSTransport, reason: str, silent: float) -> None:
        """End a connection that is dead; it takes no goodbye."""
        listener.reason = reason
        now = self.now_us()
        self.counts["silent"] += 1
        self._event(Event("silent", now - int(silent * _US), now, reason))
        transport.disconnect(graceful=False)

    # ---- messages ----

    def opened(self, transport: WSTransport) -> None:
        """The handshake is done."""
        self._transport, self._is_paused = transport, False
        self._n_bad = 0
        self._shown.clear()
        now = self.now_us()
        self.counts["opened"] += 1
        self._event(Event("opened", now, now, f"{len(self._sub.markets)} symbols", n=len(self._sub.markets)))

    def data(self, message: bytes, now: int) -> None:
        """A message that holds trades or prices, and our clock at it. Tens of thousands a second come by here."""
        if self._is_over:
            # On its way while we said goodbye: it is in the hole that the next start notes.
            return
        filling = self._filling
        if self._hole_from_us is not None:
            self._close_hole(now)
        if self._n_silent and now - self._newest_us < self._feed.silent_after * _US:
            self._n_silent = 0
        self._newest_us = now
        self._n_bad = 0
        filling.frames.append(self._redacted(message) if self._secrets else message)
        received = filling.received_us
        received.append(received[-1] if received and received[-1] > now else now)
        filling.n_bytes += len(message)
        if filling.n_bytes >= self._most_bytes:
            self._full.set()
        if filling.n_bytes >= self._pace.most_waiting_bytes:
            self._hold_back(filling)

    def control(self, message: bytes) -> Control:
        """A message that holds none."""
        told = self._feed.control(self._redacted(message))
        now = self.now_us()
        self._n_bad = self._n_bad + 1 if told.sign is Sign.BAD else 0
        if told.sign is Sign.REFUSED:
            self.counts["refused"] += 1
            market = self._sub.markets.get(told.symbol or "", told.symbol)
            self._filling.count(Event("refused", now, now, told.detail, subject=market, n=1))
            self._show(f"{told.symbol or 'a symbol'} is refused ({told.detail}); the others go on")
        elif told.sign in {Sign.ERROR, Sign.DENIED}:
            self.counts["errors"] += 1
            self._filling.count(Event("error", now, now, told.detail, n=1))
            self._show(f"the provider says: {told.detail}")
        elif told.sign is Sign.BAD:
            self.counts["bad"] += 1
            self._filling.count(Event("bad", now, now, told.detail, n=1))
        return told

    @property
    def is_babble(self) -> bool:
        """Whether nothing readable came for so long that it is another protocol."""
        return self._n_bad >= _MOST_BAD

    def lost(self, reason: str) -> None:
        """The connection is gone."""
        self._transport = None
        if self._hole_from_us is None:
            self._hole_from_us = self._newest_us or self.now_us()
        self._reason = reason

    def goodbye(self, transport: WSTransport) -> str:
        """Why a connection ended, as far as its end says."""
        told: Any = transport.close_handshake
        if told is not None and told.recv is not None and (told.recv_then_sent or told.sent is None):
            reason = printable(self._redacted((told.recv.reason or "").encode()))[:100]
            return f"closed by the provider ({int(told.recv.code)}{': ' + reason if reason else ''})"
        if told is not None and told.sent is not None:
            said = printable((told.sent.reason or "").encode())[:100]
            return f"the provider broke the protocol ({int(told.sent.code)}: {said})"
        return "the connection broke off"

    def _close_hole(self, now: int) -> None:
        # A clock that was set back in between would end it before it begins.
        start = min(self._hole_from_us or now, now)
        self._hole_from_us = None
        self.counts["holes"] += 1
        for market in sorted(set(self._sub.markets.values())):
            self._event(hole(start, now, self._reason, market))

    def _show(self, line: str) -> None:
        """Tell people, once a connection."""
        if line not in self._shown and len(self._shown) < _MOST_SHOWN:
            self._shown.add(line)
            self._tell(f"{self._feed.name}: {line}")

    def _redacted(self, message: bytes) -> bytes:
        """The message without our key, should the provider repeat it."""
        for secret in self._secrets:
            if secret in message:
                message = message.replace(secret, b"[redacted]")
        return message

    def _event(self, event: Event) -> None:
        self._filling.events.append(event)

    def now_us(self) -> int:
        """Our clock, microseconds since 1970."""
        return int(self._clock.now().timestamp() * _US)

    # ---- blocks ----

    async def _write(self) -> None:
        """Put blocks on disk as they fill, one after the other, until it is over and nothing is left."""
        while True:
            if not self._is_over:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._full.wait(), self._most_s)
            self._full.clear()
            filling = self._filling
            if filling.frames or filling.events:
                self._filling = _Filling()
                newest_us = self._newest_us
                *parts, last = filling.parts()
                for part in parts:
                    # What is still in memory would be missed if this were the last to reach the disk.
                    await self._put(part, part.received_us[-1] if part.received_us else _newest(self._journal.last))
                await self._put(last, newest_us)
                self._resume()
            elif self._is_over:
                return

    async def _put(self, filling: _Filling, newest_us: int) -> None:
        block = Block(
            self._journal.collector,
            self._journal.next_number,
            self._journal.lanes,
            self._feed.name,
            dict(self._sub.markets),
            filling.received_us,
            filling.frames,
            filling.events,
            newest_us,
            self._journal.since,
        )
        n_tries = 0
        while True:
            try:
                await asyncio.to_thread(self._journal.append, block)
            except NeedsYouError as error:
                n_tries += 1
                if n_tries == 1:
                    self._tell(str(error))
                if self._is_over:
                    raise
                await asyncio.sleep(self._pace.retry_disk)
                continue
            break
        if n_tries:
            now = self.now_us()
            self._event(
                Event("full", block.received_us[0] if block.received_us else now, now, "the disk stood still", n=1)
            )
            self._tell(f"{self._feed.name}: the journal is written again; nothing that had come was lost")
        self.counts["messages"] += len(block.frames)
        self.counts["blocks"] += 1
        self.counts["bytes"] += filling.n_bytes

    def _hold_back(self, filling: _Filling) -> None:
        """More waits for the disk than memory is meant for: let the sender wait, or drop what may be dropped."""
        if not self._feed.has_trades:
            dropped = filling.without_oldest()
            self.counts["dropped"] += dropped.n
            filling.count(dropped)
            return
        if self._transport is not None and not self._is_paused:
            self._is_paused = True
            self._transport.underlying_transport.pause_reading()

    def _resume(self) -> None:
        if self._transport is not None and self._is_paused:
            self._is_paused = False
            self._transport.underlying_transport.resume_reading()

    async def _count(self) -> None:
        """Say once a minute what was counted since the start."""
        while True:
            await asyncio.sleep(self._pace.counts_every)
            now = self.now_us()
            self._event(Event("counts", now, now, json.dumps(dict(sorted(self.counts.items())))))


def _newest(block: Block | None) -> int:
    """Our clock at the newest message that is in this block or before it; 0 for none."""
    return 0 if block is None else max([block.newest_us, *block.received_us[-1:]])


# Looking them up in their enumeration takes longer than comparing them.
_TEXT, _BINARY, _CONTINUATION, _CLOSE = WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION, WSMsgType.CLOSE


class _Listener(WSListener):
    """One connection's messages, handed to the collector."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._data = collector.data
        self._is_data = collector._feed.is_data
        self._clock = collector._clock
        self._parts: bytearray | None = None
        # What one read of the socket brings has come at one moment, and asking the clock costs as much as the rest.
        self._now_us = 0
        self._is_read_over = True
        # When it last said something, and when it last gave any sign of life.
        self.heard = self.alive = collector._clock.monotonic()
        self.reason = ""
        self.is_denied = False

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._collector.opened(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if self._is_read_over:
            self.alive = self._clock.monotonic()
            self._now_us = self._collector.now_us()
        self._is_read_over = frame.last_in_buffer
        try:
            self._hear(transport, frame, kind)
        except WSError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told and the connection opened anew
            # Left to the library it would look like the provider's fault. Its words may hold what the provider said.
            what, place = type(error).__name__, traceback.extract_tb(error.__traceback__)[-1]
            log.error(
                "%s: %s in our own code, %s line %s", self._collector._feed.name, what, place.filename, place.lineno
            )
            self._end(transport, f"{what} in the collector's own code")

    def _hear(self, transport: WSTransport, frame: WSFrame, kind: WSMsgType) -> None:
        if kind is _CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()
            return
        if kind is not _TEXT and kind is not _CONTINUATION and kind is not _BINARY:
            return
        self.heard = self.alive
        if frame.rsv1:
            # Nothing was agreed that packs messages: what would unpack to a gigabyte is never unpacked.
            self._end(transport, "a compressed message, which was not agreed on")
            return
        message = frame.get_payload_as_bytes()
        if not frame.fin or self._parts is not None:
            if self._parts is None:
                self._parts = bytearray()
            self._parts += message
            if len(self._parts) > MOST_MESSAGE_BYTES:
                self._end(transport, f"a message of more than {MOST_MESSAGE_BYTES} bytes")
                return
            if not frame.fin:
                return
            message, self._parts = bytes(self._parts), None
        if self._is_data(message):
            self._data(message, self._now_us)
            return
        told = self._collector.control(message)
        if told.sign is Sign.DENIED:
            self.is_denied = True
            self._end(transport, told.detail)
        elif self._collector.is_babble:
            self._end(transport, f"{_MOST_BAD} unreadable messages in a row")

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._collector.lost(self.reason or self._collector.goodbye(transport))

    def _end(self, transport: WSTransport, reason: str) -> None:
        self.reason = self.reason or reason
        transport.disconnect(graceful=False)


def _status(error: Exception) -> int | None:
    response: Any = getattr(error, "response", None)
    return None if response is None else int(response.status)


def _refusal(error: Exception) -> str:
    status = _status(error)
    if status is not None:
        return f"the handshake was refused with HTTP {status}"
    # Without its text: it may hold the address, and the address may hold the key.
    return f"no connection ({type(error).__name__})"


def _forms(key: str | None) -> tuple[bytes, ...]:
    """A key as a provider may repeat it."""
    if key is None or len(key) < _LEAST_KEY:
        return ()
    return tuple({form.encode() for form in (key, quote(key, safe=""), json.dumps(key)[1:-1], key.replace("/", "\\/"))})


def symbols(feed: Feed, markets: Sequence[str]) -> dict[str, str]:
    """The feed's symbols of our markets or assets, those that it has, at most as many as it allows."""
    found = {symbol: market for market in markets if (symbol := feed.symbol(market)) is not None}
    return dict(list(found.items())[: feed.max_symbols])
