"""The sandbox's websockets over real sockets: the tape as it happens, in the providers' words, with their faults."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from crypto_assets.providers.feed import Messages, Sign
from crypto_assets.providers.feeds import FEEDS
from crypto_assets.sandbox import Events, Fault, Hole, Market, Outage, Sandbox, coinbase_stream, serve
from crypto_assets.sandbox.tape import microseconds, tape_of

NOW = datetime(2025, 3, 1, 12, 0, 30, tzinfo=UTC)
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
MARKET = Market(7)
TAPE = tape_of(MARKET, Events())
BTC, ETH, BTC_USD = "binance:BTC/USDT", "binance:ETH/USDT", "coinbase:BTC/USD"
BINANCE = "/binance/ws/stream?streams=btcusdt@aggTrade"
FINNHUB = "/finnhub/ws?token=one"
LONG = 5.0
SHORT = 0.15


@contextmanager
def opened(sandbox: Sandbox, path: str, *sent: object, **how: Any) -> Iterator[ClientConnection]:
    """A connection to which all that was sent has been taken in."""
    with connect(f"{sandbox.ws}{path}", proxy=None, close_timeout=0.2, max_size=2**23, **how) as socket:
        for message in sent:
            socket.send(json.dumps(message))
        yield socket


def finnhub(symbol: str, kind: str = "subscribe") -> dict[str, str]:
    return {"type": kind, "symbol": symbol}


def coinbase(*products: str, channels: tuple[str, ...] = ("matches", "heartbeat")) -> dict[str, Any]:
    return {"type": "subscribe", "product_ids": list(products), "channels": list(channels)}


def wait_for(what: Callable[[], object]) -> None:
    """Until it is so; what a client sends is taken in a moment later."""
    deadline = time.monotonic() + LONG
    while not what():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.005)


def subscribed(sandbox: Sandbox, n: int, number: int = -1) -> None:
    wait_for(lambda: sandbox.connections() and len(sandbox.connections()[number].symbols) == n)


def take(socket: ClientConnection, n: int) -> list[Any]:
    return [json.loads(socket.recv(timeout=LONG)) for _ in range(n)]


def rest(socket: ClientConnection) -> list[str | bytes]:
    """What there is until it is quiet."""
    found = []
    while True:
        try:
            found.append(socket.recv(timeout=SHORT))
        except TimeoutError:
            return found


def ended(socket: ClientConnection) -> int:
    """Read until the end; its code, 1006 where none was said."""
    try:
        while True:
            socket.recv(timeout=LONG)
    except ConnectionClosed as closed:
        return 1006 if closed.rcvd is None else closed.rcvd.code


def sent_ids(sandbox: Sandbox, service: str) -> Counter[tuple[str, int]]:
    return Counter((run.market_id, number) for run in sandbox.sent(service) for number in run.ids())


# What the providers send


def test_binance_sends_each_aggregate_with_the_id_and_time_that_rest_gives(
    sandbox: Sandbox, http: httpx.Client
) -> None:
    with opened(sandbox, f"{BINANCE}/ethusdt@aggTrade/nosuch@aggTrade/btcusdt@depth") as socket:
        subscribed(sandbox, 3)
        sandbox.set_now(NOW + 5 * MINUTE)
        truth = sandbox.happened("binance", NOW, NOW + 5 * MINUTE)
        found = take(socket, len(truth))
        assert rest(socket) == []
    assert len(found) > 40
    assert [(row["data"]["s"], row["data"]["a"]) for row in found] == [(row.symbol, row.number) for row in truth]
    for symbol in ("BTCUSDT", "ETHUSDT"):
        query = {"symbol": symbol, "startTime": str(microseconds(NOW) // 1000), "limit": "1000"}
        refill = http.get(f"{sandbox.url}/binance/api/v3/aggTrades", params=query).json()
        mine = [row["data"] for row in found if row["stream"] == f"{symbol.lower()}@aggTrade"]
        assert [{name: row[name] for name in "apqflTmM"} for row in mine] == refill
        assert {(row["e"], row["s"]) for row in mine} == {("aggTrade", symbol)}


def test_binances_raw_stream_has_no_envelope_and_takes_subscriptions(sandbox: Sandbox) -> None:
    with opened(
        sandbox, "/binance/ws/ws/btcusdt@aggTrade", {"method": "SUBSCRIBE", "params": ["ethusdt@aggTrade"], "id": 7}
    ) as socket:
        assert take(socket, 1) == [{"result": None, "id": 7}]
        subscribed(sandbox, 2)
        socket.send(json.dumps({"method": "LIST_SUBSCRIPTIONS", "id": 8}))
        assert take(socket, 1) == [{"result": ["btcusdt@aggTrade", "ethusdt@aggTrade"], "id": 8}]
        socket.send(json.dumps({"method": "UNSUBSCRIBE", "params": ["btcusdt@aggTrade"], "id": 9}))
        assert take(socket, 1) == [{"result": None, "id": 9}]
        sandbox.set_now(NOW + MINUTE)
        truth = sandbox.happened("binance", NOW, NOW + MINUTE, [ETH])
        assert [row["a"] for row in take(socket, len(truth))] == [row.number for row in truth]
        socket.send("?")
        assert take(socket, 1)[0]["error"]["code"] == 3


def test_coinbase_acknowledges_repeats_the_last_match_and_sends_what_rest_gives(
    sandbox: Sandbox, http: httpx.Client
) -> None:
    with opened(sandbox, "/coinbase/ws", coinbase("BTC-USD", channels=("matches",))) as socket:
        told, last = take(socket, 2)
        assert told["type"] == "subscriptions"
        assert told["channels"][0] == {"name": "matches", "product_ids": ["BTC-USD"]}
        sandbox.set_now(NOW + 5 * MINUTE)
        truth = sandbox.happened("coinbase", NOW, NOW + 5 * MINUTE)
        found: list[Any] = []
        while len(found) < len(truth):
            found += [row for row in take(socket, 1) if row["type"] != "heartbeat"]
    refill = http.get(f"{sandbox.url}/coinbase/products/BTC-USD/trades", params={"limit": str(len(truth) + 1)}).json()
    names = ("trade_id", "side", "size", "price", "time")
    assert [{name: row[name] for name in names} for row in [last, *found]] == refill[::-1]
    assert last["type"] == "last_match"
    assert last["trade_id"] == truth[0].number - 1
    assert {row["type"] for row in found} == {"match"}
    assert [row["sequence"] for row in found] == sorted(row["sequence"] for row in found)


def test_coinbase_beats_each_product_once_a_second(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sandbox.state.pulses, "coinbase", 0.05)
    with opened(sandbox, "/coinbase/ws", coinbase("BTC-USD")) as socket:
        _, last, first, second = take(socket, 4)
    assert first["type"] == second["type"] == "heartbeat"
    assert first["last_trade_id"] == last["trade_id"]
    assert first["time"] == "2025-03-01T12:00:30.000000Z"


def test_coinbase_ignores_a_subscription_that_names_a_product_it_does_not_have(sandbox: Sandbox) -> None:
    with opened(sandbox, "/coinbase/ws", coinbase("BTC-USD", "FOO-BAR"), coinbase("BTC-USD", channels=())) as socket:
        assert take(socket, 2) == [
            {"type": "error", "message": "Failed to subscribe", "reason": "FOO-BAR is not a valid product"},
            {"type": "error", "message": "Failed to subscribe", "reason": "No channels provided"},
        ]
        assert sandbox.connections()[0].symbols == []


def test_coinbase_ends_a_connection_that_asks_for_nothing(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coinbase_stream, "_PATIENCE_S", 0.05)
    with opened(sandbox, "/coinbase/ws") as socket:
        assert ended(socket) == 1000


def test_finnhub_sends_numbers_several_trades_a_message_and_not_by_time(sandbox: Sandbox) -> None:
    symbols = [f"BINANCE:{name}USDT" for name in ("BTC", "ETH", "SOL", "XRP")] + ["COINBASE:BTC-USD", "KRAKEN:XXBTZUSD"]
    with serve(Market(7, activity=10.0)) as busy:
        busy.set_now(NOW)
        with opened(busy, FINNHUB, *map(finnhub, symbols)) as socket:
            subscribed(busy, 6)
            busy.set_now(NOW + MINUTE)
            truth = busy.happened("finnhub", NOW, NOW + MINUTE)
            frames: list[Any] = []
            while sum(len(frame["data"]) for frame in frames) < len(truth):
                frames += take(socket, 1)
    trades = [trade for frame in frames for trade in frame["data"]]
    assert Counter((t["s"], t["t"], str(t["p"]), Decimal(repr(t["v"]))) for t in trades) == Counter(
        (row.symbol, row.traded_us // 1000, str(float(row.price)), Decimal(row.quantity or "").normalize())
        for row in truth
    )
    assert {tuple(trade) for trade in trades} == {("c", "p", "s", "t", "v")}
    assert {(trade["c"], type(trade["v"])) for trade in trades} == {(None, float)}
    assert any(len({trade["s"] for trade in frame["data"]}) > 2 for frame in frames)
    times = [[trade["t"] for trade in frame["data"]] for frame in frames]
    assert any(each != sorted(each) for each in times)
    # Trades that are alike can be told apart only by their place in a message, so that they are in the same.
    where: dict[tuple[Any, ...], set[int]] = {}
    for number, frame in enumerate(frames):
        for t in frame["data"]:
            where.setdefault((t["s"], t["t"], t["p"], t["v"]), set()).add(number)
    assert max(map(len, where.values())) == 1
    assert len(where) < len(trades)


def test_finnhub_refuses_what_it_does_not_know_and_the_51st_symbol(sandbox: Sandbox) -> None:
    known = [*sandbox.state.streams["finnhub"].spots()]
    assert len(known) > 51
    with opened(sandbox, FINNHUB, finnhub("BINANCE:NOPE"), *map(finnhub, known[:51])) as socket:
        assert take(socket, 2) == [
            {"msg": "Invalid symbol BINANCE:NOPE", "type": "error"},
            {"msg": "Subscribing to too many symbols", "type": "error"},
        ]
        assert sandbox.connections()[0].symbols == known[:50]
        socket.send(json.dumps(finnhub(known[0], "unsubscribe")))
        socket.send(json.dumps(finnhub(known[50])))
        wait_for(lambda: sandbox.connections()[0].symbols == known[1:51])


def test_a_second_connection_with_a_token_ends_both_and_a_third_is_alone(sandbox: Sandbox) -> None:
    with opened(sandbox, FINNHUB) as first, opened(sandbox, "/finnhub/ws?token=two") as other:
        with opened(sandbox, FINNHUB) as second:
            assert (ended(first), ended(second)) == (1006, 1006)
        wait_for(lambda: [each.closed_at is None for each in sandbox.connections()] == [False, True, False])
        with opened(sandbox, FINNHUB, finnhub("NO")) as third:
            assert take(third, 1) == [{"msg": "Invalid symbol NO", "type": "error"}]
        other.ping().wait(LONG)
    assert {each.ended for each in sandbox.connections("finnhub")[::2]} == {"its key was used by another connection"}


def test_finnhub_pings_in_its_own_words(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sandbox.state.pulses, "finnhub", 0.05)
    with opened(sandbox, FINNHUB) as socket:
        assert take(socket, 2) == [{"type": "ping"}] * 2


def test_coincap_sends_maps_of_what_changed(sandbox: Sandbox) -> None:
    with opened(sandbox, "/coincap/ws/prices?assets=bitcoin,ethereum,nope") as socket:
        subscribed(sandbox, 2)
        sandbox.set_now(NOW + MINUTE)
        truth = sandbox.happened("coincap", NOW, NOW + MINUTE)
        found = take(socket, len({row.number for row in truth}))
    by_asset = {asset: [row[asset] for row in found if asset in row] for asset in ("bitcoin", "ethereum")}
    assert by_asset == {asset: [row.price for row in truth if row.symbol == asset] for asset in by_asset}
    assert {len(row) for row in found} == {1, 2}
    assert 10 < len(by_asset["bitcoin"]) < 30
    first = truth[0]
    at = datetime.fromtimestamp(first.number, UTC)
    assert float(first.price) == pytest.approx(MARKET.price(first.symbol, at))


@pytest.mark.parametrize("assets", ["ALL", "bitcoin"])
def test_keys_are_asked_for_where_there_are_keys(assets: str) -> None:
    with serve(MARKET, keys=frozenset({"good"})) as sandbox:
        path = f"/coincap/ws/prices?assets={assets}"
        with opened(sandbox, path) as socket:
            assert str(socket.recv(timeout=LONG)).startswith("Unauthorized")
            assert ended(socket) == 1008
        with opened(sandbox, path, additional_headers={"Authorization": "Bearer good"}):
            wait_for(lambda: [bool(each.symbols) for each in sandbox.connections()] == [False, True])
        with opened(sandbox, f"{path}&apiKey=good"):
            wait_for(lambda: [bool(each.symbols) for each in sandbox.connections()] == [False, True, True])
        for token, error in (("", "Please use an API key."), ("bad", "Invalid API key")):
            with pytest.raises(InvalidStatus) as refused, opened(sandbox, f"/finnhub/ws?token={token}"):
                pass
            assert refused.value.response.status_code == 401
            assert json.loads(refused.value.response.body) == {"error": error}
        with opened(sandbox, "/finnhub/ws?token=good"):
            pass


def test_nothing_is_compressed_and_pings_are_answered(sandbox: Sandbox) -> None:
    with opened(sandbox, BINANCE) as socket:
        assert socket.response is not None
        assert "Sec-WebSocket-Extensions" not in socket.response.headers
        assert socket.ping().wait(LONG)


# When it is sent


def test_a_clock_that_is_set_back_repeats_nothing_by_itself(sandbox: Sandbox) -> None:
    with opened(sandbox, BINANCE) as socket:
        subscribed(sandbox, 1)
        sandbox.set_now(NOW + MINUTE)
        first = take(socket, len(sandbox.happened("binance", NOW, NOW + MINUTE)))
        sandbox.set_now(NOW)
        assert rest(socket) == []
        sandbox.set_now(NOW + MINUTE)
        assert take(socket, len(first)) == first
    assert set(sent_ids(sandbox, "binance").values()) == {2}


def test_minutes_of_trades_pass_in_a_second(sandbox: Sandbox) -> None:
    with opened(sandbox, BINANCE) as socket:
        subscribed(sandbox, 1)
        sandbox.set_now(NOW, speed=600)
        found = [json.loads(socket.recv(timeout=LONG)) for _ in range(40)]
        passed = sandbox.state.now()
    truth = sandbox.happened("binance", NOW, passed)
    assert [row["data"]["a"] for row in found] == [row.number for row in truth[:40]]
    assert found[-1]["data"]["T"] - found[0]["data"]["T"] > 120_000


def test_finnhubs_messages_are_whole_when_the_speed_changes(sandbox: Sandbox) -> None:
    with opened(sandbox, FINNHUB, finnhub("BINANCE:BTCUSDT")) as socket:
        subscribed(sandbox, 1)
        for speed in (3000, 100, 7000, 1000):
            sandbox.set_speed(speed)
            time.sleep(0.1)
        sandbox.set_speed(0)
        end = sandbox.state.now()
        truth = {row.number for row in sandbox.happened("finnhub", NOW, end - SECOND)}
        wait_for(lambda: truth <= {number for _, number in sent_ids(sandbox, "finnhub")})
        rest(socket)
    assert len(truth) > 50
    assert set(sent_ids(sandbox, "finnhub").values()) == {1}


def test_all_of_a_busy_day_arrives_in_its_order(sandbox: Sandbox) -> None:
    names = "/".join(f"{name}@aggTrade" for name in ("btcusdt", "ethusdt", "solusdt", "xrpusdt"))
    with opened(sandbox, f"/binance/ws/stream?streams={names}") as socket:
        subscribed(sandbox, 4)
        sandbox.set_now(NOW + 12 * HOUR)
        truth = sandbox.happened("binance", NOW, NOW + 12 * HOUR)
        found = [json.loads(socket.recv(timeout=LONG))["data"] for _ in truth]
    assert len(truth) > 15_000
    assert [(row["s"], row["a"]) for row in found] == [(row.symbol, row.number) for row in truth]
    # One run a market: what was sent is remembered without growing.
    assert len(sandbox.sent()) == 4
    assert sent_ids(sandbox, "binance") == Counter((row.market_id, row.number) for row in truth)


def test_an_outage_ends_connections_and_refuses_new_ones(sandbox: Sandbox) -> None:
    with opened(sandbox, BINANCE) as socket, opened(sandbox, FINNHUB) as other:
        subscribed(sandbox, 1, 0)
        sandbox.set_events(Events(outages=(Outage("binance", NOW + MINUTE, NOW + HOUR),)))
        sandbox.set_now(NOW + 2 * MINUTE)
        assert ended(socket) == 1001
        with pytest.raises(InvalidStatus) as refused, opened(sandbox, BINANCE):
            pass
        assert refused.value.response.status_code == 503
        assert other.ping().wait(LONG)


def test_a_stream_may_keep_trades_to_itself_that_rest_has(sandbox: Sandbox, http: httpx.Client) -> None:
    sandbox.set_events(Events(holes=(Hole(BTC, NOW + MINUTE, NOW + 2 * MINUTE, ("stream",)),)))
    with opened(sandbox, BINANCE) as socket:
        subscribed(sandbox, 1)
        sandbox.set_now(NOW + 3 * MINUTE)
        truth = sandbox.happened("binance", NOW, NOW + 3 * MINUTE)
        hidden = [row.number for row in sandbox.happened("binance", NOW + MINUTE, NOW + 2 * MINUTE)]
        found = [row["data"]["a"] for row in take(socket, len(truth) - len(hidden))]
    assert hidden
    assert sorted(found + hidden) == [row.number for row in truth]
    query = {"symbol": "BTCUSDT", "fromId": str(truth[0].number), "limit": "1000"}
    served = http.get(f"{sandbox.url}/binance/api/v3/aggTrades", params=query).json()
    assert [row["a"] for row in served] == [row.number for row in truth]
    assert sorted(number for _, number in sent_ids(sandbox, "binance")) == found


# Faults


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("rate_limited_minute", 429),
        ("unauthorized", 401),
        ("unavailable", 503),
        ("geo_block", 451),
        ("server_error", 500),
        ("html", 200),
    ],
)
def test_a_handshake_is_refused_as_often_as_told(sandbox: Sandbox, kind: Any, status: int) -> None:
    sandbox.set_faults([Fault(kind, "binance.ws", times=2)])
    for _ in range(2):
        with pytest.raises(InvalidStatus) as refused, opened(sandbox, BINANCE):
            pass
        assert refused.value.response.status_code == status
    with opened(sandbox, BINANCE):
        subscribed(sandbox, 1)
    assert sandbox.calls()["calls"] == {"binance.ws": 3}
    assert len(sandbox.connections()) == 1


@pytest.mark.parametrize(("kind", "code"), [("drop", 1001), ("abort", 1006)])
def test_every_connection_ends_after_some_seconds(sandbox: Sandbox, kind: Any, code: int) -> None:
    sandbox.set_faults([Fault(kind, "binance.ws", seconds=0.1)])
    for _ in range(2):
        before = time.monotonic()
        with opened(sandbox, BINANCE) as socket:
            assert ended(socket) == code
        assert 0.05 < time.monotonic() - before < LONG
    wait_for(lambda: all(each.closed_at for each in sandbox.connections()))


def test_a_fault_that_is_switched_on_meets_connections_that_are_open(sandbox: Sandbox) -> None:
    with opened(sandbox, BINANCE) as first, opened(sandbox, BINANCE) as second:
        wait_for(lambda: [len(each.symbols) for each in sandbox.connections()] == [1, 1])
        # The refusal is for handshakes: those that are open do not use it up.
        sandbox.set_faults(
            [Fault("abort", "binance.ws", times=1, seconds=0), Fault("unavailable", "binance.ws", times=1)]
        )
        wait_for(lambda: sum(each.closed_at is not None for each in sandbox.connections()) == 1)
        assert [each.ended for each in sandbox.connections()].count("cut off") == 1
        with pytest.raises(InvalidStatus), opened(sandbox, BINANCE):
            pass
        alive = second if sandbox.connections()[0].ended else first
        assert alive.ping().wait(LONG)


def test_a_half_open_connection_says_nothing_and_answers_nothing(sandbox: Sandbox) -> None:
    with opened(sandbox, BINANCE, ping_interval=None) as socket:
        subscribed(sandbox, 1)
        sandbox.set_faults([Fault("freeze", "binance.ws", seconds=0)])
        wait_for(lambda: sandbox.connections()[0].ended == "frozen")
        sandbox.set_now(NOW + HOUR)
        assert not socket.ping().wait(SHORT)
        assert rest(socket) == []
        assert sandbox.sent() == []
        assert sandbox.connections()[0].closed_at is None
    wait_for(lambda: sandbox.connections()[0].closed_at)


def test_a_silent_connection_answers_pings_and_loses_what_happens(sandbox: Sandbox) -> None:
    with opened(sandbox, BINANCE) as socket:
        subscribed(sandbox, 1)
        sandbox.set_faults([Fault("silence", "binance.ws", seconds=0)])
        wait_for(lambda: sandbox.connections()[0].ended == "silent")
        sandbox.set_now(NOW + HOUR)
        assert rest(socket) == []
        assert socket.ping().wait(LONG)
    assert sandbox.sent() == []


def test_a_slow_start_begins_with_what_happens_then(sandbox: Sandbox) -> None:
    sandbox.set_faults([Fault("slow_start", "binance.ws", seconds=0.2)])
    with opened(sandbox, BINANCE) as socket:
        sandbox.set_now(NOW + MINUTE)
        assert rest(socket) == []
        subscribed(sandbox, 1)
        sandbox.set_now(NOW + 2 * MINUTE)
        truth = sandbox.happened("binance", NOW + MINUTE, NOW + 2 * MINUTE)
        assert [row["data"]["a"] for row in take(socket, len(truth))] == [row.number for row in truth]


def test_the_last_messages_are_replayed_to_who_comes_back(sandbox: Sandbox) -> None:
    sandbox.set_faults([Fault("replay", "binance.ws", after=1, size=5)])
    with opened(sandbox, BINANCE) as socket:
        subscribed(sandbox, 1)
        sandbox.set_now(NOW + MINUTE)
        before = take(socket, len(sandbox.happened("binance", NOW, NOW + MINUTE)))
    with opened(sandbox, BINANCE) as socket:
        assert take(socket, 5) == before[-5:]
    assert Counter(sent_ids(sandbox, "binance").values()) == {1: len(before) - 5, 2: 5}


@pytest.mark.parametrize(
    ("path", "opening", "feed"),
    [
        (BINANCE, (), "binance_stream"),
        (FINNHUB, (finnhub("BINANCE:BTCUSDT"),), "finnhub"),
        ("/coinbase/ws", (coinbase("BTC-USD", channels=("matches",)),), "coinbase_stream"),
        ("/coincap/ws/prices?assets=bitcoin", (), "coincap_stream"),
    ],
)
@pytest.mark.parametrize(
    ("kind", "sign"),
    [
        ("error_frame", Sign.ERROR),
        ("plain_text", Sign.BAD),
        ("unknown_type", Sign.BAD),
        ("huge_frame", Sign.BAD),
        ("bad_json", None),
    ],
)
def test_foreign_messages_come_before_the_third(
    sandbox: Sandbox, path: str, opening: tuple[Any, ...], feed: str, kind: Any, sign: Sign | None
) -> None:
    service = path.split("/")[1]
    with opened(sandbox, path, *opening) as socket:
        subscribed(sandbox, 1)
        rest(socket)
        sandbox.set_faults([Fault(kind, f"{service}.frames", after=2, times=1)])
        sandbox.set_now(NOW + 2 * MINUTE)
        found = [str(socket.recv(timeout=LONG)) for _ in range(5)]
    data, foreign = [*found[:2], *found[3:]], found[2]
    assert all(FEEDS[feed].is_data(message.encode()) for message in data)
    if kind == "huge_frame":
        assert len(foreign) == 3 * 2**20
    if sign is None:
        assert found[3].startswith(foreign)
        with pytest.raises(json.JSONDecodeError):
            json.loads(foreign)
    if FEEDS[feed].is_data(foreign.encode()):
        symbol = sandbox.connections()[0].symbols[0]
        block = Messages(feed, "block", [foreign.encode()], [microseconds(NOW)], {symbol: "one"})
        told = FEEDS[feed].decode(block)
        assert list(told.bad) == [0]
        assert told.trades.is_empty()
        assert told.prices.is_empty()
    else:
        assert FEEDS[feed].control(foreign.encode()).sign is sign


def test_a_message_is_sent_twice_or_after_the_next(sandbox: Sandbox) -> None:
    with opened(sandbox, BINANCE) as socket:
        subscribed(sandbox, 1)
        sandbox.set_faults(
            [
                Fault("sent_twice", "binance.frames", after=1, times=1, subject="BTC"),
                Fault("sent_late", "binance.frames", after=3, times=1),
                Fault("sent_twice", "binance.frames", subject="ETH"),
            ]
        )
        sandbox.set_now(NOW + MINUTE)
        truth = [row.number for row in sandbox.happened("binance", NOW, NOW + MINUTE)]
        found = [row["data"]["a"] for row in take(socket, len(truth) + 1)]
    a, b, c, d, e, *others = truth
    assert found == [a, b, b, c, e, d, *others]
    assert Counter(number for _, number in sent_ids(sandbox, "binance").elements()) == Counter(found)


def test_a_message_comes_in_pieces_after_one_that_nobody_agreed_to_pack(sandbox: Sandbox) -> None:
    sandbox.set_faults([Fault("in_pieces", "binance.frames")])
    with opened(sandbox, BINANCE) as socket:
        subscribed(sandbox, 1)
        sandbox.set_now(NOW + MINUTE)
        truth = [row.number for row in sandbox.happened("binance", NOW, NOW + MINUTE)]
        pieces = [list(socket.recv_streaming()) for _ in truth]
        assert {len(each) for each in pieces} == {3}
        assert [json.loads("".join(map(str, each)))["data"]["a"] for each in pieces] == truth
        sandbox.set_faults([Fault("bomb", "binance.frames", size=10**8)])
        sandbox.set_now(NOW + 2 * MINUTE)
        ended(socket)
    assert str(socket.protocol.close_sent) == "1002 (protocol error) reserved bits must be 0"


def test_an_error_may_repeat_the_key(sandbox: Sandbox) -> None:
    sandbox.set_faults([Fault("echoed_address", "finnhub.frames", times=1)])
    with opened(sandbox, FINNHUB, finnhub("BINANCE:BTCUSDT")) as socket:
        subscribed(sandbox, 1)
        sandbox.set_now(NOW + MINUTE)
        said, data = take(socket, 2)
    assert said["type"] == "error"
    assert said["msg"].endswith("/finnhub/ws?token=one")
    assert data["type"] == "trade"


def test_finnhub_sends_a_price_that_is_no_trade(sandbox: Sandbox) -> None:
    sandbox.set_faults([Fault("price_update", "finnhub.frames", times=1)])
    with opened(sandbox, FINNHUB, finnhub("BINANCE:BTCUSDT")) as socket:
        subscribed(sandbox, 1)
        sandbox.set_now(NOW + MINUTE)
        first = take(socket, 1)[0]["data"]
    assert [trade["v"] == 0 for trade in first] == [False] * (len(first) - 1) + [True]
    assert first[-1]["p"] == first[-2]["p"]


def test_a_symbol_is_refused_as_each_provider_refuses(sandbox: Sandbox) -> None:
    sandbox.set_faults(
        [Fault("refused_symbol", f"{name}.symbols", subject="ETH") for name in ("binance", "finnhub", "coinbase")]
    )
    with opened(sandbox, f"{BINANCE}/ethusdt@aggTrade"):
        wait_for(lambda: [each.symbols for each in sandbox.connections()] == [["BTCUSDT"]])
    with opened(sandbox, FINNHUB, finnhub("BINANCE:ETHUSDT")) as socket:
        assert take(socket, 1) == [{"msg": "Invalid symbol BINANCE:ETHUSDT", "type": "error"}]
    with opened(sandbox, "/coinbase/ws", coinbase("ETH-USD")) as socket:
        assert take(socket, 1)[0]["reason"] == "ETH-USD is not a valid product"


# What a test can ask


def test_control_paths_tell_what_was_sent_and_what_happened(sandbox: Sandbox, http: httpx.Client) -> None:
    with opened(sandbox, BINANCE):
        subscribed(sandbox, 1)
        http.put(
            f"{sandbox.url}/_sandbox/clock", json={"now": (NOW + MINUTE).isoformat(), "speed": 0}
        ).raise_for_status()
        truth = sandbox.happened("binance", NOW, NOW + MINUTE)
        wait_for(lambda: sandbox.connections()[0].n_trades == len(truth))
    wait_for(lambda: sandbox.connections()[0].closed_at)
    told = http.get(f"{sandbox.url}/_sandbox/streams").json()
    numbers = [row.number for row in truth]
    assert told["sent"] == [
        {"connection": 1, "service": "binance", "market_id": BTC, "first_id": numbers[0], "last_id": numbers[-1]}
    ]
    assert told["connections"][0]["ended"] == "closed by the client"
    span = {"service": "binance", "from": NOW.isoformat(), "to": (NOW + MINUTE).isoformat()}
    asked = http.get(f"{sandbox.url}/_sandbox/streams/trades", params=span).json()
    assert [(row["number"], row["traded_us"], row["price"]) for row in asked] == [
        (row.number, row.traded_us, row.price) for row in truth
    ]
    eth = http.get(f"{sandbox.url}/_sandbox/streams/trades", params={**span, "markets": ETH}).json()
    assert [row["number"] for row in eth] == [row["trade_id"] for row in TAPE.trades(ETH, NOW, NOW + MINUTE).records()]
    assert http.get(f"{sandbox.url}/_sandbox/streams/trades", params={**span, "service": "no"}).status_code == 400
    assert http.get(f"{sandbox.url}/_sandbox/streams/trades", params={"service": "binance"}).status_code == 400
    assert http.put(f"{sandbox.url}/_sandbox/clock", json={"speed": -1}).status_code == 400
    http.put(f"{sandbox.url}/_sandbox/clock", json={"speed": 60}).raise_for_status()
    assert sandbox.state.speed == 60
    assert sandbox.state.now() < NOW + 2 * MINUTE


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("binance_stream", (BTC, ETH)),
        ("coinbase_stream", (BTC_USD,)),
        ("finnhub", (BTC, BTC_USD)),
        ("coincap_stream", ("bitcoin", "ethereum")),
    ],
)
def test_our_feeds_read_every_trade_as_it_was(sandbox: Sandbox, name: str, wanted: tuple[str, ...]) -> None:
    feed = FEEDS[name]
    markets = {feed.symbol(market) or "": market for market in wanted}
    address = feed.address(f"{sandbox.ws}/{feed.service}/ws", list(markets), "key")
    with connect(address, proxy=None, additional_headers=dict(feed.headers("key"))) as socket:
        for message in feed.opening(list(markets)):
            socket.send(message)
        subscribed(sandbox, len(markets))
        sandbox.set_now(NOW + 5 * MINUTE)
        truth = sandbox.happened(feed.service, NOW, NOW + 5 * MINUTE)
        wait_for(lambda: sandbox.connections()[0].n_trades >= len(truth))
        found = [message.encode() for message in map(str, rest(socket))]
    data = [message for message in found if feed.is_data(message)]
    assert {feed.control(message).sign for message in found if not feed.is_data(message)} <= {Sign.ALIVE}
    told = feed.decode(Messages(name, "block", data, [microseconds(NOW) + 300_000_000] * len(data), markets))
    assert told.bad == {}
    if name == "coincap_stream":
        assert told.trades.is_empty()
        rows = told.prices.select("subject", "price").rows()
        assert Counter(rows) == Counter((row.market_id, row.price) for row in truth)
        return
    before = [row for row in sandbox.happened(feed.service, NOW - HOUR, NOW) if name == "coinbase_stream"][-1:]
    assert told.prices.is_empty()
    assert Counter(
        (row["subject"], row["traded_us"] // 1000, Decimal(row["price"]), Decimal(row["quantity"]))
        for row in told.trades.to_dicts()
    ) == Counter(
        (row.market_id, row.traded_us // 1000, Decimal(row.price), Decimal(row.quantity or ""))
        for row in [*before, *truth]
    )
    if name != "finnhub":
        assert Counter(zip(told.trades["trade_id"], told.trades["taker_side"], strict=True)) == Counter(
            (str(row.number), row.taker_side) for row in [*before, *truth]
        )
