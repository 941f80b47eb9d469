"""Journals that are restored, copied, moved or damaged: what was acknowledged lands once, and others go on."""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import pytest

from crypto_assets.errors import TransientError
from crypto_assets.providers.feeds import FEEDS
from crypto_assets.resources.clock import SystemClock
from crypto_assets.resources.lake import Lake
from crypto_assets.stream import program
from crypto_assets.stream.blocks import Block, encode
from crypto_assets.stream.consumer import Consumer
from crypto_assets.stream.direct import DirectSource
from crypto_assets.stream.forward import Forwarder
from crypto_assets.stream.journal import Journal, identity, synced
from crypto_assets.stream.open import blocks_in
from crypto_assets.stream.transport import IsOver, never
from crypto_assets.tables.stream import RawStreamEvents
from tests.stream.brokers import block, frame, held, run

pytestmark = pytest.mark.timeout(60)


def append(journal: Journal, *starts: int) -> list[int]:
    """A block of three trades from each number on."""
    told: list[int] = []
    for start in starts:
        made = block(
            journal.next_number, range(start, start + 3), collector=journal.collector, lanes=journal.lanes, padding=200
        )
        journal.append(msgspec.structs.replace(made, since=journal.since))
        told += range(start, start + 3)
    return told


def collected(directory: Path, *starts: int, lake: Lake | None = None) -> list[int]:
    """What a collector that is started and stopped leaves; it looks into the lake where one is given."""
    with Journal(directory, segment_bytes=1_000) as journal:
        if lake is not None:
            program._require_own_numbers(journal, lake)
        return append(journal, *starts)


def consumer(lake: Lake, *directories: Path) -> Consumer:
    return Consumer(lake, lambda landed: DirectSource(list(directories), landed), FEEDS, SystemClock(), most_s=0.0)


def land(lake: Lake, directory: Path) -> None:
    with consumer(lake, directory) as consuming:
        run(consuming, lambda: _is_landed(lake, directory))


def _is_landed(lake: Lake, directory: Path) -> bool:
    known = identity(directory)
    return known is not None and known.landed(blocks_in(lake)) >= synced(directory)


def lost(lake: Lake) -> int:
    return lake.read(RawStreamEvents)["kind"].to_list().count("blocks_lost")


def restore(kept: Path, directory: Path, *, in_place: bool) -> None:
    """Put the files back, by new ones or by writing into those that are there."""
    if not in_place:
        shutil.rmtree(directory)
        shutil.copytree(kept, directory)
        return
    for path in directory.iterdir():
        if not (kept / path.name).exists():
            path.unlink()
    for path in kept.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("is_consumer_running", [False, True])
def test_a_journal_that_was_restored_loses_nothing_that_comes_after(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, in_place: bool, is_consumer_running: bool
) -> None:
    lake, journal, kept = Lake(str(tmp_path / "lake")), tmp_path / "journal", tmp_path / "kept"
    told = collected(journal, 0, 10, 20, lake=lake)
    shutil.copytree(journal, kept)
    told += collected(journal, 30, 40, lake=lake)
    with consumer(lake, journal) as consuming:
        run(consuming, lambda: _is_landed(lake, journal))
        restore(kept, journal, in_place=in_place)
        told += collected(journal, 50, 60, lake=lake)
        if is_consumer_running:
            run(consuming, lambda: _is_landed(lake, journal))
    land(lake, journal)
    assert held(lake) == told
    assert lost(lake) == 0
    assert len([record for record in caplog.records if "under the new id" in record.message]) == 1
    # Started again it goes on as it is.
    told += collected(journal, 70, lake=lake)
    land(lake, journal)
    assert held(lake) == told
    assert len([record for record in caplog.records if "under the new id" in record.message]) == 1


def test_two_machines_from_one_image_lose_nothing_of_each_other(tmp_path: Path) -> None:
    lake, first, second = Lake(str(tmp_path / "lake")), tmp_path / "first", tmp_path / "second"
    told = collected(first, 0, 10, lake=lake)
    shutil.copytree(first, second)
    told += collected(first, 20, 30, lake=lake)
    land(lake, first)
    told += collected(second, 40, 50, 60, lake=lake)
    land(lake, second)
    told += collected(first, 70, lake=lake)
    land(lake, first)
    assert held(lake) == told
    assert lost(lake) == 0


@pytest.mark.parametrize("n_landed", [0, 2, 4])
def test_a_journal_that_is_moved_loses_nothing_and_doubles_nothing(tmp_path: Path, n_landed: int) -> None:
    lake, old, new = Lake(str(tmp_path / "lake")), tmp_path / "old", tmp_path / "new"
    starts = [0, 10, 20, 30]
    told = collected(old, *starts[:n_landed])
    if n_landed:
        land(lake, old)
    told += collected(old, *starts[n_landed:])
    subprocess.run(["cp", "-a", old, new], check=True)
    shutil.rmtree(old)
    # The consumer may come first, or the collector.
    if n_landed == 2:
        land(lake, new)
    told += collected(new, 40, 50, lake=lake)
    land(lake, new)
    assert held(lake) == told
    assert lost(lake) == 0


