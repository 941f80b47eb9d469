"""Coinbase Exchange's public market data (api.exchange.coinbase.com) from the tape.

Source: docs.cdp.coinbase.com, the samples in ccxt, and errors as clients report them. Candles are
``[seconds, low, high, open, close, volume]`` in JSON numbers, newest first, at most 300; an interval without a trade
has none. ``start`` and ``end`` are inclusive and ignored where one is missing. Trades are newest first, ``side`` is
the maker's. Who names no User-Agent is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from crypto_assets.sandbox.faults import Fault, spoil_answer
from crypto_assets.sandbox.market import Market
from crypto_assets.sandbox.replies import broken_off, json_reply
from crypto_assets.sandbox.spot import SpotMarket
from crypto_assets.sandbox.state import SandboxState
from crypto_assets.sandbox.tape import DAY_US, SECOND_US, Tape, first_of, microseconds, moment, opening, tape_of, within
from crypto_assets.sandbox.texts import iso_us, numbers, text, texts

VENUE = "coinbase"
MAX_CANDLES = 300
MAX_TRADES = 1000
_GRANULARITIES = {60: "1m", 300: "5m", 900: "15m", 3600: "1h", 21600: "6h", 86400: "1d"}
_CANDLE_NAMES = ("time", "low", "high", "open", "close", "volume")
_TOO_MANY = "granularity too small for the requested time range. Count of aggregations requested exceeds 300"
_FULL_NAMES = {"USD": "United States Dollar", "EUR": "Euro"}


class _RefusedError(Exception):
    """Coinbase's own error: a status and a message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass(frozen=True, slots=True)
class _Question:
    """One call, read."""

    tape: Tape
    now: datetime
    product: str
    query: Mapping[str, str]

    @property
    def until(self) -> int:
        return microseconds(self.now)

    def listed(self) -> list[SpotMarket]:
        return self.tape.begun(VENUE, self.until)

    def spot(self) -> SpotMarket:
        for spot in self.listed():
            if product_of(spot) == self.product:
                return spot
        raise _RefusedError(404, "NotFound")

    def whole(self, name: str, default: int) -> int:
        said = self.query.get(name, "")
        if not said:
            return default
        if not (said.isascii() and said.isdigit()) or len(said) > 18:
            raise _RefusedError(400, f"Invalid {name}")
        return int(said)

    def time(self, name: str) -> int | None:
        """A moment in microseconds, given as ISO 8601 or as seconds."""
        said = self.query.get(name, "")
        if not said:
            return None
        if said.isascii() and said.isdigit() and len(said) <= 12:
            return int(said) * SECOND_US
        try:
            at = datetime.fromisoformat(said)
        except ValueError:
            raise _RefusedError(400, f"Invalid {name}") from None
        return microseconds(at if at.tzinfo else at.replace(tzinfo=UTC))


@dataclass(frozen=True, slots=True)
class _Page:
    """Data with the headers of its page."""

    data: object
    headers: Mapping[str, str]


def product_of(spot: SpotMarket) -> str:
    """Coinbase's id of a market, e.g. BTC-USD."""
    return f"{spot.base}-{spot.quote}"


_Ask = Callable[[_Question], _Page]


def _time(asked: _Question) -> _Page:
    return _Page({"iso": iso_us(asked.until), "epoch": asked.until / SECOND_US}, {})


def _currencies(asked: _Question) -> _Page:
    tickers = sorted({ticker for spot in asked.listed() for ticker in (spot.base, spot.quote)})
    rows: list[dict[str, object]] = [
        {
            "id": ticker,
            "name": _FULL_NAMES.get(ticker, ticker),
            "min_size": "0.00000001",
            "status": "online",
            "message": "",
            "max_precision": "0.01" if ticker in _FULL_NAMES else "0.00000001",
            "convertible_to": [],
            "details": {"type": "fiat" if ticker in _FULL_NAMES else "crypto", "symbol": None, "sort_order": 0},
            "default_network": "",
            "supported_networks": [],
            "display_name": ticker,
        }
        for ticker in tickers
    ]
    return _Page(rows, {})


def _products(asked: _Question) -> _Page:
    return _Page([_facts(spot, asked) for spot in asked.listed()], {})


def _product(asked: _Question) -> _Page:
    return _Page(_facts(asked.spot(), asked), {})


