"""Binance's spot market data as data-api.binance.vision answers it, from the tape: ``/api/v3``.

Source: binance-spot-api-docs of 2026-07 and the recorded samples; texts of errors as its clients report them. Times are
milliseconds, or microseconds with the header ``X-MBX-TIME-UNIT: MICROSECOND``. A candle without a trade is flat, with
the close before and zeros; the last candle is unfinished. Limits are by weight and minute: past it 429, and 418 for who
goes on asking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from crypto_assets.sandbox.faults import Fault, spoil_answer
from crypto_assets.sandbox.market import Market
from crypto_assets.sandbox.replies import broken_off, json_reply
from crypto_assets.sandbox.spot import SpotMarket
from crypto_assets.sandbox.state import SandboxState
from crypto_assets.sandbox.tape import (
    DAY_US,
    INTERVALS,
    MINUTE_US,
    Candles,
    Tape,
    closing,
    first_of,
    microseconds,
    tape_of,
)
from crypto_assets.sandbox.texts import signed, text, texts

VENUE = "binance"
WEIGHT_PER_MINUTE = 6000
# Who asks so many times more after the first 429 is banned for two minutes.
_PATIENCE = 10
_BAN_SECONDS = 120

# Times of so many units are microseconds, as milliseconds they would lie in the year 5138.
_LEAST_US = 10**14
_NEVER = 1 << 61
_MAX_LIMIT = 1000
_DEFAULT_LIMIT = 500
NAMES = {"1mo": "1M"}
"""What Binance's interface calls an interval, where it has another name (its archive says 1mo)."""
KLINE_NAMES = (
    "time",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "close_time",
    "value",
    "n",
    "taker",
    "taker_value",
    "_",
)

GEO_BLOCK = {
    "code": 0,
    "msg": "Service unavailable from a restricted location according to 'b. Eligibility' in "
    "https://www.binance.com/en/terms. Please contact customer service if you believe you received this message in "
    "error.",
}


class _RefusedError(Exception):
    """Binance's own error: HTTP 400 with a code."""

    def __init__(self, code: int, msg: str) -> None:
        super().__init__(msg)
        self.body = {"code": code, "msg": msg}


@dataclass(frozen=True, slots=True)
class _Question:
    """One call, read."""

    tape: Tape
    now: datetime
    query: Mapping[str, str]
    unit: int  # microseconds in one unit of time of the answer

    @property
    def until(self) -> int:
        return microseconds(self.now)

    def spot(self) -> SpotMarket:
        if not self.query.get("symbol"):
            raise _RefusedError(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
        return self._named(self.query["symbol"])

    def spots(self) -> tuple[list[SpotMarket], bool]:
        """The markets asked for, by symbol, symbols or all that trade; and whether it is one."""
        if "symbol" in self.query:
            return [self.spot()], True
        if "symbols" in self.query:
            try:
                symbols = msgspec.json.decode(self.query["symbols"], type=list[str])
            except msgspec.DecodeError:
                raise _illegal("symbols", '^\\[("[A-Z0-9-_.]{1,20}"(,"[A-Z0-9-_.]{1,20}"){0,}){0,1}\\]$') from None
            return [self._named(symbol) for symbol in symbols], False
        return self.listed(), False

    def listed(self) -> list[SpotMarket]:
        return self.tape.begun(VENUE, self.until)

    def limit(self, default: int = _DEFAULT_LIMIT) -> int:
        limit = self.number("limit")
        if limit is None:
            return default
        if not 1 <= limit <= _MAX_LIMIT:
            raise _RefusedError(-1130, "Data sent for parameter 'limit' is not valid.")
        return limit

    def number(self, name: str) -> int | None:
        said = self.query.get(name)
        if said is None:
            return None
        if not (said.isascii() and said.isdigit()) or len(said) > 20:
            raise _illegal(name, "^[0-9]{1,20}$")
        return int(said)

    def start(self) -> int | None:
        """``startTime`` in microseconds; clients may give milliseconds or microseconds."""
        said = self.number("startTime")
        return None if said is None else min(said if said >= _LEAST_US else said * 1000, _NEVER)

    def end(self) -> int | None:
        """The first microsecond after ``endTime``, which is inclusive in its own unit."""
        said = self.number("endTime")
        return None if said is None else min(said + 1 if said >= _LEAST_US else (said + 1) * 1000, _NEVER)

    def clock(self, us: int) -> int:
        return us // self.unit

    def _named(self, symbol: str) -> SpotMarket:
        for spot in self.listed():
            if symbol_of(spot) == symbol:
                return spot
        raise _RefusedError(-1121, "Invalid symbol.")


def _illegal(name: str, pattern: str) -> _RefusedError:
    return _RefusedError(-1100, f"Illegal characters found in parameter '{name}'; legal range is '{pattern}'.")


def symbol_of(spot: SpotMarket) -> str:
    """Binance's name of a market, e.g. BTCUSDT."""
    return f"{spot.base}{spot.quote}"


_Ask = Callable[[_Question], object]


def _ping(asked: _Question) -> object:
    return {}


def _time(asked: _Question) -> object:
    return {"serverTime": asked.clock(asked.until)}


def _exchange_info(asked: _Question) -> object:
    return {
        "timezone": "UTC",
        "serverTime": asked.clock(asked.until),
        "rateLimits": [
            {
                "rateLimitType": "REQUEST_WEIGHT",
                "interval": "MINUTE",
                "intervalNum": 1,
                "limit": WEIGHT_PER_MINUTE,
            }
        ],
        "exchangeFilters": [],
        "symbols": [_symbol_facts(spot, asked) for spot in asked.spots()[0]],
    }


def _symbol_facts(spot: SpotMarket, asked: _Question) -> dict[str, object]:
    tick, step = text(1, spot.price_places), text(1, spot.amount_places)
    return {
        "symbol": symbol_of(spot),
        "status": "TRADING" if asked.tape.is_listed(spot.market_id, asked.now) else "BREAK",
        "baseAsset": spot.base,
        "baseAssetPrecision": 8,
        "quoteAsset": spot.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": [
            "LIMIT",
            "LIMIT_MAKER",
            "MARKET",
            "STOP_LOSS",
            "STOP_LOSS_LIMIT",
            "TAKE_PROFIT",
            "TAKE_PROFIT_LIMIT",
        ],
        "icebergAllowed": True,
        "ocoAllowed": True,
        "otoAllowed": True,
        "opoAllowed": True,
        "quoteOrderQtyMarketAllowed": True,
        "allowTrailingStop": False,
        "cancelReplaceAllowed": False,
        "amendAllowed": False,
        "pegInstructionsAllowed": True,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": True,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "1000000.00000000", "tickSize": tick},
            {"filterType": "LOT_SIZE", "minQty": step, "maxQty": "9000000000.00000000", "stepSize": step},
        ],
        "permissions": [],
        "permissionSets": [["SPOT", "MARGIN"]],
        "defaultSelfTradePreventionMode": "NONE",
        "allowedSelfTradePreventionModes": ["NONE"],
    }


