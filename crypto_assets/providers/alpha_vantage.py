"""Alpha Vantage: exchange rates of pairs as they are now, and intraday, daily, weekly and monthly series.

``https://www.alphavantage.co/query?function=...``; the key is the query parameter ``apikey``, and some answers repeat
it. Every answer has status 200: whether it is one is told by the data that it has, and else by the key of its only
text. A free key may ask 25 times a day; intraday series are premium. Sources: Alpha Vantage's own MCP server of
2026-08, recorded answers of 2017 to 2024.

A series answer is the whole series, newest first. Point keys are ``4a. close (CNY)`` beside ``4b. close (USD)`` (seen
until 2023-10) or ``4. close`` (from 2024-06): keys are found by their words, never by their numbers. A day is stamped
with its date; a week and a month with their last day, the one in progress with today. A bucket therefore opens on the
Monday on or before its stamp, or on the first of the stamp's month, whichever of its days the stamp is. Intraday stamps
are taken for the start of their bar, and weeks for Monday to Sunday; the provider's documentation does not say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import polars as pl

from crypto_assets.errors import UsageError
from crypto_assets.providers.answers import PREMIUM, Cost, Pull, possible, usable
from crypto_assets.providers.provider import Connection, Provider
from crypto_assets.resources.budget import Limit
from crypto_assets.resources.http import Answer, Client, Outcome, Source, Verdict
from crypto_assets.tables.conform import POINTERS, Records
from crypto_assets.tables.contract import UTC_TIME
from crypto_assets.tables.trusted import GENESIS
from crypto_assets.tables.window import Window, bucket

NAME = "alpha_vantage"
URL = "https://www.alphavantage.co"
# A free key's calls: 25 a day since 2024-01; five a minute is the older limit, of which notes still speak.
CALLS_PER_DAY = 25
CALLS_PER_MINUTE = 5
# When the quota's day begins is not known; a day after it was found used up it has begun anew, whenever that is.
QUOTA_RETURNS_S = 86_400
# The newest point may still be computed a moment after its time is over: without a newer one it rests so long.
SETTLED_AFTER = timedelta(hours=1)
# A thousand points, as the provider sent in 2023, of about 130 bytes.
_SERIES_BYTES = 130_000

RATE = "currency_exchange_rate"
INTRADAY = "crypto_intraday"
# Interval: the function that serves it, which in lower case is also the endpoint's name.
FUNCTIONS = {"1d": "DIGITAL_CURRENCY_DAILY", "1w": "DIGITAL_CURRENCY_WEEKLY", "1mo": "DIGITAL_CURRENCY_MONTHLY"}
INTRADAY_INTERVALS = {"1m": "1min", "5m": "5min", "15m": "15min", "30m": "30min", "1h": "60min"}

_PAIR = re.compile(r"[A-Z0-9]{1,16}/[A-Z0-9]{1,16}")
_NUMBERED = re.compile(r"\d+[ab]?\. (?P<name>.+)")
_POINT = re.compile(r"\d+[ab]?\. (?P<name>open|high|low|close|volume)(?: \((?P<currency>\w+)\))?")
_SERIES = re.compile(r"Time Series.*\((?:Digital Currency )?(?P<spacing>Daily|Weekly|Monthly|\d+min)\)")
_SPACINGS = {
    "Daily": "1d",
    "Weekly": "1w",
    "Monthly": "1mo",
    **{sent: ours for ours, sent in INTRADAY_INTERVALS.items()},
}
_RATE_KEY = "Realtime Currency Exchange Rate"
_Object = dict[str, msgspec.Raw]


def source(url: str, *, key: str | None) -> Source:
    """What the HTTP client needs to know of Alpha Vantage at this address."""
    return Source(
        name=NAME,
        base_url=url,
        limits=(Limit(CALLS_PER_MINUTE, 60, "calls"), Limit(CALLS_PER_DAY, 86_400, "calls")),
        secret=key,
        auth_header=None,
        auth_params=lambda secret: {"apikey": secret},
        credits=lambda _: 0,
        classify=classify,
        # Each attempt is one of the day's calls.
        attempts=2,
    )


def classify(status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
    """What an answer means. With status 200 it is data where the expected data are there, and else what it says."""
    del headers
    if status == 429:
        return Verdict(Outcome.RATE_LIMITED, "the provider asks for patience", retry_after=60)
    if status in (401, 402, 403):
        return Verdict(Outcome.DENIED, f"the provider refuses (HTTP {status}): check ALPHAVANTAGE_API_KEY")
    if status != 200:
        return Verdict(Outcome.MALFORMED, f"the provider rejects the request (HTTP {status})")
    told = _object(body)
    if told is None:
        return Verdict(Outcome.MALFORMED, "the answer is not the JSON object that was due")
    if _data(told):
        return Verdict(Outcome.OK)
    for name, meaning in (("Error Message", _error), ("Note", _note), ("Information", _information)):
        if name in told:
            return meaning(_text(told[name]) or "")
    if all(name == "Meta Data" or _object(value) == {} for name, value in told.items()):
        return Verdict(Outcome.NOT_FOUND, "no data for this pair")
    return Verdict(Outcome.MALFORMED, "the answer has neither data nor an error that is known")


def _error(told: str) -> Verdict:
    if "apikey" in told.lower():
        return Verdict(Outcome.DENIED, "the key is refused: check ALPHAVANTAGE_API_KEY")
    if "does not exist" in told:
        return Verdict(Outcome.DENIED, "the provider no longer has this function")
    return Verdict(Outcome.NOT_FOUND, "the provider rejects the pair or its parameters")


def _note(told: str) -> Verdict:
    told = told.lower()
    # What one key says today the other has said before: a day's limit under a note, a minute's as information.
    if "per day" in told and "per minute" not in told:
        return _information(told)
    return Verdict(Outcome.RATE_LIMITED, "the minute's calls are used up", retry_after=60)


def _information(told: str) -> Verdict:
    told = told.lower()
    # What is said of limits also praises "all premium endpoints", and names the day's limit beside the second's.
    if re.search(r"premium endpoint\b", told):
        return Verdict(Outcome.DENIED, f"{PREMIUM}: the plan does not include this function")
    if "demo" in told:
        return Verdict(Outcome.DENIED, "the key is the public demo key: set ALPHAVANTAGE_API_KEY to your own")
    if "per second" in told:
        return Verdict(Outcome.RATE_LIMITED, "calls came too fast", retry_after=2)
    if "per minute" in told:
        return _note(told)
    return Verdict(Outcome.QUOTA_EXHAUSTED, "the day's calls are used up", retry_after=QUOTA_RETURNS_S)


def series_of(pairs: Sequence[str], intervals: Sequence[str]) -> list[str]:
    """The series of pairs: of a day, a week and a month each, and of the intraday intervals among ``intervals``."""
    intraday = [interval for interval in intervals if interval in INTRADAY_INTERVALS]
    return [f"{pair} {interval}" for interval in (*FUNCTIONS, *intraday) for pair in pairs]


class AlphaVantage:
    """Alpha Vantage's functions as pulls. Every method returns what was answered, good or bad; none raises for that.

    ``pairs`` (``BTC/USD``) and ``intervals`` are what is asked for where a run names no subjects. Raises UsageError for
    a pair that is none, before any call.
    """

    def __init__(self, client: Client, pairs: Sequence[str] = (), intervals: Sequence[str] = ()) -> None:
        self._client = client
        self.pairs = tuple(check_pair(pair) for pair in pairs)
        self.intervals = tuple(interval for interval in intervals if interval in INTRADAY_INTERVALS)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @property
    def subjects(self) -> list[str]:
        """The series that are pulled, as ``BTC/USD 1d``; those that matter most first, as the day's calls are few."""
        return series_of(self.pairs, self.intervals)

    def rates(self) -> Iterator[Pull]:
        """The rate of each pair at this moment, a call a pair."""
        for pair in self.pairs:
            yield self.rate(pair)

    def rate(self, pair: str) -> Pull:
        """The rate of one pair. Its window reaches from the provider's time of it to the answer's arrival."""
        base, quote = check_pair(pair).split("/")
        params: dict[str, str | int] = {"function": RATE.upper(), "from_currency": base, "to_currency": quote}
        answer = self._client.get(RATE, "/query", params)
        at = answer.received_at
        moments = [at]
        if answer.outcome is Outcome.OK:
            refreshed = possible(_refreshed_at(_rate_fields(answer.body)), at)
            moments += [refreshed] if refreshed else []
        # The millisecond keeps a rate of midnight inside a window whose end is exclusive.
        window = (min(moments), max(moments) + timedelta(milliseconds=1))
        return Pull(NAME, RATE, pair, (answer,), answer.outcome is Outcome.OK, at, window, (0,))

    def series(self, subject: str, window: Window) -> Iterator[Pull]:
        """The series (``BTC/USD 1d``), landed as the answer for the part of the window of which it knows.

        That ends with the newest candle that is finished, so that a late provider is asked again, and where the
        interval is of a day or longer begins with the window: what lies before the first point the provider does not
        have. Raises UsageError for a subject that is none.
        """
        pair, interval = check_subject(subject)
        base, quote = pair.split("/")
        if interval in INTRADAY_INTERVALS:
            params = {"function": INTRADAY.upper(), "interval": INTRADAY_INTERVALS[interval], "outputsize": "full"}
        else:
            params = {"function": FUNCTIONS[interval]}
        endpoint = params["function"].lower()
        answer = self._client.get(endpoint, "/query", {**params, "symbol": base, "market": quote})
        covered = (window.start, window.end)
        if answer.outcome is Outcome.OK:
            covered = _covered(answer, interval, window)
        yield Pull(NAME, endpoint, subject, (answer,), answer.outcome is Outcome.OK, answer.received_at, covered, (0,))

    def series_cost(self, subject: str, window: Window) -> Cost:
        """What ``series`` would take: a call, however much of the series is wanted."""
        del subject, window
        return Cost(1, 0, _SERIES_BYTES)


