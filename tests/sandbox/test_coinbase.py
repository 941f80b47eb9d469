"""Coinbase Exchange in the sandbox: the tape over real sockets in its words, and as ccxt reads it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import ccxt
import httpx
import msgspec
import pytest

from crypto_assets.sandbox import Events, Fault, Hole, Market, Outage, Sandbox
from crypto_assets.sandbox.tape import microseconds, tape_of

NOW = datetime(2025, 3, 1, 12, 0, 30, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
MARKET = Market(7)
TAPE = tape_of(MARKET, Events())
BTC = "coinbase:BTC/USD"


def ask(sandbox: Sandbox, http: httpx.Client, path: str, **params: object) -> Any:
    answer = http.get(f"{sandbox.url}/coinbase/{path}", params={k: str(v) for k, v in params.items()})
    assert answer.status_code == 200, answer.text
    return answer.json()


def seconds(at: datetime) -> int:
    return microseconds(at) // 1_000_000


@pytest.mark.parametrize(("granularity", "name"), [(60, "1m"), (300, "5m"), (900, "15m"), (21600, "6h"), (86400, "1d")])
def test_candles_are_the_tapes_newest_first_with_low_before_open(
    sandbox: Sandbox, http: httpx.Client, granularity: int, name: str
) -> None:
    start, end = NOW - timedelta(seconds=100 * granularity), NOW
    answer = http.get(
        f"{sandbox.url}/coinbase/products/BTC-USD/candles",
        params={"granularity": str(granularity), "start": start.isoformat(), "end": str(seconds(end))},
    )
    rows = msgspec.json.decode(answer.content, type=list[list[Decimal]])
    truth = TAPE.candles(BTC, name, start, end + timedelta(microseconds=1), until=NOW).records()
    assert len(rows) > 90
    fields = ("low", "high", "open", "close", "volume_base")
    assert rows == [[seconds(row["opened_at"]), *(row[field] for field in fields)] for row in reversed(truth)]
    assert all(isinstance(number, int | float) for number in answer.json()[0])


def test_a_minute_without_trades_has_no_candle(sandbox: Sandbox, http: httpx.Client) -> None:
    rows = ask(sandbox, http, "products/XLM-USD/candles", granularity=60)
    assert 100 < len(rows) < 250
    assert all(row[5] > 0 for row in rows)
    assert rows[0][0] - rows[-1][0] > 290 * 60


def test_start_and_end_are_inclusive_and_ignored_alone(sandbox: Sandbox, http: httpx.Client) -> None:
    minute = NOW.replace(second=0)
    both = ask(sandbox, http, "products/BTC-USD/candles", start=seconds(minute - HOUR), end=seconds(minute - HOUR))
    assert [row[0] for row in both] == [seconds(minute - HOUR)]
    alone = ask(sandbox, http, "products/BTC-USD/candles", start=seconds(minute - DAY), granularity=60)
    assert alone == ask(sandbox, http, "products/BTC-USD/candles")
    assert alone[0][0] == seconds(minute)
    assert len(alone) > 290


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("products/NO-USD/candles", 404, "NotFound"),
        ("products/NO-USD/ticker", 404, "NotFound"),
        ("products/BTC-USD/candles?granularity=120", 400, "Unsupported granularity"),
        (
            "products/BTC-USD/candles?granularity=60&start=1740000000&end=1740018001",
            400,
            "granularity too small for the requested time range. Count of aggregations requested exceeds 300",
        ),
        ("products/BTC-USD/candles?start=yesterday&end=today", 400, "Invalid start"),
        ("products/BTC-USD/candles?start=1740000001&end=1740000000", 400, "start must be before end"),
        ("products/BTC-USD/trades?limit=1001", 400, "limit must be between 1 and 1000"),
    ],
)
def test_errors_are_messages(sandbox: Sandbox, http: httpx.Client, path: str, status: int, message: str) -> None:
    answer = http.get(f"{sandbox.url}/coinbase/{path}")
    assert (answer.status_code, answer.json()) == (status, {"message": message})


def test_who_has_no_user_agent_is_refused(sandbox: Sandbox, http: httpx.Client) -> None:
    answer = http.get(f"{sandbox.url}/coinbase/products", headers={"User-Agent": ""})
    assert (answer.status_code, answer.json()) == (400, {"message": "User-Agent header is required."})


def test_trades_are_paged_backwards_and_say_the_makers_side(sandbox: Sandbox, http: httpx.Client) -> None:
    found: list[dict[str, Any]] = []
    query = {"limit": "170"}
    for _ in range(5):
        answer = http.get(f"{sandbox.url}/coinbase/products/BTC-USD/trades", params=query)
        found += answer.json()
        query["after"] = answer.headers["cb-after"]
        assert answer.headers["cb-before"] == str(answer.json()[0]["trade_id"])
    truth = TAPE.last_trades(BTC, 850, microseconds(NOW)).split().records()[-850:]
    for row, trade in zip(found, reversed(truth), strict=True):
        assert row["trade_id"] == trade["first_id"]
        assert (Decimal(row["price"]), Decimal(row["size"])) == (trade["price"], trade["quantity"])
        assert row["side"] == {"buy": "sell", "sell": "buy"}[trade["taker_side"]]
        assert datetime.fromisoformat(row["time"]) == trade["traded_at"]
    newer = ask(sandbox, http, "products/BTC-USD/trades", before=found[3]["trade_id"])
    assert newer == found[:3]


def test_ticker_book_and_stats_agree(sandbox: Sandbox, http: httpx.Client) -> None:
    ticker = ask(sandbox, http, "products/BTC-USD/ticker")
    book = ask(sandbox, http, "products/BTC-USD/book", level=1)
    stats = ask(sandbox, http, "products/BTC-USD/stats")
    trades = TAPE.trades(BTC, NOW - DAY, NOW).records()
    assert Decimal(ticker["price"]) == Decimal(stats["last"]) == trades[-1]["price"]
    assert Decimal(ticker["volume"]) == Decimal(stats["volume"]) == sum(trade["quantity"] for trade in trades)
    assert Decimal(stats["high"]) == max(trade["price"] for trade in trades)
    assert Decimal(stats["open"]) == trades[0]["price"]
    assert (ticker["bid"], ticker["ask"]) == (book["bids"][0][0], book["asks"][0][0])
    assert Decimal(ticker["bid"]) < Decimal(ticker["ask"])
    assert ticker["trade_id"] == trades[-1]["last_id"]
    assert datetime.fromisoformat(ticker["time"]) == trades[-1]["traded_at"]


def test_products_begin_with_their_listing(sandbox: Sandbox, http: httpx.Client) -> None:
    assert len(ask(sandbox, http, "products")) == 17
    assert {"id": "BTC-USD", "status": "online", "quote_increment": "0.01"}.items() <= ask(
        sandbox, http, "products/BTC-USD"
    ).items()
    sandbox.set_now(datetime(2020, 1, 1, tzinfo=UTC))
    assert "SOL-USD" not in {row["id"] for row in ask(sandbox, http, "products")}


def test_limits_faults_holes_and_outages(sandbox: Sandbox, http: httpx.Client) -> None:
    url = f"{sandbox.url}/coinbase/products/BTC-USD/candles"
    whole = http.get(url).json()

    def said(kind: Any) -> httpx.Response:
        sandbox.set_faults([Fault(kind=kind, endpoint="coinbase.candles")])
        return http.get(url)

    assert (said("rate_limited_minute").status_code, http.get(url).json()) == (
        429,
        {"message": "Public rate limit exceeded"},
    )
    assert said("geo_block").status_code == 451
    assert said("server_error").json() == {"message": "Internal server error"}
    assert said("out_of_order").json() == whole[::-1]
    assert said("negative_price").json()[len(whole) // 2][4] == f"-{whole[len(whole) // 2][4]}"
    sandbox.set_faults([])
    minute = NOW.replace(second=0)
    sandbox.set_events(Events(holes=(Hole(BTC, minute - HOUR, minute, ("rest",)),)))
    assert http.get(url).json() == [row for row in whole if not seconds(minute - HOUR) <= row[0] < seconds(minute)]
    sandbox.set_events(Events(outages=(Outage("coinbase", NOW - MINUTE, NOW + MINUTE),)))
    assert http.get(url).status_code == 503
    sandbox.set_events(Events())
    sandbox.state.limits["coinbase"] = 2
    sandbox.forget_calls()
    assert [http.get(url).status_code for _ in range(3)] == [200, 200, 429]


def test_ccxt_reads_it_as_coinbase_exchange(sandbox: Sandbox) -> None:
    venue = ccxt.coinbaseexchange({"rateLimit": 1})
    venue.urls["api"]["public"] = f"{sandbox.url}/coinbase"
    markets = venue.load_markets()
    assert len(markets) == 17
    assert markets["BTC/USD"]["precision"] == {"amount": 1e-05, "price": 0.01}
    start = NOW.replace(second=0) - HOUR
    candles = venue.fetch_ohlcv("BTC/USD", "1m", since=microseconds(start) // 1000, limit=5)
    truth = TAPE.candles(BTC, "1m", start, start + 5 * MINUTE).records()
    assert candles == [
        [
            seconds(row["opened_at"]) * 1000,
            *(float(row[name]) for name in ("open", "high", "low", "close", "volume_base")),
        ]
        for row in truth
    ]
    assert len(venue.fetch_ohlcv("BTC/USD", "1m", since=microseconds(NOW - DAY) // 1000)) > 290
    trade = venue.fetch_trades("BTC/USD", limit=3)[-1]
    last = TAPE.last_trades(BTC, 1, microseconds(NOW)).records()[0]
    assert (trade["id"], trade["side"]) == (str(last["last_id"]), last["taker_side"])
    ticker = venue.fetch_ticker("BTC/USD")
    assert ticker["bid"] < ticker["ask"]
    assert ticker["last"] == float(last["price"])
    sandbox.set_faults([Fault(kind="rate_limited_minute", endpoint="coinbase.ticker")])
    with pytest.raises(ccxt.RateLimitExceeded):
        venue.fetch_ticker("BTC/USD")
