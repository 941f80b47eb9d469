"""CoinCap's answers, read a second time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from crypto_assets.checks.readings.reading import (
    Answer,
    Reading,
    at_the_answer,
    by_fields,
    inside,
    json_records,
    milliseconds,
    text,
)
from crypto_assets.providers import coincap
from crypto_assets.tables import raw
from crypto_assets.tables.contract import Contract


def _point(record: Any, answer: Answer) -> datetime:
    return inside(milliseconds(record.get("time")) if isinstance(record, dict) else None, answer)


def _exchange(record: Mapping[str, Any], _: Answer) -> tuple[str | None]:
    # Answers of 2018 call the id `id`.
    return (text(record.get("exchangeId")) or text(record.get("id")),)


def _market(record: Mapping[str, Any], _: Answer) -> tuple[str | None, ...]:
    base, quote = (text(record.get(name)) for name in ("baseId", "quoteId"))
    ours = [coincap.RENAMED_IDS.get(told, told) if told is not None else None for told in (base, quote)]
    return (text(record.get("exchangeId")), *ours)


def _time(record: Mapping[str, Any], _: Answer) -> tuple[str | None]:
    return (text(milliseconds(record.get("time"))),)


READINGS: Mapping[type[Contract], Reading] = {
    raw.RawCoincapAssets: Reading(
        json_records,
        at_the_answer,
        coincap.ASSET_FIELDS,
        ("provider_asset_id",),
        by_fields("id"),
        coincap.KNOWN_FIELDS,
    ),
    raw.RawCoincapExchanges: Reading(
        json_records, at_the_answer, coincap.EXCHANGE_FIELDS, ("exchange_id",), _exchange, coincap.KNOWN_FIELDS
    ),
    raw.RawCoincapMarkets: Reading(
        json_records,
        at_the_answer,
        coincap.MARKET_FIELDS,
        ("exchange_id", "base_id", "quote_id"),
        _market,
        coincap.KNOWN_FIELDS,
    ),
    raw.RawCoincapRates: Reading(
        json_records, at_the_answer, coincap.RATE_FIELDS, ("currency_id",), by_fields("id"), coincap.KNOWN_FIELDS
    ),
    raw.RawCoincapHistory: Reading(
        json_records, _point, coincap.HISTORY_FIELDS, ("observed_at",), _time, coincap.KNOWN_FIELDS
    ),
}
