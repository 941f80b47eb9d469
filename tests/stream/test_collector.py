"""The collector against a provider that does what providers do: nothing received is lost, what was missed is noted."""

from __future__ import annotations

import asyncio
import logging
import struct
import threading
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from websockets.asyncio.server import ServerConnection

from crypto_assets.errors import NeedsYouError, TransientError
from crypto_assets.providers import binance_stream, coinbase_stream, coincap_stream, finnhub
from crypto_assets.stream.blocks import MARGIN_US, Block, Event, encode
from crypto_assets.stream.collector import (
    MOST_MESSAGE_BYTES,
    Collector,
    Pace,
    Subscription,
    _Filling,
    symbols,
)
from crypto_assets.stream.journal import Journal
from tests.security.search import found_in
from tests.stream.provider import (
    FAST,
    MARKETS,
    Collected,
    Dice,
    Provider,
    Script,
    breaks_off,
    closes,
    collect,
    freezes,
    refuses,
    sends,
    stays,
    trade,
    writes,
)

pytestmark = pytest.mark.timeout(60)
BINANCE = binance_stream.FEED


def fault(row: int, what: str, promise: str) -> pytest.MarkDecorator:
    return pytest.mark.fault(row=row, fault=what, promise=promise)


DROPPED = fault(
    57,
    "the connection ends, cleanly or not",
    "opened anew after a jittered wait; the time between is a hole of each market",
)
HALF_OPEN = fault(
    58,
    "half-open: the provider is gone and nobody says so",
    "noticed within two pings, and by silence where pings are answered",
)
TOO_LARGE = fault(
    60,
    "a message of 3 MiB, in one frame or many parts; a compression bomb",
    "closed by 1009 at 1 MiB; nothing is unpacked",
)
DISK = fault(
    61,
    "the disk stands still, or is full",
    "the socket is no longer read and no trade is dropped; prices are, the oldest first, and counted",
)
WORDS = fault(
    62,
    "bad JSON, unknown types, error frames, refused symbols",
    "counted; twenty in a row bring a new connection; a refused symbol is named and the others go on",
)
TOKEN = fault(
    64, "the key stands in the address, and the provider repeats it", "in no log, journal, event, table or status"
)
KEY = "CANARY/Key+4b1d8e02-f95c"
Until = Callable[[Collector, Provider], object]


def messages(n: int) -> Until:
    return lambda collector, _: collector.counts["messages"] >= n


def lost(n: int) -> Until:
    return lambda collector, _: collector.counts["lost"] >= n


def assert_holes_are_exact(told: Collected, n: int) -> None:
    """Each hole is of every market, from the last message before to the first after, and a margin on both sides."""
    received = [(us, number) for block in told.blocks for number, us in enumerate(block.received_us)]
    holes = told.events("hole")
    assert [hole.subject for hole in holes] == sorted(MARKETS.values()) * n
    moments = {us for us, _ in received}
    for hole in holes:
        start, end = hole.starts_us + MARGIN_US, hole.ends_us - MARGIN_US
        assert start in moments
        assert end in moments
        assert start <= end
        assert not any(start < us < end for us in moments)


# ---- connecting ----


def test_what_is_sent_is_in_the_journal_in_order_and_the_first_connection_misses_nothing(tmp_path: Path) -> None:
    told = collect(BINANCE, tmp_path, messages(50), sends(*map(trade, range(50))))
    assert told.numbers == list(range(50))
    assert [event.kind for event in told.events()] == []
    assert [event.kind for block in told.blocks for event in block.events] == ["opened", "stopped"]
    assert told.provider.paths == ["/stream?streams=btcusdt@aggTrade/ethusdt@aggTrade"]
    assert told.provider.codes == [1000]
    assert told.blocks[0].markets == MARKETS
    assert [block.number for block in told.blocks] == list(range(len(told.blocks)))
    received = [us for block in told.blocks for us in block.received_us]
    assert received == sorted(received)
    assert told.blocks[-1].newest_us == received[-1]