def check_pair(pair: str) -> str:
    """The pair itself. Raises UsageError where it is none, e.g. lacks its slash."""
    if not _PAIR.fullmatch(pair):
        raise UsageError(
            f"{pair[:80]!r} is not a pair",
            where="alpha_vantage pairs",
            safe="no call was made",
            hint="pairs are written in capitals as BTC/USD; see CRYPTO_ASSETS_ALPHA_VANTAGE_PAIRS",
        )
    return pair


def check_subject(subject: str) -> tuple[str, str]:
    """Pair and interval of ``BTC/USD 1d``. Raises UsageError where it is none."""
    pair, _, interval = subject.partition(" ")
    if interval not in FUNCTIONS and interval not in INTRADAY_INTERVALS:
        raise UsageError(
            f"{subject[:80]!r} is not a series",
            where="alpha_vantage series",
            safe="no call was made",
            hint=f"name a pair and an interval of {', '.join((*INTRADAY_INTERVALS, *FUNCTIONS))}, as in 'BTC/USD 1d'",
        )
    return check_pair(pair), interval


def opening(stamp: datetime, interval: str) -> datetime:
    """The start of the bucket that a point's stamp belongs to, in the stamp's own time zone."""
    return stamp if interval in INTRADAY_INTERVALS else bucket(stamp, interval)[0]


