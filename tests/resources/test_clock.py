from datetime import UTC, datetime, timedelta, timezone

import pytest

from crypto_assets.resources.clock import Clock, FixedClock, SystemClock

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_a_fixed_clock_moves_only_when_it_sleeps() -> None:
    clock = FixedClock(NOON)
    clock.sleep(90)
    clock.sleep(-5)
    assert clock.now() == NOON + timedelta(seconds=90)
    assert clock.monotonic() == 90


def test_setting_the_time_of_day_does_not_move_elapsed_time() -> None:
    clock = FixedClock(NOON)
    clock.set(NOON - timedelta(hours=2))
    assert (clock.now(), clock.monotonic()) == (NOON - timedelta(hours=2), 0)


def test_a_clock_speaks_utc_and_refuses_a_time_without_a_zone() -> None:
    there = timezone(timedelta(hours=9))
    assert FixedClock(datetime(2026, 3, 1, 21, tzinfo=there)).now().tzinfo is UTC
    with pytest.raises(ValueError, match="time zone"):
        FixedClock(datetime(2026, 3, 1))  # noqa: DTZ001 (the mistake under test)


def test_the_system_clock_is_aware_and_really_waits() -> None:
    clock: Clock = SystemClock()
    before = clock.monotonic()
    clock.sleep(0.02)
    clock.sleep(-1)
    assert clock.monotonic() - before >= 0.02
    assert clock.now().tzinfo is UTC