@DROPPED
@pytest.mark.parametrize(
    ("end", "reason"),
    [(closes, "closed by the provider (1001: going away)"), (breaks_off, "the connection broke off")],
)
def test_a_connection_that_ends_is_opened_anew_and_what_was_missed_is_a_hole(
    tmp_path: Path, end: Script, reason: str
) -> None:
    told = collect(
        BINANCE,
        tmp_path,
        messages(4),
        sends(trade(1), trade(2), then=end),
        sends(trade(3), then=end),
        sends(trade(4)),
    )
    assert told.numbers == [1, 2, 3, 4]
    assert_holes_are_exact(told, 2)
    assert {hole.detail for hole in told.events("hole")} == {reason}
    assert [event.detail for event in told.events("lost")] == [reason, reason]
    assert len(told.events("opened")) == 3
    assert told.told == [
        f"binance_stream: {reason}; connecting again in {wait} s, what is missed is noted" for wait in ("0.0", "0.0")
    ]


@DROPPED
def test_waits_grow_to_a_minute_with_full_jitter_and_a_connection_that_held_begins_anew(tmp_path: Path) -> None:
    dice = Dice(0.0)
    collect(BINANCE, tmp_path, lost(12), refuses(503), rng=dice, pace=Pace())
    assert dice.asked[:12] == [(0, most) for most in (1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60)]
    dice = Dice(0.0)
    collect(BINANCE, tmp_path, lost(5), sends(trade(1), then=closes), rng=dice, pace=Pace(stable=0.0))
    assert {most for _, most in dice.asked} == {1}


def test_a_provider_that_is_away_for_days_is_still_asked(tmp_path: Path) -> None:
    dice = Dice(0.0)
    told = collect(BINANCE, tmp_path, lost(1200), refuses(503), rng=dice, pace=Pace())
    assert dice.asked[-1] == (0, 60)
    assert "the handshake was refused with HTTP 503" in told.told[0]


def test_a_provider_that_cannot_be_reached_is_asked_again(tmp_path: Path) -> None:
    async def leave(socket: ServerConnection) -> None:
        socket.transport.abort()

    told = collect(BINANCE, tmp_path, messages(1), refuses(500), refuses(502), leave, sends(trade(1)))
    assert [event.detail for event in told.events("lost")] == [
        "the handshake was refused with HTTP 500",
        "the handshake was refused with HTTP 502",
        "the connection broke off",
    ]


def test_everything_is_subscribed_to_again(tmp_path: Path) -> None:
    products = {"BTC-USD": "coinbase:BTC/USD", "ETH-USD": "coinbase:ETH/USD"}
    match = b'{"type":"match","trade_id":1,"product_id":"BTC-USD"}'
    told = collect(
        coinbase_stream.FEED,
        tmp_path,
        messages(2),
        sends(match, then=lambda socket: _after_hearing(socket, 2)),
        sends(match),
        markets=products,
    )
    asked = [[msgspec.json.decode(message)["product_ids"] for message in heard] for heard in told.provider.heard]
    assert asked == [[["BTC-USD"], ["ETH-USD"]]] * 2


async def _after_hearing(socket: ServerConnection, n: int) -> None:
    del n
    await asyncio.sleep(0.1)
    await socket.close(1000)


# ---- dead connections ----


@HALF_OPEN
def test_a_half_open_connection_is_noticed_within_two_pings(tmp_path: Path) -> None:
    told = collect(BINANCE, tmp_path, messages(2), sends(trade(1), then=freezes), sends(trade(2)))
    # A loaded machine may add seconds; the library's own wait for a goodbye would add ten.
    assert told.seconds < 2 * (FAST.ping_every + FAST.ping_reply) + 5.0
    assert told.events("lost")[0].detail.startswith("no answer to a ping for ")
    (silent,) = told.events("silent")
    assert silent.ends_us - silent.starts_us >= (FAST.ping_every + FAST.ping_reply) * 0.8e6
    assert_holes_are_exact(told, 1)


