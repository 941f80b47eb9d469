"""Replay of a folder of recorded answers: what the provider really said, text for text.

Belongs here: which file answers which endpoint, by its name and its content. Values are handed on as they
were recorded; only paging and time ranges are applied. The seeded twin is ``market.py``, HTTP is ``app.py``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from crypto_assets.errors import UsageError
from crypto_assets.sandbox.source import NotServedError, Row, Version, milliseconds

# By file name without ``.json``, the most telling first: a history file also looks like an asset file.
_NAMES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("history", re.compile(r"(?:^|_)asset_(?P<item>[^_]+)_history_(?P<interval>[mhd]\d+)$")),
    ("asset", re.compile(r"(?:^|_)asset_(?P<item>[^_]+)$")),
    ("assets", re.compile(r"assets_top")),
    ("rates", re.compile(r"rates_all")),
    ("rate", re.compile(r"(?:^|_)rate_(?P<item>[^_]+)$")),
    ("exchanges", re.compile(r"exchanges")),
    ("markets", re.compile(r"markets")),
)
_COLLECTIONS = frozenset({"assets", "rates", "exchanges", "markets", "history"})


class _Answer(NamedTuple):
    data: Any  # a list of records, or one record
    timestamp: int | None


class Recording:
    """The answers of one folder (not of those below it), as a source for the sandbox.

    ``endpoints`` names the collections recorded (of ``assets``, ``rates``, ``exchanges``, ``markets``,
    ``history``), ``recorded_at`` is the newest envelope timestamp (UTC), ``history_assets`` the ids with
    points. Raises ``UsageError`` where the folder is missing or holds no CoinCap answer.
    """

    def __init__(self, directory: Path | str) -> None:
        folder = Path(directory)
        if not folder.is_dir():
            raise _unusable(folder, "there is no such folder")
        self._answers: dict[tuple[str, str | None, str | None], _Answer] = {}
        newest: list[int] = []
        for path in sorted(folder.glob("*.json")):
            body = _parsed(path)
            if isinstance(body, dict) and isinstance(body.get("timestamp"), int):
                newest.append(body["timestamp"])
            for key, answer in _recognized(path.stem, body):
                self._answers[key] = answer
        if not self._answers:
            raise _unusable(folder, "no CoinCap answer in this folder")
        stamp = max(newest or _inner_stamps(self._answers.values()), default=None)
        if stamp is None:
            raise _unusable(folder, "no answer in this folder says when it was given")
        self._newest = stamp
        self.recorded_at: datetime = _moment(stamp)
        self.endpoints: frozenset[str] = frozenset(key[0] for key in self._answers) & _COLLECTIONS
        self.history_assets: frozenset[str] = frozenset(
            item for endpoint, item, _ in self._answers if endpoint == "history" and item is not None
        )

    def history_span(self, asset_id: str) -> tuple[datetime, datetime]:
        """The first and the last point's time of an asset, over all its intervals; ``KeyError`` without any."""
        times = [
            int(point["time"])
            for (endpoint, item, _), answer in self._answers.items()
            if endpoint == "history" and item == asset_id
            for point in answer.data
        ]
        if not times:
            raise KeyError(asset_id)
        return _moment(min(times)), _moment(max(times))

    def assets(self, at: datetime, version: Version = "v3") -> list[Row]:
        """The recorded assets, in their order."""
        return self._rows("assets")

    def rates(self, at: datetime, version: Version = "v3") -> list[Row]:
        """The recorded rates, in their order."""
        return self._rows("rates")

    def exchanges(self, at: datetime, version: Version = "v3") -> list[Row]:
        """The recorded exchanges, in their order."""
        return self._rows("exchanges")

    def markets(self, at: datetime, version: Version = "v3") -> list[Row]:
        """The recorded markets, in their order."""
        return self._rows("markets")

    def asset(self, asset_id: str, at: datetime, version: Version = "v3") -> Row | None:
        """The asset's own answer, else its record in the list."""
        return self._record("asset", "assets", asset_id)

    def rate(self, rate_id: str, at: datetime, version: Version = "v3") -> Row | None:
        """The rate's own answer, else its record in the list."""
        return self._record("rate", "rates", rate_id)

    def asset_markets(self, asset_id: str, at: datetime, version: Version = "v3") -> list[Row] | None:
        """Never recorded: the records differ from those of ``/markets``."""
        raise NotServedError("asset_markets")

    def history(
        self,
        asset_id: str,
        interval: str,
        start: datetime | None = None,
        end: datetime | None = None,
        *,
        now: datetime,
        version: Version = "v3",
    ) -> list[Row] | None:
        """The recorded points, those in [start, end) where a range is given; ``now`` plays no part."""
        answer = self._answers.get(("history", asset_id, interval))
        if answer is None:
            raise NotServedError("history")
        points: list[Row] = answer.data
        if start is None or end is None:
            return points
        first, last = milliseconds(start), milliseconds(end)
        return [point for point in points if first <= point["time"] < last]

    def candles(
        self,
        exchange_id: str,
        interval: str,
        base_id: str,
        quote_id: str,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        now: datetime,
    ) -> list[Row]:
        """Never recorded."""
        raise NotServedError("candles")

    def answered_at(self, endpoint: str, item: str | None, at: datetime) -> int:
        """The recorded envelope timestamp of this answer; the folder's newest where the file has none."""
        plural = {"asset": "assets", "rate": "rates", "exchange": "exchanges"}.get(endpoint, endpoint)
        for name, wanted in ((endpoint, item), (plural, None)):
            for key, answer in self._answers.items():
                if key[:2] == (name, wanted):
                    return self._newest if answer.timestamp is None else answer.timestamp
        return self._newest

    def _rows(self, endpoint: str) -> list[Row]:
        answer = self._answers.get((endpoint, None, None))
        if answer is None:
            raise NotServedError(endpoint)
        rows: list[Row] = answer.data
        return rows

    def _record(self, endpoint: str, collection: str, item: str) -> Row | None:
        own = self._answers.get((endpoint, item, None))
        if own is not None:
            record: Row = own.data
            return record
        return next((row for row in self._rows(collection) if row["id"] == item), None)


