"""The lease of a lake's schedules: one holder at a time, handed over when it expires, whatever lies in its place."""

from __future__ import annotations

import datetime as dt
import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import pytest

from crypto_assets.automation import schedules
from crypto_assets.definitions import build_definitions
from crypto_assets.errors import NeedsYouError, TransientError
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.lease import (
    FileSlot,
    Holder,
    Lease,
    LeaseUnsupported,
    ObjectSlot,
    Slot,
    Unreadable,
    hold,
    known_installation,
    look,
    refusal,
    slot_of,
    this_installation,
)
from crypto_assets.resources.settings import Settings

NOON = dt.datetime(2024, 1, 1, 12, tzinfo=dt.UTC)
LENGTH = dt.timedelta(minutes=12, seconds=30)
HERE = Holder("aaaaaaaa", "here")
THERE = Holder("bbbbbbbb", "there")
N_RACERS = 12
SlotOf = Callable[[], Slot]


@pytest.fixture(params=["directory", pytest.param("bucket", marks=pytest.mark.s3)])
def any_slot(request: pytest.FixtureRequest) -> SlotOf:
    """The place of an empty lake's lease; each call is another process's view of it."""
    lake: Lake = request.getfixturevalue("lake" if request.param == "directory" else "s3_lake")
    return lambda: slot_of(lake.root, lake.storage_options)


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(NOON)


def test_the_first_takes_the_lease_and_the_second_is_told_who_holds_it(any_slot: SlotOf, clock: FixedClock) -> None:
    ours = Lease(HERE, NOON, NOON + LENGTH, 1)
    assert look(any_slot()) is None
    assert hold(any_slot(), HERE, clock, LENGTH) == ours
    assert hold(any_slot(), THERE, clock, LENGTH) == ours
    assert look(any_slot()) == ours


def test_the_holder_renews_and_stays_since_when_it_was(any_slot: SlotOf, clock: FixedClock) -> None:
    hold(any_slot(), HERE, clock, LENGTH)
    clock.sleep(300)
    assert hold(any_slot(), HERE, clock, LENGTH) == Lease(HERE, NOON, clock.now() + LENGTH, 1)
    # It came back after its end, and nobody had taken it.
    clock.sleep(LENGTH.total_seconds() + 1)
    assert hold(any_slot(), HERE, clock, LENGTH) == Lease(HERE, NOON, clock.now() + LENGTH, 1)


def test_an_expired_lease_is_taken_over_and_counted(any_slot: SlotOf, clock: FixedClock) -> None:
    hold(any_slot(), HERE, clock, LENGTH)
    clock.sleep(LENGTH.total_seconds() - 1)
    assert hold(any_slot(), THERE, clock, LENGTH).holder == HERE
    clock.sleep(1)
    theirs = Lease(THERE, clock.now(), clock.now() + LENGTH, 2)
    assert hold(any_slot(), THERE, clock, LENGTH) == theirs
    assert hold(any_slot(), HERE, clock, LENGTH) == theirs


@pytest.mark.parametrize("is_expired", [False, True], ids=["never taken", "expired"])
def test_of_many_who_race_one_wins_and_all_agree(any_slot: SlotOf, clock: FixedClock, is_expired: bool) -> None:
    if is_expired:
        hold(any_slot(), HERE, clock, LENGTH)
        clock.sleep(LENGTH.total_seconds())
    slots = [any_slot() for _ in range(N_RACERS)]
    start = threading.Barrier(N_RACERS)

    def race(n: int) -> Lease:
        start.wait()
        return hold(slots[n], Holder(f"{n:08x}", f"racer {n}"), clock, LENGTH)

    with ThreadPoolExecutor(N_RACERS) as pool:
        told = list(pool.map(race, range(N_RACERS)))
    assert len(set(told)) == 1
    assert told[0] == look(any_slot())
    assert told[0].counter == 1 + is_expired
    assert sum(lease.holder.id == f"{n:08x}" for n, lease in enumerate(told)) == 1


def test_a_swap_of_what_has_changed_changes_nothing(any_slot: SlotOf) -> None:
    slot = any_slot()
    assert not slot.swap(b"x", "a state that never was")
    assert slot.swap(b"one", None)
    assert not slot.swap(b"two", None)
    (body, token) = slot.read() or (b"", "")
    assert body == b"one"
    assert slot.swap(b"two", token)
    assert not slot.swap(b"three", token)
    assert (slot.read() or (b"",))[0] == b"two"


def lease_with(**changed: object) -> bytes:
    plain = {"holder": {"id": "bbbbbbbb", "host": "there"}, "since": "2024-01-01T12:00:00Z", "counter": 1}
    return json.dumps({**plain, "expires_at": "2024-01-01T12:10:00Z", **changed}).encode()


NO_LEASES = {
    "empty": b"",
    "half": lease_with()[:40],
    "not JSON": b"\x00\xff\xfe",
    "another shape": b"[]",
    "deep": b"[" * 10_000,
    "a time without a zone": lease_with(expires_at="2024-01-01T12:10:00"),
    "a host that moves the cursor": lease_with(holder={"id": "bbbbbbbb", "host": "\x1b[2J"}),
    "an id of somebody's": lease_with(holder={"id": "../x", "host": "there"}),
    "larger than any": b" " * 1_000_000,
}