@HALF_OPEN
def test_a_connection_that_answers_pings_and_says_nothing_is_noticed(tmp_path: Path) -> None:
    told = collect(BINANCE, tmp_path, messages(2), sends(trade(1)), sends(trade(2)), silent_after=0.5)
    assert told.events("lost")[0].detail.startswith("silent for ")
    assert told.seconds >= 0.5
    assert_holes_are_exact(told, 1)


def test_a_heartbeat_is_a_message(tmp_path: Path) -> None:
    async def beats(socket: ServerConnection) -> None:
        for _ in range(20):
            await socket.send('{"type":"heartbeat"}')
            await asyncio.sleep(0.05)
        await socket.send('{"type":"match"}')

    told = collect(coinbase_stream.FEED, tmp_path, messages(1), beats, silent_after=0.3)
    assert told.events("silent", "lost", "bad") == []


def test_a_quiet_market_is_looked_at_ever_less_often(tmp_path: Path) -> None:
    told = collect(BINANCE, tmp_path, lost(3), stays, silent_after=0.1)
    lengths = [event.ends_us - event.starts_us for event in told.events("silent")]
    # A loaded machine only makes them longer.
    assert all(length >= least for length, least in zip(lengths, (0.1e6, 0.2e6, 0.4e6), strict=False))


# ---- holes across restarts ----


def test_a_collector_that_was_away_notes_the_time_as_a_hole(tmp_path: Path) -> None:
    first = collect(BINANCE, tmp_path, messages(1), sends(trade(1)))
    second = collect(BINANCE, tmp_path, messages(1), sends(trade(2)))
    assert_holes_are_exact(second, 1)
    assert {hole.detail for hole in second.events("hole")} == {"the collector was not running"}
    assert second.numbers == [1, 2]
    assert second.events("hole")[0].starts_us == first.blocks[0].received_us[-1] - MARGIN_US


@DROPPED
def test_a_hole_begins_at_the_last_message_though_events_came_after_it(tmp_path: Path) -> None:
    """A provider was away for long, the collector noted that, and was killed."""
    away = collect(BINANCE, tmp_path, lost(5), sends(trade(1), then=closes), refuses(503))
    known = away.blocks[0].received_us[-1]
    assert not away.blocks[-1].received_us
    assert away.blocks[-1].events[-1].ends_us > known
    assert away.blocks[-1].newest_us == known
    back = collect(BINANCE, tmp_path, messages(1), sends(trade(2)))
    assert {hole.starts_us for hole in back.events("hole")} == {known - MARGIN_US}
    assert_holes_are_exact(back, 1)


# ---- stopping ----


def test_a_stop_puts_what_had_come_on_disk_and_says_goodbye(tmp_path: Path) -> None:
    told = collect(
        BINANCE, tmp_path, lambda c, p: len(c._filling.frames) == 30, sends(*map(trade, range(30))), most_s=30.0
    )
    assert told.numbers == list(range(30))
    assert told.events("stopped")[0].detail == "told to stop"
    assert told.provider.codes == [1000]


def test_a_stop_during_a_flood_ends(tmp_path: Path) -> None:
    async def floods(socket: ServerConnection) -> None:
        for number in range(10**9):
            await socket.send(trade(number).decode())

    told = collect(BINANCE, tmp_path, messages(2_000), floods)
    assert told.numbers == list(range(len(told.numbers)))
    # Of a block that is larger than a record can be, the events are in the first part.
    assert [event.detail for event in told.events("stopped")] == ["told to stop"]


def test_a_stop_while_nobody_answers_ends_at_once(tmp_path: Path) -> None:
    told = collect(BINANCE, tmp_path, lost(1), refuses(401), pace=Pace())
    assert told.seconds < 5
    assert told.events("stopped")


# ---- the disk ----


class Stalled(Journal):
    """A disk that stands still until it is let go."""

    goes = threading.Event()

    def append(self, block: Block) -> None:
        self.goes.wait(10)
        super().append(block)


class Refusing(Journal):
    """A disk that is full for some tries."""

    n_refused = 3

    def append(self, block: Block) -> None:
        if block.number == 1 and self.n_refused:
            self.n_refused -= 1
            raise NeedsYouError("the journal cannot be written (full)", where="j", safe="s", hint="h")
        super().append(block)


