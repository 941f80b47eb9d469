"""A provider that means no good: a server of raw sockets on loopback, whose answers are scripts.

Belongs here: how answers break below and at HTTP. What is in a good answer, and the way from an answer to the tables,
is in ``payloads.py``. A library's server would mend what these tests need broken.
"""

from __future__ import annotations

import gzip
import re
import socket
import ssl
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

# What a script is given: the connection, and the head of the request as it came.
Script = Callable[[socket.socket, bytes], None]
_MEGABYTE = bytes(1_000_000)


@dataclass
class Hostile:
    """A listening server and the heads of the requests that it got."""

    port: int
    scheme: str = "http"
    requests: list[bytes] = field(default_factory=list)
    scripts: dict[str, list[Script]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"{self.scheme}://localhost:{self.port}/v3"

    def answer(self, *scripts: Script, to: str = "") -> None:
        """Answer so from now on, in order, the last one for ever; ``to`` is a part of the paths meant."""
        self.scripts[to] = list(scripts)

    def script(self, head: bytes) -> Script:
        path = head.partition(b" ")[2].partition(b" ")[0].decode("latin-1")
        # The longest part that fits is the most particular one.
        told = self.scripts[max((part for part in self.scripts if part in path), key=len)]
        return told.pop(0) if len(told) > 1 else told[0]


@contextmanager
def hostile(*scripts: Script, tls: ssl.SSLContext | None = None) -> Iterator[Hostile]:
    """Listen on loopback while the block runs, behind TLS where it is given."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = Hostile(listener.getsockname()[1], "https" if tls else "http")
    server.answer(*scripts)

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    with tls.wrap_socket(connection, server_side=True) if tls else connection as speaking:
                        head = b""
                        while b"\r\n\r\n" not in head and (chunk := speaking.recv(65536)):
                            head += chunk
                        server.requests.append(head)
                        server.script(head)(speaking, head)
                except OSError:
                    continue  # the client hung up, which is often what the test is about

    thread = threading.Thread(target=serve, name="hostile")
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


# ---- answers that are HTTP ----


def answer(
    body: bytes, status: int = 200, kind: str | None = "application/json", headers: Sequence[str] = ()
) -> Script:
    """A whole answer with its length."""
    told = [*([f"Content-Type: {kind}"] if kind else []), f"Content-Length: {len(body)}", *headers]
    return sending(_head(status, told) + body)


def refusal(status: int, error: str, *headers: str) -> Script:
    """The provider's own error answer."""
    return answer(b'{"error":"' + error.encode() + b'"}', status, headers=headers)


def redirect(location: str, status: int = 302) -> Script:
    """Go elsewhere, please."""
    return answer(b"", status, headers=[f"Location: {location}"])


def not_modified(connection: socket.socket, head: bytes) -> None:
    """304 to a question that had no condition."""
    del head
    connection.sendall(_head(304, ['ETag: "same"']))


def echo(status: int = 200, *, kind: str = "application/json", template: bytes = b'{"data":[{"id":"@"}]}') -> Script:
    """The key of the request in the body (at every ``@``), in a header and in a cookie."""

    def script(connection: socket.socket, head: bytes) -> None:
        answer(template.replace(b"@", key_of(head)), status, kind, [f"X-Your-Key: {key_of(head).decode()}"])(
            connection, head
        )

    return script


def key_of(head: bytes) -> bytes:
    """The key that a request carries."""
    found = re.search(rb"(?i)authorization: bearer (\S+)", head)
    return found[1] if found else b""


def packed(body: bytes, encoding: str) -> Script:
    """A body that is said to be compressed so."""
    return answer(body, headers=[f"Content-Encoding: {encoding}"])


# ---- answers that break ----


def sending(data: bytes) -> Script:
    """These bytes, and the end of the connection."""
    return lambda connection, _: connection.sendall(data)


def until_closed(body: bytes, version: str = "1.0") -> Script:
    """A body without a length: its end is the connection's, so that nobody can tell whether it is whole."""
    return sending(f"HTTP/{version} 200 OK\r\nContent-Type: application/json\r\n\r\n".encode() + body)


def short(body: bytes) -> Script:
    """Half of the length that was promised."""
    return sending(_head(200, ["Content-Type: application/json", f"Content-Length: {2 * len(body)}"]) + body)


def reset(body: bytes) -> Script:
    """Half of the body, and then a reset of the connection."""

    def script(connection: socket.socket, _: bytes) -> None:
        connection.sendall(_head(200, ["Content-Type: application/json", f"Content-Length: {len(body)}"]))
        connection.sendall(body[: len(body) // 2])
        time.sleep(0.05)  # what was sent arrives before the reset does
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return script


def dripping(start: bytes, drop: bytes, pause_s: float = 0.05) -> Script:
    """A drop at a time: no single read ever waits long."""

    def script(connection: socket.socket, _: bytes) -> None:
        connection.sendall(start)
        for _drop in range(200):
            time.sleep(pause_s)
            connection.sendall(drop)

    return script


def silent(start: bytes) -> Script:
    """A beginning, and nothing more for as long as the client stays."""

    def script(connection: socket.socket, _: bytes) -> None:
        connection.sendall(start)
        connection.settimeout(5)
        connection.recv(1)

    return script


SLOW_HEADERS = dripping(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x")
SLOW_BODY = dripping(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n", b" ")
GARBAGE = sending(b"\x16\x03\x01 this is not HTTP at all\r\n\r\n")


def endless(start: bytes, piece: bytes, n_bytes: int) -> Script:
    """Far more than anybody wants, as fast as it is taken."""

    def script(connection: socket.socket, _: bytes) -> None:
        connection.sendall(start)
        for _piece in range(n_bytes // len(piece)):
            connection.sendall(piece)

    return script


def huge(n_bytes: int) -> Script:
    """A plain body of this size."""
    return endless(_head(200, ["Content-Type: application/json", f"Content-Length: {n_bytes}"]), _MEGABYTE, n_bytes)


def chunked(piece: bytes, n_bytes: int) -> Script:
    """Chunks without an end."""
    start = _head(200, ["Content-Type: application/json", "Transfer-Encoding: chunked"])
    return endless(start, f"{len(piece):x}\r\n".encode() + piece + b"\r\n", n_bytes)


def gzip_bomb(n_megabytes: int) -> bytes:
    """A small body that unfolds to this size."""
    engine = zlib.compressobj(9, wbits=31)
    return b"".join(engine.compress(_MEGABYTE) for _ in range(n_megabytes)) + engine.flush()


def gzip_cut(body: bytes) -> bytes:
    """A compressed body without its end."""
    return gzip.compress(body)[:-9]


def nested(depth: int) -> bytes:
    """JSON that is only brackets."""
    return b'{"data":' + b"[" * depth + b"]" * depth + b"}"


def _head(status: int, headers: Sequence[str]) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} -", *headers, "Connection: close", "", ""]).encode()
