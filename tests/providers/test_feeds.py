"""What websockets say becomes rows: recorded messages, and whatever else could be sent, against plain JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto_assets.providers import binance_stream, coinbase_stream, coincap_stream, finnhub
from crypto_assets.providers.feed import Control, Decoded, Feed, Messages, Sign
from crypto_assets.providers.feeds import FEEDS
from crypto_assets.tables.contract import polars_schema
from crypto_assets.tables.stream import RawStreamPrices, RawTrades

RECEIVED = datetime(2026, 11, 22, 12, 0, 0, 123_456, tzinfo=UTC)
RECEIVED_US = int(RECEIVED.timestamp()) * 1_000_000 + 123_456
MARKETS = {
    "BINANCE:BTCUSDT": "binance:BTC/USDT",
    "BTCUSDT": "binance:BTC/USDT",
    "BTC-USD": "coinbase:BTC/USD",
    "bitcoin": "bitcoin",
    "ethereum": "ethereum",
}


def decoded(feed: Feed, *frames: bytes) -> Decoded:
    """The rows of these messages, a microsecond apart; both tables are as their contracts say, whatever was sent."""
    received = [RECEIVED_US + place for place in range(len(frames))]
    told = feed.decode(Messages(feed.name, "c:1", frames, received, MARKETS))
    for rows, contract in ((told.trades, RawTrades), (told.prices, RawStreamPrices)):
        assert rows.schema == polars_schema(contract)
        assert rows["page"].to_list() == list(range(len(rows)))
        assert set(rows["pull_id"]) <= {"c:1"}
        assert set(rows["provider"]) <= {feed.name}
        wanted = {name for name, field in rows.schema.items() if name not in _NULLABLE}
        assert not rows.select(wanted).null_count().sum_horizontal().sum()
    return told


_NULLABLE = {"subject", "trade_id", "n_trades", "taker_side", "conditions"}


def encode(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def binance(**told: Any) -> bytes:
    data = {
        "e": "aggTrade",
        "E": 1,
        "s": "BTCUSDT",
        "a": 1,
        "p": "1.50",
        "q": "2.0",
        "f": 1,
        "l": 1,
        "T": 1_700_000_000_000,
    }
    return encode({"stream": "btcusdt@aggTrade", "data": {**data, "m": True, "M": True, **told}})


def coinbase(kind: str = "match", **told: Any) -> bytes:
    data = {"trade_id": 7, "maker_order_id": "a", "taker_order_id": "b", "side": "sell", "size": "0.10", "price": "3.0"}
    return encode(
        {"type": kind, **data, "product_id": "BTC-USD", "sequence": 5, "time": "2026-11-22T11:59:59.123456Z", **told}
    )


def trade(**told: Any) -> dict[str, Any]:
    return {"c": None, "p": 1.5, "s": "BINANCE:BTCUSDT", "t": 1_700_000_000_000, "v": 0.25, **told}


def messages_of(*trades: dict[str, Any]) -> bytes:
    return encode({"data": list(trades), "type": "trade"})


# ---- Finnhub ----


def test_recorded_messages_of_finnhub_lose_nothing(recorded: Path) -> None:
    lines = (recorded.parent / "finnhub" / "ws_messages.jsonl").read_text().splitlines()
    held = [json.loads(line)["message"] for line in lines]
    assert len(held) == 6
    # Recorded messages were written anew with spaces; the wire has none.
    frames = [encode(message) for message in held]
    assert all(finnhub.FEED.is_data(frame) for frame in frames)
    assert all(finnhub.FEED.is_data(json.dumps(message).encode()) for message in held)
    told = decoded(finnhub.FEED, *frames).trades
    plain = [trade for message in held for trade in message["data"]]
    assert told["symbol"].to_list() == [trade["s"] for trade in plain]
    assert [float(price) for price in told["price"]] == [trade["p"] for trade in plain]
    assert [float(amount) for amount in told["quantity"]] == [float(trade["v"]) for trade in plain]
    assert told["traded_us"].to_list() == [trade["t"] * 1000 for trade in plain]
    conditions = [None if value is None else json.loads(value) for value in told["conditions"]]
    assert conditions == [trade.get("c") or None for trade in plain]
    assert Decimal(told["quantity"][0]) == Decimal("0.000004")
    assert set(told["subject"]) == {"binance:BTC/USDT", None}
    assert told["trade_id"].null_count() == len(told)


def test_a_trade_without_an_amount_is_a_price() -> None:
    told = decoded(finnhub.FEED, messages_of(trade(v=0), trade(p=2.5), trade(p=3.5, v=0.0), trade(v=-0.0)))
    assert told.trades["price"].to_list() == ["2.5"]
    assert told.trades["page"].to_list() == [0]
    assert told.prices["price"].to_list() == ["1.5", "3.5", "1.5"]
    assert set(told.prices["quoted_at"]) == {datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)}


@pytest.mark.parametrize(
    ("told", "kept"),
    [({"c": None}, None), ({}, None), ({"c": []}, None), ({"c": ["1", "8"]}, '["1","8"]'), ({"c": [""]}, '[""]')],
)
def test_conditions_are_null_absent_or_a_list(told: dict[str, Any], kept: str | None) -> None:
    plain = {name: value for name, value in trade().items() if name != "c"} | told
    assert decoded(finnhub.FEED, messages_of(plain, trade())).trades["conditions"].to_list() == [kept, None]


def test_a_message_without_trades_is_no_row() -> None:
    told = decoded(finnhub.FEED, messages_of(), messages_of(trade()), messages_of())
    assert len(told.trades) == 1
    assert told.trades["ingested_at"].to_list() == [RECEIVED.replace(microsecond=123_000)]
    assert told.bad == {}


def test_equal_trades_of_one_message_are_told_apart_and_a_message_sent_again_is_the_same() -> None:
    one, other = messages_of(trade(), trade(), trade(p=2.0), trade()), messages_of(trade(), trade())
    told = decoded(finnhub.FEED, one, other, one).trades
    assert told["repeat"].to_list() == [0, 1, 0, 2, 0, 1, 0, 1, 0, 2]


def test_bad_json_inside_a_block_costs_that_message_only() -> None:
    good = messages_of(trade())
    frames = [good, good[:-5], good, b'{"data":[{"p":1}],"type":"trade"}', b'{"data":', b"]", good, b"\xff\xfe", b""]
    told = decoded(finnhub.FEED, *frames)
    assert len(told.trades) == 3
    assert sorted(told.bad) == [1, 3, 4, 5, 7, 8]
    assert all(why.startswith("unreadable: ") and "\n" not in why for why in told.bad.values())
    assert told.trades["ingested_at"].n_unique() == 1


@pytest.mark.parametrize("name", sorted(FEEDS))
def test_bytes_that_are_no_text_cost_their_own_message_only(name: str) -> None:
    """msgspec has another exception for them than for what is no JSON."""
    good = {
        "binance_stream": binance(),
        "coinbase_stream": coinbase(),
        "coincap_stream": b'{"bitcoin":"1.5"}',
        "finnhub": messages_of(trade()),
    }[name]
    broken = good.replace(b"1.5", b"1.5\xff", 1) if name == "coincap_stream" else good.replace(b"BTC", b"\xffTC")
    told = decoded(FEEDS[name], good, broken, good)
    assert len(told.trades) + len(told.prices) == 2
    assert list(told.bad) == [1]
    assert FEEDS[name].control(b'{"type":"\xff","id":"\xff"}').sign is not Sign.REFUSED


def test_a_bad_trade_of_finnhub_costs_itself_and_not_its_message() -> None:
    poisoned = messages_of(trade(p=1.0), trade(v=None), trade(p=3.0, s="X"), trade(t="soon"), trade(p=5.0, v=0))
    told = decoded(finnhub.FEED, messages_of(trade()), poisoned, messages_of(trade(p=6.0)))
    assert told.trades["price"].to_list() == ["1.5", "1.0", "3.0", "6.0"]
    assert told.prices["price"].to_list() == ["5.0"]
    assert told.bad == {1: "unreadable: Expected `float`, got `null` - at `$.data[1].v`"}


def test_two_messages_in_one_and_half_a_one_do_not_shift_the_others() -> None:
    good, late = messages_of(trade()), messages_of(trade(p=9.0))
    told = decoded(finnhub.FEED, good + b"," + good, b" ", late)
    assert told.trades["price"].to_list() == ["9.0"]
    assert sorted(told.bad) == [0, 1]


@pytest.mark.parametrize("t", [0, -1, 2**53, 2**62, (2**63 - 1) // 1000, 253_402_300_800_000, -(2**40)])
def test_a_time_that_cannot_be_leaves_our_own(t: int) -> None:
    told = decoded(finnhub.FEED, messages_of(trade(t=t), trade()))
    if abs(t) > (2**63 - 1) // 1000:
        assert list(told.bad) == [0]
        return
    assert told.trades["traded_us"][0] == t * 1000
    assert told.trades["traded_at"][0] == RECEIVED.replace(microsecond=123_000)
    assert told.trades["date"][0] == RECEIVED.date()


def test_a_time_ahead_of_our_clock_by_a_little_is_the_providers() -> None:
    ahead = RECEIVED + timedelta(seconds=1)
    told = decoded(finnhub.FEED, messages_of(trade(t=int(ahead.timestamp() * 1000))))
    assert told.trades["traded_at"][0] == ahead.replace(microsecond=123_000)


@pytest.mark.parametrize(
    ("message", "sign", "symbol"),
    [
        (b'{"type":"ping"}', Sign.ALIVE, None),
        (b'{"msg":"Subscribing to too many symbols","type":"error"}', Sign.REFUSED, None),
        (b'{"msg":"Invalid symbol BINANCE:NOPE","type":"error"}', Sign.REFUSED, "BINANCE:NOPE"),
        (b'{"type":"error","msg":"Invalid API key"}', Sign.DENIED, None),
        (b'{"type":"error","msg":"API limit reached. Please try again later."}', Sign.DENIED, None),
        (b"Invalid API key", Sign.DENIED, None),
        (b"API limit reached", Sign.DENIED, None),
        (b'{"type":"error","msg":"Internal error"}', Sign.ERROR, None),
        (b'{"type":"error"}', Sign.ERROR, None),
        (b"upstream connect error or disconnect/reset before headers", Sign.BAD, None),
        (b'{"type":"surprise"}', Sign.BAD, None),
        (b"[1,2]", Sign.BAD, None),
        (b"", Sign.BAD, None),
        (b"[" * 100_000, Sign.BAD, None),
    ],
)
def test_finnhubs_other_messages(message: bytes, sign: Sign, symbol: str | None) -> None:
    told = finnhub.FEED.control(message)
    assert (told.sign, told.symbol) == (sign, symbol)
    assert not finnhub.FEED.is_data(message)


# ---- Binance ----


def test_the_recorded_message_of_binance(recorded: Path) -> None:
    held = json.loads((recorded.parent / "binance" / "agg_trade_stream.json").read_text())
    told = decoded(binance_stream.FEED, encode({"stream": "btcusdt@aggTrade", "data": held})).trades.row(0, named=True)
    assert (told["symbol"], told["trade_id"], told["price"], told["quantity"]) == ("BTCUSDT", "5933014", "0.001", "100")
    assert (told["n_trades"], told["taker_side"], told["traded_us"]) == (6, "sell", 123_456_785_000)
    assert told["subject"] == "binance:BTC/USDT"
    # Of 1973: no trade of Binance's.
    assert told["traded_at"] == RECEIVED.replace(microsecond=123_000)


def test_binances_numbers_keep_every_digit_and_the_taker_is_the_other_side() -> None:
    told = decoded(binance_stream.FEED, binance(p="0.10000000", q="100.00000000", m=False), binance(a=2)).trades
    assert told["price"].to_list() == ["0.10000000", "1.50"]
    assert told["taker_side"].to_list() == ["buy", "sell"]
    assert told["traded_at"].to_list() == [datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)] * 2
    assert told["repeat"].to_list() == [0, 0]


def test_an_aggregate_of_trades_that_cannot_be_says_no_number() -> None:
    told = decoded(binance_stream.FEED, binance(f=5, l=1), binance(f=0, l=2**62), binance(f=-(2**62), l=2**62)).trades
    assert told["n_trades"].to_list() == [None, None, None]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b'{"result":null,"id":1}', Control(Sign.ALIVE)),
        (b'{"error":{"code":2,"msg":"Invalid request"},"id":1}', Control(Sign.ERROR, "Invalid request (2)")),
        (
            b'{"code":0,"msg":"Unknown property"}',
            Control(Sign.BAD, 'unknown message: {"code":0,"msg":"Unknown property"}'),
        ),
        (b"hello\x1b[2J", Control(Sign.BAD, "unreadable: hello[2J")),
    ],
)
def test_binances_other_messages(message: bytes, expected: Control) -> None:
    assert binance_stream.FEED.control(message) == expected
    assert not binance_stream.FEED.is_data(message)


# ---- Coinbase ----


def test_a_match_of_coinbase_keeps_microseconds_and_names_the_taker() -> None:
    told = decoded(coinbase_stream.FEED, coinbase(), coinbase("last_match", side="buy", trade_id=6)).trades
    assert told["trade_id"].to_list() == ["7", "6"]
    assert told["taker_side"].to_list() == ["buy", "sell"]
    assert told["price"].to_list() == ["3.0", "3.0"]
    assert told["traded_us"].to_list() == [1_795_348_799_123_456] * 2
    assert told["traded_at"][0] == datetime(2026, 11, 22, 11, 59, 59, 123_000, tzinfo=UTC)
    assert told["subject"].to_list() == ["coinbase:BTC/USD"] * 2


@pytest.mark.parametrize("time", ["2026-11-22T11:59:59", "yesterday", 7, None])
def test_a_match_without_a_moment_is_bad(time: object) -> None:
    assert list(decoded(coinbase_stream.FEED, coinbase(), coinbase(time=time)).bad) == [1]


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"])
def test_a_match_of_another_age_is_ours(time: str) -> None:
    assert decoded(coinbase_stream.FEED, coinbase(time=time)).trades["date"][0] == RECEIVED.date()


def test_coinbases_other_messages() -> None:
    control = coinbase_stream.FEED.control
    assert control(b'{"type":"heartbeat","sequence":1}') == Control(Sign.ALIVE)
    assert control(b'{"type":"subscriptions","channels":[]}') == Control(Sign.ALIVE)
    refused = b'{"type":"error","message":"Failed to subscribe","reason":"NO-PE is not a valid product"}'
    assert control(refused) == Control(Sign.REFUSED, "Failed to subscribe: NO-PE is not a valid product", "NO-PE")
    assert control(b'{"type":"error","message":"slow down"}') == Control(Sign.ERROR, "slow down")
    assert control(b'{"type":"done"}').sign is Sign.BAD


# ---- CoinCap ----


def test_the_recorded_message_of_coincap(recorded: Path) -> None:
    first = (recorded.parent / "coincap" / "ws_messages.jsonl").read_text().splitlines()[0]
    frame = encode(json.loads(first)["message"])
    assert coincap_stream.FEED.is_data(frame)
    told = decoded(coincap_stream.FEED, frame, b"{}", b'{"bitcoin":"1","dogecoin":"2"}')
    assert told.bad == {2: "unknown asset dogecoin"}
    assert told.prices.select("symbol", "subject", "price").rows() == [
        ("bitcoin", "bitcoin", "6929.82178"),
        ("ethereum", "ethereum", "404.97"),
    ]
    assert set(told.prices["quoted_at"]) == {RECEIVED.replace(microsecond=123_000)}
    assert told.trades.is_empty()


def test_coincaps_other_messages() -> None:
    control = coincap_stream.FEED.control
    assert control(b"Unauthorized: a paid plan is needed").sign is Sign.DENIED
    assert control(b'{"error":"Internal server error"}').sign is Sign.ERROR
    assert control(b"hello").sign is Sign.BAD
    assert not coincap_stream.FEED.is_data(b'{"error":"Internal server error"}')
    assert list(decoded(coincap_stream.FEED, b'{"bitcoin":1.5}', b'{"bitcoin":"1"}').bad) == [0]


# ---- whatever could be sent ----

_TEXT = st.text(max_size=12)
_FLOATS = st.floats(allow_nan=False, allow_infinity=False)
_WIDE = st.integers(-(2**63), 2**64 - 1)
_TIMES = st.one_of(st.integers(1_500_000_000_000, 1_800_000_000_000), _WIDE)
_FINNHUB = st.lists(
    st.fixed_dictionaries(
        {"p": _FLOATS, "s": st.sampled_from(["BINANCE:BTCUSDT", "X"]) | _TEXT, "t": _TIMES, "v": _FLOATS | st.just(0)},
        optional={"c": st.none() | st.lists(_TEXT, max_size=3), "more": st.none() | _TEXT},
    ),
    max_size=4,
)


def _fits(t: int) -> bool:
    return abs(t) <= (2**63 - 1) // 1000


@given(st.lists(_FINNHUB, max_size=5), st.data())
def test_finnhub_is_read_as_plain_json_is(held: list[list[dict[str, Any]]], data: st.DataObject) -> None:
    frames = [messages_of(*trades) for trades in held]
    if frames and data.draw(st.booleans()):
        cut = data.draw(st.integers(0, len(frames) - 1))
        frames[cut] = frames[cut][: data.draw(st.integers(0, len(frames[cut]) - 1))]
    told = decoded(finnhub.FEED, *frames)
    expected = []
    for place, frame in enumerate(frames):
        trades = _plain(frame)
        fitting = [trade for trade in trades or () if _fits(trade["t"])]
        assert (place in told.bad) == (trades is None or len(fitting) < len(trades))
        expected += fitting
    assert _facts(told.trades) == [_fact(trade) for trade in expected if trade["v"] != 0]
    assert [(symbol, float(price)) for symbol, price in told.prices.select("symbol", "price").iter_rows()] == [
        (trade["s"], trade["p"]) for trade in expected if trade["v"] == 0
    ]


def _plain(frame: bytes) -> list[dict[str, Any]] | None:
    try:
        found: list[dict[str, Any]] = json.loads(frame)["data"]
    except ValueError:
        return None
    return found


def _fact(trade: dict[str, Any]) -> tuple[Any, ...]:
    return trade["s"], trade["p"], trade["v"], trade["t"] * 1000, trade.get("c") or None


def _facts(rows: pl.DataFrame) -> list[tuple[Any, ...]]:
    return [
        (symbol, float(price), float(amount), us, None if conditions is None else json.loads(conditions))
        for symbol, price, amount, us, conditions in rows.select(
            "symbol", "price", "quantity", "traded_us", "conditions"
        ).iter_rows()
    ]


@given(st.lists(st.lists(st.tuples(st.sampled_from([1.5, 2.5]), st.sampled_from([0.0, 1.0])), max_size=5), max_size=4))
def test_repeats_count_equal_trades_of_their_message(held: list[list[tuple[float, float]]]) -> None:
    frames = [messages_of(*(trade(p=p, v=v) for p, v in pairs)) for pairs in held]
    expected: list[int] = []
    for pairs in held:
        seen: Counter[tuple[float, float]] = Counter()
        for pair in pairs:
            if pair[1]:
                expected.append(seen[pair])
                seen[pair] += 1
    assert decoded(finnhub.FEED, *frames).trades["repeat"].to_list() == expected


@given(
    st.lists(
        st.fixed_dictionaries(
            {"s": _TEXT, "a": _WIDE, "p": _TEXT, "q": _TEXT, "f": _WIDE, "l": _WIDE, "T": _TIMES, "m": st.booleans()}
        ),
        max_size=5,
    )
)
def test_binance_is_read_as_plain_json_is(held: list[dict[str, Any]]) -> None:
    told = decoded(binance_stream.FEED, *(binance(**fields) for fields in held))
    good = [fields for fields in held if _fits(fields["T"])]
    assert sorted(told.bad) == [place for place, fields in enumerate(held) if not _fits(fields["T"])]
    rows = told.trades.select("symbol", "trade_id", "price", "quantity", "traded_us", "taker_side").rows()
    assert rows == [(f["s"], str(f["a"]), f["p"], f["q"], f["T"] * 1000, "sell" if f["m"] else "buy") for f in good]
    numbers = [f["l"] - f["f"] + 1 for f in good]
    assert told.trades["n_trades"].to_list() == [n if 0 < n < 2**31 else None for n in numbers]


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "trade_id": _WIDE,
                "product_id": _TEXT,
                "price": _TEXT,
                "size": _TEXT,
                "side": st.sampled_from(["buy", "sell", "both"]),
                "time": st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
            }
        ),
        max_size=5,
    )
)
def test_coinbase_is_read_as_plain_json_is(held: list[dict[str, Any]]) -> None:
    told = decoded(coinbase_stream.FEED, *(coinbase(**fields) for fields in held))
    assert told.bad == {}
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    rows = told.trades.select("symbol", "trade_id", "price", "quantity", "traded_us", "taker_side").rows()
    assert rows == [
        (
            f["product_id"],
            str(f["trade_id"]),
            f["price"],
            f["size"],
            (datetime.fromisoformat(f["time"]) - epoch) // timedelta(microseconds=1),
            {"buy": "sell", "sell": "buy"}.get(f["side"]),
        )
        for f in held
    ]


@given(st.lists(st.dictionaries(st.sampled_from(["bitcoin", "ethereum"]) | _TEXT, _TEXT, max_size=3), max_size=5))
def test_coincap_is_read_as_plain_json_is(held: list[dict[str, str]]) -> None:
    told = decoded(coincap_stream.FEED, *(encode(changed) for changed in held))
    assert sorted(told.bad) == [place for place, changed in enumerate(held) if not changed.keys() <= MARKETS.keys()]
    known = [pair for changed in held for pair in changed.items() if changed.keys() <= MARKETS.keys()]
    assert told.prices.select("symbol", "price").rows() == known


_JSON = st.recursive(
    st.none() | st.booleans() | _FLOATS | _WIDE | _TEXT,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["data", "type", "p", "s", "t", "v", "c", "a", "time"]) | _TEXT, inner, max_size=4
        )
    ),
    max_leaves=8,
)


_GOOD = st.sampled_from([binance(), coinbase(), b'{"bitcoin":"1.5"}', messages_of(trade(), trade(c=["1"]))])


@st.composite
def _garbled(draw: st.DrawFn) -> bytes:
    """A good message, a part of which has become whatever bytes."""
    good = draw(_GOOD)
    start = draw(st.integers(0, len(good)))
    return good[:start] + draw(st.binary(max_size=8)) + good[start + draw(st.integers(0, 8)) :]


@given(st.sampled_from(sorted(FEEDS)), st.lists(_JSON.map(encode) | st.binary(max_size=60) | _garbled(), max_size=4))
def test_nothing_that_is_sent_raises(name: str, frames: Sequence[bytes]) -> None:
    feed = FEEDS[name]
    for frame in frames:
        feed.is_data(frame)
        said = feed.control(frame)
        assert said.detail == "" or said.detail.isprintable()
        assert len(said.detail) < 400
    told = decoded(feed, *frames)
    assert set(told.bad) <= set(range(len(frames)))


@pytest.mark.parametrize("feed", FEEDS.values(), ids=list(FEEDS))
def test_a_feed_is_whole(feed: Feed) -> None:
    assert FEEDS[feed.name] is feed
    assert feed.url.startswith("wss://")
    assert bool(feed.key_name) == feed.needs_key
    assert feed.silent_after >= 30
    assert "secret" not in feed.address(feed.url, ["a"], None)
    told = decoded(feed)
    assert told.trades.is_empty()
    assert told.prices.is_empty()
