"""Alpha Vantage's answers, read a second time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from crypto_assets.checks.readings.reading import Answer, Reading, text
from crypto_assets.tables import raw
from crypto_assets.tables.contract import Contract
from crypto_assets.tables.trusted import CLOCK_SKEW, GENESIS

_MINUTES = {"1min": 1, "5min": 5, "15min": 15, "30min": 30, "60min": 60}
_PRICES = ("open", "high", "low", "close")
_STAMP = "stamp"
# How long the newest candle rests, as providers/alpha_vantage.py says.
_REST = timedelta(hours=1)


def _rates(answer: Answer) -> Iterator[dict[str, Any]]:
    """The one record, by the words of its keys."""
    told = _told(answer).get("Realtime Currency Exchange Rate")
    yield {name.partition(". ")[2]: value for name, value in told.items()} if isinstance(told, dict) else {}


def _rate_moment(record: Mapping[str, Any], answer: Answer) -> datetime:
    moment = _utc(record.get("Last Refreshed"), record.get("Time Zone"))
    can_be = moment is not None and GENESIS <= moment <= answer["ingested_at"] + CLOCK_SKEW
    observed: datetime = answer["observed_at"]
    return moment if moment is not None and can_be else observed


def _points(answer: Answer) -> Iterator[dict[str, Any]]:
    """The finished candles that the answer counts for; keys by their words, prices in the market's currency."""
    told = _told(answer)
    meta = {name.partition(". ")[2]: value for name, value in told.get("Meta Data", {}).items()}
    spacing, series = next((name, value) for name, value in told.items() if name.startswith("Time Series"))
    spans = {stamp: _span(stamp, spacing, meta.get("Time Zone")) for stamp in series}
    newest = max((span[1] for span in spans.values() if span), default=None)
    market = str(meta.get("Market Code")).upper()
    for stamp, point in series.items():
        span = spans[stamp]
        if span is not None:
            opens, closes = span
            rest = _REST if closes == newest else timedelta()
            is_asked = answer["window_start_at"] <= opens < answer["window_end_at"]
            if not is_asked or closes + rest > answer["ingested_at"]:
                continue
        yield {_STAMP: stamp, "spacing": spacing, "zone": meta.get("Time Zone"), **_plain(point, market)}


def _plain(point: Any, market: str) -> dict[str, Any]:
    """``1a. open (CNY)`` as ``open``; the same in another currency as ``open elsewhere``."""
    plain: dict[str, Any] = {}
    for name, value in point.items() if isinstance(point, dict) else ():
        word, _, currency = name.partition(". ")[2].partition(" (")
        is_ours = word not in _PRICES or currency.rstrip(")") in ("", market)
        plain.setdefault(word if is_ours else f"{word} elsewhere", value)
    return plain


def _point_moment(record: Mapping[str, Any], answer: Answer) -> datetime:
    span = _span(record[_STAMP], record["spacing"], record["zone"])
    start: datetime = answer["window_start_at"]
    return span[0] if span else start


def _point_key(record: Mapping[str, Any], _: Answer) -> tuple[str | None]:
    span = _span(record[_STAMP], record["spacing"], record["zone"])
    return (str(round(span[0].timestamp() * 1000)) if span else None,)


def _span(stamp: str, spacing: str, zone: Any) -> tuple[datetime, datetime] | None:
    """Start and end of the candle with this stamp, in UTC."""
    length = next((minutes for name, minutes in _MINUTES.items() if f"({name})" in spacing), None)
    if length:
        opens = _utc(stamp, zone)
        return None if opens is None else (opens, opens + timedelta(minutes=length))
    try:
        day = date.fromisoformat(stamp[:10])
    except ValueError:
        return None
    if "Weekly" in spacing:
        year, week, _ = day.isocalendar()
        first = date.fromisocalendar(year, week, 1)
        last = first + timedelta(days=7)
    elif "Monthly" in spacing:
        first = date(day.year, day.month, 1)
        last = date(day.year + day.month // 12, day.month % 12 + 1, 1)
    else:
        first, last = day, day + timedelta(days=1)
    ends = [_utc(f"{each} 00:00:00", zone) for each in (first, last)]
    return None if ends[0] is None or ends[1] is None else (ends[0], ends[1])


def _utc(stamp: Any, zone: Any) -> datetime | None:
    """A local time as UTC; None where it is none, or is two as clocks go back."""
    try:
        naive = datetime.fromisoformat(stamp)
        known = ZoneInfo(zone)
    except (ValueError, KeyError, OSError, TypeError):
        return None
    found = {naive.replace(tzinfo=known, fold=fold).astimezone(UTC) for fold in (0, 1)}
    return found.pop() if len(found) == 1 else None


def _told(answer: Answer) -> dict[str, Any]:
    told = json.loads(answer["body"].decode(errors="replace"), parse_float=str, parse_int=str)
    return told if isinstance(told, dict) else {}


_RATE_WORDS = frozenset(
    (
        "From_Currency Code",
        "From_Currency Name",
        "To_Currency Code",
        "To_Currency Name",
        "Exchange Rate",
        "Last Refreshed",
        "Time Zone",
        "Bid Price",
        "Ask Price",
    )
)
_POINT_WORDS = frozenset(
    (_STAMP, "spacing", "zone", *_PRICES, *(f"{p} elsewhere" for p in _PRICES), "volume", "market cap")
)
_SERIES_OF = ("digital_currency_daily", "digital_currency_weekly", "digital_currency_monthly", "crypto_intraday")

READINGS: Mapping[type[Contract], Reading] = {
    raw.RawAlphaVantageRates: Reading(
        _rates,
        _rate_moment,
        {"exchange_rate": "Exchange Rate", "bid_price": "Bid Price", "ask_price": "Ask Price"},
        ("last_refreshed",),
        lambda record, _: (text(record.get("Last Refreshed")),),
        {"currency_exchange_rate": _RATE_WORDS},
    ),
    raw.RawAlphaVantageSeries: Reading(
        _points,
        _point_moment,
        {**{price: price for price in _PRICES}, "volume_base": "volume"},
        ("opened_at",),
        _point_key,
        dict.fromkeys(_SERIES_OF, _POINT_WORDS),
    ),
}