@DISK
def test_trades_wait_in_the_socket_while_the_disk_stands_still_and_none_is_dropped(tmp_path: Path) -> None:
    n, most = 4_000, 200_000
    Stalled.goes.clear()
    sent: list[int] = []
    held: list[int] = []

    async def floods(socket: ServerConnection) -> None:
        for number in range(n):
            await socket.send(trade(number, padding=6_000).decode())
            sent.append(number)
        await stays(socket)

    async def watch(collector: Collector, _: Provider) -> None:
        # Longer than any ping and any patience: that nothing is read is not the provider's silence.
        await asyncio.sleep(1.2)
        held.append(collector._filling.n_bytes)
        assert len(sent) < n
        Stalled.goes.set()

    told = collect(
        BINANCE,
        tmp_path,
        messages(n),
        floods,
        journal=Stalled,
        pace=replace(FAST, most_waiting_bytes=most),
        silent_after=0.4,
        beside=watch,
    )
    assert told.numbers == list(range(n))
    assert held[0] < most + 2**20
    assert told.events("lost", "silent", "dropped", "hole") == []


@DISK
def test_prices_are_dropped_while_the_disk_stands_still_the_oldest_first_and_counted(tmp_path: Path) -> None:
    n = 3_000
    Stalled.goes.clear()
    is_sent = asyncio.Event()

    async def flickers(socket: ServerConnection) -> None:
        for number in range(n):
            await socket.send(msgspec.json.encode({"bitcoin": str(number), "x" * 200: "1"}).decode())
            if number % 100 == 0:
                await asyncio.sleep(0.01)
        is_sent.set()
        await stays(socket)

    async def let_go(_: Collector, __: Provider) -> None:
        await is_sent.wait()
        await asyncio.sleep(0.1)
        Stalled.goes.set()

    told = collect(
        coincap_stream.FEED,
        tmp_path,
        lambda c, _: c.counts["messages"] + c.counts["dropped"] >= n,
        flickers,
        journal=Stalled,
        pace=replace(FAST, most_waiting_bytes=50_000),
        beside=let_go,
        markets={"bitcoin": "bitcoin"},
    )
    kept = [int(msgspec.json.decode(frame)["bitcoin"]) for frame in told.frames]
    dropped = told.events("dropped")
    assert sum(event.n for event in dropped) == n - len(kept) == told.collector.counts["dropped"]
    assert 0 < len(kept) < n / 2
    assert kept == sorted(kept)
    assert kept[-1] == n - 1
    assert {event.detail for event in dropped} == {"the disk stood still"}
    assert told.events("lost", "hole") == []


@DISK
def test_a_full_disk_is_told_once_and_nothing_is_lost(tmp_path: Path) -> None:
    async def slowly(socket: ServerConnection) -> None:
        for number in range(40):
            await socket.send(trade(number).decode())
            await asyncio.sleep(0.01)
        await stays(socket)

    told = collect(BINANCE, tmp_path, messages(40), slowly, journal=Refusing)
    assert told.numbers == list(range(40))
    assert told.told == [
        "j: the journal cannot be written (full); s; h",
        "binance_stream: the journal is written again; nothing that had come was lost",
    ]
    (full,) = told.events("full")
    assert full.ends_us - full.starts_us >= 3 * FAST.retry_disk * 0.9e6


def hole(market: str, start: int, end: int, why: str = "") -> Event:
    return Event("hole", start, end, why, subject=market)


