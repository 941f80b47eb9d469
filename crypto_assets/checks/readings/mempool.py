"""mempool.space's answers, read a second time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from crypto_assets.checks.readings.reading import Answer, Reading, milliseconds, text
from crypto_assets.providers import mempool
from crypto_assets.tables import raw
from crypto_assets.tables.contract import Contract
from crypto_assets.tables.trusted import CLOCK_SKEW, GENESIS

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What a record has beside the fields of the object that it stood in.
_OURS = frozenset({"metric", "value", "at"})


def _records(answer: Answer) -> Iterator[dict[str, Any]]:
    """The measurements that count: of the time that was asked for, or of a time that is none."""
    opens, closes = answer["window_start_at"], answer["window_end_at"]
    for record in _all(answer):
        at = record["at"]
        if at is None or opens <= at < closes or opens == at == closes:
            yield record


def _all(answer: Answer) -> Iterator[dict[str, Any]]:
    told = json.loads(answer["body"].decode(errors="replace"), parse_float=str, parse_int=str)
    endpoint = answer["endpoint"]
    whole = told if isinstance(told, dict) else {"height": told}
    for field, measure in mempool.LIVE[endpoint][1].items() if endpoint in mempool.LIVE else ():
        yield {**whole, "metric": measure.metric, "value": whole.get(field), "at": answer["observed_at"]}
    for series in mempool.SERIES.get(endpoint, ()):
        for point in told if isinstance(told, list) else told.get(series.field, []):
            sent = next((point[name] for name in series.times if name in point), None)
            at = _time(sent, answer["ingested_at"] + CLOCK_SKEW)
            yield {**point, "metric": series.measure.metric, "value": point.get(series.value), "at": at}


def _time(sent: Any, latest: datetime) -> datetime | None:
    """Seconds since 1970, where a whole number was sent that is a time the chain has had."""
    seconds = milliseconds(text(sent))
    try:
        at = None if seconds is None else _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        return None
    return at if at is not None and GENESIS <= at <= latest else None


def _moment(record: Mapping[str, Any], answer: Answer) -> datetime:
    at: datetime = record["at"] or answer["window_start_at"]
    return at


def _key(record: Mapping[str, Any], _: Answer) -> tuple[str | None, ...]:
    at = record["at"]
    return record["metric"], None if at is None else str((at - _EPOCH) // timedelta(milliseconds=1))


READINGS: Mapping[type[Contract], Reading] = {
    raw.RawMempool: Reading(
        _records,
        _moment,
        {"value": "value"},
        ("metric", "observed_at"),
        _key,
        {endpoint: known | _OURS for endpoint, known in mempool.KNOWN_FIELDS.items()},
    )
}
