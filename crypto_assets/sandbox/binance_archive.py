"""Binance's archive as data.binance.vision keeps it, from the tape: zip files of candles and aggregate trades.

``/data/spot/{daily|monthly}/{klines|aggTrades}/SYMBOL/[INTERVAL/]FILE.zip`` and ``FILE.zip.CHECKSUM``
(``<sha256>  FILE.zip``). Source: binance-public-data's README of 2025-01 and recorded files: CSV without a header row,
milliseconds until 2024-12 and microseconds from 2025-01-01 on, ``1mo`` where the interface says 1M.

A day's file is there from the next midnight (UTC), a month's from the first Monday after the month. A file without a
row is not there. The same question gives the same bytes, until a restatement or a mended hole changes them.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from crypto_assets.sandbox.binance import GEO_BLOCK, KLINE_NAMES, VENUE, kline_rows, symbol_of
from crypto_assets.sandbox.events import Place
from crypto_assets.sandbox.faults import Kind, spoil_columns
from crypto_assets.sandbox.market import Market
from crypto_assets.sandbox.replies import broken_off, json_reply
from crypto_assets.sandbox.spot import SpotMarket
from crypto_assets.sandbox.state import SandboxState
from crypto_assets.sandbox.tape import INTERVALS, Spans, Tape, microseconds, tape_of, within
from crypto_assets.sandbox.texts import flags, texts

_MICROSECONDS_FROM = datetime(2025, 1, 1, tzinfo=UTC)
_SERVICE = "binance_archive"
_NAME = re.compile(r"^(?P<symbol>[A-Z0-9]+)-(?P<what>\w+)-(?P<day>\d{4}-\d{2}(-\d{2})?)\.zip$")
_TRADE_NAMES = ("id", "price", "amount", "first", "last", "time", "is_buyer_maker", "is_best_match")
# A month of the busiest market packs in a tenth of a second at level 1, and in a second at level 9.
_LEVEL = 1
_GONE = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code>'
    b"<Message>The specified key does not exist.</Message></Error>"
)
_SPOILING: tuple[Kind, ...] = (
    "duplicate_rows",
    "out_of_order",
    "new_field",
    "huge_digits",
    "negative_price",
    "absurd_price",
    "empty_list",
    "other_unit",
)


@dataclass(frozen=True, slots=True)
class _File:
    """One file of the archive, as its path names it."""

    spot: SpotMarket
    kind: str  # klines or aggTrades
    interval: str
    place: Place
    start: datetime
    end: datetime
    name: str

    @property
    def published_at(self) -> datetime:
        """The midnight after the day; the first Monday after the month."""
        return self.end if self.place == "daily" else self.end + timedelta(days=-self.end.weekday() % 7)


def routes(market: Market, state: SandboxState) -> list[Route]:
    """The archive's files. Endpoints are ``klines`` and ``agg_trades``, with ``_checksum`` for their neighbours.

    A fault of what a file says, set on the files' endpoint, holds for its checksum too: ``restated`` changes both.
    """

    async def respond(request: Request) -> Response:
        name = request.path_params["name"]
        is_checksum = name.endswith(".CHECKSUM")
        name = name.removesuffix(".CHECKSUM")
        endpoint = "klines" if request.path_params["kind"] == "klines" else "agg_trades"
        refused, struck = await state.met(f"{_SERVICE}.{endpoint}{'_checksum' if is_checksum else ''}", name)
        kinds = {fault.kind for fault in struck}
        if "geo_block" in kinds:
            return json_reply(451, GEO_BLOCK)
        if refused is not None:
            return refused
        if is_checksum:
            kinds |= {fault.kind for fault in state.faults.holding(f"{_SERVICE}.{endpoint}", name)}
        now, tape = state.now(), tape_of(market, state.events)
        file = _file(tape, request.path_params, name)
        if file is None or now < file.published_at or "missing_day" in kinds:
            return Response(_GONE, 404, media_type="application/xml")
        body = packed(tape, file, now, frozenset(kinds))
        if body is None:
            return Response(_GONE, 404, media_type="application/xml")
        if not is_checksum:
            return broken_off(Response(body, media_type="application/zip"), struck)
        told = body + b"another" if "checksum_mismatch" in kinds else body
        line = f"{hashlib.sha256(told).hexdigest()}  {name}\n"
        return broken_off(Response(line, media_type="binary/octet-stream"), struck)

    folder = "/data/spot/{place:str}/{kind:str}/{symbol:str}"
    return [
        Route(f"{folder}/{{interval:str}}/{{name:str}}", respond, methods=["GET"], name=f"{_SERVICE}.klines"),
        Route(f"{folder}/{{name:str}}", respond, methods=["GET"], name=f"{_SERVICE}.agg_trades"),
    ]


def _file(tape: Tape, path: dict[str, str], name: str) -> _File | None:
    said = _NAME.match(name)
    interval, place = path.get("interval", ""), path["place"]
    what = interval or "aggTrades"
    if said is None or (said["symbol"], said["what"]) != (path["symbol"], what):
        return None
    if path["kind"] != ("klines" if interval else "aggTrades") or (interval and interval not in INTERVALS):
        return None
    if place == "daily" and interval in ("1w", "1mo"):
        return None
    spots = (spot for spot in tape.markets.values() if spot.venue == VENUE and symbol_of(spot) == said["symbol"])
    spot = next(spots, None)
    try:
        start = datetime.strptime(said["day"], "%Y-%m-%d" if said[4] else "%Y-%m").replace(tzinfo=UTC)
    except ValueError:
        return None
    if spot is None or place != ("daily" if said[4] else "monthly"):
        return None
    if place == "daily":
        return _File(spot, path["kind"], interval, "daily", start, start + timedelta(days=1), name)
    end = (start + timedelta(days=31)).replace(day=1)
    return _File(spot, path["kind"], interval, "monthly", start, end, name)


def packed(tape: Tape, file: _File, now: datetime, kinds: frozenset[Kind]) -> bytes | None:
    """The file's bytes at that time, or None where it has no row; ``kinds`` are the faults that it has."""
    market_id = file.spot.market_id
    unpublished = tape.unpublished(market_id, now)
    if "restated" in kinds:
        unpublished += ((microseconds(file.start), microseconds(file.end)),)
    hidden = tape.hidden(market_id, file.place, now)
    spoiling = tuple(kind for kind in _SPOILING if kind in kinds)
    return _packed(tape, file, _touching(file, unpublished), _touching(file, hidden), spoiling)


