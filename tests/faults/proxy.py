"""A proxy before an S3 server that misbehaves on demand: ``with proxy(upstream) as p: p.inject(Fault(...))``.

It runs in a process of its own: deltalake keeps the interpreter's lock in some calls, and would wait for ever for a
thread of the same interpreter. Requests pass byte for byte, the Host header too, because it is part of the signature.
The same port takes orders under ``/-/``, a path that no bucket can have.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Literal

Kind = Literal["status", "drop", "apply_drop", "apply_status", "reset_body", "truncate", "stall"]


@dataclass(frozen=True)
class Fault:
    """What happens to which requests.

    Attributes:
        kind: ``status`` answers without asking the server; ``drop`` resets the connection before it is asked,
            ``apply_drop`` after it did the work; ``apply_status`` lets it work and answers with ``status``;
            ``reset_body`` resets in the middle of the request's body, ``truncate`` in the middle of the answer's;
            ``stall`` answers nothing for ``seconds``.
        method, path: regular expressions that match the whole method and occur in the path with its query.
        nth, times: the first match that is hit, and how many are; -1 for all.
        status, code, message: the answer, its S3 error code and what it says.
    """

    kind: Kind
    method: str = "PUT"
    path: str = r"_delta_log/\d+\.json"
    nth: int = 1
    times: int = 1
    status: int = 503
    code: str = "SlowDown"
    message: str = "made up"
    seconds: float = 0.0


class Proxy:
    """A handle on a running proxy."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def inject(self, *faults: Fault) -> None:
        """Let these faults happen from now on, instead of earlier ones; forget what was seen."""
        self._order("inject", [asdict(fault) for fault in faults])

    def clear(self) -> None:
        self.inject()

    @property
    def hits(self) -> list[str]:
        """The faults that happened since ``inject``, each ``kind METHOD path``."""
        return self._order("hits")

    @property
    def seen(self) -> list[str]:
        """The requests since ``inject``, each ``METHOD path``."""
        return self._order("seen")

    def _order(self, name: str, body: object = None) -> list[str]:
        request = urllib.request.Request(f"{self.url}/-/{name}", data=json.dumps(body).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=10) as answer:
            told: list[str] = json.loads(answer.read())
            return told


@contextmanager
def proxy(upstream_port: int) -> Iterator[Proxy]:
    """A proxy before 127.0.0.1:upstream_port, ended with the block."""
    with subprocess.Popen([sys.executable, __file__, str(upstream_port)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Proxy(int(process.stdout.readline()))
        finally:
            process.kill()


# ---- in the proxy's own process ----


@dataclass(frozen=True)
class _Message:
    head: bytes
    body: bytes

    @property
    def bytes(self) -> bytes:
        return self.head + self.body


class _Server:
    def __init__(self, upstream_port: int) -> None:
        self.upstream_port = upstream_port
        self.faults: list[Fault] = []
        self.n_matches: list[int] = []
        self.hits: list[str] = []
        self.seen: list[str] = []

    async def serve(self) -> None:
        server = await asyncio.start_server(self.connection, "127.0.0.1", 0, limit=1 << 20)
        print(server.sockets[0].getsockname()[1], flush=True)
        async with server:
            await server.serve_forever()

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
                if path.startswith("/-/"):
                    await self.take_order(path, (await _body(reader, head, method)).decode(), writer)
                    continue
                self.seen.append(f"{method} {path}")
                fault = self.match(method, path)
                if fault is not None and fault.kind == "reset_body":
                    await reader.read(_length(head) // 2 or 1)
                    return _reset(writer)
                request = _Message(head, await _body(reader, head, method))
                if fault is not None and fault.kind == "stall":
                    await asyncio.sleep(fault.seconds)
                if fault is not None and fault.kind == "drop":
                    return _reset(writer)
                if fault is not None and fault.kind == "status":
                    writer.write(_error(fault))
                    await writer.drain()
                    continue
                upstream = upstream or await asyncio.open_connection("127.0.0.1", self.upstream_port, limit=1 << 20)
                upstream[1].write(request.bytes)
                await upstream[1].drain()
                answered = await upstream[0].readuntil(b"\r\n\r\n")
                answer = _Message(answered, await _body(upstream[0], answered, method))
                if fault is not None and fault.kind == "apply_drop":
                    return _reset(writer)
                if fault is not None and fault.kind == "truncate":
                    writer.write(answer.head + answer.body[: len(answer.body) // 2])
                    await writer.drain()
                    return _reset(writer)
                writer.write(_error(fault) if fault is not None and fault.kind == "apply_status" else answer.bytes)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        finally:
            for each in (writer, upstream[1] if upstream else None):
                if each is not None:
                    with suppress(ConnectionError, RuntimeError):
                        each.close()

    def match(self, method: str, path: str) -> Fault | None:
        for i, fault in enumerate(self.faults):
            if re.fullmatch(fault.method, method) and re.search(fault.path, path):
                self.n_matches[i] += 1
                n_before = self.n_matches[i] - fault.nth
                if n_before >= 0 and (fault.times < 0 or n_before < fault.times):
                    self.hits.append(f"{fault.kind} {method} {path}")
                    return fault
        return None

    async def take_order(self, path: str, body: str, writer: asyncio.StreamWriter) -> None:
        told: list[str] = []
        if path == "/-/inject":
            self.faults = [Fault(**fault) for fault in json.loads(body)]
            self.n_matches = [0] * len(self.faults)
            self.hits, self.seen = [], []
        else:
            told = self.hits if path == "/-/hits" else self.seen
        content = json.dumps(told).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(content), content))
        await writer.drain()


def _header(head: bytes, name: str) -> str:
    found = re.search(rf"\r\n{name}:\s*([^\r\n]*)", head.decode("latin-1"), re.IGNORECASE)
    return found[1].strip() if found else ""


def _length(head: bytes) -> int:
    return int(_header(head, "content-length") or 0)


async def _body(reader: asyncio.StreamReader, head: bytes, method: str) -> bytes:
    status = head.split(b" ", 2)[1]
    if head.startswith(b"HTTP/") and (method == "HEAD" or status in (b"204", b"304")):
        return b""
    if _header(head, "transfer-encoding").lower() != "chunked":
        return await reader.readexactly(_length(head))
    pieces = []
    while True:
        line = await reader.readline()
        size = int(line.split(b";")[0], 16)
        pieces += [line, await reader.readexactly(size + 2)]
        if size == 0:
            return b"".join(pieces)


def _reset(writer: asyncio.StreamWriter) -> None:
    """End the connection by RST, as a middlebox does that lost its state."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _error(fault: Fault) -> bytes:
    told = f"<Error><Code>{fault.code}</Code><Message>{fault.message}</Message></Error>"
    told = f'<?xml version="1.0" encoding="UTF-8"?>{told}'
    head = f"HTTP/1.1 {fault.status} Fault\r\nContent-Type: application/xml\r\nContent-Length: {len(told)}\r\n\r\n"
    return (head + told).encode()


if __name__ == "__main__":
    asyncio.run(_Server(int(sys.argv[1])).serve())
