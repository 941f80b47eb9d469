"""The forwarder: a collector's blocks from its journal to a broker, in order, none left out.

It runs beside the collector and knows nothing of it: it reads the journal behind the last block that the broker has
acknowledged, hands the next ones over, and writes down how far it came, in the journal's directory. A broker that is
away, throttles or refuses means a journal that grows and one line that says so; what was written down too late, because
of a kill, is put again and known by its number.

Whoever takes over from another broker, direct too, begins with the oldest block that the journal holds. What is older
must be in the lake by then: a lane never goes back.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import msgspec

from crypto_assets.errors import CryptoAssetsError, NeedsYouError, TransientError
from crypto_assets.providers.feed import UNREADABLE
from crypto_assets.resources.clock import Clock
from crypto_assets.stream.journal import Reader, backlog_bytes, forget, identity, oldest
from crypto_assets.stream.transport import NextOf, Sink

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
    """How far the journal is with the broker.

    Attributes:
        collector: whose journal it is.
        to: the address that the broker was last reached by.
        next: the first block that it has not acknowledged.
        memory: what sinks must know again.
        place: what keeps the blocks.
    """

    collector: str
    to: str
    next: int
    memory: dict[str, int] = {}
    place: str = ""


class Forwarder:
    """Sends a journal's blocks to a sink, in a thread of its own while its context lasts.

    Args:
        directory: the journal's; it may be made later.
        sink: where to.
        landed: what the lake holds of a lane; asked when the blocks go to another broker than before.
        clock: measures the time that is left at the end.
        rng: jitter.
        tell: what a person should see, in one line.
        look_every_s: how often the journal is looked at.
        drain_s: for how long blocks are still sent at the end.

    Attributes:
        problem: why nothing goes forward at the moment; empty where all is well.
    """

    def __init__(
        self,
        directory: Path,
        sink: Sink,
        *,
        landed: NextOf,
        clock: Clock,
        rng: random.Random | None = None,
        tell: Callable[[str], None] = log.warning,
        look_every_s: float = _LOOK_EVERY_S,
        drain_s: float = _DRAIN_S,
    ) -> None:
        self._directory = directory
        self._sink = sink
        self._landed = landed
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not secrets
        self._tell = tell
        self._look_every_s, self._drain_s = look_every_s, drain_s
        self._stop = threading.Event()
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._run, name=f"forward {directory.name}", daemon=True)
        self.problem = ""

    def __enter__(self) -> Forwarder:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deadline = self._clock.monotonic() + self._drain_s
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
            TransientError, NeedsYouError: of the sink, or as ``require_landed``.
            DataError: the journal is damaged.
        """
        collector = self._known()
        if collector is None:
            return
        sent = _read(self._directory)
        if sent is None or sent.collector != collector:
            sent = _Sent(collector, self._sink.name, 0)
        memory = {**sent.memory, **self._sink.open(sent.memory)}
        following = sent.next
        if sent.place != self._sink.place:
            require_landed(self._directory, self._landed)
            following = 0
        opened = _Sent(collector, self._sink.name, following, memory, self._sink.place)
        if opened != sent:
            # Before anything is put by it: lanes must stay where their first block went.
            _write(self._directory, opened)
        sent = opened
        reader = Reader(self._directory, sent.next)
        while not self._is_over():
            is_stopped = self._stop.is_set()
            blocks = reader.read(_SEND_BYTES)
            if blocks:
                self._sink.put(blocks, self._is_over)
                sent = msgspec.structs.replace(sent, next=blocks[-1].number + 1)
                _write(self._directory, sent)
                self._acknowledged(sent.next)
            elif is_stopped:
                return
            else:
                self._stop.wait(self._look_every_s)

    def _is_over(self) -> bool:
        return self._clock.monotonic() >= self._deadline

    def _acknowledged(self, following: int) -> None:
        forget(self._directory, following)
        if self.problem:
            self.problem = ""
            waiting = backlog_bytes(self._directory) / 2**20
            self._tell(
                f"{self._sink.name}: it works again; at most {waiting:.1f} MiB are on their way, nothing was lost"
            )

    def _known(self) -> str | None:
        """The first id of the journal's collector, which stays, waited for; None where we are told to stop before."""
        while (known := identity(self._directory)) is None:
            if self._stop.wait(self._look_every_s):
                return None
        return known.first


def next_to_send(directory: Path) -> int:
    """The number of the first block that no broker has acknowledged; 0 where nothing was sent yet."""
    sent = _read(directory)
    return 0 if sent is None else sent.next


def require_landed(directory: Path, landed: NextOf) -> None:
    """That the lake holds what a broker has of this journal and the journal no longer holds.

    Raises:
        NeedsYouError: it does not, and another transport would begin behind it.
    """
    sent, known = _read(directory), identity(directory)
    if sent is None or known is None or sent.collector != known.first:
        return
    held, missing = oldest(directory), known.landed(landed)
    if missing < held:
        raise NeedsYouError(
            f"blocks {missing} to {held - 1} are with {sent.to} only, not in the lake yet",
            where=str(directory),
            safe="nothing was passed over, and the journal keeps what comes",
            hint=f"let stream consume --from {sent.to} land them; where they are gone for good remove "
            f"{directory / _FILE}, which makes them blocks_lost",
        )


def _read(directory: Path) -> _Sent | None:
    try:
        return msgspec.json.decode((directory / _FILE).read_bytes(), type=_Sent)
    except (FileNotFoundError, *UNREADABLE):
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
