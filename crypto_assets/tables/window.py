"""A half-open interval of UTC time, the unit in which tables are read, computed and replaced."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


@dataclass(frozen=True, order=True)
class Window:
    """``[start, end)``, both aware UTC. Raises ValueError for naive, foreign-zone or empty intervals."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start.utcoffset() != timedelta(0) or self.end.utcoffset() != timedelta(0):
            raise ValueError(f"a window is in UTC, not {self.start!r} to {self.end!r}")
        if self.start >= self.end:
            raise ValueError(f"a window is not empty: {self.start} to {self.end}")

    @classmethod
    def of_day(cls, day: date) -> Window:
        start = datetime(day.year, day.month, day.day, tzinfo=UTC)
        return cls(start, start + DAY)

    @classmethod
    def of_days(cls, first: date, last: date) -> Window:
        """From the first day to the last one, both included."""
        return cls(cls.of_day(first).start, cls.of_day(last).end)

    @property
    def days(self) -> list[date]:
        """Every UTC day that the window touches."""
        last = (self.end - timedelta(microseconds=1)).date()
        return [self.start.date() + DAY * i for i in range((last - self.start.date()).days + 1)]

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%dT%H:%MZ}..{self.end:%Y-%m-%dT%H:%MZ}"


def contiguous(days: Iterable[date]) -> Iterator[Window]:
    """The days as the fewest windows, in order; doubles count once."""
    run: list[date] = []
    for day in sorted(set(days)):
        if run and day - run[-1] != DAY:
            yield Window.of_days(run[0], run[-1])
            run = []
        run.append(day)
    if run:
        yield Window.of_days(run[0], run[-1])


def joined(spans: Iterable[tuple[datetime, datetime]]) -> list[Window]:
    """Spans in the order of their starts as the fewest windows, in order; what touches is one."""
    found: list[Window] = []
    for start, end in spans:
        if found and start <= found[-1].end:
            found[-1] = Window(found[-1].start, max(found[-1].end, end))
        else:
            found.append(Window(start, end))
    return found


def months(window: Window) -> Iterator[Window]:
    """The window cut at the beginnings of months, in order."""
    start = window.start
    while start < window.end:
        end = min(bucket(start, "1mo")[1], window.end)
        yield Window(start, end)
        start = end


def whole_buckets(window: Window, every: str) -> Window:
    """The window made wider to whole buckets of ``every`` (``4h``, ``1d``, ``1w`` from Monday, ``1mo``), all in UTC."""
    last = window.end - timedelta(microseconds=1)
    return Window(bucket(window.start, every)[0], bucket(last, every)[1])


def bucket(moment: datetime, every: str) -> tuple[datetime, datetime]:
    """Start and end of the bucket that holds the moment, by the calendar of the moment's time zone.

    Raises ValueError for a bucket that no table has.
    """
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if every.endswith("h"):
        length = timedelta(hours=int(every[:-1]))
        start = midnight + (moment - midnight) // length * length
        return start, start + length
    if every == "1d":
        return midnight, midnight + DAY
    if every == "1w":
        monday = midnight - midnight.weekday() * DAY
        return monday, monday + 7 * DAY
    if every == "1mo":
        first = midnight.replace(day=1)
        return first, (first + 32 * DAY).replace(day=1)
    raise ValueError(f"no table has buckets of {every}")