def test_events_that_are_too_many_for_one_record_are_dealt_to_several_and_holes_that_touch_are_one() -> None:
    """A connection that flaps for hours while the disk stands still."""
    holes = [hole(market, 10 * n, 10 * n + 10, f"{n}") for n in range(5_000) for market in ("a", "b")]
    alone = [hole("a", 60_000, 60_001), Event("error", 7, 7, "x" * 400_000), Event("bad", 8, 8, "y" * 400_000)]
    more = [Event("error", 9, 9, "z" * 400_000), hole("a", 60_001, 60_002)]
    told = _Filling([b"m" * 600_000] * 3, [1, 2, 3], [*holes, *alone, *more], 1_800_000)
    parts = told.parts()
    assert [event for part in parts for event in part.events] == [
        hole("a", 0, 50_000, "0"),
        hole("b", 0, 50_000, "0"),
        hole("a", 60_000, 60_002),
        *alone[1:],
        more[0],
    ]
    assert [frame for part in parts for frame in part.frames] == told.frames
    assert [us for part in parts for us in part.received_us] == told.received_us
    for part in parts:
        assert len(encode(Block("c", 0, 1, "f", {}, part.received_us, part.frames, part.events))) < 2**20 + 100
    assert sum(part.n_bytes for part in parts) == told.n_bytes


@DISK
def test_a_part_that_holds_events_only_says_when_the_last_message_before_it_came(tmp_path: Path) -> None:
    first = collect(BINANCE, tmp_path, messages(1), sends(trade(1)))

    async def complain(collector: Collector, _: Provider) -> None:
        collector._filling.events += [Event("error", 5, 5, "x" * 400_000) for _ in range(6)]

    told = collect(BINANCE, tmp_path, messages(1), sends(trade(2)), beside=complain, most_s=0.2)
    newest = [block.newest_us for block in told.blocks]
    assert len([block for block in told.blocks if not block.frames]) >= 2
    assert newest == sorted(newest)
    assert set(newest) == {first.blocks[-1].newest_us, told.collector.newest_us}


# ---- messages that are no trades ----


@TOO_LARGE
def test_a_message_of_three_megabytes_ends_the_connection_with_1009(tmp_path: Path) -> None:
    told = collect(BINANCE, tmp_path, messages(2), sends(trade(1), b"x" * 3 * 2**20), sends(trade(2)))
    assert told.provider.codes[0] == 1009
    assert told.events("lost")[0].detail.startswith("the provider broke the protocol (1009: ")
    assert_holes_are_exact(told, 1)


@TOO_LARGE
def test_a_message_of_many_small_parts_has_the_same_limit(tmp_path: Path) -> None:
    async def parts(socket: ServerConnection) -> None:
        await socket.send("x" * 1000 for _ in range(3000))

    told = collect(BINANCE, tmp_path, messages(1), parts, sends(trade(1)))
    assert told.events("lost")[0].detail == f"a message of more than {MOST_MESSAGE_BYTES} bytes"


def test_parts_are_put_together_and_pings_between_them_are_answered(tmp_path: Path) -> None:
    whole = trade(7)
    ping = b"\x89\x02hi"

    def part(opcode: int, payload: bytes) -> bytes:
        return struct.pack("!BB", opcode, len(payload)) + payload

    parts = [part(0x01, whole[:60]), ping, part(0x00, b""), part(0x00, whole[60:120]), part(0x80, whole[120:])]
    parts += [b"\x81\x7e", struct.pack("!H", len(whole)), whole]
    told = collect(BINANCE, tmp_path, messages(2), writes(b"".join(parts)))
    assert told.frames == [whole, whole]


@TOO_LARGE
def test_a_compressed_message_is_never_unpacked(tmp_path: Path) -> None:
    """Nothing was agreed on, so that 16 kB that would become 16 MB stay 16 kB."""
    packer = zlib.compressobj(wbits=-15)
    bomb = packer.compress(b"0" * 2**24) + packer.flush(zlib.Z_SYNC_FLUSH)
    told = collect(
        BINANCE, tmp_path, messages(1), writes(b"\xc1\x7e" + struct.pack("!H", len(bomb)) + bomb), sends(trade(1))
    )
    assert told.events("lost")[0].detail == "a compressed message, which was not agreed on"
    assert "sec-websocket-extensions" not in {name.lower() for name in told.provider.headers[0]}
    assert sum(map(len, told.frames)) < 1_000


