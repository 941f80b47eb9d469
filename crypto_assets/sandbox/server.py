"""The sandbox listening on loopback: in a thread of this process for tests and the demo, or until told to stop.

Belongs here: sockets, the thread, signals. What is answered is ``app.py``'s.
"""

from __future__ import annotations

import ipaddress
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import FrameType
from typing import Any

from crypto_assets.errors import TransientError, UsageError
from crypto_assets.sandbox.app import create_app
from crypto_assets.sandbox.events import Events
from crypto_assets.sandbox.faults import Fault
from crypto_assets.sandbox.ledger import Opened, Sent, Traded
from crypto_assets.sandbox.source import Source
from crypto_assets.sandbox.state import Clock, SandboxState

_START_SECONDS = 10.0  # a loaded machine takes one to import the server; more means that it never will
_STOP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A listening sandbox, steered from this process without HTTP."""

    url: str
    state: SandboxState

    @property
    def v2(self) -> str:
        """Base address of the keyless version."""
        return f"{self.url}/v2"

    @property
    def v3(self) -> str:
        """Base address of the version with keys and credits."""
        return f"{self.url}/v3"

    @property
    def ws(self) -> str:
        """Base address of the streams: ``<ws>/<service>/ws``."""
        return self.url.replace("http", "ws", 1)

    def set_now(self, now: datetime | None, speed: float = 0.0) -> None:
        """Freeze the market's time (aware), or let it pass from there at ``speed``; None lets it run with the clock."""
        self.state.set_now(now, speed)

    def set_speed(self, speed: float) -> None:
        """Let the market's time go on from where it is at so many seconds a second; 0 freezes it."""
        self.state.set_speed(speed)

    def set_faults(self, faults: list[Fault]) -> None:
        """Replace all faults."""
        self.state.set_faults(faults)

    def set_events(self, events: Events) -> None:
        """Replace what happened at the venues: outages, listings, holes, restated files."""
        self.state.events = events

    def calls(self) -> dict[str, Any]:
        """``{"calls": {endpoint: count}, "credits": used}`` since the start or ``forget_calls``."""
        return self.state.calls()

    def forget_calls(self) -> None:
        """Begin counting anew, credits, the minute's window and what streams sent included."""
        self.state.forget_calls()

    def connections(self, service: str | None = None) -> list[Opened]:
        """Every websocket that was opened since the start or ``forget_calls``, of one service or of all."""
        return [opened for opened in list(self.state.ledger.connections) if service in (None, opened.service)]

    def sent(self, service: str | None = None) -> list[Sent]:
        """What was sent on which connection, in its order: runs of trades; one that was sent twice is in two."""
        return [run for run in list(self.state.ledger.sent) if service in (None, run.service)]

    def happened(
        self, service: str, start: datetime, end: datetime, markets: Collection[str] | None = None
    ) -> list[Traded]:
        """The truth: every trade (or price) in [start, end), sent or not, by time.

        ``markets`` are market ids, or CoinCap's assets; None: those that any connection has subscribed to. Raises
        ``KeyError`` for a service that has no stream.
        """
        return self.state.streams[service].happened(start, end, markets)


def _utc_now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def serve(
    source: Source,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    keys: frozenset[str] | None = None,
    credits_per_month: int | None = None,
    calls_per_minute: int | None = None,
    clock: Clock = _utc_now,
) -> Iterator[Sandbox]:
    """Listen in a daemon thread while the block runs; port 0 takes a free one.

    The options are those of ``create_app``. Raises ``UsageError`` for a host that is not loopback or a port
    that is taken, ``TransientError`` where the server does not come up.
    """
    import uvicorn

    from crypto_assets.sandbox.uvicorn_wire import UvicornWire

    app = create_app(
        source,
        keys=keys,
        credits_per_month=credits_per_month,
        calls_per_minute=calls_per_minute,
        clock=clock,
    )
    listener = _bound(host, port)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            # One implementation everywhere: faults rely on how it ends a connection that promised more bytes.
            http="h11",
            loop="asyncio",
            ws=UvicornWire,
            ws_per_message_deflate=False,
            ws_ping_interval=None,  # no provider's pings are alike; those that it sends are its stream's
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="critical",  # a dropped connection is a fault on demand, not news
            timeout_graceful_shutdown=1,
        )
    )
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name="crypto-assets-sandbox", daemon=True
    )
    thread.start()
    try:
        _wait_until_listening(server, thread)
        address, bound_port = listener.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        yield Sandbox(f"http://{shown}:{bound_port}", app.state.sandbox)
    finally:
        server.should_exit = True
        thread.join(_STOP_SECONDS)
        if thread.is_alive():
            server.force_exit = True
            thread.join(_STOP_SECONDS)
        listener.close()


def run_forever(
    source: Source,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    keys: frozenset[str] | None = None,
    credits_per_month: int | None = None,
    calls_per_minute: int | None = None,
    clock: Clock = _utc_now,
    when_ready: Callable[[Sandbox], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then stop cleanly and return; call it from the main thread.

    ``when_ready`` is called once it listens (the command line prints the address there; nothing is printed
    here). Errors as ``serve``.
    """
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    signals = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, on_signal) for number in signals]
    try:
        with serve(
            source,
            host=host,
            port=port,
            keys=keys,
            credits_per_month=credits_per_month,
            calls_per_minute=calls_per_minute,
            clock=clock,
        ) as sandbox:
            if when_ready is not None:
                when_ready(sandbox)
            stop.wait()
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _bound(host: str, port: int) -> socket.socket:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        raise UsageError(
            f"host {host!r} is not a loopback address",
            where="sandbox",
            safe="nothing listens",
            hint="leave the host out; the sandbox serves this machine only",
        )
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    # asyncio switches Nagle's delay off only where the protocol is named; without it each answer takes 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise UsageError(
            f"port {port} cannot be had ({error.strerror})",
            where="sandbox",
            safe="nothing listens",
            hint="stop what listens there, or use port 0 for a free one",
        ) from error
    return listener


def _wait_until_listening(server: Any, thread: threading.Thread) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise TransientError(
                "the server did not come up",
                where="sandbox",
                safe="nothing listens",
                hint="try again; on a loaded machine stop other work first",
            )
        time.sleep(0.005)
