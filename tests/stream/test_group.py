"""Consumers that share channels by one small object: each channel has one reader, and nobody is kept waiting."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from crypto_assets.errors import NeedsYouError, TransientError
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.lease import FileSlot, slot_of
from crypto_assets.stream.group import SILENT_AFTER, Group

NOW = datetime(2024, 1, 1, tzinfo=UTC)
SHARDS = [f"shard-{n}" for n in range(7)]


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(NOW)


def members(tmp_path: Path, clock: FixedClock, n: int) -> list[Group]:
    return [Group(FileSlot(tmp_path / "group.json"), f"m{i}", clock) for i in range(n)]


def settled(groups: list[Group], shards: list[str] = SHARDS) -> list[frozenset[str]]:
    for _ in range(4):
        for group in groups:
            group.share(shards)
    return [group.share(shards) for group in groups]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 9])
@pytest.mark.parametrize("n_shards", [0, 1, 2, 7])
def test_each_channel_has_one_reader_and_all_have_about_as_many(
    tmp_path: Path, clock: FixedClock, n: int, n_shards: int
) -> None:
    shares = settled(members(tmp_path, clock, n), SHARDS[:n_shards])
    assert sorted(shard for share in shares for shard in share) == SHARDS[:n_shards]
    sizes = sorted(map(len, shares))
    assert sizes[-1] - sizes[0] <= 1
    # Nobody is moved once all have their share.
    assert settled(members(tmp_path, clock, n), SHARDS[:n_shards]) == shares


def test_one_that_falls_silent_is_replaced_and_may_come_back(tmp_path: Path, clock: FixedClock) -> None:
    first, second = members(tmp_path, clock, 2)
    settled([first, second])
    clock.sleep(SILENT_AFTER.total_seconds() / 2)
    second.share(SHARDS)
    assert len(second.share(SHARDS)) < len(SHARDS)
    clock.sleep(SILENT_AFTER.total_seconds() / 2 + 1)
    assert second.share(SHARDS) == set(SHARDS)
    back, rest = settled([first, second])
    assert not back & rest
    assert back | rest == set(SHARDS)


def test_one_that_leaves_is_replaced_at_once(tmp_path: Path, clock: FixedClock) -> None:
    first, second = members(tmp_path, clock, 2)
    settled([first, second])
    first.leave()
    first.leave()
    assert second.share(SHARDS) == set(SHARDS)


def test_channels_that_come_and_go_are_dealt_out(tmp_path: Path, clock: FixedClock) -> None:
    groups = members(tmp_path, clock, 3)
    for before, after in pairwise([SHARDS[:2], SHARDS[1:6], SHARDS[3:], SHARDS]):
        settled(groups, before)
        shares = settled(groups, after)
        assert sorted(shard for share in shares for shard in share) == after


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"m": {"until": "2999-01-01T00:00:00", "channels": []}}'])
def test_what_is_no_group_is_replaced(tmp_path: Path, clock: FixedClock, body: bytes) -> None:
    (tmp_path / "group.json").write_bytes(body)
    (group,) = members(tmp_path, clock, 1)
    assert group.share(SHARDS) == set(SHARDS)


class Unwilling:
    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def read(self) -> tuple[bytes, str] | None:
        if self._error is not None:
            raise self._error
        return None

    def swap(self, body: bytes, token: str | None) -> bool:
        del body, token
        return False


def test_a_store_that_refuses_means_that_each_reads_all_and_is_said_once(
    clock: FixedClock, caplog: pytest.LogCaptureFixture
) -> None:
    group = Group(Unwilling(NeedsYouError("no", where="w", safe="s", hint="h")), "m", clock)
    for _ in range(3):
        assert group.share(SHARDS) == set(SHARDS)
    assert len(caplog.records) == 1


def test_a_store_that_is_away_and_one_that_always_changes_are_asked_again_later(clock: FixedClock) -> None:
    for slot in (Unwilling(TransientError("away", where="w", safe="s", hint="h")), Unwilling(None)):
        with pytest.raises(TransientError):
            Group(slot, "m", clock).share(SHARDS)


@pytest.mark.s3
def test_a_group_in_a_bucket(s3_lake: Lake, clock: FixedClock) -> None:
    slot = slot_of(s3_lake.root, s3_lake.options or {}, "consumers-trades.json")
    a, b = (Group(slot, name, clock, silent_after=timedelta(seconds=5)) for name in "ab")
    shares = settled([a, b])
    assert sorted(shard for share in shares for shard in share) == SHARDS
    b.leave()
    assert a.share(SHARDS) == set(SHARDS)
