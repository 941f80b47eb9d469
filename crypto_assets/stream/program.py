"""What a collector and a consumer are as programs: put together from the settings, run until told to stop.

What belongs here: which feed with which markets, address and key, the lease of a key, and what is told while it runs.
Supervising several of them and what people type is ``commands/stream.py``.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from crypto_assets.errors import CryptoAssetsError, NeedsYouError, TransientError, UsageError
from crypto_assets.providers.feed import Feed
from crypto_assets.providers.feeds import FEEDS
from crypto_assets.resources.clock import Clock, SystemClock
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.lease import LeaseUnsupported, hold, slot_of, this_installation
from crypto_assets.resources.settings import Settings
from crypto_assets.stream.blocks import app_of
from crypto_assets.stream.collector import LEASE_S, Collector, Subscription, symbols
from crypto_assets.stream.consumer import Consumer, Landing
from crypto_assets.stream.forward import Forwarder, next_to_send
from crypto_assets.stream.journal import Journal, backlog_bytes
from crypto_assets.stream.open import DIRECT, address_of, blocks_in, open_sink, open_source
from crypto_assets.tables.stream import RawStreamEvents, RawStreamPrices, RawTrades

# Set by ``stream run`` to its process id: its programs end when it is gone, so that the next one finds the way free.
SUPERVISOR = "CRYPTO_ASSETS_STREAM_SUPERVISOR"
# What a collector says of itself, beside its journal.
STATUS = "status.json"
_STATUS_EVERY_S = 2.0
# Shards or partitions that one collector's blocks are spread over: each takes a MB/s of compressed messages or more.
_LANES = 4
# A store or broker that is away is asked again after so long, and people are told at the first failure.
_RETRY_S = 2.0
# Programs that a killed ``stream run`` left behind look every two seconds, and need some to end.
_JOURNAL_WAIT_S, _JOURNAL_LOOK_S = 10.0, 0.1
# A start does not wait longer for the lake: what comes meanwhile would be missed.
_ASK_S = 5.0


def absence(name: str, settings: Settings, environment: Mapping[str, str] = os.environ) -> str | None:
    """Why a feed cannot run under these settings, or None where it can.

    Raises:
        UsageError: there is no such feed.
    """
    feed = feed_of(name)
    if feed.needs_key and settings.sandbox_url is None and not environment.get(feed.key_name or "", "").strip():
        return f"{name} needs a key: set {feed.key_name}"
    if not symbols(feed, _wanted(settings)):
        return f"{name} has none of the markets: see CRYPTO_ASSETS_MARKETS"
    return None


def feed_of(name: str) -> Feed:
    """The feed of that name. Raises UsageError where there is none."""
    if name not in FEEDS:
        raise UsageError(
            f"there is no feed {name!r}",
            where="stream",
            safe="nothing was started",
            hint=f"feeds are {', '.join(FEEDS)}",
        )
    return FEEDS[name]


def subscription(name: str, settings: Settings, environment: Mapping[str, str] = os.environ) -> Subscription:
    """What a feed's connection is for: the settings' markets, at the feed's address or the sandbox's.

    Raises:
        UsageError: there is no such feed.
        NeedsYouError: it lacks its key, or has none of the markets.
    """
    feed = feed_of(name)
    if why := absence(name, settings, environment):
        raise NeedsYouError(why, where="stream", safe="nothing was started", hint="set it, or choose another feed")
    address = feed.url
    if settings.sandbox_url is not None:
        host = settings.sandbox_url.rstrip("/").partition("://")[2]
        address = f"ws://{host}/{feed.service}/ws"
    key = environment.get(feed.key_name or "", "").strip() or None
    return Subscription(feed, symbols(feed, _wanted(settings)), address, key)


def _wanted(settings: Settings) -> list[str]:
    return [*settings.markets, *settings.history_assets]


def journal_directory(settings: Settings, name: str) -> Path:
    """Where a feed's journal lies."""
    return settings.state_dir.resolve() / "stream" / name


