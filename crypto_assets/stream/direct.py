"""The transport without a broker: the consumer reads the collector's journal, on the same machine."""

from __future__ import annotations

import time
from pathlib import Path

from crypto_assets.stream.journal import Reader, forget, identity
from crypto_assets.stream.transport import Delivery, Landed, Position

_LOOK_EVERY_S = 0.02


class DirectSource:
    """The blocks of one journal or of several; a channel is a collector.

    Args:
        directories: of the journals; one that is not there yet is waited for.
        landed: up to where the lake has each.
    """

    n_parts = 1

    def __init__(self, directories: list[Path], landed: Landed) -> None:
        self._directories = directories
        self._landed = landed
        self._readers: dict[str, Reader] = {}

    def poll(self, seconds: float) -> list[Delivery]:
        """See ``transport.Source``. Raises DataError where a block inside a journal is damaged."""
        deadline = time.monotonic() + seconds
        while True:
            found = [
                Delivery(channel, (block.number + 1,), block)
                for channel, reader in self._open().items()
                for block in reader.read()
            ]
            if found or time.monotonic() >= deadline:
                return found
            time.sleep(_LOOK_EVERY_S)

    def rewind(self) -> None:
        self._readers.clear()

    def passed(self, positions: dict[str, Position]) -> None:
        for channel, (number,) in positions.items():
            if channel in self._readers:
                forget(self._readers[channel].directory, number)

    def close(self) -> None:
        self._readers.clear()

    def _open(self) -> dict[str, Reader]:
        if len(self._readers) < len(self._directories):
            for directory in self._directories:
                known = identity(directory)
                if known is None:
                    continue
                channel = f"direct/{known[0]}"
                if channel not in self._readers:
                    landed = self._landed(channel)
                    self._readers[channel] = Reader(directory, landed[0] if landed else 0)
        return self._readers
