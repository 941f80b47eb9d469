"""What we lean on in ccxt: it is loaded in parts, hands its requests out, and leaves every number as it was sent."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from crypto_assets.errors import UsageError
from crypto_assets.providers.ccxt_wire import (
    KINDS,
    Digits,
    base_errors,
    decoded,
    encoded,
    exchange,
    fetch_candles,
    fetch_ticker,
    fetch_trades,
    refusal,
    stub,
)


def on_the_wire(name: str, body: bytes, *, named: str = "BTCUSDT") -> tuple[Any, list[str]]:
    """An exchange that gets this body for every question, and the addresses that it asks."""
    asked: list[str] = []

    def wire(url: str) -> bytes:
        asked.append(url)
        return body

    made = exchange(name, wire)
    made.set_markets([stub(named, "BTC", "USDT")])
    return made, asked


def test_one_exchange_is_loaded_without_the_hundred_others() -> None:
    told = (
        "import sys; from crypto_assets.providers.ccxt_wire import exchange;"
        "print(any(name.startswith('ccxt') for name in sys.modules)); exchange('kraken', print);"
        "print(*(name in sys.modules for name in ('ccxt', 'ccxt.kraken', 'ccxt.binance')));"
        "import ccxt; print(len(ccxt.exchanges) > 90, ccxt.kraken.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["False", "False True False", "True ccxt.kraken"]


@pytest.mark.parametrize("name", ["base", "pro", "async_support", "nope", "os", "../kraken", "", "Exchange"])
def test_a_name_that_is_no_exchange_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="no venue that ccxt knows"):
        exchange(name, lambda _: b"")


def test_numbers_keep_the_digits_that_were_sent() -> None:
    body = b'{"a":[1,35000.10,1e-8,123456789012345678.123456789012345678],"b":"0.10","c":null,"d":true}'
    assert decoded(body)["a"] == [1, "35000.10", "1e-8", "123456789012345678.123456789012345678"]
    assert encoded(decoded(body, Digits)).encode() == body


@pytest.mark.parametrize("body", [b"", b"{", b"<html>", b"[NaN]", b"[Infinity]", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_no_json(body: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        decoded(body)


def test_candles_come_as_sent_and_as_read_in_the_order_of_the_answer() -> None:
    body = b"[[1700000060,1.0,2.50,1.5,2.10,3],[1700000000,1e-8,2,1,2,0.1],42,[]]"
    asked, urls = on_the_wire("coinbaseexchange", body, named="BTC-USDT")
    candles = fetch_candles("BTC/USDT", "1m", 1700000000000, 300, {"until": 1700000119999}, asked=asked)
    assert [made for _, made in candles] == [
        [1700000060000, "1.5", "2.50", "1.0", "2.10", "3"],
        [1700000000000, "1", "2", "1e-8", "2", "0.1"],
        [None] * 6,
        [None] * 6,
    ]
    assert candles[2][0] == 42
    assert urls == [
        "https://api.exchange.coinbase.com/products/BTC-USDT/candles?granularity=60"
        "&start=2023-11-14T22%3A13%3A20.000Z&end=2023-11-14T22%3A15%3A19.999Z"
    ]


def test_a_limit_is_never_asked_past_what_binance_gives() -> None:
    asked, urls = on_the_wire("binance", b"[]")
    fetch_candles("BTC/USDT", "1m", 0, 5000, asked=asked)
    assert "limit=1000&" in urls[0]
    assert urls[0].startswith("https://api.binance.com/api/v3/klines?")


def test_kraken_is_read_by_whatever_name_it_keys_its_answer() -> None:
    body = b'{"error":[],"result":{"XXBTZUSD":[[1700000000,"1","2","0.5","1.5","1.2","9.1",5]],"last":1700000000}}'
    asked, urls = on_the_wire("kraken", body, named="XBTUSDT")
    ((_, made),) = fetch_candles("BTC/USDT", "1m", 1700000000000, 720, asked=asked)
    assert made == [1700000000000, "1", "2", "0.5", "1.5", "9.1"]
    # `since` is exclusive there: ccxt asks for the candle before.
    assert urls == ["https://api.kraken.com/0/public/OHLC?pair=XBTUSDT&interval=1&since=1699999940"]


@pytest.mark.parametrize(
    ("name", "body", "side"),
    [
        ("binance", b'[{"a":7,"p":"1.10","q":"2.0","f":1,"l":3,"T":1700000000123,"m":true,"M":true}]', "sell"),
        ("binance", b'[{"a":7,"p":"1.10","q":"2.0","f":1,"l":3,"T":1700000000123,"m":false,"M":true}]', "buy"),
        # Coinbase says the maker's side, Kraken the taker's.
        (
            "coinbaseexchange",
            b'[{"trade_id":7,"side":"buy","size":"2.0","price":"1.10","time":"2023-11-14T22:13:20.123456Z"}]',
            "sell",
        ),
        (
            "kraken",
            b'{"error":[],"result":{"X":[["1.10","2.0",1700000000.1239,"b","m","",7]],"last":"1700000000123900000"}}',
            "buy",
        ),
    ],
)
def test_a_trade_has_the_takers_side_and_its_own_digits(name: str, body: bytes, side: str) -> None:
    asked, _ = on_the_wire(name, body)
    ((_, made),) = fetch_trades("BTC/USDT", asked=asked)
    told = (made["id"], made["price"], made["amount"], made["side"], made["timestamp"])
    assert told == ("7", "1.10", "2.0", side, 1700000000123)


def test_seconds_become_milliseconds_exactly() -> None:
    times = [
        ("1729357230.349999951", 1729357230349),  # ccxt itself says 350
        ("1700000000.1239", 1700000000123),
        (1700000000, 1700000000000),
        ("1e999999999", None),
        ("NaN", None),
        ("soon", None),
        (None, None),
    ]
    asked = exchange("kraken", lambda _: b"")
    assert [asked.safe_timestamp([sent], 0) for sent, _ in times] == [told for _, told in times]


def test_a_ticker_has_its_own_digits() -> None:
    asked, _ = on_the_wire("binance", b'{"lastPrice":"4.00000200","bidPrice":"4.00","askPrice":"4.10","closeTime":17}')
    ticker = fetch_ticker("BTC/USDT", asked=asked)
    assert (ticker["last"], ticker["bid"], ticker["ask"], ticker["timestamp"]) == ("4.00000200", "4.00", "4.10", 17)


def test_only_questions_are_asked() -> None:
    asked, urls = on_the_wire("binance", b"{}")
    with pytest.raises(ValueError, match="only questions"):
        asked.fetch("https://api.binance.com/api/v3/order", "POST")
    assert urls == []


@pytest.mark.parametrize(
    ("name", "status", "body", "kind"),
    [
        ("binance", 400, b'{"code":-1121,"msg":"Invalid symbol."}', "BadSymbol"),
        ("binance", 400, b'{"code":-1100,"msg":"Illegal characters"}', "ExchangeError"),
        ("binance", 429, b'{"code":-1003,"msg":"Too many requests"}', "DDoSProtection"),
        ("binance", 200, b"[]", None),
        ("kraken", 200, b'{"error":["EGeneral:Too many requests"]}', "DDoSProtection"),
        ("kraken", 200, b'{"error":["EService:Unavailable"]}', "ExchangeNotAvailable"),
        ("kraken", 200, b'{"error":["EGeneral:Invalid arguments"]}', "ExchangeError"),
        ("kraken", 200, b'{"error":[],"result":{}}', None),
        ("kraken", 200, b'{"error":5}', "ExchangeError"),
        ("coinbaseexchange", 404, b'{"message":"NotFound"}', "ExchangeError"),
        ("coinbaseexchange", 404, b"", None),
        ("okx", 200, b'{"code":"51001","msg":"Instrument ID does not exist","data":[]}', "BadSymbol"),
    ],
)
def test_an_error_has_the_name_that_ccxt_gives_it(name: str, status: int, body: bytes, kind: str | None) -> None:
    assert refusal(exchange(name, lambda _: b""), status, {}, body) == kind


def test_every_kind_is_an_error_of_ccxt() -> None:
    assert all(issubclass(getattr(base_errors(), kind), base_errors().BaseError) for kind in KINDS)