def _parsed(path: Path) -> Any:
    # Decimal keeps the text of a bare number such as 45000.10, which the app writes back digit for digit.
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except (ValueError, RecursionError):
        return None  # other files may lie beside the answers


def _recognized(stem: str, body: Any) -> Iterator[tuple[tuple[str, str | None, str | None], _Answer]]:
    if isinstance(body, dict) and "data" in body:
        stamp = body.get("timestamp")
        answer = _Answer(body["data"], stamp if isinstance(stamp, int) else None)
    else:
        answer = _Answer(body, None)  # some records were kept without their envelope
    for endpoint, pattern in _NAMES:
        found = pattern.search(stem)
        if found is None:
            continue
        groups = found.groupdict()
        if _looks_like(endpoint, answer.data):
            yield (endpoint, groups.get("item"), groups.get("interval")), answer
        return


def _looks_like(endpoint: str, data: Any) -> bool:
    key = {"history": "time", "exchanges": "name", "markets": "baseId"}.get(endpoint, "id")
    records = [data] if endpoint in ("asset", "rate") else data
    if not isinstance(records, list) or not records:
        return False
    return all(isinstance(record, dict) and key in record for record in records)


def _inner_stamps(answers: Iterable[_Answer]) -> list[int]:
    """Clocks within records, for a folder whose envelopes have none."""
    records = [row for answer in answers if isinstance(answer.data, list) for row in answer.data]
    return [row[name] for row in records for name in ("updated", "time") if isinstance(row.get(name), int)]


def _moment(stamp: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=stamp)


def _unusable(folder: Path, what: str) -> UsageError:
    return UsageError(
        what,
        where=str(folder),
        safe="nothing was started",
        hint="name a folder with answers such as v2_assets_top100.json or v2_asset_bitcoin_history_d1.json",
    )
