"""The consumer: blocks into ``raw.trades``, ``raw.stream_prices`` and ``raw.stream_events``, each exactly once.

One Delta commit of ``raw.trades`` holds the rows of a batch of blocks together with, as application transactions,

* where each channel was read up to (``<channel>#<part>``), from which the next consumer goes on, and
* the next block number of each collector's lane (``block/<lane>``), by which a repeated block is known.

The commit lands only where the table still says what this consumer believes of both: of two consumers of one channel,
a zombie after a lost lease or a rebalancing, one lands, the other finds the positions moved, forgets what it has in
hand and goes on from there. Prices and events are committed before, each with its own block numbers: what they hold of
a batch that is read again is left out.
"""

from __future__ import annotations

import gc
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Any

import polars as pl

from crypto_assets.errors import CryptoAssetsError, DataError, NeedsYouError, TransientError
from crypto_assets.providers.feed import Feed, Messages
from crypto_assets.resources.clock import Clock
from crypto_assets.resources.lake import Lake, PositionMoved
from crypto_assets.stream.blocks import Block, Event, app_of, hole
from crypto_assets.stream.transport import ChannelsChanged, Delivery, Position, Source
from crypto_assets.tables.contract import UTC_TIME, Contract, polars_schema
from crypto_assets.tables.stream import RawStreamEvents, RawStreamPrices, RawTrades
from crypto_assets.tables.trusted import CLOCK_SKEW
from crypto_assets.tables.window import DAY

log = logging.getLogger(__name__)

# Twenty files are quickly made one, and hardly slower to read than one; each commit makes one more.
_COMPACT_EVERY = 20
# Messages that are decoded together: some thousands. More no longer fit a processor's cache, and take twice as long.
_DECODED_BYTES = 2**20
_NO_EVENTS = pl.DataFrame(schema=polars_schema(RawStreamEvents))


@dataclass(frozen=True)
class Landing:
    """A batch that is in the lake.

    Attributes:
        n_trades, n_prices, n_events: rows of each table.
        version: of ``raw.trades``.
        positions: where each channel was read up to.
        newest_us: our clock at its newest message, microseconds since 1970; None where it has none.
        took_s: how long its commits took.
    """

    n_trades: int
    n_prices: int
    n_events: int
    version: int
    positions: Mapping[str, Position]
    newest_us: int | None
    took_s: float


@dataclass
class _Batch:
    """What was read and is not in the lake.

    Attributes:
        unread: blocks whose messages are not decoded yet, with what happened; how many messages, of how many bytes.
        trades: rows of blocks that are.
        beside: rows of the other tables, by table, each with its block's lane and number.
    """

    opened: float = 0.0
    n_rows: int = 0
    newest_us: int | None = None
    positions: dict[str, Position] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    unread: list[tuple[Block, list[Event]]] = field(default_factory=list)
    n_unread: int = 0
    n_unread_bytes: int = 0
    trades: list[pl.DataFrame] = field(default_factory=list)
    beside: dict[type[Contract], list[tuple[str, int, pl.DataFrame]]] = field(default_factory=dict)

    def add_beside(self, contract: type[Contract], block: Block, rows: pl.DataFrame) -> None:
        if len(rows):
            self.beside.setdefault(contract, []).append((app_of(block.lane), block.number, rows))
            self.n_rows += len(rows)


