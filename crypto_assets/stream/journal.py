"""The journal: a collector's blocks on disk, in order, from the moment they are acknowledged until they are passed on.

It is what makes an acknowledgement true, what holds trades while a consumer or broker is away, and what the ``direct``
transport reads. A message is acknowledged when ``append`` has returned: its block is on disk, synced.

A journal is a directory of segments, each named by its first block's number and holding blocks one after the other,
each behind its length. One process writes it (a file lock says so), any may read it. A block that a kill cut short ends
the last segment, and is cut off by the next writer: it was never acknowledged.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import TracebackType

from crypto_assets.errors import DataError, NeedsYouError, UsageError
from crypto_assets.stream.blocks import Block, decode, encode

_LENGTH_BYTES = 4
_SEGMENT_BYTES = 64 * 2**20
_SUFFIX = ".blocks"
_NAME = "collector"
# Full, over quota, or read-only: a person or time mends it.
_MOST_BLOCK_BYTES = 2**30


class Journal:
    """The writer's side; a context manager.

    Args:
        directory: made where it is not there.
        lanes: into how many lanes a new journal deals its blocks; one that is there keeps its own.
        segment_bytes: a segment that has grown beyond it is followed by a new one.

    Raises:
        UsageError: another process writes this journal.
        NeedsYouError: the directory cannot be written.
    """

    def __init__(self, directory: Path, *, lanes: int = 1, segment_bytes: int = _SEGMENT_BYTES) -> None:
        self.directory = directory
        self._segment_bytes = segment_bytes
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = (directory / "lock").open("w")
        except OSError as error:
            raise _refused(directory, error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise UsageError(
                "another collector writes this journal",
                where=str(directory),
                safe="it goes on, this one started nothing",
                hint="stop it first, or collect another feed here",
            ) from None
        self.collector, self.lanes = _identity(directory, lanes)
        path = _segments(directory)[-1:] or [_path(directory, 0)]
        self._file = path[0].open("a+b")
        self.next_number = self._recovered(path[0])
        self.last: Block | None = _last(directory)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._lock.close()

    def append(self, block: Block) -> None:
        """Put the block on disk; once this returns it survives a kill and a power cut.

        Raises:
            NeedsYouError: the disk is full or refuses; nothing of the block is kept, and it may be tried again.
        """
        if block.number != self.next_number:
            raise ValueError(f"block {block.number} where {self.next_number} is next")
        told = encode(block)
        if self._file.tell() >= self._segment_bytes:
            self._file.close()
            self._file = _path(self.directory, block.number).open("a+b")
            _sync_directory(self.directory)
        start = self._file.seek(0, os.SEEK_END)
        try:
            self._file.write(len(told).to_bytes(_LENGTH_BYTES, "big") + told)
            self._file.flush()
            os.fdatasync(self._file.fileno())
        except OSError as error:
            self._forget(start)
            raise _refused(self.directory, error) from error
        self.next_number += 1
        self.last = block

    def _forget(self, start: int) -> None:
        """Drop what a failed write left: the buffer, and the part of it that reached the file."""
        path = Path(self._file.name)
        # The buffer cannot be flushed, which is why we are here; the descriptor is closed all the same.
        with contextlib.suppress(OSError):
            self._file.close()
        os.truncate(path, start)
        self._file = path.open("a+b")

    def _recovered(self, path: Path) -> int:
        """The number after the last whole block; what a kill left behind it is cut off."""
        number, end = int(path.stem), 0
        for told, after in _records(path, 0):
            if _is_torn(told):
                break
            number, end = number + 1, after
        self._file.truncate(end)
        self._file.seek(0, os.SEEK_END)
        return number


class Reader:
    """The reader's side: blocks from a number on, as they come.

    Args:
        directory: the journal's.
        start: the number of the first block wanted.
    """

    def __init__(self, directory: Path, start: int = 0) -> None:
        self.directory = directory
        self._path: Path | None = None
        self._offset = 0
        self.seek(start)

    def seek(self, number: int) -> None:
        """Go to a block; the first that is left, where that one has been removed."""
        held = [path for path in _segments(self.directory) if int(path.stem) <= number]
        self._path, self._offset = (held[-1], 0) if held else (None, 0)
        self._wanted = number

    def read(self, most_bytes: int = 8 * 2**20) -> list[Block]:
        """The blocks that are there and were not read yet, at most about ``most_bytes`` of them; empty where none is.

        Raises:
            DataError: a block inside the journal is damaged.
        """
        found: list[Block] = []
        size = 0
        while size < most_bytes:
            if self._path is None:
                first = _segments(self.directory)[:1]
                if not first:
                    break
                self._path, self._offset = first[0], 0
            ended = True
            # Asked before it is read: a block that is written meanwhile, and a segment after it, are of the next round.
            is_last = self._is_last()
            for told, after in _records(self._path, self._offset):
                block = _decoded(told, self._path, is_last=is_last)
                if block is None:
                    break
                self._offset = after
                if block.number >= self._wanted:
                    found.append(block)
                    size += len(told)
                    self._wanted = block.number + 1
                if size >= most_bytes:
                    ended = False
                    break
            if not ended or is_last:
                break
            self._path, self._offset = self._following(), 0
        return found

    def _is_last(self) -> bool:
        segments = _segments(self.directory)
        return not segments or self._path is None or self._path >= segments[-1]

    def _following(self) -> Path | None:
        later = [path for path in _segments(self.directory) if self._path is None or path > self._path]
        return later[0] if later else None


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
    """The id of the collector whose journal it is, and its lanes; None where there is none yet."""
    try:
        told = (directory / _NAME).read_text().split()
    except FileNotFoundError:
        return None
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


def _last(directory: Path) -> Block | None:
    for path in reversed(_segments(directory)):
        last = None
        for told, _ in _records(path, 0):
            if _is_torn(told):
                break
            last = told
        if last is not None:
            return decode(last)
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


def _is_torn(told: bytes) -> bool:
    try:
        decode(told)
    except DataError:
        return True
    return False


def _decoded(told: bytes, path: Path, *, is_last: bool) -> Block | None:
    try:
        return decode(told)
    except DataError as error:
        if is_last:
            # Still being written, or cut short by a kill: the writer goes on behind it or cuts it off.
            return None
        raise DataError(
            "a block in the journal is damaged",
            where=str(path),
            safe="the blocks before it are in the lake",
            hint="move the file away; what it held is then a hole that the gap ledger names",
        ) from error


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