@pytest.mark.parametrize("found", NO_LEASES.values(), ids=NO_LEASES.keys())
def test_what_is_no_lease_is_replaced_with_a_warning(
    any_slot: SlotOf, clock: FixedClock, caplog: pytest.LogCaptureFixture, found: bytes
) -> None:
    assert any_slot().swap(found, None)
    with pytest.raises(Unreadable, match=r"_lease/schedules\.json"):
        look(any_slot())
    with caplog.at_level(logging.WARNING, "crypto_assets"):
        assert hold(any_slot(), HERE, clock, LENGTH) == Lease(HERE, NOON, NOON + LENGTH, 1)
    (line,) = caplog.messages
    assert line.endswith("it is replaced")
    assert "\n" not in line


def test_an_end_that_only_a_wrong_clock_wrote_is_not_waited_for(any_slot: SlotOf, clock: FixedClock) -> None:
    assert any_slot().swap(lease_with(expires_at="2034-01-01T00:00:00Z"), None)
    assert hold(any_slot(), HERE, clock, LENGTH).holder == HERE


def test_a_lease_is_text_that_people_can_read(lake: Lake, clock: FixedClock) -> None:
    hold(slot_of(lake.root, {}), HERE, clock, LENGTH)
    assert json.loads((Path(lake.root) / "_lease" / "schedules.json").read_text()) == {
        "holder": {"id": "aaaaaaaa", "host": "here"},
        "since": "2024-01-01T12:00:00Z",
        "expires_at": "2024-01-01T12:12:30Z",
        "counter": 1,
    }


def test_the_refusal_says_who_since_when_until_when_and_what_to_do() -> None:
    told = refusal(Lease(THERE, NOON, NOON + LENGTH, 3))
    assert told.startswith(
        "there (installation bbbbbbbb) has run this lake's schedules since 2024-01-01 12:00:00 UTC "
        "and holds them until 2024-01-01 12:12:30 UTC"
    )
    assert "stop the daemon there or here" in told
    assert "\n" not in told


# ---- stores that fail ----


def test_a_store_out_of_reach_is_one_line_and_soon(clock: FixedClock, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "canary",
        "AWS_REGION": "us-east-1",
    }
    with pytest.raises(TransientError, match="the store cannot be reached") as caught:
        hold(slot_of("s3://lake/x", options), HERE, clock, LENGTH)
    assert "canary" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.s3
def test_a_missing_bucket_is_named(s3_options: dict[str, str], clock: FixedClock) -> None:
    with pytest.raises(NeedsYouError, match=r"NoSuchBucket \(s3://nobody/x"):
        hold(slot_of("s3://nobody/x", s3_options), HERE, clock, LENGTH)


def test_a_lake_that_is_a_file_is_named(tmp_path: Path, clock: FixedClock) -> None:
    (tmp_path / "lake").write_text("mine")
    with pytest.raises(NeedsYouError, match="Not a directory"):
        hold(slot_of(str(tmp_path / "lake"), {}), HERE, clock, LENGTH)


def test_a_lease_that_changes_all_the_time_ends_in_one_line(lake: Lake, clock: FixedClock) -> None:
    class Busy(FileSlot):
        def swap(self, body: bytes, token: str | None) -> bool:
            return False

    with pytest.raises(TransientError, match="kept changing"):
        hold(Busy(Path(lake.root) / "lease"), HERE, clock, LENGTH)


def test_an_answer_that_was_lost_is_found_to_be_ours(lake: Lake, clock: FixedClock) -> None:
    class Forgetful(FileSlot):
        n_swaps = 0

        def swap(self, body: bytes, token: str | None) -> bool:
            self.n_swaps += 1
            return super().swap(body, token) and self.n_swaps > 1

    slot = Forgetful(Path(lake.root) / "lease")
    assert hold(slot, HERE, clock, LENGTH) == Lease(HERE, NOON, NOON + LENGTH, 1)
    assert slot.n_swaps == 2


# ---- who we are ----


def test_an_installation_is_the_same_after_a_restart_and_another_elsewhere(tmp_path: Path) -> None:
    assert known_installation(tmp_path / "a") is None
    first = this_installation(tmp_path / "a")
    assert this_installation(tmp_path / "a") == first
    assert known_installation(tmp_path / "a") == first.id
    assert this_installation(tmp_path / "b").id != first.id
    assert len(first.id) == 8


def test_many_who_ask_at_once_are_one_installation(tmp_path: Path) -> None:
    with ThreadPoolExecutor(N_RACERS) as pool:
        assert len(set(pool.map(this_installation, [tmp_path] * N_RACERS))) == 1


def test_an_emptied_id_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "installation").write_bytes(b"")
    assert this_installation(tmp_path) == this_installation(tmp_path)


