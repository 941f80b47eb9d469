"""Binance's archive files, read a second time: ``zipfile``, ``csv`` and whole numbers."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from crypto_assets.checks.readings.reading import Answer, Reading, inside, milliseconds
from crypto_assets.tables import raw
from crypto_assets.tables.contract import Contract

_KLINE = (
    *("open time", "open", "high", "low", "close", "volume", "close time", "quote volume", "count"),
    *("taker buy base", "taker buy quote", "ignore"),
)
_TRADE = ("id", "price", "quantity", "first id", "last id", "time", "is maker", "is best")
# A line may be as long as a file: csv's own limit is for its own quoting, which the archive has none of.
_LONGEST_LINE = 512_000_000


def _lines(names: Sequence[str]) -> Callable[[Answer], Iterator[dict[str, Any]]]:
    """The lines of a zip answer by these names; ``unit`` is how many milliseconds' parts its times count."""
    when = next(name for name in names if name.endswith("time"))

    def records(answer: Answer) -> Iterator[dict[str, Any]]:
        if not answer["request"].endswith(".zip"):
            return
        with zipfile.ZipFile(io.BytesIO(answer["body"])) as packed:
            text = packed.read(packed.namelist()[0]).decode(errors="replace")
        csv.field_size_limit(_LONGEST_LINE)
        lines = filter(None, csv.reader(io.StringIO(text, newline=""), quoting=csv.QUOTE_NONE))
        unit = 0
        for number, line in enumerate(lines):
            if number == 0 and line[0][:1].isalpha():
                continue
            record: dict[str, Any] = dict(zip(names, line, strict=False))
            if not unit and (told := milliseconds(record.get(when))) is not None:
                unit = 1000 if told >= 10**14 else 1
            record["unit"] = unit or 1
            yield record

    return records


def _ms(record: Mapping[str, Any], when: str, *, must_be_even: bool = False) -> int | None:
    """Milliseconds; microseconds as such where they do not make whole ones and must: then they are no possible time."""
    sent = record.get(when) or ""
    is_us = record["unit"] == 1000 and 15 <= len(sent) <= 18 and sent.isdecimal()
    return milliseconds(sent[:-3] if is_us and (sent.endswith("000") or not must_be_even) else sent)


def _opened(record: Any, answer: Answer) -> datetime:
    return inside(_ms(record, "open time", must_be_even=True), answer)


def _traded(record: Any, answer: Answer) -> datetime:
    return inside(_ms(record, "time"), answer)


READINGS: Mapping[type[Contract], Reading] = {
    raw.RawBinanceKlines: Reading(
        _lines(_KLINE),
        _opened,
        {
            "open": "open",
            "high": "high",
            "low": "low",
            "close": "close",
            "volume_base": "volume",
            "volume_quote": "quote volume",
            "taker_buy_base": "taker buy base",
            "taker_buy_quote": "taker buy quote",
        },
        ("opened_at",),
        lambda record, _: (str(_ms(record, "open time")),),
    ),
    raw.RawBinanceTrades: Reading(
        _lines(_TRADE),
        _traded,
        {"price": "price", "quantity": "quantity"},
        ("trade_id",),
        lambda record, _: (record.get("id"),),
    ),
}
