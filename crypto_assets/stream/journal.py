"""The journal: a collector's blocks on disk, in order, from the moment they are acknowledged until they are passed on.

It is what makes an acknowledgement true, what holds trades while a consumer or broker is away, and what the ``direct``
transport reads. A message is acknowledged when ``append`` has returned: its block is on disk, synced.

A journal is a directory of segments, each named by its first block's number and holding blocks one after the other,
each behind its length. One process writes it (a file lock says so), any may read it, up to the number in ``synced``:
what a power cut could take back, nobody has seen. A block that a kill cut short ends the last segment, and is cut off
by the next writer: it was never acknowledged.

The lake knows a block by its collector's id and its number, so that no two may ever have the same. A journal that was
copied, moved or restored gives new blocks a new id: the other one may go on, or have gone on before. Those that it
holds keep theirs, and its numbers go on.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import pairwise, zip_longest
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from crypto_assets.errors import DataError, NeedsYouError, UsageError
from crypto_assets.stream.blocks import Block, decode, encode
from crypto_assets.stream.transport import NextOf

log = logging.getLogger(__name__)

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
        is_new: whether this id was made just now, so that nobody has seen a block of it.
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
                known = identity(directory)
                self.is_new = known is None
                self._is = known or Identity(lanes, ((_new_id(), 0),))
                if not self._is.place:
                    self._is = _claimed(directory, self._is)
                self._open(opened)
                if self._is.place != _place(directory / _NAME):
                    self.renew("the journal was copied, moved or restored, and another may go on with its numbers")
            except OSError as error:
                raise _refused(directory, error) from error
            self._opened = opened.pop_all()

    @property
    def collector(self) -> str:
        """The id that blocks are given from now on."""
        return self._is.collector

    @property
    def since(self) -> int:
        """The number of the first block that has the id."""
        return self._is.ids[-1][1]

    @property
    def lanes(self) -> int:
        """Into how many lanes blocks are dealt."""
        return self._is.lanes

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

    def renew(self, why: str, beyond: int = 0) -> None:
        """Give the blocks that come a new id, and numbers from ``beyond`` on; those that are here keep theirs.

        Raises:
            NeedsYouError: the disk is full or refuses.
        """
        try:
            # The id first: numbers that go on under it were never given to anybody.
            since = max(self.next_number, beyond)
            renewed = self._is._replace(ids=(*self._is.ids, (_new_id(), since)))
            self._is, self.is_new = _claimed(self.directory, renewed), True
            if since > self.next_number:
                self.next_number = since
                self._begin(since)
                self._publish()
        except OSError as error:
            raise _refused(self.directory, error) from error
        log.warning("%s: %s; new blocks are numbered under the new id %s", self.directory, why, self.collector)

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

        A damaged block is left out with a warning where the next one shows that it ends where it says: whoever counts
        finds its number missing.

        Raises:
            DataError: damage, and nothing tells where the next block begins; what lies before was read.
        """
        found: list[Block] = []
        size = 0
        # Asked before anything is read: a block that is written meanwhile, and a segment after it, are of the next
        # round.
        limit = synced(self.directory)
        try:
            while self._wanted < limit and size < most_bytes:
                if self._path is None and not self._go_to(self._following()):
                    break
                following = self._following()
                # What a disk that refused left behind a segment's last block is none.
                end = limit if following is None else min(limit, int(following.stem))
                for told, after in self._records():
                    if self._number >= end or size >= most_bytes:
                        break
                    block = self._decoded(told, after)
                    self._offset, self._number = after, self._number + 1 if block is None else block.number + 1
                    if block is not None and block.number >= self._wanted:
                        found.append(block)
                        size += len(told)
                        self._wanted = block.number + 1
                if self._number >= limit or size >= most_bytes:
                    break
                if self._number < end and self._is_more():
                    raise self._damaged()
                if not self._go_to(following):
                    break
        except DataError:
            # Raised again where it is all that is left.
            if not found:
                raise
        return found

    def _go_to(self, path: Path | None) -> bool:
        if path is not None:
            self._path, self._offset, self._number = path, 0, int(path.stem)
        return path is not None

    def _records(self) -> Iterator[tuple[bytes, int]]:
        """Of this segment, from here; none where it was forgotten meanwhile, because somebody had passed it on."""
        with suppress(FileNotFoundError):
            yield from _records(self._path or self.directory, self._offset)

    def _decoded(self, told: bytes, after: int) -> Block | None:
        try:
            return decode(told)
        except DataError as error:
            if not self._ends(after):
                raise self._damaged() from error
        log.warning("%s: block %d is damaged and is left out; those after it are whole", self._path, self._number)
        return None

    def _ends(self, after: int) -> bool:
        """Whether the block ends there: the next whole one, or the next segment, has the number that follows."""
        number = self._number + 1
        for told, _ in _records(self._path or self.directory, after):
            try:
                return decode(told).number == number
            except DataError:
                number += 1
        following = self._following()
        return following is not None and int(following.stem) == number

    def _is_more(self) -> bool:
        """Whether this segment holds bytes that were not read; none where it was forgotten meanwhile."""
        with suppress(FileNotFoundError):
            return (self._path or self.directory).stat().st_size > self._offset
        return False

    def _damaged(self) -> DataError:
        return DataError(
            f"the journal is damaged at block {self._number}, and where the next one begins cannot be told",
            where=str(self._path),
            safe="the blocks before it are passed on; those in later files wait",
            hint="stop this feed's collector; when no more of it lands (stream status), move the file away and start "
            "it again: what the file held from there on is lost, and noted as that",
        )

    def _following(self) -> Path | None:
        later = [path for path in _segments(self.directory) if self._path is None or path > self._path]
        return later[0] if later else None


