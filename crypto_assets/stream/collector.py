"""The collector: one websocket of one feed, kept open, and all that it says put on disk.

What belongs here: connecting, the watchdog, reconnecting, holes, and dealing messages into blocks. What a message means
is the feed's (``providers/``), where blocks go is ``journal.py`` and the transports.

Messages wait in memory until their block is on disk, at most ``most_s`` or ``most_bytes`` of them: that is what a kill
may cost, and it is a hole like any other. Where the disk stands still the socket is no longer read, so that the sender
waits: trades are never dropped, prices are, and counted.

A hole ``[t0, t1)`` is written down each time that messages may have been missed: from the last one before to the first
one after, with a margin for those that were on their way.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from picows import WSAutoPingStrategy, WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from crypto_assets.errors import NeedsYouError
from crypto_assets.providers.feed import Control, Feed, Sign
from crypto_assets.resources.clock import Clock
from crypto_assets.stream.blocks import Block, Event
from crypto_assets.stream.journal import Journal

log = logging.getLogger(__name__)

_US = 1_000_000
# A trade may be a moment older than its message, and a subscription takes effect a moment after it is sent.
MARGIN_US = 5 * _US
# The largest message of any feed is a tenth of it.
_MOST_MESSAGE_BYTES = 2**20
_HANDSHAKE_S = 15.0
_PING_EVERY_S, _PING_REPLY_S = 10.0, 10.0
# Full jitter between nothing and this, doubled each time; a connection that held so long begins anew.
_FIRST_WAIT_S, _LONGEST_WAIT_S, _STABLE_S = 0.5, 60.0, 60.0
# So many unreadable messages in a row are another protocol, and a new connection may bring back the known one.
_MOST_BAD = 20
_COUNTS_EVERY_S = 60.0
# What may wait in memory, beside the block that is being written, before the socket is no longer read.
_MOST_WAITING_BYTES = 16 * 2**20
_RETRY_DISK_S = 1.0
# How long a collector that was killed keeps others from its feed.
LEASE_S = 30.0


@dataclass(frozen=True)
class Subscription:
    """What one connection is for.

    Attributes:
        feed: the feed.
        markets: provider's symbol to market or asset.
        address: the base address; the feed's own, or the sandbox's.
        key: the key, or None.
    """

    feed: Feed
    markets: Mapping[str, str]
    address: str
    key: str | None = None


@dataclass
class _Filling:
    """Messages that are not on disk yet."""

    frames: list[bytes] = field(default_factory=list)
    received_us: list[int] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    n_bytes: int = 0


class Collector:
    """Keeps one connection open and its messages on disk, until it is told to stop.

    Args:
        subscription: what for.
        journal: where to.
        clock: the time.
        rng: jitter.
        most_s, most_bytes: a block is written when its first message is so old or it holds so much.
        may_connect: asked before each connection and every few seconds; raises where another collector holds the feed.
        tell: what a person should see, in one line.
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
    ) -> None:
        self._sub = subscription
        self._feed = subscription.feed
        self._journal = journal
        self._clock = clock
        self._rng = rng
        self._most_s, self._most_bytes = most_s, most_bytes
        self._may_connect = may_connect
        self._tell = tell
        self._filling = _Filling()
        self._full = asyncio.Event()
        self._transport: WSTransport | None = None
        self._is_paused = False
        self._is_over = False
        self._n_bad = 0
        self._known_us = self._newest_known_us()
        self._reason = "the collector was not running" if self._known_us else ""
        self._hole_from_us: int | None = self._known_us
        self.counts: Counter[str] = Counter()

    def _newest_known_us(self) -> int | None:
        last = self._journal.last
        if last is None:
            return None
        return max([*last.received_us[-1:], *(event.ends_us for event in last.events)], default=None)

    # ---- the life of a collector ----

    async def run(self, stop: asyncio.Event) -> None:
        """Collect until told to stop; then what is in memory is on disk and the connection closed.

        Raises:
            NeedsYouError: the key is refused at the first try, or another collector holds the feed.
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
            if self._transport is not None:
                self._transport.disconnect(graceful=False)
            now = self._now_us()
            self._event(Event("stopped", now, now, "told to stop" if stop.is_set() else "failed"))
            self._is_over = True
            self._full.set()
            await writer
        for task in done:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            await asyncio.to_thread(self._may_connect)

    async def _stay_connected(self) -> None:
        n_failures = 0
        while True:
            await asyncio.to_thread(self._may_connect)
            opened = self._clock.monotonic()
            reason, is_denied = await self._connection()
            now = self._now_us()
            if self._clock.monotonic() - opened >= _STABLE_S:
                n_failures = 0
            n_failures += 1
            self.counts["lost"] += 1
            self._event(Event("lost", now, now, reason))
            wait = self._rng.uniform(0, min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**n_failures))
            if is_denied:
                wait = _LONGEST_WAIT_S * self._rng.uniform(0.5, 1.0)
            self._tell(
                f"{self._feed.name}: {reason}; connecting again in {wait:.1f} s, what is missed meanwhile is noted"
            )
            await asyncio.sleep(wait)

    async def _connection(self) -> tuple[str, bool]:
        """One connection from its handshake to its end: why it ended, and whether the key was refused."""
        listener = _Listener(self)
        sub = self._sub
        try:
            transport, _ = await ws_connect(
                lambda: listener,
                self._feed.address(sub.address, list(sub.markets), sub.key),
                websocket_handshake_timeout=_HANDSHAKE_S,
                # Its messages would hold the address, and with it the key.
                logger_name="crypto_assets.stream.silent",
                enable_auto_ping=True,
                auto_ping_idle_timeout=_PING_EVERY_S,
                auto_ping_reply_timeout=_PING_REPLY_S,
                auto_ping_strategy=WSAutoPingStrategy.PING_WHEN_IDLE,
                max_frame_size=_MOST_MESSAGE_BYTES,
                max_redirects=0,
                extra_headers=dict(self._feed.headers(sub.key)),
            )
        except (WSError, OSError, TimeoutError, ValueError) as error:
            return _refusal(error), _status(error) in {401, 403}
        self._transport = transport
        self._is_paused = False
        try:
            for message in self._feed.opening(list(sub.markets)):
                transport.send(WSMsgType.TEXT, message.encode())
            await self._watch(listener, transport)
        finally:
            self._transport = None
        return listener.reason or _goodbye(transport), listener.is_denied

    async def _watch(self, listener: _Listener, transport: WSTransport) -> None:
        """Until the connection ends, or says nothing for too long."""
        ended = asyncio.create_task(transport.wait_disconnected())
        try:
            while not (await asyncio.wait({ended}, timeout=min(1.0, self._feed.silent_after / 4)))[0]:
                silent = self._clock.monotonic() - listener.heard
                if silent >= self._feed.silent_after and not self._is_paused:
                    listener.reason = f"silent for {silent:.0f} s"
                    now = self._now_us()
                    self._event(Event("silent", now - int(silent * _US), now, listener.reason))
                    transport.disconnect(graceful=False)
        finally:
            ended.cancel()

    # ---- messages ----

    def opened(self) -> None:
        """The handshake is done."""
        now = self._now_us()
        self.counts["opened"] += 1
        self._event(Event("opened", now, now, f"{len(self._sub.markets)} symbols", n=len(self._sub.markets)))

    def data(self, message: bytes) -> None:
        """A message that holds trades or prices."""
        now = self._now_us()
        filling = self._filling
        if self._hole_from_us is not None:
            self._close_hole(now)
        self._known_us = now
        self._n_bad = 0
        filling.frames.append(message)
        filling.received_us.append(max(now, filling.received_us[-1]) if filling.received_us else now)
        filling.n_bytes += len(message)
        if filling.n_bytes >= self._most_bytes:
            self._full.set()
            if filling.n_bytes >= _MOST_WAITING_BYTES:
                self._pause()

    def control(self, message: bytes) -> Control:
        """A message that holds none."""
        told = self._feed.control(message)
        now = self._now_us()
        if told.sign is Sign.REFUSED:
            self.counts["refused"] += 1
            market = self._sub.markets.get(told.symbol or "")
            self._event(Event("refused", now, now, told.detail, subject=market, n=1))
            self._tell(f"{self._feed.name}: {told.symbol or 'a symbol'} is refused ({told.detail}); the others go on")
        elif told.sign in {Sign.ERROR, Sign.DENIED}:
            self.counts["errors"] += 1
            self._event(Event("error", now, now, told.detail, n=1))
            self._tell(f"{self._feed.name}: the provider says: {told.detail}; the connection goes on while it lasts")
        elif told.sign is Sign.BAD:
            self.counts["bad"] += 1
            self._n_bad += 1
            self._event(Event("bad", now, now, told.detail, n=1))
        return told

    @property
    def is_babble(self) -> bool:
        """Whether nothing readable came for so long that it is another protocol."""
        return self._n_bad >= _MOST_BAD

    def lost(self, reason: str) -> None:
        """The connection is gone."""
        if self._hole_from_us is None:
            self._hole_from_us = self._known_us or self._now_us()
        self._reason = reason

    def _close_hole(self, now: int) -> None:
        start = self._hole_from_us or now
        self._hole_from_us = None
        self.counts["holes"] += 1
        for market in sorted(set(self._sub.markets.values())):
            self._event(Event("hole", start - MARGIN_US, now + MARGIN_US, self._reason, subject=market))

    def _event(self, event: Event) -> None:
        self._filling.events.append(event)

    def _now_us(self) -> int:
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
                await self._put(filling)
                self._resume()
            elif self._is_over:
                return

    async def _put(self, filling: _Filling) -> None:
        block = Block(
            self._journal.collector,
            self._journal.next_number,
            self._journal.lanes,
            self._feed.name,
            dict(self._sub.markets),
            filling.received_us,
            filling.frames,
            filling.events,
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
                await asyncio.sleep(_RETRY_DISK_S)
                continue
            break
        if n_tries:
            now = self._now_us()
            self._event(
                Event("full", block.received_us[0] if block.received_us else now, now, "the disk stood still", n=1)
            )
            self._tell(f"{self._feed.name}: the journal is written again; nothing that had come was lost")
        self.counts["messages"] += len(block.frames)
        self.counts["blocks"] += 1
        self.counts["bytes"] += filling.n_bytes

    def _pause(self) -> None:
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
            await asyncio.sleep(_COUNTS_EVERY_S)
            now = self._now_us()
            self._event(Event("counts", now, now, json.dumps(dict(sorted(self.counts.items())))))


class _Listener(WSListener):
    """One connection's messages, handed to the collector."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._is_data = collector._feed.is_data
        self._clock = collector._clock
        self._parts: list[bytes] = []
        self.heard = collector._clock.monotonic()
        self.reason = ""
        self.is_denied = False

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._collector.opened()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind is WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()
            return
        self.heard = self._clock.monotonic()
        if kind is not WSMsgType.TEXT and kind is not WSMsgType.CONTINUATION and kind is not WSMsgType.BINARY:
            return
        message = frame.get_payload_as_bytes()
        if not frame.fin or self._parts:
            self._parts.append(message)
            if sum(map(len, self._parts)) > _MOST_MESSAGE_BYTES:
                self.reason = "a message of more than 1 MiB"
                transport.disconnect(graceful=False)
                return
            if not frame.fin:
                return
            message, self._parts = b"".join(self._parts), []
        if self._is_data(message):
            self._collector.data(message)
            return
        told = self._collector.control(message)
        if told.sign is Sign.DENIED:
            self.is_denied, self.reason = True, told.detail
            transport.disconnect()
        elif self._collector.is_babble:
            self.reason = f"{_MOST_BAD} unreadable messages in a row"
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._collector.lost(self.reason or _goodbye(transport))


def _goodbye(transport: WSTransport) -> str:
    told = transport.close_handshake
    if told.recv is not None:
        reason = "".join(c for c in (told.recv.reason or "") if c.isprintable())[:100]
        return f"closed by the provider ({told.recv.code}{': ' + reason if reason else ''})"
    return "the connection broke off"


def _status(error: Exception) -> int | None:
    response: Any = getattr(error, "response", None)
    return None if response is None else int(response.status)


def _refusal(error: Exception) -> str:
    status = _status(error)
    if status is not None:
        return f"the handshake was refused with HTTP {status}"
    # Without its text: it may hold the address, and the address may hold the key.
    return f"no connection ({type(error).__name__})"


def symbols(feed: Feed, markets: Sequence[str]) -> dict[str, str]:
    """The feed's symbols of our markets or assets, those that it has, at most as many as it allows."""
    found = {symbol: market for market in markets if (symbol := feed.symbol(market)) is not None}
    return dict(list(found.items())[: feed.max_symbols])
