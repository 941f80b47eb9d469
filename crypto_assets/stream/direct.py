"""The transport without a broker: the consumer reads the collector's journal, on the same machine."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from pathlib import Path

from crypto_assets.errors import DataError
from crypto_assets.stream.forward import require_landed
from crypto_assets.stream.journal import Reader, forget, identity
from crypto_assets.stream.transport import Delivery, Landed, NextOf, Position

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.02
# A journal that stands still until somebody mends it says so again after so long.
_SAY_EVERY_S = 60.0


class DirectSource:
    """The blocks of one journal or of several; a channel is a collector.

    Args:
        directories: of the journals; one that is not there yet is waited for.
        landed: up to where the lake has each.
        landed_of_lane: what the lake holds of a lane, whichever way it came.
    """

    n_parts = 1

    def __init__(self, directories: list[Path], landed: Landed, landed_of_lane: NextOf = lambda _: None) -> None:
        self._directories = directories
        self._landed = landed
        self._landed_of_lane = landed_of_lane
        self._readers: dict[str, Reader] = {}
        self._said: dict[Path, float] = {}

    def poll(self, seconds: float) -> list[Delivery]:
        """See ``transport.Source``. A journal that is damaged is told of in the log, and the others go on. Raises as
        ``require_landed``, too."""
        deadline = time.monotonic() + seconds
        while True:
            # All are open before any is read: what raises then has taken nothing.
            found = [each for channel, reader in self._open().items() for each in self._read(channel, reader)]
            if found or time.monotonic() >= deadline:
                return found
            time.sleep(_LOOK_EVERY_S)

    def rewind(self) -> None:
        self._readers.clear()

    def passed(self, positions: dict[str, Position]) -> None:
        for channel, (number,) in positions.items():
            reader = self._readers.get(channel)
            # Of another journal that lies there by now it says nothing.
            with suppress(DataError):
                if reader is not None and _channel(reader.directory) == channel:
                    forget(reader.directory, number)

    def close(self) -> None:
        self._readers.clear()

    def _open(self) -> dict[str, Reader]:
        """The readers by channel; a journal that has a new id by now is read anew, and its blocks known by the old."""
        for directory in self._directories:
            try:
                channel = _channel(directory)
            except DataError as error:
                self._say(directory, error)
                continue
            if channel is not None and channel not in self._readers:
                require_landed(directory, self._landed_of_lane)
                landed = self._landed(channel)
                self._readers = {name: each for name, each in self._readers.items() if each.directory != directory}
                self._readers[channel] = Reader(directory, landed[0] if landed else 0)
        return self._readers

    def _read(self, channel: str, reader: Reader) -> list[Delivery]:
        try:
            return [Delivery(channel, (block.number + 1,), block) for block in reader.read()]
        except DataError as error:
            self._say(reader.directory, error)
            return []

    def _say(self, directory: Path, error: DataError) -> None:
        now = time.monotonic()
        if now - self._said.get(directory, -_SAY_EVERY_S) >= _SAY_EVERY_S:
            self._said[directory] = now
            log.warning("%s", error)


def _channel(directory: Path) -> str | None:
    known = identity(directory)
    return None if known is None else f"direct/{known.collector}"
