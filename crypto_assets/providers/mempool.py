"""mempool.space: Bitcoin's fees, mempool, difficulty, hashrate and blocks.

Keyless (``https://mempool.space/api``). Source: mempool's own documentation of 2026-08 and its samples. Limits are not
stated: who asks too often gets a 429, and who goes on is banned.

Fees, mempool, the coming difficulty, the current hashrate and the tip are of now. The series of daily hashrates, of
difficulty adjustments and of fees per block can be asked for the past, by a period that ends now. An answer to that
holds more than was asked for: only the points of the days that were asked count, so that each day's records are those
of the pulls that asked for the day, however long the periods were.

Left out are ``estimatedRetargetDate`` and ``remainingTime``, which are seconds or milliseconds by the server's version
and follow from the blocks that remain, and ``timeOffset``, whose unit is not stated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec
import polars as pl

from crypto_assets.providers.answers import Cost, Pull, possible, unreadable_in_raw, usable
from crypto_assets.providers.provider import Connection, Provider
from crypto_assets.resources.budget import Limit
from crypto_assets.resources.clock import Clock
from crypto_assets.resources.http import Answer, Client, Outcome, Source, Verdict
from crypto_assets.tables.conform import POINTERS, Records
from crypto_assets.tables.contract import UTC_TIME
from crypto_assets.tables.window import DAY, Window

NAME = "mempool"
URL = "https://mempool.space/api"
CHAIN = "bitcoin"
# A round of now is five calls; twice as many a minute leave room for what a person asks meanwhile.
LIMITS = (Limit(10, 60, "calls"),)
# One refusal may be bad luck, the second is a warning before the ban.
_ATTEMPTS = 2
_DENIED = (401, 402, 403, 410, 451)


class Measure(NamedTuple):
    """What one field of an answer says: our metric and its unit."""

    metric: str
    unit: str


# The endpoints of now: path, and the fields that are carried of their one object (the tip is a bare number).
LIVE: Mapping[str, tuple[str, Mapping[str, Measure]]] = {
    "fees": (
        "/v1/fees/recommended",
        {
            "fastestFee": Measure("fee_fastest", "sat/vB"),
            "halfHourFee": Measure("fee_half_hour", "sat/vB"),
            "hourFee": Measure("fee_hour", "sat/vB"),
            "economyFee": Measure("fee_economy", "sat/vB"),
            "minimumFee": Measure("fee_minimum", "sat/vB"),
        },
    ),
    "mempool": (
        "/mempool",
        {
            "count": Measure("mempool_transactions", "1"),
            "vsize": Measure("mempool_size", "vB"),
            "total_fee": Measure("mempool_fees", "sat"),
        },
    ),
    "difficulty_adjustment": (
        "/v1/difficulty-adjustment",
        {
            "progressPercent": Measure("epoch_progress", "%"),
            "difficultyChange": Measure("difficulty_change_expected", "%"),
            "previousRetarget": Measure("difficulty_change_last", "%"),
            "remainingBlocks": Measure("epoch_blocks_left", "1"),
            "nextRetargetHeight": Measure("epoch_next_height", "1"),
            "timeAvg": Measure("block_time", "ms"),
            "adjustedTimeAvg": Measure("block_time_adjusted", "ms"),
        },
    ),
    "tip_height": ("/blocks/tip/height", {"height": Measure("tip_height", "1")}),
    "hashrate": (
        "/v1/mining/hashrate/3d",
        {
            "currentHashrate": Measure("hashrate_current", "H/s"),
            "currentDifficulty": Measure("difficulty_current", "1"),
        },
    ),
}


class Series(NamedTuple):
    """A list of points: where it lies in an answer, and the fields of its points."""

    field: str
    measure: Measure
    value: str
    times: tuple[str, ...]
    height: str | None


# The series of each endpoint that can be asked for the past; "" is an answer that is itself the list.
SERIES: Mapping[str, tuple[Series, ...]] = {
    "hashrate": (
        Series("hashrates", Measure("hashrate", "H/s"), "avgHashrate", ("timestamp",), None),
        # Newer servers call the same second `time`.
        Series("difficulty", Measure("difficulty", "1"), "difficulty", ("timestamp", "time"), "height"),
    ),
    "block_fees": (Series("", Measure("block_fees", "sat"), "avgFees", ("timestamp",), "avgHeight"),),
}
_SERIES_PATHS = {"hashrate": "/v1/mining/hashrate", "block_fees": "/v1/mining/blocks/fees"}
# A period is chosen a day longer than is needed: whether its first day is whole is not stated.
PERIODS: Mapping[str, timedelta] = {
    "3d": 3 * DAY,
    "1w": 7 * DAY,
    "1m": 30 * DAY,
    "3m": 90 * DAY,
    "6m": 180 * DAY,
    "1y": 365 * DAY,
    "2y": 730 * DAY,
    "3y": 1095 * DAY,
}
# Beyond the longest period; stated for the hashrate only.
_EVERYTHING = {"hashrate": "all"}
KNOWN_FIELDS: Mapping[str, frozenset[str]] = {
    "fees": frozenset(LIVE["fees"][1]),
    "mempool": frozenset({*LIVE["mempool"][1], "fee_histogram"}),
    "difficulty_adjustment": frozenset(
        {
            *LIVE["difficulty_adjustment"][1],
            *("estimatedRetargetDate", "remainingTime", "timeOffset", "previousTime", "expectedBlocks"),
        }
    ),
    "tip_height": frozenset({"height"}),
    "hashrate": frozenset(
        {
            *("hashrates", "difficulty", "currentHashrate", "currentDifficulty"),
            *("timestamp", "time", "avgHashrate", "height", "adjustment"),
        }
    ),
    "block_fees": frozenset({"avgHeight", "timestamp", "avgFees", "USD"}),
}


def source(base_url: str) -> Source:
    """What the HTTP client needs to know of mempool.space at this address."""
    return Source(
        name=NAME,
        base_url=base_url,
        limits=LIMITS,
        secret=None,
        auth_header=None,
        credits=lambda _: 0,
        classify=classify,
        attempts=_ATTEMPTS,
    )


def classify(status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
    """What an answer means. Errors are plain text or pages of whatever stands before the server."""
    if status == 429:
        return Verdict(
            Outcome.RATE_LIMITED, "the limit of calls is used up", None if "retry-after" in headers else 60.0
        )
    if status in _DENIED:
        return Verdict(Outcome.DENIED, f"the provider refuses (HTTP {status}): this address may be banned")
    if status == 404:
        return Verdict(Outcome.NOT_FOUND, "the provider does not know it")
    if status != 200:
        return Verdict(Outcome.MALFORMED, f"the provider rejects the request (HTTP {status})")
    try:
        told = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return Verdict(Outcome.MALFORMED, "the answer is not the JSON that was due")
    return Verdict(Outcome.EMPTY if told == [] else Outcome.OK)


class Mempool:
    """mempool.space's endpoints as pulls, one answer each, good or bad; none raises for an answer."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def now(self) -> Iterator[Pull]:
        """The state of now, an endpoint a pull. A refusal ends the round: asking on is what a ban is for."""
        for endpoint, (path, _) in LIVE.items():
            answer = _shaped(self._client.get(endpoint, path, estimate=0))
            observed_at = answer.received_at
            is_good = answer.outcome is Outcome.OK
            yield Pull(NAME, endpoint, None, (answer,), is_good, observed_at, (observed_at, observed_at), (0,))
            if answer.outcome in (Outcome.RATE_LIMITED, Outcome.DENIED):
                return

    def past(self, endpoint: str, window: Window) -> Iterator[Pull]:
        """The points of a series (``SERIES``) over whole days that are over: one call, of the shortest period."""
        answer = _shaped(
            self._client.get(endpoint, f"{_SERIES_PATHS[endpoint]}/{self._period(endpoint, window)}", estimate=0)
        )
        is_good = answer.outcome in (Outcome.OK, Outcome.EMPTY)
        span = (window.start, window.end)
        yield Pull(NAME, endpoint, endpoint, (answer,), is_good, answer.received_at, span, (0,))

    def past_cost(self, endpoint: str, window: Window) -> Cost:
        """What ``past`` would take: a call, of about 100 bytes a point, one a day or (of fees) a block."""
        return Cost(1, 0, 100 * len(window.days) * (144 if endpoint == "block_fees" else 1))

    def _period(self, endpoint: str, window: Window) -> str:
        needed = self._clock.now() - window.start + DAY
        longest = list(PERIODS)[-1]
        return next((name for name, span in PERIODS.items() if span >= needed), _EVERYTHING.get(endpoint, longest))


