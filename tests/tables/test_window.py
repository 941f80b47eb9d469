"""Windows: half-open, UTC, never empty."""

from __future__ import annotations

import datetime as dt
from itertools import pairwise
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto_assets.tables.window import DAY, Window, bucket, contiguous, joined, whole_buckets

DAYS = st.dates(dt.date(2009, 1, 3), dt.date(2100, 1, 1))


def at(day: int, hour: int = 0, minute: int = 0) -> dt.datetime:
    return dt.datetime(2024, 2, day, hour, minute, tzinfo=dt.UTC)


def test_a_day_reaches_from_midnight_to_midnight() -> None:
    assert Window.of_day(dt.date(2024, 2, 29)) == Window(at(29), dt.datetime(2024, 3, 1, tzinfo=dt.UTC))


def test_days_include_the_first_and_the_last_one() -> None:
    window = Window.of_days(dt.date(2024, 2, 27), dt.date(2024, 2, 29))

    assert window == Window(at(27), dt.datetime(2024, 3, 1, tzinfo=dt.UTC))
    assert window.days == [dt.date(2024, 2, 27), dt.date(2024, 2, 28), dt.date(2024, 2, 29)]


def test_a_window_touches_the_day_of_its_start_but_not_the_day_that_begins_with_its_end() -> None:
    assert Window(at(1, 23, 59), at(2)).days == [dt.date(2024, 2, 1)]
    assert Window(at(1, 23, 59), at(2) + dt.timedelta(microseconds=1)).days == [
        dt.date(2024, 2, 1),
        dt.date(2024, 2, 2),
    ]


def test_a_window_says_its_interval_in_utc_minutes() -> None:
    assert str(Window(at(1, 9, 5), at(1, 10))) == "2024-02-01T09:05Z..2024-02-01T10:00Z"


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (dt.datetime(2024, 2, 1), dt.datetime(2024, 2, 2)),  # noqa: DTZ001 - the point of the test
        (at(1), at(2).astimezone(ZoneInfo("Europe/Berlin"))),
        (at(1).astimezone(ZoneInfo("Asia/Kolkata")), at(2)),
    ],
    ids=["naive", "foreign end", "foreign start"],
)
def test_a_window_outside_utc_is_refused(start: dt.datetime, end: dt.datetime) -> None:
    with pytest.raises(ValueError, match="a window is in UTC"):
        Window(start, end)


@pytest.mark.parametrize("end", [at(2), at(1)], ids=["empty", "reversed"])
def test_an_empty_window_is_refused(end: dt.datetime) -> None:
    with pytest.raises(ValueError, match="a window is not empty"):
        Window(at(2), end)


def test_windows_order_by_their_start() -> None:
    assert sorted([Window(at(2), at(3)), Window(at(1), at(4)), Window(at(1), at(2))]) == [
        Window(at(1), at(2)),
        Window(at(1), at(4)),
        Window(at(2), at(3)),
    ]


def test_neighbouring_days_become_one_window_and_doubles_count_once() -> None:
    days = [dt.date(2024, 2, d) for d in (5, 1, 2, 2, 9, 4)]

    assert list(contiguous(days)) == [
        Window(at(1), at(3)),
        Window(at(4), at(6)),
        Window(at(9), at(10)),
    ]


def test_no_days_are_no_windows() -> None:
    assert list(contiguous([])) == []


@given(st.lists(DAYS, max_size=40))
def test_windows_of_days_hold_exactly_these_days_and_never_touch(days: list[dt.date]) -> None:
    windows = list(contiguous(days))

    assert [day for window in windows for day in window.days] == sorted(set(days))
    assert all(later.start - earlier.end >= DAY for earlier, later in pairwise(windows))


def test_spans_that_overlap_or_touch_become_one_window() -> None:
    spans = [(at(1), at(2)), (at(1, 6), at(1, 9)), (at(2), at(3)), (at(3, 0, 1), at(4)), (at(3, 12), at(5))]

    assert joined(spans) == [Window(at(1), at(3)), Window(at(3, 0, 1), at(5))]
    assert joined([]) == []


# ---- whole buckets ----


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        ("4h", Window(at(1, 8), at(1, 12))),
        ("1d", Window.of_day(dt.date(2024, 2, 1))),
        ("1w", Window(dt.datetime(2024, 1, 29, tzinfo=dt.UTC), at(5))),
        ("1mo", Window.of_days(dt.date(2024, 2, 1), dt.date(2024, 2, 29))),
    ],
)
def test_a_window_inside_a_bucket_becomes_the_bucket(every: str, expected: Window) -> None:
    assert whole_buckets(Window(at(1, 9), at(1, 10)), every) == expected
    assert whole_buckets(expected, every) == expected


@given(first=DAYS, n=st.integers(0, 90), every=st.sampled_from(["4h", "1d", "1w", "1mo"]))
def test_whole_buckets_hold_the_window_and_are_cut_as_polars_cuts_time(first: dt.date, n: int, every: str) -> None:
    asked = Window.of_days(first, first + dt.timedelta(days=n))
    wide = whole_buckets(asked, every)

    assert wide.start <= asked.start
    assert wide.end >= asked.end
    edges = pl.Series([wide.start, wide.end, asked.start, asked.end - dt.timedelta(microseconds=1)])
    cut = edges.dt.truncate(every)
    assert cut[:2].to_list() == [wide.start, wide.end]
    assert wide.start == cut[2]
    assert wide.end == pl.Series([cut[3]]).dt.offset_by(every).item()


def test_a_bucket_that_no_table_has_is_refused() -> None:
    with pytest.raises(ValueError, match="no table has buckets of 3d"):
        bucket(at(1), "3d")
