"""Processes that answer questions, so that a query can be stopped for good and the server goes on meanwhile.

A process of its own, because the Delta and S3 clients hold Python's lock while they wait for the store, which may be
this very server; because a stopped query's memory and threads end with it; and because a crash is one query's.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import LifoQueue
from typing import Any

from crypto_assets.local_athena.errors import SYSTEM, QueryError

_STOP_S = 5.0


class Worker:
    """One engine process; it is started when it is first asked, and again after it was stopped."""

    def __init__(self, storage_options: Mapping[str, str]) -> None:
        self._options = dict(storage_options)
        self._guard = threading.Lock()
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None

    def ask(self, method: str, argument: Any) -> Any:
        """What `answering.Answering` answers, or raises.

        Raises:
            QueryError: also where the process ended before it answered.
        """
        pipe = self.start()
        try:
            pipe.send((method, argument))
            is_answer, found = pipe.recv()
        except (EOFError, OSError):
            self.stop()
            raise QueryError(
                "GENERIC_INTERNAL_ERROR: the engine's process ended", category=SYSTEM, is_retryable=True
            ) from None
        if not is_answer:
            raise found
        return found

    def stop(self) -> None:
        """End the process, whatever it does."""
        with self._guard:
            process, self._process, pipe = self._process, None, self._pipe
            self._pipe = None
        if process is not None and process.is_alive():
            process.kill()
            process.join(_STOP_S)
        if pipe is not None:
            pipe.close()

    def start(self) -> Connection:
        """Start the process where it does not run."""
        with self._guard:
            if self._process is not None and self._process.is_alive() and self._pipe is not None:
                return self._pipe
            # Spawned: the server has threads, and a forked child would inherit their locks.
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, self._options), daemon=True, name="engine")
            self._process.start()
            theirs.close()
            return self._pipe


class Workers:
    """As many engine processes as queries may run at once."""

    def __init__(self, n: int, storage_options: Mapping[str, str]) -> None:
        self.all = [Worker(storage_options) for _ in range(n)]
        # The last one given back has tables open.
        self._free: LifoQueue[Worker] = LifoQueue()
        for worker in reversed(self.all):
            self._free.put(worker)

    def take(self) -> Worker:
        """A free process; waits for one."""
        return self._free.get()

    def give(self, worker: Worker) -> None:
        self._free.put(worker)

    def warm(self) -> None:
        """Start one process now: its imports take a second or two, which the first query need not wait for."""
        self.all[0].start()

    def stop(self) -> None:
        for worker in self.all:
            worker.stop()


def _serve(pipe: Connection, storage_options: Mapping[str, str]) -> None:
    import signal

    from crypto_assets.local_athena.answering import Answering, LimitReachedError

    # Ctrl-C reaches the whole terminal; the server ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answering = Answering(storage_options)
    with suppress(EOFError, OSError):
        while True:
            method, argument = pipe.recv()
            try:
                pipe.send((True, getattr(answering, method)(argument)))
            except (QueryError, LimitReachedError) as error:
                pipe.send((False, error))
            except Exception as error:  # noqa: BLE001 - told as a query's failure; the text may hold an address
                reason = f"GENERIC_INTERNAL_ERROR: {type(error).__name__}"
                pipe.send((False, QueryError(reason, category=SYSTEM)))