def ending(opened: datetime, interval: str) -> datetime:
    """The end of the bucket that opens then."""
    minutes = INTRADAY_INTERVALS.get(interval)
    return opened + timedelta(minutes=int(minutes.removesuffix("min"))) if minutes else bucket(opened, interval)[1]


# Our column: the words of the provider's key.
RATE_FIELDS = {
    "from_currency_code": "From_Currency Code",
    "from_currency_name": "From_Currency Name",
    "to_currency_code": "To_Currency Code",
    "to_currency_name": "To_Currency Name",
    "exchange_rate": "Exchange Rate",
    "last_refreshed": "Last Refreshed",
    "time_zone": "Time Zone",
    "bid_price": "Bid Price",
    "ask_price": "Ask Price",
}
POINT_FIELDS = {"open": "open", "high": "high", "low": "low", "close": "close", "volume_base": "volume"}
# What every record must have; bid and ask are absent from answers of 2017, and names may be null.
_RATE_REQUIRED = ("from_currency_code", "to_currency_code", "exchange_rate", "last_refreshed", "time_zone")
_STAMPS = ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d (end of day)")


@dataclass(frozen=True)
class Point:
    """A point of a series: its bucket in UTC (None where its stamp is none), its values as text, and its JSON."""

    opened_at: datetime | None
    ends_at: datetime | None
    values: Mapping[str, str | None]
    text: bytes


