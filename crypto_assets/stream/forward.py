"""The forwarder: a collector's blocks from its journal to a broker, in order, none left out.

It runs beside the collector and knows nothing of it: it reads the journal behind the last block that the broker has
acknowledged, hands the next ones over, and writes down how far it came, in the journal's directory. A broker that is
away, throttles or refuses means a journal that grows and one line that says so; what was written down too late, because
of a kill, is put again and known by its number.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import msgspec

from crypto_assets.errors import CryptoAssetsError, TransientError
from crypto_assets.resources.clock import Clock
from crypto_assets.stream.blocks import Block
from crypto_assets.stream.journal import Reader, backlog_bytes, forget, identity
from crypto_assets.stream.transport import Sink

log = logging.getLogger(__name__)

_FILE = "sent.json"
# How often the journal is looked at where nothing was new: what a block waits at most before it is on its way.
_LOOK_EVERY_S = 0.05
# Jitter between half and all of it, doubled each time. A broker that refuses is asked less often: a person mends it.
_FIRST_WAIT_S, _LONGEST_WAIT_S, _REFUSED_WAIT_S = 0.5, 15.0, 30.0
# What is still in the journal when the collector stops is sent for so long; the rest is sent after the next start.
_DRAIN_S = 5.0
_SEND_BYTES = 8 * 2**20


class _Sent(msgspec.Struct, frozen=True):
    """How far the journal is with the broker: the collector and broker that it is about, the next block's number, and
    what the sink must know again."""

    collector: str
    to: str
    next: int
    memory: dict[str, int] = {}


class Forwarder:
    """Sends a journal's blocks to a sink, in a thread of its own while its context lasts.

    Args:
        directory: the journal's; it may be made later.
        sink: where to.
        clock: measures the time that is left at the end.
        rng: jitter.
        tell: what a person should see, in one line.
        look_every_s: how often the journal is looked at.

    Attributes:
        n_blocks: how many the broker has acknowledged since the start.
        problem: why nothing goes forward at the moment; empty where all is well.
    """

    def __init__(
        self,
        directory: Path,
        sink: Sink,
        *,
        clock: Clock,
        rng: random.Random | None = None,
        tell: Callable[[str], None] = log.warning,
        look_every_s: float = _LOOK_EVERY_S,
        drain_s: float = _DRAIN_S,
    ) -> None:
        self._directory = directory
        self._sink = sink
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not secrets
        self._tell = tell
        self._look_every_s, self._drain_s = look_every_s, drain_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"forward {directory.name}", daemon=True)
        self.n_blocks = 0
        self.problem = ""

    def __enter__(self) -> Forwarder:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        n_failures = 0
        while True:
            try:
                self._forward()
                return
            except CryptoAssetsError as error:
                n_failures = 1 if not self.problem else n_failures + 1
                if error.what != self.problem:
                    self._tell(f"{error}; the journal keeps what comes, and it is tried again")
                self.problem = error.what
                wait = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(n_failures, 10))
                if not isinstance(error, TransientError):
                    wait = _REFUSED_WAIT_S
            except Exception as error:
                # A thread that dies would let the journal grow unseen.
                n_failures += 1
                self.problem = f"{type(error).__name__} in the forwarder"
                log.exception("the forwarder of %s", self._directory)
                self._tell(
                    f"{self._directory.name}: {self.problem}; the journal keeps what comes, and it is tried again"
                )
                wait = _LONGEST_WAIT_S
            if self._stop.wait(wait * self._rng.uniform(0.5, 1.0)):
                return

    def _forward(self) -> None:
        """Send blocks until told to stop and nothing is left, or the time for it is over.

        Raises:
            TransientError, NeedsYouError: of the sink.
            DataError: the journal is damaged.
        """
        collector = self._known()
        if collector is None:
            return
        sent = _read(self._directory)
        if sent is None or (sent.collector, sent.to) != (collector, self._sink.name):
            sent = _Sent(collector, self._sink.name, 0)
        memory = self._sink.open(sent.memory)
        if memory != sent.memory:
            sent = msgspec.structs.replace(sent, memory=memory)
            # Before anything is put by it: lanes must stay where their first block went.
            _write(self._directory, sent)
        reader = Reader(self._directory, sent.next)
        deadline: float | None = None
        while True:
            if self._stop.is_set():
                deadline = deadline or self._clock.monotonic() + self._drain_s
                if self._clock.monotonic() >= deadline:
                    return
            blocks = reader.read(_SEND_BYTES)
            if blocks:
                self._sink.put(blocks)
                sent = msgspec.structs.replace(sent, next=blocks[-1].number + 1)
                _write(self._directory, sent)
                self._acknowledged(blocks, sent.next)
            elif deadline is not None:
                return
            else:
                self._stop.wait(self._look_every_s)

    def _acknowledged(self, blocks: Sequence[Block], following: int) -> None:
        self.n_blocks += len(blocks)
        forget(self._directory, following)
        if self.problem:
            self.problem = ""
            waiting = backlog_bytes(self._directory) / 2**20
            self._tell(
                f"{self._sink.name}: it works again; at most {waiting:.1f} MiB are on their way, nothing was lost"
            )

    def _known(self) -> str | None:
        """The id of the journal's collector, waited for; None where we are told to stop before."""
        while (known := identity(self._directory)) is None:
            if self._stop.wait(self._look_every_s):
                return None
        return known[0]


def next_to_send(directory: Path) -> int | None:
    """The number of the first block that no broker has acknowledged; None where nothing was sent yet."""
    sent = _read(directory)
    return None if sent is None else sent.next


def _read(directory: Path) -> _Sent | None:
    try:
        return msgspec.json.decode((directory / _FILE).read_bytes(), type=_Sent)
    except (FileNotFoundError, msgspec.DecodeError):
        # Cut short by a power cut: all that the journal still holds is sent once more.
        return None


def _write(directory: Path, sent: _Sent) -> None:
    """Note how far we are. A full disk takes no note: then blocks are sent twice, and known by their number."""
    scratch = directory / f"{_FILE}.new"
    try:
        with scratch.open("wb") as file:
            file.write(msgspec.json.encode(sent))
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(directory / _FILE)
    except OSError:
        scratch.unlink(missing_ok=True)