class Consumer:
    """Carries blocks from a source into the lake; a context manager.

    Args:
        lake: where to.
        source: made from what ``landed`` says: ``connect(landed)``.
        feeds: by name.
        clock: decides when a batch is due, and stamps nothing.
        most_rows, most_s: a batch is committed when it holds so many rows, or so many seconds after its first block.
    """

    def __init__(
        self,
        lake: Lake,
        connect: Callable[[Callable[[str], Position | None]], Source],
        feeds: Mapping[str, Feed],
        clock: Clock,
        *,
        most_rows: int = 100_000,
        most_s: float = 5.0,
    ) -> None:
        self._lake = lake
        self._feeds = feeds
        self._clock = clock
        self._most_rows, self._most_s = most_rows, most_s
        self._at: dict[str, Position | None] = {}
        self._next: dict[str, int | None] = {}
        self._batch = _Batch()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._writing: Future[Landing] | None = None
        # Beside the commits, which so wait for nothing.
        self._compactor = ThreadPoolExecutor(1, thread_name_prefix="compact")
        self._compacting: Future[None] | None = None
        self._n_landed = 0
        # Of which feeds our clock is behind.
        self._is_behind: dict[str, bool] = {}
        self._n_parts = 1
        self._source = connect(self.landed)
        self._n_parts = self._source.n_parts

    def __enter__(self) -> Consumer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.shutdown(wait=True, cancel_futures=True)
        self._compactor.shutdown(wait=True, cancel_futures=True)
        self._look_at_compaction()
        self._source.close()

    def landed(self, channel: str) -> Position | None:
        """Where the table says that a channel was read up to."""
        parts = [self._lake.landed(RawTrades, app) for app in _apps(channel, self._n_parts)]
        position = None if None in parts else tuple(part for part in parts if part is not None)
        self._at[channel] = position
        return position

    def step(self, seconds: float = 0.2) -> list[Landing]:
        """Read what there is, for at most ``seconds`` where nothing is, and commit a batch that is due.

        Returns:
            what has landed meanwhile.

        Raises:
            TransientError, NeedsYouError, DataError: of the source or the lake. Nothing is lost: the next step, here or
                in another process, goes on from what has landed.
        """
        done: list[Landing] = []
        problem: CryptoAssetsError | None = None
        try:
            self._take(self._source.poll(seconds))
        except ChannelsChanged:
            # What is being written belongs to channels that were ours: it lands, or finds the positions moved.
            done = self._finished(wait=True)
            self._restart()
        except (TransientError, NeedsYouError) as error:
            # A broker that is away keeps nobody from committing what is in hand.
            problem = error
        done += self._finished(wait=False)
        batch = self._batch
        if batch.n_unread_bytes >= _DECODED_BYTES:
            self._decode()
        if batch.positions and (
            batch.n_rows + batch.n_unread >= self._most_rows or self._clock.monotonic() - batch.opened >= self._most_s
        ):
            done += self._finished(wait=True)
            # A failed commit has emptied the batch: its blocks are read again.
            if self._batch is batch:
                self._submit()
        if problem is not None and not done:
            raise problem
        return done

    def flush(self) -> list[Landing]:
        """Commit what is in hand, and wait for it."""
        done = self._finished(wait=True)
        if self._batch.positions:
            self._submit()
            done += self._finished(wait=True)
        return done

    def _take(self, deliveries: Iterable[Delivery]) -> None:
        """Add all of them to the batch; where one cannot be added all that is not in the lake is read again."""
        try:
            for delivery in deliveries:
                self._add(delivery)
        except BaseException:
            self._restart()
            raise

    def _add(self, delivery: Delivery) -> None:
        batch, block = self._batch, delivery.block
        if not batch.positions:
            batch.opened = self._clock.monotonic()
        batch.positions[delivery.channel] = delivery.position
        if block is None:
            if delivery.problem:
                log.warning("%s: %s", delivery.channel, delivery.problem)
            return
        app = app_of(block.lane)
        if app not in self._next:
            self._next[app] = self._lake.landed(RawTrades, app)
        known = batch.numbers.get(app, self._next[app])
        # Of a lane that this lake knows nothing of, all that was before is lost to it, whoever had it.
        expected = block.first_of_lane if known is None else known
        if block.number < expected:
            return
        events = list(block.events)
        if block.number > expected:
            lost = _lost(block, expected)
            events.append(lost)
            log.warning("%s: %s", block.feed, lost.detail)
        batch.numbers[app] = block.number + block.lanes
        if block.feed not in self._feeds:
            raise DataError(
                f"a block of feed {block.feed!r}, which is not known here",
                where="stream",
                safe="nothing of it was taken, and it stays where it is",
                hint="run the consumer in the collector's version",
            )
        batch.unread.append((block, events))
        batch.n_unread += len(block.frames)
        batch.n_unread_bytes += sum(map(len, block.frames))
        if block.received_us:
            batch.newest_us = max(batch.newest_us or 0, block.received_us[-1])

    def _decode(self) -> None:
        """Make rows of the blocks that are waiting: many at once, since each call costs more than a small block."""
        # Of what is made of messages nothing refers to itself: looking for it meanwhile takes a tenth of the time.
        gc.disable()
        try:
            self._decode_into(self._batch)
        except BaseException:
            # What has been taken from the source and is in no batch would be missing.
            self._restart()
            raise
        finally:
            gc.enable()

    def _decode_into(self, batch: _Batch) -> None:
        unread, batch.unread, batch.n_unread, batch.n_unread_bytes = batch.unread, [], 0, 0
        for some in _alike(unread):
            blocks = [block for block, _ in some]
            feed = self._feeds[blocks[0].feed]
            decoded = feed.decode(_messages(blocks))
            ahead = self._ahead(feed, decoded.trades)
            if len(decoded.trades):
                batch.trades.append(decoded.trades)
                batch.n_rows += len(decoded.trades)
            of_block = decoded.prices.partition_by("pull_id", as_dict=True) if len(decoded.prices) else {}
            first = 0
            for block, events in some:
                last = first + len(block.frames)
                bad = {i - first: decoded.bad[i] for i in range(first, last) if i in decoded.bad}
                first = last
                missed = _unread(block, bad) if bad and feed.has_trades else []
                happened = [*events, *ahead.get(block.pull_id, ()), *missed]
                batch.add_beside(RawStreamEvents, block, _event_rows(block, happened, bad))
                if (block.pull_id,) in of_block:
                    batch.add_beside(RawStreamPrices, block, of_block[block.pull_id,])

    def _ahead(self, feed: Feed, trades: pl.DataFrame) -> dict[str, list[Event]]:
        """What there is to say, by block, of trades that are refused because our clock is far behind the venue's."""
        if trades.is_empty():
            return {}
        ahead = pl.col("traded_us") // 1000 - pl.col("ingested_at").dt.epoch("ms")
        skew, most = (limit // timedelta(milliseconds=1) for limit in (CLOCK_SKEW, DAY))
        # What is further ahead is no clock, but a bad time.
        refused = trades.filter((ahead > skew) & (ahead <= most), pl.col("subject").is_not_null())
        was_behind, self._is_behind[feed.name] = self._is_behind.get(feed.name, False), not refused.is_empty()
        if refused.is_empty():
            return {}
        if not was_behind:
            log.warning(
                "%s: our clock is %d s behind the venue's; what was traded meanwhile is refused and noted as holes, "
                "which are asked of the venue; set this machine's clock",
                feed.name,
                refused.select(ahead.max()).item() // 1000,
            )
        told: dict[str, list[Event]] = {}
        spans = refused.group_by("pull_id", "subject").agg(
            start=pl.col("traded_us").min(), end=pl.col("traded_us").max()
        )
        for pull_id, market, start, end in spans.sort("pull_id", "subject").iter_rows():
            told.setdefault(pull_id, []).append(hole(start, end, "our clock was behind the venue's", market))
        return told

    def _submit(self) -> None:
        self._decode()
        batch, self._batch = self._batch, _Batch()
        at, numbers = dict(self._at), dict(self._next)
        self._at.update(batch.positions)
        self._next.update(batch.numbers)
        self._writing = self._writer.submit(self._commit, batch, at, numbers)

    def _finished(self, *, wait: bool) -> list[Landing]:
        """The commit under way, where it is done; on any failure all that is not in the lake is read again."""
        if self._writing is None or not (wait or self._writing.done()):
            return []
        writing, self._writing = self._writing, None
        try:
            landing = writing.result()
        except PositionMoved as moved:
            log.warning("%s", moved)
            self._restart()
            return []
        except BaseException:
            self._restart()
            raise
        self._source.passed(dict(landing.positions))
        self._n_landed += 1
        if self._n_landed % _COMPACT_EVERY == 0 and (self._compacting is None or self._compacting.done()):
            self._look_at_compaction()
            self._compacting = self._compactor.submit(self._compact)
        return [landing]

    def _look_at_compaction(self) -> None:
        """Say what ended the last one before its time: nobody else asks."""
        last, self._compacting = self._compacting, None
        if last is not None and not last.cancelled() and (error := last.exception()) is not None:
            log.error("small files were left, reads become slower: %r", error, exc_info=error)

    def _compact(self) -> None:
        for contract in (RawTrades, RawStreamPrices, RawStreamEvents):
            try:
                self._lake.compact(contract)
            except CryptoAssetsError as error:
                # More files, slower reads; the next one takes them too.
                log.warning("small files were left: %s", error)

    def _restart(self) -> None:
        self._batch = _Batch()
        self._at.clear()
        self._next.clear()
        self._source.rewind()

    def _commit(self, batch: _Batch, at: Mapping[str, Position | None], numbers: Mapping[str, int | None]) -> Landing:
        began = self._clock.monotonic()
        counts = {contract: self._append_beside(contract, batch) for contract in (RawStreamPrices, RawStreamEvents)}
        expected: dict[str, int | None] = {app: numbers[app] for app in batch.numbers}
        after: dict[str, int] = dict(batch.numbers)
        for channel, position in batch.positions.items():
            known = at.get(channel)
            for i, app in enumerate(_apps(channel, self._n_parts)):
                expected[app] = None if known is None else known[i]
                after[app] = position[i]
        trades = _rows(RawTrades, batch.trades)
        landed = self._lake.advance(RawTrades, trades, expected=expected, after=after)
        return Landing(
            len(trades),
            counts[RawStreamPrices],
            counts[RawStreamEvents],
            landed.version,
            batch.positions,
            batch.newest_us,
            self._clock.monotonic() - began,
        )

    def _append_beside(self, contract: type[Contract], batch: _Batch) -> int:
        """Rows of a table that follows ``raw.trades``: those of blocks that it does not hold yet."""
        parts = batch.beside.get(contract, [])
        apps = {app for app, _, _ in parts}
        expected = {app: self._lake.landed(contract, app) for app in apps}
        fresh = [part for part in parts if part[1] >= (expected[part[0]] or 0)]
        if not fresh:
            return 0
        touched = {app for app, _, _ in fresh}
        self._lake.advance(
            contract,
            _rows(contract, [rows for _, _, rows in fresh]),
            expected={app: expected[app] for app in touched},
            after={app: batch.numbers[app] for app in touched},
        )
        return sum(len(rows) for _, _, rows in fresh)


def _apps(channel: str, n_parts: int) -> list[str]:
    return [f"{channel}#{i}" for i in range(n_parts)]


def _rows(contract: type[Contract], parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat([pl.DataFrame(schema=polars_schema(contract)), *parts])


def _alike(unread: Iterable[tuple[Block, list[Event]]]) -> Iterator[list[tuple[Block, list[Event]]]]:
    """The blocks in groups of one feed and the same markets, none of more messages than are decoded together."""
    groups: dict[Any, list[tuple[Block, list[Event]]]] = {}
    sizes: Counter[Any] = Counter()
    for block, events in unread:
        kind = block.feed, frozenset(block.markets.items())
        n_bytes = sum(map(len, block.frames))
        if sizes[kind] + n_bytes > _DECODED_BYTES and kind in groups:
            yield groups.pop(kind)
            sizes[kind] = 0
        groups.setdefault(kind, []).append((block, events))
        sizes[kind] += n_bytes
    yield from groups.values()


def _messages(blocks: Sequence[Block]) -> Messages:
    """The messages of blocks of one feed and the same markets, in one."""
    return Messages(
        blocks[0].feed,
        blocks[0].pull_id,
        [frame for block in blocks for frame in block.frames],
        [us for block in blocks for us in block.received_us],
        blocks[0].markets,
        [(block.pull_id, len(block.frames)) for block in blocks],
    )


def _lost(block: Block, expected: int) -> Event:
    """Blocks that should have come before this one: a broker forgot them, or a journal was thrown away."""
    start = block.received_us[0] if block.received_us else _happened_us(block)
    n = (block.number - expected) // block.lanes
    return Event(
        "blocks_lost", start, start, f"blocks {expected} to {block.number} of {block.collector} never came", n=n
    )


def _happened_us(block: Block) -> int:
    """Our clock at a block without messages."""
    return max((event.ends_us for event in block.events), default=block.newest_us)


def _unread(block: Block, bad: Iterable[int]) -> list[Event]:
    """What unreadable messages may have held: a hole of each market that they name, of all where one names none."""
    places = sorted(bad)
    named = [{m for symbol, m in block.markets.items() if b'"%b"' % symbol.encode() in block.frames[i]} for i in places]
    markets = {market for found in named for market in found or block.markets.values()}
    start, end = block.received_us[places[0]], block.received_us[places[-1]]
    return [hole(start, end, "unreadable messages", market) for market in sorted(markets)]


def _event_rows(block: Block, happened: Sequence[Event], bad: Mapping[int, str]) -> pl.DataFrame:
    """What happened, and the messages that cannot be read: their reasons by their places."""
    at = block.received_us
    events = [*happened, *(Event("bad", at[i], at[i], why, n=1) for i, why in bad.items())]
    if not events:
        return _NO_EVENTS
    arrived = block.received_us[-1] if block.received_us else _happened_us(block)
    told = {
        "pull_id": [block.pull_id] * len(events),
        "page": range(len(events)),
        "provider": [block.feed] * len(events),
        "ingested_at": [arrived] * len(events),
        "kind": [event.kind for event in events],
        "subject": [event.subject for event in events],
        "starts_at": [event.starts_us for event in events],
        "ends_at": [event.ends_us for event in events],
        "n": [event.n for event in events],
        "detail": [event.detail for event in events],
        "body": [*([None] * len(happened)), *(block.frames[i] for i in bad)],
    }
    clocks = ("ingested_at", "starts_at", "ends_at")
    rows = pl.DataFrame(
        told,
        schema_overrides={
            "page": pl.Int32,
            "subject": pl.String,
            "body": pl.Binary,
            **dict.fromkeys(clocks, pl.Int64),
        },
    )
    rows = rows.with_columns(pl.col(clocks).cast(UTC_TIME).dt.truncate("1ms")).with_columns(
        date=pl.col("ends_at").dt.date()
    )
    return rows.select(polars_schema(RawStreamEvents).names()).cast(polars_schema(RawStreamEvents))