# ---- ticks ----


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in ("AWS_ENDPOINT_URL", "COINCAP_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return Settings(
        lake_uri=str(tmp_path / "lake"), state_dir=tmp_path / "state", coincap_base_url="http://127.0.0.1:1/v2"
    )


def ticks(settings: Settings, clock: FixedClock, folder: Path) -> dict[str, dg.RunRequest | dg.SkipReason]:
    """What each schedule says to a tick."""
    folder.mkdir(exist_ok=True)
    all_of_them = [
        *schedules.live(settings, clock),
        *schedules.daily_history(settings, clock),
        schedules.maintenance(settings, clock),
    ]
    repository = build_definitions(settings).get_repository_def()
    told: dict[str, dg.RunRequest | dg.SkipReason] = {}
    with dg.DagsterInstance.local_temp(str(folder)) as instance:
        for each in all_of_them:
            with dg.build_schedule_context(
                instance=instance, scheduled_execution_time=NOON, repository_def=repository
            ) as context:
                answer = each(context)
            told[each.name] = answer[0] if isinstance(answer, list) else answer  # type: ignore[assignment]
    return told


def test_ticks_start_runs_here_and_are_skipped_elsewhere(settings: Settings, clock: FixedClock, tmp_path: Path) -> None:
    other = settings.model_copy(update={"state_dir": tmp_path / "other"})
    assert all(isinstance(told, dg.RunRequest) for told in ticks(settings, clock, tmp_path / "a").values())

    us = this_installation(settings.state_dir)
    refused = ticks(other, clock, tmp_path / "b")
    assert list(refused) == ["live", "daily_history", "nightly_maintenance"]
    for told in refused.values():
        assert isinstance(told, dg.SkipReason)
        assert str(told.skip_message).startswith(f"{us} has run this lake's schedules since 2024-01-01 12:00:00 UTC")

    # Two and a half cadences of five minutes.
    clock.sleep(749)
    assert all(isinstance(told, dg.SkipReason) for told in ticks(other, clock, tmp_path / "b").values())
    clock.sleep(1)
    assert all(isinstance(told, dg.RunRequest) for told in ticks(other, clock, tmp_path / "b").values())
    assert all(isinstance(told, dg.SkipReason) for told in ticks(settings, clock, tmp_path / "a").values())


def test_maintenance_respects_a_lease_and_takes_none(settings: Settings, clock: FixedClock) -> None:
    slot, maintenance = slot_of(settings.lake_root, {}), schedules.maintenance(settings, clock)
    with dg.build_schedule_context(scheduled_execution_time=NOON) as context:
        assert isinstance(maintenance(context), dg.RunRequest)
        assert look(slot) is None
        hold(slot, THERE, clock, LENGTH)
        assert isinstance(maintenance(context), dg.SkipReason)
        clock.sleep(LENGTH.total_seconds())
        assert isinstance(maintenance(context), dg.RunRequest)


def test_a_tick_without_a_store_is_skipped_in_one_line(
    settings: Settings, clock: FixedClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    far = settings.model_copy(update={"lake_uri": "s3://lake/x"})
    for told in ticks(far, clock, tmp_path / "a").values():
        assert isinstance(told, dg.SkipReason)
        assert "the store cannot be reached (s3://lake/x/_lease/schedules.json)" in str(told.skip_message)
        assert "\n" not in str(told.skip_message)


def test_a_tick_with_a_corrupt_lease_takes_it(settings: Settings, clock: FixedClock, tmp_path: Path) -> None:
    slot = slot_of(settings.lake_root, {})
    slot.swap(b"{", None)
    assert all(isinstance(told, dg.RunRequest) for told in ticks(settings, clock, tmp_path / "a").values())
    held = look(slot)
    assert held is not None
    assert held.holder == this_installation(settings.state_dir)


def test_a_store_without_conditional_writes_stops_no_schedule(
    settings: Settings, clock: FixedClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise LeaseUnsupported("no conditional writes", where="the lease", safe="nothing", hint="none")

    monkeypatch.setattr(FileSlot, "swap", unsupported)
    monkeypatch.setattr("crypto_assets.resources.lease.this_installation", lambda _: HERE)
    assert all(isinstance(told, dg.RunRequest) for told in ticks(settings, clock, tmp_path / "a").values())


def test_a_slot_that_is_kept_uses_the_credentials_of_the_moment() -> None:
    names = iter(["first", "second"])
    slot = ObjectSlot(
        "s3://lake/x/_lease/one.json",
        lambda: {"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": next(names), "AWS_SECRET_ACCESS_KEY": "canary"},
    )
    found = []
    for _ in range(2):
        with slot._client() as client:
            found.append(client._request_signer._credentials.access_key)
    assert found == ["first", "second"]


def test_a_store_says_that_it_knows_no_conditions(clock: FixedClock) -> None:
    class RefusedError(Exception):
        response = {"Error": {"Code": "NotImplemented"}}  # noqa: RUF012

    slot = ObjectSlot("s3://lake/x/_lease/schedules.json", {"AWS_REGION": "us-east-1"})
    with pytest.raises(LeaseUnsupported, match="no conditional writes"):
        slot._refuse(RefusedError())
