"""The sandbox over HTTP: CoinCap v2 and v3 on one Starlette app, with limits, credits and faults.

Belongs here: paths, parameters, limits, envelopes and error bodies. What is answered comes from a source
(``market.py``, ``recording.py``), how an answer is spoiled from ``faults.py``, listening from ``server.py``.

Control for tests and the demo lies under ``/_sandbox/``: health, clock, faults, events, calls, streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from crypto_assets.sandbox import faults as fault_kinds
from crypto_assets.sandbox.events import Events
from crypto_assets.sandbox.faults import Fault, spoil
from crypto_assets.sandbox.market import CANDLE_INTERVALS, HISTORY_INTERVALS, Market
from crypto_assets.sandbox.replies import broken_off, json_reply, key_of, refusal
from crypto_assets.sandbox.services import mounts
from crypto_assets.sandbox.source import NotServedError, Row, Source, Version
from crypto_assets.sandbox.state import Clock, SandboxState

MAX_LIMIT = 2000


class _RefusedError(Exception):
    """The provider's own error answer: status, text, and whether its envelope carries a timestamp."""

    def __init__(self, status: int, error: str, *, is_stamped: bool = False) -> None:
        super().__init__(error)
        self.status, self.error, self.is_stamped = status, error, is_stamped


_INVALID = "Invalid query parameters"


@dataclass(frozen=True, slots=True)
class _Question:
    """One call, read: what is asked of which version at which market time."""

    version: Version
    item: str
    query: Mapping[str, str]
    now: datetime

    def page(self, rows: list[Row], default: int) -> list[Row]:
        limit, offset = self._count("limit", default), self._count("offset", 0)
        if limit > MAX_LIMIT:
            raise _RefusedError(400, f"limit exceeds {MAX_LIMIT}")
        return rows[offset : offset + limit]

    def window(self) -> tuple[datetime | None, datetime | None]:
        """start and end (epoch ms): both or neither, in order."""
        start, end = self._moment("start"), self._moment("end")
        if (start is None) != (end is None) or (start is not None and end is not None and end < start):
            raise _RefusedError(400, _INVALID)
        return start, end

    def _count(self, name: str, default: int) -> int:
        text = self.query.get(name, "")
        if not text:
            return default
        if not (text.isascii() and text.isdigit()) or len(text) > 9:
            raise _RefusedError(400, _INVALID)
        return int(text)

    def _moment(self, name: str) -> datetime | None:
        text = self.query.get(name, "")
        if not text:
            return None
        if not (text.isascii() and text.isdigit()) or len(text) > 14:
            raise _RefusedError(400, _INVALID)
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=int(text))


_Ask = Callable[[Source, _Question], list[Row] | Row]


def _assets(source: Source, asked: _Question) -> list[Row]:
    rows = source.assets(asked.now, asked.version)
    if wanted := asked.query.get("ids"):
        rows = _among(rows, wanted)
    if search := asked.query.get("search", "").lower():
        rows = [row for row in rows if search in row["id"].lower() or search in row["symbol"].lower()]
    return asked.page(rows, 100)


def _asset(source: Source, asked: _Question) -> Row:
    row = source.asset(asked.item, asked.now, asked.version)
    if row is None:
        raise _RefusedError(404, f"{asked.item} not found", is_stamped=True)
    return row


def _history(source: Source, asked: _Question) -> list[Row]:
    interval = asked.query.get("interval", "")
    if not interval and asked.version == "v2":
        raise _RefusedError(400, "missing interval")
    if interval not in HISTORY_INTERVALS:
        raise _RefusedError(400, _INVALID)
    start, end = asked.window()
    points = source.history(asked.item, interval, start, end, now=asked.now, version=asked.version)
    if points is None:
        raise _RefusedError(404, "Asset history not found")
    return points


def _asset_markets(source: Source, asked: _Question) -> list[Row]:
    rows = source.asset_markets(asked.item, asked.now, asked.version)
    if rows is None:
        raise _RefusedError(404, f"{asked.item} not found", is_stamped=True)
    return asked.page(rows, 100)


def _rates(source: Source, asked: _Question) -> list[Row]:
    rows = source.rates(asked.now, asked.version)
    wanted = asked.query.get("ids")
    return _among(rows, wanted) if wanted and asked.version == "v3" else rows


def _rate(source: Source, asked: _Question) -> Row:
    row = source.rate(asked.item, asked.now, asked.version)
    if row is None:
        raise _RefusedError(404, "Conversion rate not found")
    return row


def _exchanges(source: Source, asked: _Question) -> list[Row]:
    rows = source.exchanges(asked.now, asked.version)
    return asked.page(rows, 10) if asked.version == "v3" else rows