def _facts(spot: SpotMarket, asked: _Question) -> dict[str, object]:
    is_listed = asked.tape.is_listed(spot.market_id, asked.now)
    return {
        "id": product_of(spot),
        "base_currency": spot.base,
        "quote_currency": spot.quote,
        "quote_increment": text(1, spot.price_places, None),
        "base_increment": text(1, spot.amount_places, None),
        "display_name": f"{spot.base}-{spot.quote}",
        "min_market_funds": "1",
        "margin_enabled": False,
        "post_only": False,
        "limit_only": False,
        "cancel_only": False,
        "status": "online" if is_listed else "delisted",
        "status_message": "",
        "trading_disabled": not is_listed,
        "fx_stablecoin": False,
        "max_slippage_percentage": "0.02000000",
        "auction_mode": False,
        "high_bid_limit_percentage": "",
    }


def _candles(asked: _Question) -> _Page:
    spot = asked.spot()
    granularity = asked.whole("granularity", 60)
    if granularity not in _GRANULARITIES:
        raise _RefusedError(400, "Unsupported granularity")
    interval, step = _GRANULARITIES[granularity], granularity * SECOND_US
    start, end = asked.time("start"), asked.time("end")
    if start is None or end is None:
        end = asked.until
        start = opening(interval, end) - (MAX_CANDLES - 1) * step
    if end < start:
        raise _RefusedError(400, "start must be before end")
    if end - start > MAX_CANDLES * step:
        raise _RefusedError(400, _TOO_MANY)
    made = asked.tape.candles(spot.market_id, interval, moment(start), moment(end + 1), until=asked.now)
    made = made.where(~within(made.opened_us, asked.tape.hidden(spot.market_id, "rest", asked.now)))
    made = made.where(slice(max(0, len(made) - MAX_CANDLES), None)).where(slice(None, None, -1))
    rows = zip(
        (made.opened_us // SECOND_US).tolist(),
        *(numbers(getattr(made, name), spot.price_places) for name in ("low", "high", "open", "close")),
        numbers(made.volume, spot.amount_places),
        strict=True,
    )
    return _Page([list(row) for row in rows], {})


def _trades(asked: _Question) -> _Page:
    """Newest first; ``after`` gives those older than an id, ``before`` those newer, as the headers say it."""
    spot = asked.spot()
    limit = asked.whole("limit", MAX_TRADES)
    if not 1 <= limit <= MAX_TRADES:
        raise _RefusedError(400, "limit must be between 1 and 1000")
    tape, until = asked.tape, asked.until
    after, before = asked.whole("after", -1), asked.whole("before", -1)
    end = until if after < 0 else min(until, tape.time_of_raw(spot.market_id, after, until) + 1)
    hidden = tape.hidden(spot.market_id, "rest", asked.now)
    raw = tape.last_trades(spot.market_id, limit + 4, end, hidden).split()
    raw = raw.where((raw.first_id < (after if after >= 0 else 1 << 62)) & (raw.first_id > before))
    raw = raw.where(slice(max(0, len(raw) - limit), None)).where(slice(None, None, -1))
    rows = [
        {
            "trade_id": number,
            "side": "buy" if is_buyer_maker else "sell",
            "size": amount,
            "price": price,
            "time": iso_us(us),
        }
        for number, is_buyer_maker, amount, price, us in zip(
            raw.first_id.tolist(),
            raw.is_buyer_maker.tolist(),
            texts(raw.amount, spot.amount_places),
            texts(raw.price, spot.price_places),
            raw.time_us.tolist(),
            strict=True,
        )
    ]
    headers = {"cb-before": str(rows[0]["trade_id"]), "cb-after": str(rows[-1]["trade_id"])} if rows else {}
    return _Page(rows, headers)


def _ticker(asked: _Question) -> _Page:
    spot = asked.spot()
    day, _ = asked.tape.statistics(spot.market_id, asked.until - DAY_US, asked.until)
    quote = asked.tape.quote(spot.market_id, asked.until)
    if quote is None:
        raise _RefusedError(404, "NotFound")
    return _Page(
        {
            "ask": text(quote.ask, spot.price_places, None),
            "bid": text(quote.bid, spot.price_places, None),
            "volume": text(first_of(day.volume), spot.amount_places),
            "trade_id": quote.last_id,
            "price": text(quote.last, spot.price_places, None),
            "size": text(quote.last_amount, spot.amount_places),
            "time": iso_us(quote.last_us),
            "rfq_volume": "0",
        },
        {},
    )


def _stats(asked: _Question) -> _Page:
    spot = asked.spot()
    day, _ = asked.tape.statistics(spot.market_id, asked.until - DAY_US, asked.until)
    month, _ = asked.tape.statistics(spot.market_id, asked.until - 30 * DAY_US, asked.until)
    quote = asked.tape.quote(spot.market_id, asked.until)
    prices = {name: first_of(getattr(day, name)) for name in ("open", "high", "low")}
    return _Page(
        {
            **{name: text(price, spot.price_places, None) for name, price in prices.items()},
            "last": text(quote.last if quote else 0, spot.price_places, None),
            "volume": text(first_of(day.volume), spot.amount_places),
            "volume_30day": text(first_of(month.volume), spot.amount_places),
        },
        {},
    )


def _book(asked: _Question) -> _Page:
    """The best bid and ask; deeper levels are that one too, as the tape has no more."""
    spot = asked.spot()
    quote = asked.tape.quote(spot.market_id, asked.until)
    bids, asks = [], []
    if quote is not None:
        bids = [[text(quote.bid, spot.price_places, None), text(quote.bid_amount, spot.amount_places), 1]]
        asks = [[text(quote.ask, spot.price_places, None), text(quote.ask_amount, spot.amount_places), 1]]
    book = {
        "bids": bids,
        "asks": asks,
        "sequence": quote.last_id if quote else 0,
        "auction_mode": False,
        "auction": None,
        "time": iso_us(asked.until),
    }
    return _Page(book, {})


# Endpoint (as faults and counts know it), path, how it is answered
_ENDPOINTS: tuple[tuple[str, str, _Ask], ...] = (
    ("time", "/time", _time),
    ("currencies", "/currencies", _currencies),
    ("products", "/products", _products),
    ("product", "/products/{product}", _product),
    ("candles", "/products/{product}/candles", _candles),
    ("trades", "/products/{product}/trades", _trades),
    ("ticker", "/products/{product}/ticker", _ticker),
    ("stats", "/products/{product}/stats", _stats),
    ("book", "/products/{product}/book", _book),
)


def routes(market: Market, state: SandboxState) -> list[Route]:
    """Coinbase Exchange's market data. ``state.limits["coinbase"]`` is the number of calls a minute; none is set."""

    def route(name: str, path: str, ask: _Ask) -> Route:
        async def respond(request: Request) -> Response:
            refused, struck = await state.met(f"coinbase.{name}", request.path_params.get("product", ""))
            used, _ = state.metered(VENUE, 1)
            if used > state.limits.get(VENUE, used):
                return _told(429, "Public rate limit exceeded")
            return _refusal(struck) or refused or _answer(request, ask, struck)

        return Route(path, respond, methods=["GET"], name=f"coinbase.{name}")

    def _answer(request: Request, ask: _Ask, struck: list[Fault]) -> Response:
        now, tape = state.now(), tape_of(market, state.events)
        if not request.headers.get("user-agent"):
            return _told(400, "User-Agent header is required.")
        if tape.is_down(VENUE, now):
            return _told(503, "Service Unavailable")
        try:
            page = ask(_Question(tape, now, request.path_params.get("product", ""), request.query_params))
        except _RefusedError as refused:
            return _told(refused.status, refused.message)
        data = page.data
        for fault in struck:
            data = spoil_answer(fault.kind, _CANDLE_NAMES, data)
        return broken_off(json_reply(200, data, page.headers), struck)

    return [route(name, path, ask) for name, path, ask in _ENDPOINTS]


def _told(status: int, message: str) -> Response:
    return json_reply(status, {"message": message})


def _refusal(struck: list[Fault]) -> Response | None:
    kinds = {fault.kind for fault in struck}
    if kinds & {"rate_limited_minute", "quota_429", "quota_403", "ban"}:
        return _told(429, "Public rate limit exceeded")
    if "geo_block" in kinds:
        return _told(451, "Service unavailable from a restricted location")
    if "not_found" in kinds:
        return _told(404, "NotFound")
    if "server_error" in kinds:
        return _told(500, "Internal server error")
    return None