def test_where_the_lake_cannot_be_asked_a_new_id_is_taken_and_nothing_doubles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lake, journal = Lake(str(tmp_path / "lake")), tmp_path / "journal"
    told = collected(journal, 0, 10, lake=lake)

    def away(*_: object) -> int:
        raise TransientError("the store cannot be reached", where="s3", safe="s", hint="h")

    with monkeypatch.context() as patched:
        patched.setattr(Lake, "landed", away)
        told += collected(journal, 20, lake=lake)
    assert "the lake does not say which numbers it holds; new blocks are numbered under the new id" in caplog.text
    land(lake, journal)
    assert held(lake) == told
    assert lost(lake) == 0


def test_blocks_that_only_a_broker_knows_are_not_given_their_numbers_again(tmp_path: Path) -> None:
    lake, journal = Lake(str(tmp_path / "lake")), tmp_path / "journal"
    collected(journal, 0, 10)
    known = identity(journal)
    assert known is not None
    (journal / "sent.json").write_text(f'{{"collector":"{known.first}","to":"kafka://x/y","next":5}}')
    with Journal(journal) as opened:
        program._require_own_numbers(opened, lake)
        assert opened.next_number == opened.since == 5
        assert opened.collector != known.collector


def test_a_damaged_journal_stands_still_alone_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lake, bad, good = Lake(str(tmp_path / "lake")), tmp_path / "bad", tmp_path / "good"
    with Journal(bad) as journal:
        told = append(journal, 0, 10)
        end = journal._end
        lost_block = block(2, range(20, 23), collector=journal.collector)
        journal.append(lost_block)
        append(journal, 30)
    segment = bad / f"{0:020d}.blocks"
    data = bytearray(segment.read_bytes())
    assert len(data) > end + len(encode(lost_block))
    data[end] ^= 0x20
    segment.write_bytes(data)
    told += collected(good, 100, 110)
    with consumer(lake, bad, good) as consuming:
        run(consuming, lambda: _is_landed(lake, good))
        for _ in range(5):
            consuming.step(0.02)
        with Journal(good) as journal:
            told += append(journal, 120)
        run(consuming, lambda: _is_landed(lake, good))
    assert held(lake) == told
    said = [record for record in caplog.records if "the journal is damaged at block 2" in record.message]
    assert len(said) == 1
    assert said[0].levelno == logging.WARNING


def test_a_journal_whose_position_cannot_be_had_takes_nothing_from_another(tmp_path: Path) -> None:
    collected(tmp_path / "first", 0)
    collected(tmp_path / "second", 10)
    second = identity(tmp_path / "second")
    assert second is not None
    failures = [TransientError("the store cannot be reached", where="s3", safe="s", hint="h")]

    def landed(channel: str) -> None:
        if failures and channel.endswith(second.collector):
            raise failures.pop()

    source = DirectSource([tmp_path / "first", tmp_path / "second"], landed)
    with pytest.raises(TransientError):
        source.poll(0)
    assert [each.block.frames for each in source.poll(0) if each.block is not None] == [
        [frame(trade) for trade in range(start, start + 3)] for start in (0, 10)
    ]


class Shelf:
    """A broker that keeps what it gets, and the memory that it was given at each start."""

    name = place = "shelf://1"

    def __init__(self) -> None:
        self.names: list[str] = []
        self.memories: list[dict[str, int]] = []

    def open(self, memory: Mapping[str, int]) -> dict[str, int]:
        self.memories.append(dict(memory))
        return {"partitions": 3}

    def put(self, blocks: Sequence[Block], is_over: IsOver = never) -> None:
        del is_over
        self.names += [each.pull_id for each in blocks]

    def close(self) -> None: ...


def test_a_copied_journal_is_forwarded_on_from_where_it_was(tmp_path: Path) -> None:
    shelf, old, new = Shelf(), tmp_path / "old", tmp_path / "new"
    names: list[str] = []
    for directory, starts in ((old, (0, 10, 20)), (new, (30, 40))):
        if directory is new:
            shutil.copytree(old, new)
        with Journal(directory, lanes=4) as journal:
            append(journal, *starts)
            names += [f"{journal.collector}:{start // 10}" for start in starts]
        # Stopped at once it still sends what is there.
        with Forwarder(directory, shelf, landed=lambda _: None, clock=SystemClock(), drain_s=20.0):
            pass
    assert shelf.names == names
    assert len({name.partition(":")[0] for name in names}) == 2
    assert shelf.memories == [{}, {"partitions": 3}]