def _exchange(source: Source, asked: _Question) -> Row:
    for row in source.exchanges(asked.now, asked.version):
        if asked.item in (row.get("exchangeId"), row.get("id")):  # answers of 2018 say id
            return row
    raise _RefusedError(404, "Exchange not found")


def _markets(source: Source, asked: _Question) -> list[Row]:
    rows = source.markets(asked.now, asked.version)
    for name in ("exchangeId", "baseId", "quoteId"):
        if wanted := asked.query.get(name):
            rows = [row for row in rows if row[name] == wanted]
    for name in ("baseSymbol", "quoteSymbol"):
        if wanted := asked.query.get(name, "").upper():
            rows = [row for row in rows if row[name].upper() == wanted]
    if wanted := asked.query.get("assetId"):
        rows = [row for row in rows if wanted in (row["baseId"], row["quoteId"])]
    if wanted := asked.query.get("assetSymbol", "").upper():
        rows = [row for row in rows if wanted in (row["baseSymbol"].upper(), row["quoteSymbol"].upper())]
    return asked.page(rows, 10 if asked.version == "v3" else 100)


def _candles(source: Source, asked: _Question) -> list[Row]:
    exchange = asked.query.get("exchange") or asked.query.get("exchangeId")  # clients send either
    if not exchange:
        raise _RefusedError(400, "missing exchange")
    interval = asked.query.get("interval", "")
    if not interval:
        raise _RefusedError(400, "missing interval")
    base, quote = asked.query.get("baseId", ""), asked.query.get("quoteId", "")
    if interval not in CANDLE_INTERVALS or not base or not quote:
        raise _RefusedError(400, _INVALID)
    start, end = asked.window()
    return source.candles(exchange, interval, base, quote, start=start, end=end, now=asked.now)


def _among(rows: list[Row], ids: str) -> list[Row]:
    wanted = {item.strip() for item in ids.split(",")}
    return [row for row in rows if row["id"] in wanted]


# endpoint name (as faults and counts know it), path below the version, how it is answered, versions
_ENDPOINTS: tuple[tuple[str, str, _Ask, tuple[Version, ...]], ...] = (
    ("assets", "/assets", _assets, ("v2", "v3")),
    ("asset", "/assets/{item}", _asset, ("v2", "v3")),
    ("history", "/assets/{item}/history", _history, ("v2", "v3")),
    ("asset_markets", "/assets/{item}/markets", _asset_markets, ("v2", "v3")),
    ("rates", "/rates", _rates, ("v2", "v3")),
    ("rate", "/rates/{item}", _rate, ("v2", "v3")),
    ("exchanges", "/exchanges", _exchanges, ("v2", "v3")),
    ("exchange", "/exchanges/{item}", _exchange, ("v2", "v3")),
    ("markets", "/markets", _markets, ("v2", "v3")),
    ("candles", "/candles", _candles, ("v2",)),  # v3 has none
)


@dataclass(frozen=True, slots=True)
class _Desk:
    """Answers the calls of one app: who may ask, what is answered, what it costs."""

    source: Source
    state: SandboxState
    keys: frozenset[str] | None
    credits_per_month: int | None
    calls_per_minute: int | None

    def route(self, endpoint: str, path: str, ask: _Ask, version: Version) -> Route:
        async def respond(request: Request) -> Response:
            return await self._respond(endpoint, ask, version, request)

        return Route(f"/{version}{path}", respond, methods=["GET"], name=f"{version}.{endpoint}")

    async def _respond(self, endpoint: str, ask: _Ask, version: Version, request: Request) -> Response:
        self.state.count(endpoint)
        key = key_of(request)
        if version == "v3" and self.keys is not None and key not in self.keys:
            return json_reply(401, {"error": "Unauthorized: invalid API key"})
        account = key if version == "v3" else "v2"
        if self.calls_per_minute is not None:
            wait = self.state.wait_seconds(account, self.calls_per_minute)
            if wait:
                return json_reply(429, fault_kinds.MINUTE_LIMIT, {"retry-after": str(wait)})
        is_metered = version == "v3"
        if is_metered and self.credits_per_month is not None and self.state.used(account) >= self.credits_per_month:
            return json_reply(403, fault_kinds.QUOTA_403)
        offset = request.query_params.get("offset", "0")
        struck = self.state.faults.strike(endpoint, int(offset) if offset.isdecimal() and len(offset) < 10 else 0)
        for fault in struck:
            if fault.kind == "stall":
                await asyncio.sleep(fault.seconds)
        asked = _Question(version, request.path_params.get("item", ""), request.query_params, self.state.now())
        response = refusal(struck) or self._answer(endpoint, ask, asked, struck)
        if is_metered and response.status_code not in (403, 429):
            self.state.charge(account, len(response.body))
        return response

    def _answer(self, endpoint: str, ask: _Ask, asked: _Question, struck: list[Fault]) -> Response:
        stamp = self.source.answered_at(endpoint, asked.item or None, asked.now)
        try:
            data: object = ask(self.source, asked)
        except NotServedError:
            return json_reply(404, {"error": "not recorded"})
        except _RefusedError as refused:
            body: dict[str, object] = {"error": refused.error}
            return json_reply(refused.status, {**body, "timestamp": stamp} if refused.is_stamped else body)
        for fault in struck:
            data = _spoiled(fault, data)
        return broken_off(json_reply(200, {"data": data, "timestamp": stamp}), struck)


