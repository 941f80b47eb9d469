"""What the sandbox can serve from: the seeded market and recorded answers have this in common.

Belongs here: the shape both share. The implementations are ``market.py`` and ``recording.py``; ``app.py``
turns them into HTTP.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal, Protocol

Version = Literal["v2", "v3"]
Row = dict[str, Any]
"""One record as the provider writes it: numbers as text, clocks as integer milliseconds."""


class NotServedError(LookupError):
    """The source has no answer at all for this endpoint; the app says 404 ``not recorded``."""


class Source(Protocol):
    """Answers by endpoint. ``at`` is the moment of the question (UTC); a recording ignores it."""

    def assets(self, at: datetime, version: Version = "v3") -> list[Row]:
        """Every listed asset, by rank."""
        ...

    def rates(self, at: datetime, version: Version = "v3") -> list[Row]:
        """Every conversion rate to USD."""
        ...

    def exchanges(self, at: datetime, version: Version = "v3") -> list[Row]:
        """Every exchange, by rank."""
        ...

    def markets(self, at: datetime, version: Version = "v3") -> list[Row]:
        """Every trading pair of every exchange."""
        ...

    def asset(self, asset_id: str, at: datetime, version: Version = "v3") -> Row | None:
        """One asset, or None where it is not listed."""
        ...

    def rate(self, rate_id: str, at: datetime, version: Version = "v3") -> Row | None:
        """One rate, or None where there is none."""
        ...

    def asset_markets(self, asset_id: str, at: datetime, version: Version = "v3") -> list[Row] | None:
        """The pairs with this base, by volume, or None where the asset is not listed."""
        ...

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
        """Points in [start, end), or the most recent ones; None where the asset has no history at ``now``."""
        ...

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
        """Finished candles of one pair in [start, end), or the most recent ones; empty for an unknown pair."""
        ...

    def answered_at(self, endpoint: str, item: str | None, at: datetime) -> int:
        """The envelope's ``timestamp`` of an answer, in epoch milliseconds."""
        ...


def milliseconds(at: datetime) -> int:
    """Epoch milliseconds of an aware datetime, exact (no float in between)."""
    gone = at - datetime(1970, 1, 1, tzinfo=UTC)
    return (gone.days * 86_400 + gone.seconds) * 1000 + gone.microseconds // 1000


def iso(stamp: int) -> str:
    """Epoch milliseconds as the provider writes a date, e.g. ``2024-03-28T00:00:00.000Z``."""
    whole = datetime.fromtimestamp(stamp // 1000, UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{stamp % 1000:03d}Z"