@WORDS
def test_babble_brings_a_new_connection_and_that_one_begins_anew(tmp_path: Path) -> None:
    told = collect(
        BINANCE,
        tmp_path,
        messages(2),
        sends(trade(1), *[b"<html>hello</html>"] * 20),
        sends('{"result":null,"id":1}', *[b"nonsense"] * 19, trade(2)),
    )
    assert told.events("lost")[0].detail == "20 unreadable messages in a row"
    assert sum(event.n for event in told.events("bad")) == 39 == told.collector.counts["bad"]
    # Many alike are one row.
    assert len(told.events("bad")) <= 10
    assert told.events("bad")[0].detail == "unreadable: <html>hello</html>"
    assert len(told.provider.paths) == 2


def test_a_heartbeat_between_makes_it_no_babble(tmp_path: Path) -> None:
    said = [b"nonsense", b'{"type":"heartbeat"}'] * 60
    told = collect(coinbase_stream.FEED, tmp_path, messages(1), sends(*said, b'{"type":"match"}'))
    assert told.collector.counts["bad"] == 60
    assert told.events("lost") == []


@WORDS
def test_a_refused_symbol_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    refused = b'{"type":"error","msg":"Invalid symbol BINANCE:ETHUSDT"}'
    data = b'{"data":[{"c":null,"p":1.5,"s":"BINANCE:BTCUSDT","t":1,"v":1}],"type":"trade"}'
    markets = {"BINANCE:BTCUSDT": "binance:BTC/USDT", "BINANCE:ETHUSDT": "binance:ETH/USDT"}
    told = collect(finnhub.FEED, tmp_path, messages(1), sends(refused, data), markets=markets, key=KEY)
    (event,) = told.events("refused")
    assert (event.subject, event.detail) == ("binance:ETH/USDT", "Invalid symbol BINANCE:ETHUSDT")
    assert told.told == ["finnhub: BINANCE:ETHUSDT is refused (Invalid symbol BINANCE:ETHUSDT); the others go on"]
    assert told.events("lost") == []
    assert told.collector.counts["refused"] == 1


@WORDS
def test_a_complaint_is_counted_each_time_and_shown_once(tmp_path: Path) -> None:
    error = b'{"error":{"code":1,"msg":"something"},"id":null}'
    told = collect(BINANCE, tmp_path, messages(1), sends(*[error] * 30, trade(1)))
    assert told.collector.counts["errors"] == 30
    assert sum(event.n for event in told.events("error")) == 30
    assert told.told == ["binance_stream: the provider says: something (1)"]


def test_a_mistake_of_our_own_is_named_and_is_not_the_providers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def mistaken(message: bytes) -> bool:
        if b'"a":2,' in message:
            raise ZeroDivisionError(f"with {KEY}")
        return True

    told = collect(
        replace(BINANCE, is_data=mistaken), tmp_path, messages(2), sends(trade(1), trade(2)), sends(trade(3))
    )
    assert [event.detail for event in told.events("lost")] == ["ZeroDivisionError in the collector's own code"]
    assert {each.detail for each in told.events("hole")} == {"ZeroDivisionError in the collector's own code"}
    assert "binance_stream: ZeroDivisionError in our own code, " in caplog.text
    assert "test_collector.py line " in caplog.text
    assert KEY not in caplog.text
    assert told.numbers == [1, 3]


# ---- keys ----


def test_a_subscription_is_shown_without_its_key() -> None:
    assert KEY not in repr(Subscription(finnhub.FEED, {}, "wss://x", KEY))


@pytest.mark.parametrize(
    "script",
    [
        refuses(401),
        refuses(403),
        refuses(429),
        sends("Invalid API key"),
        sends('{"type":"error","msg":"API limit reached"}'),
    ],
)
def test_a_refused_key_waits_long_and_says_which(tmp_path: Path, script: Script) -> None:
    dice = Dice(0.0)
    told = collect(finnhub.FEED, tmp_path, lost(3), script, rng=dice, key=KEY)
    assert (0.5, 1.0) in dice.asked
    assert told.seconds > 2 * 0.5 * FAST.longest_wait
    assert "check FINNHUB_API_KEY; connecting again in 0.1 s" in told.told[-1]


