"""Collectors as programs: what waits at the start, what is told meanwhile, and whose credentials are used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from crypto_assets.errors import UsageError
from crypto_assets.providers import finnhub
from crypto_assets.resources import lease
from crypto_assets.resources.clock import FixedClock, SystemClock
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.settings import Settings
from crypto_assets.stream import kinesis, program
from crypto_assets.stream.journal import Journal
from crypto_assets.stream.open import open_source

NOW = datetime(2025, 3, 1, 12, tzinfo=UTC)


class Waits(FixedClock):
    """Notes each wait, and does something at one of them."""

    def __init__(self, at: int, act: Callable[[], None]) -> None:
        super().__init__(NOW)
        self.waits: list[float] = []
        self._at, self._act = at, act

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.waits.append(seconds)
        if len(self.waits) == self._at:
            self._act()


def test_a_journal_that_an_orphan_still_holds_is_waited_for_by_what_stream_run_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    orphan = Journal(tmp_path)
    clock = Waits(30, lambda: orphan.__exit__(None, None, None))
    with pytest.raises(UsageError, match="another collector writes this journal"):
        program._journal_of("feed", tmp_path, 1, clock, told.append)
    assert (clock.waits, told) == ([], [])
    monkeypatch.setenv(program.SUPERVISOR, "1")
    with program._journal_of("feed", tmp_path, 1, clock, told.append) as journal:
        assert sum(clock.waits) == pytest.approx(3.0)
        assert told == ["feed: another collector has the journal still; waiting up to 10 s for its end"]
        clock = Waits(10_000, lambda: None)
        with pytest.raises(UsageError, match="another collector writes this journal"):
            program._journal_of("feed", tmp_path, 1, clock, told.append)
        assert sum(clock.waits) == pytest.approx(10.0, abs=0.2)
        assert journal.next_number == 0


class Idle:
    """A collector that only waits for its end."""

    async def run(self, stop: asyncio.Event) -> None:
        await stop.wait()


def test_a_collector_whose_word_for_status_fails_ends_aloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, is_running: bool) -> None:
        if is_running:
            raise RuntimeError("the note")

    monkeypatch.setattr(program, "_note", fails)
    idle: Any = Idle()
    with pytest.raises(RuntimeError, match="the note"):
        asyncio.run(asyncio.wait_for(program._collect(idle, None, tmp_path, SystemClock()), 5))


def test_leases_are_kept_with_the_credentials_of_the_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Callable[[], Mapping[str, str]]] = []

    class Slot(lease.FileSlot):
        def __init__(self, _: str, options: Callable[[], Mapping[str, str]]) -> None:
            super().__init__(tmp_path / "slot")
            kept.append(options)

    class Source:
        def __init__(self, *_: object, **__: object) -> None: ...

    monkeypatch.setattr(lease, "ObjectSlot", Slot)
    monkeypatch.setattr(kinesis, "KinesisSource", Source)
    lake = Lake("s3://lake/x", storage_options={"AWS_ACCESS_KEY_ID": "first"})
    settings = Settings(state_dir=tmp_path)
    with program._lease_of(finnhub.FEED, settings, lake, SystemClock(), print) as may_connect:
        may_connect()
    open_source("kinesis://trades", lambda _: None, lake=lake, clock=SystemClock())
    lake.storage_options["AWS_ACCESS_KEY_ID"] = "second"
    assert [options()["AWS_ACCESS_KEY_ID"] for options in kept] == ["second"] * 2


def test_consumers_of_one_host_name_and_process_id_are_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[str] = []

    class Source:
        def __init__(self, *_: object, group: Any, **__: object) -> None:
            named.append(group._us)

    monkeypatch.setattr(kinesis, "KinesisSource", Source)
    for _ in range(2):
        open_source("kinesis://trades", lambda _: None, lake=Lake(str(tmp_path)), clock=SystemClock())
    assert len(set(named)) == 2