def synced(directory: Path) -> int:
    """The number after the last block that is on disk for good; 0 where none is."""
    try:
        return int.from_bytes((directory / _SYNCED).read_bytes(), "little")
    except FileNotFoundError:
        return 0


def oldest(directory: Path) -> int:
    """The number of the first block that is still held, or would be; 0 where there is no journal."""
    return min((int(path.stem) for path in _segments(directory)), default=0)


def forget(directory: Path, before: int) -> int:
    """Remove the segments that hold only blocks below ``before``, never the last that holds any; how many went."""
    # One that was only begun holds nothing: the one before it says when the last message came.
    limit = synced(directory)
    segments = [path for path in _segments(directory) if int(path.stem) < limit]
    gone = [path for path, after in pairwise(segments) if int(after.stem) <= before]
    for path in gone:
        # Another reader of the journal may have been faster.
        path.unlink(missing_ok=True)
    return len(gone)


def backlog_bytes(directory: Path) -> int:
    """Bytes that the journal holds on disk."""
    size = 0
    for path in _segments(directory):
        # Forgotten meanwhile, perhaps.
        with suppress(FileNotFoundError):
            size += path.stat().st_size
    return size


class Identity(NamedTuple):
    """Whose journal it is.

    Attributes:
        lanes: into how many lanes blocks are dealt.
        ids: the collector's, each with the number from which blocks have it; the last is that of new blocks.
        place: the file in which this was written, as no copy has it; empty where it was not noted.
    """

    lanes: int
    ids: tuple[tuple[str, int], ...]
    place: str = ""

    @property
    def collector(self) -> str:
        """The id of new blocks."""
        return self.ids[-1][0]

    @property
    def first(self) -> str:
        """The journal's first id, which stays."""
        return self.ids[0][0]

    def landed(self, next_of: NextOf) -> int:
        """The number of the oldest block that is not in the lake, where ``next_of`` says so of each lane."""
        for (collector, since), later in zip_longest(self.ids, self.ids[1:]):
            of_lanes = [
                next_of(f"{collector}/{lane}") or since + (lane - since) % self.lanes for lane in range(self.lanes)
            ]
            if later is None or min(of_lanes) < later[1]:
                break
        return min(of_lanes)


def identity(directory: Path) -> Identity | None:
    """Whose journal it is; None where there is none yet.

    Raises:
        DataError: what says so is damaged.
    """
    try:
        told = (directory / _NAME).read_text(errors="replace").split()
    except FileNotFoundError:
        return None
    with suppress(ValueError):
        if len(told) == 2:
            return Identity(int(told[1]), ((told[0], 0),))
        if len(told) == 4:
            ids = [each.split("@") for each in told[2].split(",")]
            return Identity(int(told[1]), tuple((collector, int(since)) for collector, since in ids), told[3])
    raise DataError(
        "the journal does not say whose it is",
        where=str(directory / _NAME),
        safe="nothing was read or written",
        hint="move the directory away; what it held and the lake does not is then lost",
    )


def _claimed(directory: Path, told: Identity) -> Identity:
    """Write down whose journal it is, and in which file."""
    scratch = directory / f"{_NAME}.new"
    with scratch.open("w") as file:
        claimed = told._replace(place=_place(scratch))
        ids = ",".join(f"{collector}@{since}" for collector, since in claimed.ids)
        file.write(f"{claimed.collector} {claimed.lanes} {ids} {claimed.place}\n")
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(directory / _NAME)
    _sync_directory(directory)
    return claimed


def _new_id() -> str:
    return secrets.token_hex(6)


def _place(path: Path) -> str:
    """Where a file is, as neither a copy of it has it nor the same disk's in a copy of the machine."""
    held = path.stat()
    return f"{held.st_dev}:{held.st_ino}:{socket.gethostname()}"


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
            if not 0 < length <= _MOST_BLOCK_BYTES:
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
