"""The clock that is handed in: what time it is, how long something took, and waiting.

Belongs here: the protocol and its two clocks. Does not: windows and partitions (``partitions.py``), limits
(``budget.py``). Nothing in the product asks the machine for the time except through a ``Clock``.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Time of day, elapsed time and waiting, so that tests and the demo decide how time passes."""

    def now(self) -> datetime:
        """The time of day, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes back, so deadlines are measured with it."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait; zero and negative seconds return at once."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        if seconds > 0:
            time.sleep(seconds)


class FixedClock:
    """A clock that moves only when it is told to: ``sleep`` advances both of its times and returns at once.

    Raises ``ValueError`` for a time without a time zone.
    """

    def __init__(self, now: datetime) -> None:
        self._now = _in_utc(now)
        self._monotonic = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def sleep(self, seconds: float) -> None:
        if seconds > 0:
            self._now += timedelta(seconds=seconds)
            self._monotonic += seconds

    def set(self, now: datetime) -> None:
        """Set the time of day, as an operator or NTP would: elapsed time does not notice."""
        self._now = _in_utc(now)


def _in_utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a clock needs a time with a time zone")
    return moment.astimezone(UTC)