def parse_rates(raw: pl.DataFrame) -> Records:
    """Records for ``trusted.quotes``; observed_at is ``last_refreshed`` in its ``time_zone``, as UTC."""

    def read(answer: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], bytes]]:
        sent = _rate_fields(answer["body"])
        base, quote = ((sent[f"{side}_currency_code"] or "").upper() for side in ("from", "to"))
        columns = {
            **sent,
            "provider": NAME,
            "market_id": f"{NAME}:{base}/{quote}",
            "observed_at": possible(_refreshed_at(sent), answer["ingested_at"]),
        }
        yield {**columns, "answered_at": answer["observed_at"]}, bytes(_rate(answer["body"]))

    names = ("provider", "market_id", *RATE_FIELDS)
    return _records(raw, read, names, "observed_at", _RATE_REQUIRED)


def parse_series(raw: pl.DataFrame) -> Records:
    """Records for ``trusted.candles``: of each answer the finished candles that open in its window, oldest first."""

    def read(answer: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], bytes]]:
        codes, interval, points = _series(answer["body"])
        base, quote = codes
        constant = {
            "venue": NAME,
            "provider": NAME,
            "market_id": f"{NAME}:{base}/{quote}",
            "base_symbol": base,
            "quote_symbol": quote,
            "interval": interval,
            # A point without a usable time belongs to the start of what was asked for.
            "answered_at": answer["window_start_at"],
        }
        for point in _settled(points, answer["ingested_at"]):
            opened = point.opened_at
            if opened is None or answer["window_start_at"] <= opened < answer["window_end_at"]:
                yield {**constant, **point.values, "opened_at": opened}, point.text

    unstated = ("volume_quote", "n_trades", "taker_buy_base", "taker_buy_quote")
    names = ("venue", "provider", "market_id", "base_symbol", "quote_symbol", "interval", *POINT_FIELDS, *unstated)
    return _records(raw, read, names, "opened_at", tuple(POINT_FIELDS))


def _records(
    raw: pl.DataFrame,
    read: Callable[[Mapping[str, Any]], Iterator[tuple[Mapping[str, Any], bytes]]],
    names: Sequence[str],
    moment: str,
    required: Sequence[str],
) -> Records:
    """What ``read`` makes of each good answer, as a frame; ``names`` are text columns, ``moment`` is a time."""
    rows: list[dict[str, Any]] = []
    texts: list[bytes] = []
    drifted: dict[str, str] = {}
    for answer in usable(raw).iter_rows(named=True):
        found = list(read(answer))
        lacking = [name for name in required if found and all(columns[name] is None for columns, _ in found)]
        if lacking:
            drifted[answer["pull_id"]] = f"the field {lacking[0]} is missing from all {len(found)} records"
        for position, (columns, text) in enumerate(found):
            pointers = {"pull_id": answer["pull_id"], "page": answer["page"], "ingested_at": answer["ingested_at"]}
            rows.append({**columns, **pointers, "position": position, "row": len(texts)})
            texts.append(text)
    schema = {**dict.fromkeys(names, pl.String()), moment: UTC_TIME, **POINTERS}
    return Records(pl.DataFrame(rows, schema=schema), texts, drifted)


def _covered(answer: Answer, interval: str, window: Window) -> tuple[datetime, datetime]:
    points = _settled(_series(answer.body)[2], answer.received_at)
    ends = [point.ends_at for point in points if point.ends_at is not None]
    opens = [point.opened_at for point in points if point.opened_at is not None]
    start = max([window.start, *opens[:1]]) if interval in INTRADAY_INTERVALS else window.start
    # With nothing finished in the window the answer covers nothing, and lies where the window begins.
    start = min(start, window.end)
    return start, max(start, min([window.end, *ends[-1:]]) if ends else start)


def _settled(points: Sequence[Point], arrived: datetime) -> list[Point]:
    """The points (oldest first) whose candles were finished when the answer arrived, and those without a time."""
    newest = max((point.ends_at for point in points if point.ends_at is not None), default=None)

    def is_settled(point: Point) -> bool:
        rest = SETTLED_AFTER if point.ends_at == newest else timedelta()
        return point.ends_at is None or point.ends_at + rest <= arrived

    return [point for point in points if is_settled(point)]