def _touching(file: _File, spans: Spans) -> tuple[tuple[int, int], ...]:
    start, end = microseconds(file.start), microseconds(file.end)
    return tuple(span for span in spans if span[0] < end and start < span[1])


# A file is asked for twice, by its name and for its checksum. Sixteen of the largest are some 60 MB.
@lru_cache(maxsize=16)
def _packed(tape: Tape, file: _File, unpublished: Spans, hidden: Spans, spoiling: tuple[Kind, ...]) -> bytes | None:
    is_fine = (file.start >= _MICROSECONDS_FROM) != ("other_unit" in spoiling)
    unit = 1 if is_fine else 1000
    make, names = (_klines, KLINE_NAMES) if file.interval else (_agg_trades, _TRADE_NAMES)
    rows = make(tape, file, unit, unpublished, hidden)
    if not rows:
        return None
    spoiled: Sequence[object] = rows
    for kind in spoiling:
        spoiled = spoil_columns(kind, names, [row for row in spoiled if isinstance(row, list)])
    lines = (",".join(map(str, row)) for row in spoiled if isinstance(row, list))
    return _zipped(file.name.removesuffix(".zip") + ".csv", file.end, "".join(f"{line}\n" for line in lines).encode())


def _klines(tape: Tape, file: _File, unit: int, unpublished: Spans, hidden: Spans) -> list[list[object]]:
    candles = tape.candles(
        file.spot.market_id, file.interval, file.start, file.end, is_filled=True, unpublished=unpublished
    )
    return kline_rows(candles.where(~within(candles.opened_us, hidden)), file.interval, unit)


def _agg_trades(tape: Tape, file: _File, unit: int, unpublished: Spans, hidden: Spans) -> list[list[object]]:
    spot = file.spot
    trades = tape.as_published(tape.trades(spot.market_id, file.start, file.end), unpublished)
    trades = trades.where(~within(trades.time_us, hidden))
    columns: list[Sequence[object]] = [
        trades.agg_id.tolist(),
        texts(trades.price, spot.price_places),
        texts(trades.amount, spot.amount_places),
        trades.first_id.tolist(),
        trades.last_id.tolist(),
        (trades.time_us // unit).tolist(),
        flags(trades.is_buyer_maker.tolist()),
        ["True"] * len(trades),
    ]
    return [list(row) for row in zip(*columns, strict=True)]


def _zipped(name: str, at: datetime, body: bytes) -> bytes:
    """A zip of one member whose bytes depend on its content and the file's own date only."""
    member = zipfile.ZipInfo(name, at.timetuple()[:6])
    member.compress_type = zipfile.ZIP_DEFLATED
    member.create_system = 3  # the same on every system
    member.external_attr = 0o644 << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(member, body, compresslevel=_LEVEL)
    return buffer.getvalue()