def create_app(
    source: Source,
    *,
    keys: frozenset[str] | None = None,
    credits_per_month: int | None = None,
    calls_per_minute: int | None = None,
    clock: Clock = lambda: datetime.now(UTC),
) -> Starlette:
    """The sandbox's app; its ``state.sandbox`` is the ``SandboxState`` that the control paths act on.

    ``keys`` are the accepted keys of v3 and of the streams that take one (None: any or none); ``credits_per_month`` and
    ``calls_per_minute`` hold per key (None: no limit; only v3 costs credits). ``clock`` tells real time.
    """
    state = SandboxState(clock, keys)
    desk = _Desk(source, state, keys, credits_per_month, calls_per_minute)
    routes = [desk.route(name, path, ask, version) for name, path, ask, versions in _ENDPOINTS for version in versions]
    others = mounts(source, state) if isinstance(source, Market) else []
    app = Starlette(
        routes=[*routes, *others, *_control(state)],
        exception_handlers={HTTPException: _not_routed, 500: _broken},
    )
    app.state.sandbox = state
    return app


def _control(state: SandboxState) -> list[Route]:
    async def health(request: Request) -> Response:
        return json_reply(200, {"status": "ok", "now": state.now().isoformat()})

    async def clock(request: Request) -> Response:
        class Wanted(msgspec.Struct):
            now: datetime | msgspec.UnsetType | None = msgspec.UNSET
            speed: float = 0.0

        wanted = msgspec.json.decode(await request.body(), type=Wanted)
        if isinstance(wanted.now, msgspec.UnsetType):
            state.set_speed(wanted.speed)
        else:
            state.set_now(wanted.now, wanted.speed)
        return json_reply(200, {"now": state.now().isoformat()})

    async def faults(request: Request) -> Response:
        wanted = msgspec.json.decode(await request.body(), type=list[Fault])
        state.set_faults(wanted)
        return json_reply(200, {"faults": len(wanted)})

    async def events(request: Request) -> Response:
        state.events = msgspec.json.decode(await request.body(), type=Events)
        return json_reply(200, state.events)

    async def calls(request: Request) -> Response:
        if request.method == "DELETE":
            state.forget_calls()
        return json_reply(200, state.calls())

    async def streams(request: Request) -> Response:
        return json_reply(200, {"connections": state.ledger.connections, "sent": state.ledger.sent})

    async def traded(request: Request) -> Response:
        query = request.query_params
        stream = state.streams.get(query.get("service", ""))
        if stream is None:
            raise ValueError(f"service is one of {', '.join(state.streams)}")
        markets = query.get("markets")
        start, end = (msgspec.convert(query.get(name), datetime, strict=False) for name in ("from", "to"))
        return json_reply(200, stream.happened(start, end, None if markets is None else markets.split(",")))

    return [
        Route("/_sandbox/streams", streams, methods=["GET"]),
        Route("/_sandbox/streams/trades", _checked(traded), methods=["GET"]),
        Route("/_sandbox/health", health, methods=["GET"]),
        Route("/_sandbox/clock", _checked(clock), methods=["PUT"]),
        Route("/_sandbox/faults", _checked(faults), methods=["PUT"]),
        Route("/_sandbox/events", _checked(events), methods=["PUT"]),
        Route("/_sandbox/calls", calls, methods=["GET", "DELETE"]),
    ]


def _checked(handle: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """A control call with a body that makes no sense is told why (400) and changes nothing."""

    async def checked(request: Request) -> Response:
        try:
            return await handle(request)
        except (msgspec.DecodeError, ValueError) as wrong:
            return json_reply(400, {"error": str(wrong)})

    return checked


def _spoiled(fault: Fault, data: object) -> object:
    if isinstance(data, list):
        # A record spoiled before may no longer be one; what follows leaves it alone.
        records = [row for row in data if isinstance(row, dict)]
        return spoil(fault.kind, records) if len(records) == len(data) else data
    if isinstance(data, dict):
        spoiled = spoil(fault.kind, [data])
        return spoiled[0] if spoiled else []
    return data


async def _not_routed(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return json_reply(status, {"error": "Not found" if status == 404 else "Method not allowed"})


async def _broken(request: Request, error: Exception) -> Response:
    return json_reply(500, {"error": "Internal server error"})