def collect(
    name: str,
    to: str,
    settings: Settings,
    lake: Lake,
    tell: Callable[[str], None],
    *,
    clock: Clock | None = None,
    rng: random.Random | None = None,
) -> None:
    """Collect a feed until SIGTERM or Ctrl-C, and forward its blocks where ``to`` is not ``direct``.

    Raises:
        UsageError, NeedsYouError: it cannot run: no such feed, no key, a key that is in use, a journal in use.
    """
    told = subscription(name, settings)
    clock = clock or SystemClock()
    directory = journal_directory(settings, name)
    with ExitStack() as stack:
        sink = None if to == DIRECT else open_sink(to, clock=clock)
        if sink is not None:
            stack.callback(sink.close)
        journal = stack.enter_context(_journal_of(name, directory, 1 if to == DIRECT else _LANES, clock, tell))
        _require_own_numbers(journal, lake)
        forwarder = None
        if sink is not None:
            forwarder = stack.enter_context(Forwarder(directory, sink, landed=blocks_in(lake), clock=clock, tell=tell))
        may_connect = stack.enter_context(_lease_of(told.feed, settings, lake, clock, tell))
        collector = Collector(
            told, journal, clock=clock, rng=rng or random.SystemRandom(), may_connect=may_connect, tell=tell
        )
        tell(f"{name}: {len(told.markets)} symbols, {', '.join(told.markets)}; to {to}; journal {directory}")
        asyncio.run(_collect(collector, forwarder, directory, clock))
    tell(f"{name}: stopped; what had come is on disk")


def _journal_of(name: str, directory: Path, lanes: int, clock: Clock, tell: Callable[[str], None]) -> Journal:
    """The feed's journal; waited for where ``stream run`` started us, and was killed before with others left behind."""
    deadline = clock.monotonic() + (_JOURNAL_WAIT_S if SUPERVISOR in os.environ else 0.0)
    is_told = False
    while True:
        try:
            return Journal(directory, lanes=lanes)
        except UsageError:
            if clock.monotonic() >= deadline:
                raise
        if not is_told:
            tell(f"{name}: another collector has the journal still; waiting up to {_JOURNAL_WAIT_S:g} s for its end")
            is_told = True
        clock.sleep(_JOURNAL_LOOK_S)


def _require_own_numbers(journal: Journal, lake: Lake) -> None:
    """Take a new id where the lake or a broker holds blocks that this journal has not come to, or that is not known."""
    beyond = next_to_send(journal.directory)
    if not journal.is_new:
        answers: list[int] = []

        def ask() -> None:
            # Without an answer a new id is the safe one.
            with suppress(CryptoAssetsError, OSError):
                answers.append(held_by(lake, journal.collector, journal.lanes))

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(_ASK_S)
        if not answers:
            journal.renew("the lake does not say which numbers it holds", beyond)
            return
        beyond = max(beyond, *answers)
    if beyond > journal.next_number:
        journal.renew(f"its blocks up to {beyond - 1} are known elsewhere, as if it was restored", beyond)


def held_by(lake: Lake, collector: str, lanes: int) -> int:
    """The number after the newest block that the lake has rows of, under this id; 0 where it has none."""
    tables = RawTrades, RawStreamPrices, RawStreamEvents
    ends = (lake.landed(table, app_of(f"{collector}/{lane}")) for table in tables for lane in range(lanes))
    return max(0 if end is None else end - lanes + 1 for end in ends)


async def _collect(collector: Collector, forwarder: Forwarder | None, directory: Path, clock: Clock) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    async def note() -> None:
        while True:
            if _is_orphaned():
                stop.set()
            _note(directory, collector, forwarder, clock, is_running=True)
            await asyncio.sleep(_STATUS_EVERY_S)

    noting = asyncio.create_task(note())
    # Without it nobody would know how the collector does, nor it that it is an orphan.
    noting.add_done_callback(lambda _: stop.set())
    try:
        await collector.run(stop)
    finally:
        noting.cancel()
        _note(directory, collector, forwarder, clock, is_running=False)
    with suppress(asyncio.CancelledError):
        await noting


def _is_orphaned() -> bool:
    """Whether ``stream run`` has started us and is gone, killed perhaps."""
    supervisor = os.environ.get(SUPERVISOR)
    return supervisor is not None and supervisor != str(os.getppid())