def _shaped(answer: Answer) -> Answer:
    """The answer, called malformed where it is not of its endpoint's shape: raw then holds it as evidence only."""
    if answer.outcome is not Outcome.OK:
        return answer
    try:
        list(_sent(answer.endpoint, answer.body))
    except msgspec.DecodeError:
        return replace(answer, outcome=Outcome.MALFORMED, detail="the answer has another shape than was due")
    return answer


@dataclass(frozen=True)
class _Sent:
    """One measurement as sent: texts of its value, time and height; without a time it is of the answer's moment."""

    measure: Measure
    value: str | None
    seconds: str | None
    has_time: bool
    height: str | None
    text: bytes


def _sent(endpoint: str, body: bytes) -> Iterator[_Sent]:
    """Every measurement of a body. Raises msgspec.DecodeError for another shape."""
    told = _object(endpoint, body)
    for name, measure in LIVE[endpoint][1].items() if endpoint in LIVE else ():
        value = told.get(name, msgspec.Raw(b"null"))
        height = _text(value) if name == "height" else None
        yield _Sent(measure, _text(value), None, False, height, b"{%s:%s}" % (msgspec.json.encode(name), bytes(value)))
    for series in SERIES.get(endpoint, ()):
        points = msgspec.json.decode(bytes(told[series.field]), type=list[msgspec.Raw]) if series.field in told else []
        for point in points:
            fields = msgspec.json.decode(bytes(point), type=dict[str, msgspec.Raw])
            seconds = next((_text(fields[name]) for name in series.times if name in fields), None)
            height = _text(fields.get(series.height)) if series.height else None
            yield _Sent(series.measure, _text(fields.get(series.value)), seconds, True, height, bytes(point))