def test_another_holder_of_the_key_ends_it_in_one_line(tmp_path: Path) -> None:
    def refuse() -> None:
        raise NeedsYouError("another has this key's only connection", where="finnhub", safe="s", hint="h")

    with pytest.raises(NeedsYouError, match="only connection"):
        collect(finnhub.FEED, tmp_path, messages(1), sends("never"), may_connect=refuse)


def test_a_store_of_leases_that_is_away_is_asked_again(tmp_path: Path) -> None:
    n = 0

    def away() -> None:
        nonlocal n
        n += 1
        if n < 3:
            raise TransientError("the store cannot be reached", where="lease", safe="s", hint="h")

    told = collect(BINANCE, tmp_path, messages(1), sends(trade(1)), may_connect=away)
    assert [event.detail for event in told.events("lost")] == ["lease: the store cannot be reached; s; h"] * 2


@TOKEN
def test_the_key_is_in_nothing_that_is_left_behind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(9, logger="picows")
    error = msgspec.json.encode({"type": "error", "msg": f"Invalid symbol {KEY}"})
    data = b'{"data":[{"c":["%s"],"p":1.5,"s":"%s","t":1,"v":1}],"type":"trade"}' % (KEY.encode(), KEY.encode())

    async def says_it_all(socket: ServerConnection) -> None:
        for message in (error, data, f"plain {KEY}".encode()):
            await socket.send(message.decode())
        await socket.close(1008, f"bad key {KEY}")

    async def repeats_the_address(socket: ServerConnection) -> None:
        assert socket.request is not None
        await socket.send(socket.request.path)

    told = collect(finnhub.FEED, tmp_path, lost(4), refuses(401), says_it_all, repeats_the_address, breaks_off, key=KEY)
    assert "finnhub: the provider says: /?token=[redacted]" in told.told
    assert any("token=CANARY%2FKey%2B" in path for path in told.provider.paths)
    assert b"[redacted]" in told.frames[0]
    assert "closed by the provider (1008: bad key [redacted])" in " ".join(told.told)
    (tmp_path / "told.txt").write_text("\n".join([*told.told, caplog.text, repr(vars(told.collector.counts))]))
    assert "DEBUG" in caplog.text
    assert found_in(tmp_path, KEY) == []


@TOKEN
def test_a_key_in_a_header_goes_there_only(tmp_path: Path) -> None:
    told = collect(
        coincap_stream.FEED, tmp_path, messages(1), sends('{"bitcoin":"1"}'), key=KEY, markets={"bitcoin": "bitcoin"}
    )
    (headers,) = told.provider.headers
    assert {name.lower(): value for name, value in headers.items()}["authorization"] == f"Bearer {KEY}"
    assert told.provider.paths == ["/prices?assets=bitcoin"]
    assert found_in(tmp_path, KEY) == []


# ---- which symbols ----


def test_a_feed_is_asked_for_its_own_markets_and_no_more_than_it_allows() -> None:
    wanted = ["binance:BTC/USDT", "coinbase:BTC/USD", "kraken:BTC/USD", "bitcoin", "ethereum"]
    assert symbols(binance_stream.FEED, wanted) == {"BTCUSDT": "binance:BTC/USDT"}
    assert symbols(coinbase_stream.FEED, wanted) == {"BTC-USD": "coinbase:BTC/USD"}
    assert symbols(coincap_stream.FEED, wanted) == {"bitcoin": "bitcoin", "ethereum": "ethereum"}
    assert symbols(finnhub.FEED, wanted) == {"BINANCE:BTCUSDT": wanted[0], "COINBASE:BTC-USD": wanted[1]}
    assert len(symbols(finnhub.FEED, [f"binance:A{i}/USDT" for i in range(80)])) == 50


def test_the_counts_are_noted_now_and_then(tmp_path: Path) -> None:
    pace = replace(FAST, counts_every=0.05)
    told = collect(BINANCE, tmp_path, lambda c, _: c.counts["blocks"] >= 3, sends(trade(1)), pace=pace)
    counts = msgspec.json.decode(told.events("counts")[-1].detail)
    assert counts["messages"] == counts["opened"] == 1