def _note(
    directory: Path, collector: Collector, forwarder: Forwarder | None, clock: Clock, *, is_running: bool
) -> None:
    """Leave word of the collector for ``stream status``; a disk that is full takes none, and nothing depends on it."""
    told = {
        "pid": os.getpid(),
        "at": clock.now().isoformat(),
        "is_running": is_running,
        "is_connected": collector.is_connected,
        "problem": collector.problem,
        "forward_problem": forwarder.problem if forwarder is not None else "",
        "last_message_at": _moment(collector.newest_us),
        "backlog_bytes": backlog_bytes(directory),
        **dict(collector.counts),
    }
    scratch = directory / f"{STATUS}.new"
    try:
        scratch.write_text(json.dumps(told))
        scratch.replace(directory / STATUS)
    except OSError:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)


def _moment(microseconds: int | None) -> str | None:
    return None if microseconds is None else datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat()


@contextmanager
def _lease_of(
    feed: Feed, settings: Settings, lake: Lake, clock: Clock, tell: Callable[[str], None]
) -> Iterator[Callable[[], None]]:
    """What holds a key that may have one connection only, and lets go of it at the end; others need none."""
    if not feed.is_exclusive:
        yield lambda: None
        return
    slot = slot_of(lake.root, lambda: lake.options, f"stream-{feed.name}.json")
    us = this_installation(settings.state_dir)
    is_leased = True

    def may_connect() -> None:
        nonlocal is_leased
        if not is_leased:
            return
        try:
            held = hold(slot, us, clock, timedelta(seconds=LEASE_S))
        except LeaseUnsupported:
            is_leased = False
            tell(f"{feed.name}: the store keeps no leases; let one installation only use this key")
            return
        if held.holder.id != us.id:
            raise NeedsYouError(
                f"{held.holder} has this key's only connection, until {held.expires_at:%H:%M:%S} UTC or later",
                where=feed.name,
                safe="its stream goes on, this one was not opened",
                hint="stop the collector there, or wait until its lease has ended",
            )

    try:
        yield may_connect
    finally:
        if is_leased:
            # Where the store is away the lease ends by itself.
            with suppress(NeedsYouError, TransientError):
                hold(slot, us, clock, timedelta(0))


def consume(
    source: str,
    settings: Settings,
    lake: Lake,
    tell: Callable[[str], None],
    *,
    most_s: float = 5.0,
    most_rows: int = 100_000,
    feeds: Iterable[str] = (),
    clock: Clock | None = None,
) -> None:
    """Carry blocks into the lake until SIGTERM or Ctrl-C; then what is in hand is committed.

    ``feeds`` are those whose journals ``direct`` reads; all of the settings without.

    Raises:
        NeedsYouError, DataError, UsageError: it cannot go on without a person. Nothing is lost.
    """
    clock = clock or SystemClock()
    journals = [journal_directory(settings, feed_of(name).name) for name in (feeds or settings.feeds)]
    address_of(source)
    stopped = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopped
        del number, frame
        stopped = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    with Consumer(
        lake,
        lambda landed: open_source(source, landed, journals=journals, lake=lake, clock=clock),
        FEEDS,
        clock,
        most_rows=most_rows,
        most_s=most_s,
    ) as consumer:
        tell(f"from {source} into {lake.root}: a commit every {most_s:g} s or {most_rows:,} rows")
        is_away = False
        while not (stopped or _is_orphaned()):
            try:
                landings = consumer.step()
            except TransientError as error:
                if not is_away:
                    tell(f"{error}; asked again until it works")
                is_away = True
                clock.sleep(_RETRY_S)
                continue
            if landings and is_away:
                tell("it works again; nothing was lost")
                is_away = False
            for landing in landings:
                tell(_told(landing, clock))
        # What a collector left behind a moment ago, where it can be had.
        with suppress(TransientError):
            for landing in consumer.step(0.0):
                tell(_told(landing, clock))
        for landing in consumer.flush():
            tell(_told(landing, clock))
    tell("stopped; what is not in the lake stays where it was read")


def _told(landing: Landing, clock: Clock) -> str:
    lag = "" if landing.newest_us is None else f", {clock.now().timestamp() - landing.newest_us / 1e6:.1f} s behind"
    beside = [f"{n:,} {name}" for n, name in ((landing.n_prices, "prices"), (landing.n_events, "events")) if n]
    more = "".join(", " + each for each in beside)
    what = f"{landing.n_trades:,} trades{more}{lag}, committed in {landing.took_s:.3f} s"
    return f"raw.trades, version {landing.version}: {what}"