def _object(endpoint: str, body: bytes) -> dict[str, msgspec.Raw]:
    # A bare number and a bare list are given the name that their measures go by.
    if endpoint == "tip_height":
        return {"height": msgspec.Raw(msgspec.json.encode(msgspec.json.decode(body, type=int)))}
    if endpoint == "block_fees":
        return {"": msgspec.Raw(body)}
    return msgspec.json.decode(body, type=dict[str, msgspec.Raw])


def _text(value: msgspec.Raw | None) -> str | None:
    sent = b"null" if value is None else bytes(value)
    if sent == b"null":
        return None
    return msgspec.json.decode(sent, type=str) if sent[:1] == b'"' else sent.decode(errors="replace")


def parse(raw: pl.DataFrame) -> Records:
    """Records for ``trusted.onchain_stats``.

    A time that is none, or that cannot be, leaves ``observed_at`` empty: the contract refuses the record, which then
    belongs to the start of what was asked. A point outside of what was asked is another pull's.

    Raises:
        DataError: a body that was good when it landed cannot be read.
    """
    rows: list[dict[str, Any]] = []
    texts: list[bytes] = []
    columns = ("pull_id", "page", "provider", "endpoint", "body", "observed_at", "ingested_at")
    asked = ("window_start_at", "window_end_at")
    for answer in usable(raw).select(*columns, *asked).iter_rows(named=True):
        for position, sent in enumerate(_landed(answer["endpoint"], answer["body"])):
            moment = _moment(sent.seconds, answer["ingested_at"]) if sent.has_time else answer["observed_at"]
            if moment is not None and not _is_asked(moment, *(answer[name] for name in asked)):
                continue
            rows.append(
                {
                    "row": len(texts),
                    **{name: answer[name] for name in ("pull_id", "page", "provider", "ingested_at")},
                    "position": position,
                    "answered_at": answer["window_start_at"],
                    "observed_at": moment,
                    "chain": CHAIN,
                    "metric": sent.measure.metric,
                    "value": sent.value,
                    "unit": sent.measure.unit,
                    "height": sent.height,
                }
            )
            texts.append(sent.text)
    told = dict.fromkeys(("provider", "chain", "metric", "value", "unit", "height"), pl.String())
    return Records(pl.DataFrame(rows, schema={**POINTERS, "observed_at": UTC_TIME, **told}), texts)


def _landed(endpoint: str, body: bytes) -> list[_Sent]:
    try:
        return list(_sent(endpoint, body))
    except msgspec.DecodeError as error:
        raise unreadable_in_raw(error, "raw.mempool") from None


def _moment(seconds: str | None, arrived: datetime) -> datetime | None:
    """The time of a point, or None where it is none that can be."""
    if seconds is None or not re.fullmatch(r"[+-]?[0-9]{1,19}", seconds):
        return None
    try:
        return possible(datetime.fromtimestamp(int(seconds), UTC), arrived)
    except (ValueError, OverflowError, OSError):
        return None


def _is_asked(moment: datetime, opens: datetime, closes: datetime) -> bool:
    return opens <= moment < closes or moment == opens == closes


def _connect(connection: Connection) -> Mempool:
    return Mempool(connection.open(source(connection.urls[NAME])), connection.clock)


PROVIDER = Provider(NAME, urls={NAME: URL}, connect=_connect, limits=lambda *_: {NAME: LIMITS})