def _series(body: bytes) -> tuple[tuple[str | None, str | None], str | None, list[Point]]:
    """Base and quote, our interval, and the points, oldest first; those without a usable time come first."""
    told = _object(body) or {}
    meta = _by_words(_object(told.get("Meta Data", b"")) or {})
    codes = tuple((meta.get(name) or "").upper() or None for name in ("Digital Currency Code", "Market Code"))
    named = next((match for name in told if (match := _SERIES.fullmatch(name))), None)
    if named is None:
        return (codes[0], codes[1]), None, []
    interval = _SPACINGS.get(named["spacing"])
    points = [
        _point(stamp, sent, codes[1], interval, meta.get("Time Zone"))
        for stamp, sent in (_object(told[named[0]]) or {}).items()
    ]
    return (codes[0], codes[1]), interval, sorted(points, key=lambda point: (point.opened_at or GENESIS, point.text))


def _point(stamp: str, sent: msgspec.Raw, market: str | None, interval: str | None, zone: str | None) -> Point:
    values: dict[str, str | None] = dict.fromkeys(POINT_FIELDS)
    ours = {name: column for column, name in POINT_FIELDS.items()}
    for name, value in (_object(sent) or {}).items():
        match = _POINT.fullmatch(name)
        # Beside the market's currency old answers state USD; with USD as the market, the same twice.
        if match and match["currency"] in (None, market) and values[ours[match["name"]]] is None:
            values[ours[match["name"]]] = _text(value)
    local = _local(stamp, zone)
    opened = opening(local, interval) if local and interval else None
    # Days are counted on the zone's own calendar, minutes are the same everywhere.
    begins = opened and (opened.astimezone(UTC) if interval in INTRADAY_INTERVALS else opened)
    ends = ending(begins, interval) if begins and interval else None
    text = msgspec.json.encode({stamp: sent})
    return Point(opened and opened.astimezone(UTC), ends and ends.astimezone(UTC), values, text)


def _local(stamp: str, zone: str | None) -> datetime | None:
    """The moment that a stamp names in a time zone; None where it names none, or (as clocks go back) two."""
    for form in _STAMPS:
        try:
            moment = datetime.strptime(stamp, form).replace(tzinfo=ZoneInfo(zone or ""))
        # What strptime, the zones' database and its file names say of nonsense.
        except (ValueError, KeyError, OSError):
            continue
        is_real = moment.astimezone(UTC).astimezone(moment.tzinfo) == moment
        is_one = moment.utcoffset() == moment.replace(fold=1).utcoffset()
        return moment if is_real and is_one else None
    return None


def _refreshed_at(rate: Mapping[str, str | None]) -> datetime | None:
    local = _local(rate["last_refreshed"] or "", rate["time_zone"])
    return local and local.astimezone(UTC)


def _rate(body: bytes) -> msgspec.Raw:
    return (_object(body) or {}).get(_RATE_KEY, msgspec.Raw(b"{}"))


def _rate_fields(body: bytes) -> dict[str, str | None]:
    sent = _by_words(_object(_rate(body)) or {})
    return {column: sent.get(words) for column, words in RATE_FIELDS.items()}


def _by_words(sent: _Object) -> dict[str, str | None]:
    """The values by their keys' words: numbers have changed."""
    return {match["name"]: _text(value) for name, value in sent.items() if (match := _NUMBERED.fullmatch(name))}


def _data(told: _Object) -> bool:
    return any(_object(value) for name, value in told.items() if name == _RATE_KEY or _SERIES.fullmatch(name))


def _object(sent: bytes | msgspec.Raw) -> _Object | None:
    """A JSON object's values by name, each as it was sent; None where it is no object."""
    try:
        return msgspec.json.decode(sent, type=_Object)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _text(sent: msgspec.Raw) -> str | None:
    """A value as text: strings unquoted, numbers with the digits that were sent, null as None."""
    if bytes(sent) == b"null":
        return None
    try:
        return msgspec.json.decode(sent, type=str)
    except msgspec.DecodeError:
        return bytes(sent).decode(errors="replace")


def _connect(connection: Connection) -> AlphaVantage:
    client = connection.open(source(connection.urls[NAME], key=connection.key))
    return AlphaVantage(client, connection.asked.get("pairs", ()), connection.asked.get("intervals", ()))


PROVIDER = Provider(
    name=NAME,
    urls={NAME: URL},
    connect=_connect,
    limits=lambda *_: {NAME: source(URL, key=None).limits},
    key_name="ALPHAVANTAGE_API_KEY",
    needs_key=True,
    unlocks="exchange rates with bid and ask, and daily, weekly and monthly series, 25 calls a day",
)