def _klines(asked: _Question) -> list[list[object]]:
    spot, limit = asked.spot(), asked.limit()
    interval = _interval(asked.query.get("interval", ""))
    start, last = asked.start(), asked.end()
    tape, until = asked.tape, asked.until
    end = until if last is None else last
    hidden = tape.hidden(spot.market_id, "rest", asked.now)
    if start is None:
        candles = tape.last_candles(spot.market_id, interval, end, n=limit, until=until, hidden=hidden)
    else:
        candles = tape.first_candles(spot.market_id, interval, start, end, n=limit, until=until, hidden=hidden)
    return kline_rows(candles, interval, asked.unit)


def _interval(said: str) -> str:
    if not said:
        raise _RefusedError(-1102, "Mandatory parameter 'interval' was not sent, was empty/null, or malformed.")
    known = {NAMES.get(interval, interval): interval for interval in INTERVALS}
    if said not in known:
        raise _RefusedError(-1120, "Invalid interval.")
    return known[said]


def kline_rows(candles: Candles, interval: str, unit: int) -> list[list[object]]:
    """The twelve fields of Binance's candles; times in ``unit`` microseconds."""
    spot = candles.spot
    opened = candles.opened_us.tolist()
    columns: list[Sequence[object]] = [
        [us // unit for us in opened],
        *(texts(getattr(candles, name), spot.price_places) for name in ("open", "high", "low", "close")),
        texts(candles.volume, spot.amount_places),
        [closing(interval, us) // unit - 1 for us in opened],
        texts(candles.value, spot.value_places),
        candles.n_trades.tolist(),
        texts(candles.taker_volume, spot.amount_places),
        texts(candles.taker_value, spot.value_places),
        ["0"] * len(opened),
    ]
    return [list(row) for row in zip(*columns, strict=True)]


def _agg_trades(asked: _Question) -> object:
    spot, limit = asked.spot(), asked.limit()
    first, start, last = asked.number("fromId"), asked.start(), asked.end()
    tape, until = asked.tape, asked.until
    end = until if last is None else min(until, last)
    hidden = tape.hidden(spot.market_id, "rest", asked.now)
    if first is not None:
        if start is not None or last is not None:
            raise _RefusedError(-1128, "Combination of optional parameters invalid.")
        trades = tape.trades_from_id(spot.market_id, first, limit, until, hidden)
    elif start is not None:
        trades = tape.first_trades(spot.market_id, start, end, limit, hidden)
    else:
        trades = tape.last_trades(spot.market_id, limit, end, hidden)
    return [
        {"a": a, "p": p, "q": q, "f": f, "l": last_raw, "T": asked.clock(us), "m": m, "M": True}
        for a, p, q, f, last_raw, us, m in zip(
            trades.agg_id.tolist(),
            texts(trades.price, spot.price_places),
            texts(trades.amount, spot.amount_places),
            trades.first_id.tolist(),
            trades.last_id.tolist(),
            trades.time_us.tolist(),
            trades.is_buyer_maker.tolist(),
            strict=True,
        )
    ]


def _trades(asked: _Question) -> object:
    spot, limit = asked.spot(), asked.limit()
    hidden = asked.tape.hidden(spot.market_id, "rest", asked.now)
    raw = asked.tape.last_trades(spot.market_id, limit, asked.until, hidden).split()
    raw = raw.where(slice(max(0, len(raw) - limit), None))
    return [
        {
            "id": number,
            "price": text(price, spot.price_places),
            "qty": text(amount, spot.amount_places),
            "quoteQty": text(price * amount, spot.value_places),
            "time": asked.clock(us),
            "isBuyerMaker": is_buyer_maker,
            "isBestMatch": True,
        }
        for number, price, amount, us, is_buyer_maker in zip(
            raw.first_id.tolist(),
            raw.price.tolist(),
            raw.amount.tolist(),
            raw.time_us.tolist(),
            raw.is_buyer_maker.tolist(),
            strict=True,
        )
    ]


def _ticker_day(asked: _Question) -> object:
    spots, is_one = asked.spots()
    rows = [_day_of(spot, asked) for spot in spots]
    return rows[0] if is_one else rows


def _day_of(spot: SpotMarket, asked: _Question) -> dict[str, object]:
    day, trades = asked.tape.statistics(spot.market_id, asked.until - DAY_US, asked.until)
    before = asked.tape.last_trades(spot.market_id, 1, asked.until - DAY_US)
    quote = asked.tape.quote(spot.market_id, asked.until)
    places, amounts = spot.price_places, spot.amount_places
    row: dict[str, object] = {"symbol": symbol_of(spot)}
    opened, last, volume, value = map(first_of, (day.open, day.close, day.volume, day.value))
    # A percentage with three decimals, a mean with the eight of all prices.
    percent = ((last - opened) * 200_000 + opened) // (2 * opened) if opened else 0
    mean = value * 10 ** (8 - places) // volume if volume else 0
    row |= {
        "priceChange": signed(last - opened, places),
        "priceChangePercent": signed(percent, 3, 3),
        "weightedAvgPrice": text(mean, 8),
        "prevClosePrice": text(first_of(before.price), places),
        "lastPrice": text(last, places),
        "lastQty": text(quote.last_amount if quote else 0, amounts),
        **_book(spot, asked),
        "openPrice": text(opened, places),
        "highPrice": text(first_of(day.high), places),
        "lowPrice": text(first_of(day.low), places),
        "volume": text(volume, amounts),
        "quoteVolume": text(value, spot.value_places),
        "openTime": asked.clock(asked.until - DAY_US),
        "closeTime": asked.clock(asked.until),
        "firstId": first_of(trades.first_id, -1),
        "lastId": int(trades.last_id[-1]) if len(trades) else -1,
        "count": first_of(day.n_trades),
    }
    return row


def _book_ticker(asked: _Question) -> object:
    spots, is_one = asked.spots()
    rows = [{"symbol": symbol_of(spot), **_book(spot, asked)} for spot in spots]
    return rows[0] if is_one else rows


def _book(spot: SpotMarket, asked: _Question) -> dict[str, object]:
    quote = asked.tape.quote(spot.market_id, asked.until)
    bid, n_bid, ask, n_ask = quote[:4] if quote else (0, 0, 0, 0)
    return {
        "bidPrice": text(bid, spot.price_places),
        "bidQty": text(n_bid, spot.amount_places),
        "askPrice": text(ask, spot.price_places),
        "askQty": text(n_ask, spot.amount_places),
    }


def _price(asked: _Question) -> object:
    spots, is_one = asked.spots()
    rows = []
    for spot in spots:
        quote = asked.tape.quote(spot.market_id, asked.until)
        rows.append({"symbol": symbol_of(spot), "price": text(quote.last if quote else 0, spot.price_places)})
    return rows[0] if is_one else rows


def _average_price(asked: _Question) -> object:
    spot = asked.spot()
    trades = asked.tape.trades_us(spot.market_id, asked.until - 5 * MINUTE_US, asked.until)
    quote = asked.tape.quote(spot.market_id, asked.until)
    volume, value = int(trades.amount.sum()), int((trades.price * trades.amount).sum())
    places = spot.price_places
    mean = value * 10 ** (8 - places) // volume if volume else (quote.last if quote else 0) * 10 ** (8 - places)
    return {"mins": 5, "price": text(mean, 8), "closeTime": asked.clock(quote.last_us if quote else asked.until)}


# Endpoint (as faults and counts know it), path, how it is answered, weight with a symbol, weight without
_ENDPOINTS: tuple[tuple[str, str, _Ask, int, int], ...] = (
    ("ping", "/ping", _ping, 1, 1),
    ("time", "/time", _time, 1, 1),
    ("exchange_info", "/exchangeInfo", _exchange_info, 20, 20),
    ("klines", "/klines", _klines, 2, 2),
    ("agg_trades", "/aggTrades", _agg_trades, 4, 4),
    ("trades", "/trades", _trades, 25, 25),
    ("ticker_24hr", "/ticker/24hr", _ticker_day, 2, 80),
    ("book_ticker", "/ticker/bookTicker", _book_ticker, 2, 4),
    ("price", "/ticker/price", _price, 2, 4),
    ("avg_price", "/avgPrice", _average_price, 2, 2),
)


def routes(market: Market, state: SandboxState) -> list[Route]:
    """Binance's spot market data. ``state.limits["binance"]`` is the weight a minute, where it is not 6000."""

    def route(name: str, path: str, ask: _Ask, weights: tuple[int, int]) -> Route:
        async def respond(request: Request) -> Response:
            query = request.query_params
            refused, struck = await state.met(f"binance.{name}", query.get("symbol", ""))
            used, wait = state.metered(VENUE, weights["symbol" not in query])
            headers = {"x-mbx-used-weight": str(used), "x-mbx-used-weight-1m": str(used)}
            answer = (
                _over(used, wait, state.limits.get(VENUE, WEIGHT_PER_MINUTE), weights[0])
                or _refusal(struck, wait)
                or refused
                or _answer(request, ask, struck)
            )
            answer.headers.update(headers)
            return answer

        return Route(f"/api/v3{path}", respond, methods=["GET"], name=f"binance.{name}")

    def _answer(request: Request, ask: _Ask, struck: list[Fault]) -> Response:
        now, tape = state.now(), tape_of(market, state.events)
        if tape.is_down(VENUE, now):
            return json_reply(503, {"code": -1016, "msg": "This service is no longer available."})
        unit = 1 if request.headers.get("x-mbx-time-unit", "").upper() == "MICROSECOND" else 1000
        try:
            data = ask(_Question(tape, now, request.query_params, unit))
        except _RefusedError as refused:
            return json_reply(400, refused.body)
        for fault in struck:
            data = spoil_answer(fault.kind, KLINE_NAMES, data)
        return broken_off(json_reply(200, data), struck)

    return [route(name, path, ask, (one, every)) for name, path, ask, one, every in _ENDPOINTS]


def _over(used: int, wait: int, allowed: int, weight: int) -> Response | None:
    if used <= allowed:
        return None
    if used > allowed + _PATIENCE * weight:
        return _banned(_BAN_SECONDS)
    return _told_to_wait(allowed, wait)


def _refusal(struck: list[Fault], wait: int) -> Response | None:
    kinds = {fault.kind for fault in struck}
    if "geo_block" in kinds:
        return json_reply(451, GEO_BLOCK)
    if "ban" in kinds:
        return _banned(_BAN_SECONDS)
    if kinds & {"rate_limited_minute", "quota_429", "quota_403"}:
        return _told_to_wait(WEIGHT_PER_MINUTE, wait)
    if "server_error" in kinds:
        body = {"code": -1000, "msg": "An unknown error occurred while processing the request."}
        return json_reply(500, body)
    return None


def _told_to_wait(allowed: int, wait: int) -> Response:
    msg = (
        f"Too much request weight used; current limit is {allowed} request weight per 1 MINUTE. Please use WebSocket "
        "Streams for live updates to avoid polling the API."
    )
    return json_reply(429, {"code": -1003, "msg": msg}, {"retry-after": str(wait)})


def _banned(seconds: int) -> Response:
    msg = "Way too much request weight used; IP banned. Please use WebSocket Streams for live updates to avoid bans."
    return json_reply(418, {"code": -1003, "msg": msg}, {"retry-after": str(seconds)})
