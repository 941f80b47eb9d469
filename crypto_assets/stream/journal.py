"""The journal: a collector's blocks on disk, in order, from the moment they are acknowledged until they are passed on.

It is what makes an acknowledgement true, what holds trades while a consumer or broker is away, and what the ``direct``
transport reads. A message is acknowledged when ``append`` has returned: its block is on disk, synced.

A journal is a directory of segments, each named by its first block's number and holding blocks one after the other,
each behind its length. One process writes it (a file lock says so), any may read it, up to the number in ``synced``:
what a power cut could take back, nobody has seen. A block that a kill cut short ends the last segment, and is cut off
by the next writer: it was never acknowledged.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from crypto_assets.errors import DataError, NeedsYouError, UsageError
from crypto_assets.stream.blocks import Block, decode, encode

_LENGTH_BYTES = 4
_NUMBER_BYTES = 8
_SEGMENT_BYTES = 64 * 2**20
_SUFFIX = ".blocks"
_NAME = "collector"
_SYNCED = "synced"
_MOST_BLOCK_BYTES = 2**30
# For the owner: a journal holds what was received as it was.
_MODE = 0o600


class Journal:
    """The writer's side; a context manager.

    Args:
        directory: made where it is not there.
        lanes: into how many lanes a new journal deals its blocks; one that is there keeps its own.
        segment_bytes: a segment that has grown beyond it is followed by a new one.

    Attributes:
        collector: the id of the collector whose blocks these are.
        next_number: the number of the block that comes next.
        last: the newest block that is here, or None.

    Raises:
        UsageError: another process writes this journal.
        NeedsYouError: the directory cannot be written.
        DataError: its identity cannot be read.
    """

    def __init__(self, directory: Path, *, lanes: int = 1, segment_bytes: int = _SEGMENT_BYTES) -> None:
        self.directory = directory
        self._segment_bytes = segment_bytes
        self.next_number = 0
        self.last: Block | None = None
        self._segment, self._synced, self._end = -1, -1, 0
        # Whether something may stand behind the end that is no block.
        self._is_dirty = False
        with ExitStack() as opened:
            try:
                directory.mkdir(parents=True, exist_ok=True)
                self._lock(opened)
                self.collector, self.lanes = _identity(directory, lanes)
                self._open(opened)
            except OSError as error:
                raise _refused(directory, error) from error
            self._opened = opened.pop_all()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._segment)
        self._opened.close()

    def append(self, block: Block) -> None:
        """Put the block on disk; once this returns it survives a kill and a power cut.

        Raises:
            NeedsYouError: the disk is full or refuses; nothing of the block is kept, and it may be tried again.
        """
        if block.number != self.next_number:
            raise ValueError(f"block {block.number} where {self.next_number} is next")
        told = encode(block)
        record = memoryview(len(told).to_bytes(_LENGTH_BYTES, "big") + told)
        try:
            if self._end >= self._segment_bytes:
                self._begin(block.number)
            if self._is_dirty:
                os.ftruncate(self._segment, self._end)
            self._is_dirty = True
            n_written = 0
            while n_written < len(record):
                n_written += os.pwrite(self._segment, record[n_written:], self._end + n_written)
            os.fdatasync(self._segment)
            self._is_dirty = False
        except OSError as error:
            # What the disk took of it goes now, where the disk lets it, and else before the next block.
            with suppress(OSError):
                os.ftruncate(self._segment, self._end)
            raise _refused(self.directory, error) from error
        self._end += len(record)
        self.next_number += 1
        self.last = block
        # A disk that refuses this keeps readers waiting until the next block, and takes nothing back.
        with suppress(OSError):
            self._publish()

    def _lock(self, opened: ExitStack) -> None:
        lock = opened.enter_context((self.directory / "lock").open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                "another collector writes this journal",
                where=str(self.directory),
                safe="it goes on, this one started nothing",
                hint="stop it first, or collect another feed here",
            ) from None

    def _open(self, opened: ExitStack) -> None:
        """Go to the end of what is there; what a kill left behind it is cut off."""
        promised = synced(self.directory)
        self._synced = os.open(self.directory / _SYNCED, os.O_RDWR | os.O_CREAT, _MODE)
        opened.callback(os.close, self._synced)
        path = (_segments(self.directory) or [_path(self.directory, 0)])[-1]
        self._segment = os.open(path, os.O_RDWR | os.O_CREAT, _MODE)
        try:
            found = _scanned(path)
            self._end, self.last, self.next_number = found.end, found.last, found.next_number
            os.ftruncate(self._segment, self._end)
            if found.is_damaged or self.next_number < promised:
                # Numbers are never given twice: of a block that is gone its number is all that is left.
                self.next_number = max(self.next_number, promised)
                self._begin(self.next_number)
            _sync_directory(self.directory)
            self._publish()
        except BaseException:
            os.close(self._segment)
            raise
        if self.last is None:
            self.last = _last(self.directory)

    def _begin(self, number: int) -> None:
        """A new segment, which is the one that is written from now on."""
        segment = os.open(_path(self.directory, number), os.O_RDWR | os.O_CREAT | os.O_TRUNC, _MODE)
        try:
            _sync_directory(self.directory)
        except OSError:
            os.close(segment)
            raise
        os.close(self._segment)
        self._segment, self._end, self._is_dirty = segment, 0, False

    def _publish(self) -> None:
        """Let readers have the blocks before the next number."""
        os.pwrite(self._synced, self.next_number.to_bytes(_NUMBER_BYTES, "little"), 0)


class Reader:
    """The reader's side: blocks from a number on, as they come.

    Args:
        directory: the journal's.
        start: the number of the first block wanted.
    """

    def __init__(self, directory: Path, start: int = 0) -> None:
        self.directory = directory
        self._path: Path | None = None
        self._offset, self._number = 0, 0
        self.seek(start)

    def seek(self, number: int) -> None:
        """Go to a block; the first that is left, where that one has been removed."""
        held = [path for path in _segments(self.directory) if int(path.stem) <= number]
        self._path = None
        self._wanted = number
        self._go_to(held[-1] if held else None)

    def read(self, most_bytes: int = 8 * 2**20) -> list[Block]:
        """The blocks that are there and were not read yet, at most about ``most_bytes`` of them; empty where none is.

        Raises:
            DataError: a block inside the journal is damaged.
        """
        found: list[Block] = []
        size = 0
        # Asked before anything is read: a block that is written meanwhile, and a segment after it, are of the next
        # round.
        limit = synced(self.directory)
        while self._wanted < limit and size < most_bytes:
            if self._path is None and not self._go_to(self._following()):
                break
            for told, after in self._records():
                if self._number >= limit or size >= most_bytes:
                    return found
                block = self._decoded(told)
                self._offset, self._number = after, block.number + 1
                if block.number >= self._wanted:
                    found.append(block)
                    size += len(told)
                    self._wanted = block.number + 1
            if self._number >= limit or not self._go_to(self._following()):
                break
        return found

    def _go_to(self, path: Path | None) -> bool:
        if path is not None:
            self._path, self._offset, self._number = path, 0, int(path.stem)
        return path is not None

    def _records(self) -> Iterator[tuple[bytes, int]]:
        """Of this segment, from here; none where it was forgotten meanwhile, because somebody had passed it on."""
        with suppress(FileNotFoundError):
            yield from _records(self._path or self.directory, self._offset)

    def _decoded(self, told: bytes) -> Block:
        try:
            return decode(told)
        except DataError as error:
            raise DataError(
                "a block in the journal is damaged",
                where=str(self._path),
                safe="the blocks before it are in the lake",
                hint="move the file away; what it held is then a hole that the gap ledger names",
            ) from error

    def _following(self) -> Path | None:
        later = [path for path in _segments(self.directory) if self._path is None or path > self._path]
        return later[0] if later else None


def synced(directory: Path) -> int:
    """The number after the last block that is on disk for good; 0 where none is."""
    try:
        return int.from_bytes((directory / _SYNCED).read_bytes(), "little")
    except FileNotFoundError:
        return 0


def forget(directory: Path, before: int) -> int:
    """Remove the segments that hold only blocks below ``before``, never the last one; how many went."""
    segments = _segments(directory)
    gone = [path for path, after in pairwise(segments) if int(after.stem) <= before]
    for path in gone:
        path.unlink()
    return len(gone)


def backlog_bytes(directory: Path) -> int:
    """Bytes that the journal holds on disk."""
    return sum(path.stat().st_size for path in _segments(directory))


def identity(directory: Path) -> tuple[str, int] | None:
    """The id of the collector whose journal it is, and its lanes; None where there is none yet.

    Raises:
        DataError: what says so is damaged.
    """
    try:
        told = (directory / _NAME).read_text(errors="replace").split()
    except FileNotFoundError:
        return None
    if len(told) != 2 or not told[1].isdecimal():
        raise DataError(
            "the journal does not say whose it is",
            where=str(directory / _NAME),
            safe="nothing was read or written",
            hint="move the directory away; what it held and the lake does not is then lost",
        )
    return told[0], int(told[1])


def _identity(directory: Path, lanes: int) -> tuple[str, int]:
    known = identity(directory)
    if known is not None:
        return known
    made = secrets.token_hex(6), lanes
    scratch = directory / f"{_NAME}.new"
    with scratch.open("w") as file:
        file.write(f"{made[0]} {made[1]}\n")
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(directory / _NAME)
    _sync_directory(directory)
    return made


class _Scanned(NamedTuple):
    """A segment: where its last whole block ends, that block, the next number, and whether damage lies before it."""

    end: int
    last: Block | None
    next_number: int
    is_damaged: bool


def _scanned(path: Path) -> _Scanned:
    found = _Scanned(0, None, int(path.stem), is_damaged=False)
    n_bad = 0
    for told, after in _records(path, 0):
        try:
            block = decode(told)
        except DataError:
            n_bad += 1
            continue
        found = _Scanned(after, block, block.number + 1, is_damaged=n_bad > 0)
    return found


def _last(directory: Path) -> Block | None:
    for path in reversed(_segments(directory)):
        found = _scanned(path)
        if found.last is not None:
            return found.last
    return None


def _records(path: Path, offset: int) -> Iterator[tuple[bytes, int]]:
    """The records of a segment from an offset on, each with the offset after it; a record cut short is not one."""
    with path.open("rb") as file:
        file.seek(offset)
        while len(head := file.read(_LENGTH_BYTES)) == _LENGTH_BYTES:
            length = int.from_bytes(head, "big")
            if length > _MOST_BLOCK_BYTES:
                return
            told = file.read(length)
            if len(told) < length:
                return
            yield told, file.tell()


def _segments(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"*{_SUFFIX}"))


def _path(directory: Path, number: int) -> Path:
    return directory / f"{number:020d}{_SUFFIX}"


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refused(directory: Path, error: OSError) -> NeedsYouError:
    return NeedsYouError(
        f"the journal cannot be written ({os.strerror(error.errno) if error.errno else type(error).__name__})",
        where=str(directory),
        safe="what was acknowledged is on disk; no trade is dropped, the connection waits",
        hint="make room on its disk, or make it writable",
    )
