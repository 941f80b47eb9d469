"""The one polite client: how a provider is asked, and what its answer is called.

Belongs here: the exchange (addresses, deadline, size, retries, breaker) and the removal of secrets. Does not:
what an answer means (each provider's ``classify``), what it may cost (``budget.py``), what is done with it (the
raw assets write every ``Answer``, whatever its outcome).

Retries are a loop of our own: stamina 26.1 waits with ``time.sleep`` and draws its jitter from the global
``random.uniform``; neither the clock nor the randomness can be handed in, and its log prints ``repr`` of foreign
exceptions. httpx is used below its ``Client``, at the public transport interface, because ``Client`` logs whole
addresses at INFO, reads ``.netrc`` and proxies from the environment and keeps cookies.
"""

from __future__ import annotations

import base64
import json
import logging
import random
import re
import socket
import sqlite3
import ssl
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote

import httpcore
import httpx

from crypto_assets import __version__
from crypto_assets.errors import UsageError
from crypto_assets.resources.budget import Budget, BudgetExhausted, Limit, create_state, transaction
from crypto_assets.resources.clock import Clock

_log = logging.getLogger(__name__)
for _name in ("httpx", "httpcore"):  # both would print addresses, and httpcore the answer's headers
    logging.getLogger(_name).setLevel(logging.WARNING)

USER_AGENT = f"crypto-assets/{__version__}"
LONGEST_WAIT_S = 120.0  # two of the per-minute windows that providers use; more is for the next run
_FIRST_BACKOFF_S = 1.0
_LONGEST_BACKOFF_S = 30.0
_MALFORMED_TRIES = 2  # a cut-off answer is nearly always the network's; the second one is the provider's
_BREAKER_FAILURES = 5  # more than one call's attempts: one slow answer does not close a provider
_BREAKER_COOL_DOWN_S = 60  # the shortest window of any provider; an outage is met with one call a minute
_SHORTEST_SECRET = 8  # Alpha Vantage's public key is the word "demo": removing it would spoil other words
_LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
_NAT64 = IPv6Network("64:ff9b::/96")
_AZURE_METADATA = IPv4Address("168.63.129.16")  # the one metadata service on an address that counts as public


class Outcome(StrEnum):
    """What an answer is. Only ``RATE_LIMITED`` and ``UNAVAILABLE`` are worth asking again."""

    OK = "ok"
    EMPTY = "empty"
    NOT_MODIFIED = "not_modified"
    NOT_FOUND = "not_found"
    RATE_LIMITED = "rate_limited"
    QUOTA_EXHAUSTED = "quota_exhausted"
    DENIED = "denied"
    MALFORMED = "malformed"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A provider's reading of one answer.

    ``retry_after`` (seconds) outranks the header of that name; for ``QUOTA_EXHAUSTED`` it says when the quota
    returns, and None means the first of the next month, UTC.
    """

    outcome: Outcome
    detail: str = ""
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One answered (or unanswered) question, ready to be written to raw; no secret is in any field.

    ``request`` is ``"GET /v3/assets?limit=2000"``; ``status`` is None when no answer began; ``body`` is what was
    sent, decompressed, secrets replaced, and empty when there is no whole body within ``Source.max_bytes``;
    ``received_at`` is aware UTC; ``attempts`` counts the calls made, 0 when none was.
    """

    endpoint: str
    request: str
    status: int | None
    outcome: Outcome
    body: bytes
    received_at: datetime
    detail: str
    attempts: int


@dataclass(frozen=True)
class Source:
    """What a provider tells the client about itself.

    ``credits`` gives the cost of an answer by the bytes of its body. ``classify(status, headers, body)`` reads
    every answer but redirects and 5xx; header names are lower case. It may raise ``ValueError`` for a body that
    it cannot read. ``auth_params`` is for providers that take their key in the query only. ``accept`` is the header of
    that name.
    """

    name: str
    base_url: str
    limits: tuple[Limit, ...]
    secret: str | None = field(repr=False)
    auth_header: Callable[[str], Mapping[str, str]] | None
    credits: Callable[[int], int]
    classify: Callable[[int, Mapping[str, str], bytes], Verdict]
    max_bytes: int = 16_000_000
    deadline_s: float = 30
    attempts: int = 4
    auth_params: Callable[[str], Mapping[str, str]] | None = None
    accept: str = "application/json"


class _RefusedAddress(Exception):  # noqa: N818 (it never leaves this module)
    pass


class _TooLarge(Exception):  # noqa: N818 (it never leaves this module)
    pass


class _UnknownEncoding(Exception):  # noqa: N818 (it never leaves this module)
    pass


# How an exchange can end without a whole body: our refusals, and the network's.
_ENDINGS = (
    _RefusedAddress,
    _TooLarge,
    _UnknownEncoding,
    zlib.error,
    ssl.SSLError,
    httpx.TransportError,
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
)
_NOTHING_SENT = (
    _RefusedAddress,
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpcore.ConnectError,
    httpcore.ConnectTimeout,
)


class Client:
    """Asks one provider, politely, and gives every ending a name.

    ``deadline_s`` bounds one attempt from connecting to the last byte, by the monotonic clock. Not bounded by it:
    the name lookup (the system's resolver has its own limit, often 5 to 30 s), the waits between attempts (each at
    most ``LONGEST_WAIT_S``) and waiting for the budget. Proxies from the environment are not used: the check of
    addresses would then see the proxy's. ``transport`` replaces the network, and with it that check, in tests.

    Raises ``UsageError`` for a base address that is not ``https://`` with a host and nothing secret in it. With
    ``allow_loopback``, and only then, ``http://`` to 127.0.0.1, localhost or [::1] is allowed too.
    """

    def __init__(
        self,
        source: Source,
        *,
        budget: Budget,
        clock: Clock,
        random: random.Random,
        state: Path | None = None,
        transport: httpx.BaseTransport | None = None,
        allow_loopback: bool = False,
    ) -> None:
        self._source = source
        self._base = _checked_base(source, allow_loopback=allow_loopback)
        self._budget = budget
        self._clock = clock
        self._random = random
        self._breaker = _Breaker(budget.path if state is None else state, source.name, clock)
        self._secrets = () if source.secret is None else (source.secret,)
        self._deadline = _Deadline(clock)
        self._transport = transport or _Transport(_Network(self._deadline, allow_loopback=allow_loopback))

    def get(
        self, endpoint: str, path: str, params: Mapping[str, str | int] | None = None, *, estimate: int = 1
    ) -> Answer:
        """Ask for ``path`` below the base address, and again where that can help.

        ``endpoint`` names the question in raw and in logs; ``estimate`` is the number of credits booked before
        the answer's size is known. Always returns an ``Answer``; raises ``BudgetExhausted`` when no call at all
        was allowed, and ``ValueError`` for a path that leaves the base address (a mistake in the program).
        """
        url = self._url(path, params or {})
        request = self._clean(f"GET {url.raw_path.decode('ascii')}")
        answer: Answer | None = None
        for attempt in range(1, self._source.attempts + 1):
            if (until := self._breaker.refuses_until()) is not None:
                detail = f"breaker open until {until:%Y-%m-%d %H:%M:%S} UTC"
                if answer is not None:
                    return _with_detail(answer, detail)
                return Answer(endpoint, request, None, Outcome.UNAVAILABLE, b"", self._clock.now(), detail, 0)
            try:
                receipt = self._budget.take(calls=1, credits=estimate)
            except BudgetExhausted as refusal:
                if answer is None:
                    raise
                return _with_detail(answer, f"not asked again: {refusal.what}")
            reply = self._exchange(url)
            self._budget.settle(self._cost(reply, estimate), receipt)
            self._breaker.record(failed=reply.verdict.outcome is Outcome.UNAVAILABLE)
            answer = Answer(
                endpoint,
                request,
                reply.status,
                reply.verdict.outcome,
                reply.body,
                self._clock.now(),
                self._clean(reply.verdict.detail),
                attempt,
            )
            _log.info("GET %s%s: %s, attempt %d", url.host, self._clean(url.path), answer.outcome, attempt)
            if answer.outcome is Outcome.QUOTA_EXHAUSTED:
                return self._give_up_for_the_quota(answer, reply.verdict)
            wait = self._wait_before_retry(reply, attempt)
            if wait is None or attempt == self._source.attempts:
                return answer
            if wait > LONGEST_WAIT_S:
                return _with_detail(answer, f"asked to wait longer than {LONGEST_WAIT_S:.0f} s; left for the next run")
            self._clock.sleep(wait)
        raise ValueError("a source needs at least one attempt")

    def close(self) -> None:
        """Close the connections; the client is not used afterwards."""
        self._transport.close()

    def _url(self, path: str, params: Mapping[str, str | int]) -> httpx.URL:
        decoded = unquote(path)
        if not path.startswith("/") or re.search(r"[?#\\\x00-\x20\x7f]|//|/\.\.?(/|$)", decoded):
            raise ValueError("a path starts with / and has no query, fragment, blank, empty or dot segment")
        url = httpx.URL(str(self._base).rstrip("/") + path)
        return url.copy_merge_params(dict(params)) if params else url

    def _exchange(self, url: httpx.URL) -> _Reply:
        """One call. Whatever the world does becomes a reply; details are our own words, never a foreign text."""
        source = self._source
        headers = {"Accept": source.accept, "Accept-Encoding": "gzip", "User-Agent": USER_AGENT}
        # The key joins at the last moment: the address and headers that hold it never leave this function.
        if source.secret is not None:
            headers |= dict(source.auth_header(source.secret)) if source.auth_header else {}
            url = url.copy_merge_params(dict(source.auth_params(source.secret))) if source.auth_params else url
        self._deadline.start(source.deadline_s)
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), source.deadline_s)
        request = httpx.Request("GET", url, headers=headers, extensions={"timeout": timeouts})
        reply = _Reply()
        try:
            response = self._transport.handle_request(request)
            try:
                reply.status = response.status_code
                reply.headers = {name.lower(): value for name, value in response.headers.items()}
                for piece in _decompressed(self._chunks(response), reply.headers, source.max_bytes):
                    reply.body_bytes += len(piece)
                    reply.pieces.append(piece)
            finally:
                response.close()
        except _ENDINGS as error:
            return self._broken_off(reply, error, url.host)
        return self._read(reply, url)

    def _broken_off(self, reply: _Reply, error: Exception, host: str) -> _Reply:
        """Name an exchange that gave no whole body."""
        source = self._source
        outcome, detail = Outcome.MALFORMED, ""
        certificate = _certificate_problem(error)
        if isinstance(error, _RefusedAddress):
            outcome, detail = Outcome.DENIED, f"{host} is not a public address; no call was made"
        elif isinstance(error, _TooLarge):
            detail = f"the body is larger than {source.max_bytes} bytes; it was not kept"
        elif isinstance(error, _UnknownEncoding):
            detail = "the body came in an encoding that was not asked for"
        elif isinstance(error, zlib.error):
            detail = "the body's compression is damaged"
            reply.is_decode_error = reply.status == 200
        elif certificate is not None:
            outcome = Outcome.DENIED
            detail = f"the certificate of {host} could not be verified ({certificate}); nothing was sent"
        elif isinstance(error, httpx.TimeoutException | httpcore.TimeoutException):
            outcome, detail = Outcome.UNAVAILABLE, f"no whole answer within {source.deadline_s:g} s"
        else:
            outcome = Outcome.UNAVAILABLE
            detail = f"the connection failed before the answer was whole ({type(error).__name__})"
        reply.is_sent = certificate is None and not isinstance(error, _NOTHING_SENT)
        reply.is_whole = False
        reply.pieces.clear()
        reply.verdict = Verdict(outcome, detail)
        return reply

    def _chunks(self, response: httpx.Response) -> Iterator[bytes]:
        if not isinstance(response.stream, httpx.SyncByteStream):
            raise TypeError("the transport must be a synchronous one")
        for chunk in response.stream:
            self._deadline.remaining_s()  # a body that drips is stopped between its chunks
            yield chunk

    def _read(self, reply: _Reply, url: httpx.URL) -> _Reply:
        """Name a whole answer: redirects and server errors are ours to name, the rest is the provider's."""
        status = reply.status or 0
        reply.body = redact(b"".join(reply.pieces), self._secrets)
        reply.pieces.clear()
        if 300 <= status < 400 and status != 304:
            detail = f"redirected to {_host_of(url, reply.headers)}; redirects are not followed"
            reply.verdict = Verdict(Outcome.MALFORMED, detail)
        elif status >= 500:
            reply.verdict = Verdict(Outcome.UNAVAILABLE, f"status {status}")
        elif status == 304:
            reply.verdict = Verdict(Outcome.NOT_MODIFIED)
        else:
            try:
                reply.verdict = self._source.classify(status, reply.headers, reply.body)
            except (ValueError, RecursionError) as error:  # both are what decoders raise for hostile bodies
                detail = f"the body cannot be read as {self._source.name}'s format ({type(error).__name__})"
                reply.verdict = Verdict(Outcome.MALFORMED, detail)
            reply.is_decode_error = status == 200 and reply.verdict.outcome is Outcome.MALFORMED
        return reply

    def _wait_before_retry(self, reply: _Reply, attempt: int) -> float | None:
        """Seconds to wait before asking again, or None when that cannot help."""
        again = reply.verdict.outcome in {Outcome.RATE_LIMITED, Outcome.UNAVAILABLE}
        if not again and not (reply.is_decode_error and attempt < _MALFORMED_TRIES):
            return None
        # Full jitter: clients that were refused together do not come back together.
        backoff = self._random.uniform(0, min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** (attempt - 1)))
        told = reply.verdict.retry_after
        if told is None:
            told = retry_after_s(reply.headers.get("retry-after"), self._clock.now())
        return backoff if told is None else max(backoff, told)

    def _cost(self, reply: _Reply, estimate: int) -> int:
        if not reply.is_sent:
            return 0
        real = self._source.credits(reply.body_bytes)
        # Whose answer broke off may have been charged for all of it.
        return real if reply.is_whole else max(real, estimate)

    def _give_up_for_the_quota(self, answer: Answer, verdict: Verdict) -> Answer:
        now = self._clock.now()
        until = (now.replace(day=1, hour=0, minute=0, second=0, microsecond=0) + timedelta(days=32)).replace(day=1)
        if verdict.retry_after is not None:
            # A month bounds what a provider (or its typing error) can close.
            until = now + timedelta(seconds=min(max(verdict.retry_after, 0.0), 31 * 86_400))
        self._budget.block_until(until)
        return _with_detail(answer, f"no more calls until {until:%Y-%m-%d %H:%M:%S} UTC")

    def _clean(self, text: str) -> str:
        return redact(text.encode(), self._secrets).decode()


def redact(body: bytes, secrets: Iterable[str]) -> bytes:
    """Replace every secret by ``[redacted]``: as it is, in JSON, url-encoded, in base64 (also inside a longer text).

    Secrets of less than 8 characters are left alone: no provider's key is that short, and ordinary words are.
    """
    forms = {form for secret in secrets if len(secret) >= _SHORTEST_SECRET for form in _forms(secret)}
    for form in sorted(forms, key=len, reverse=True):
        body = body.replace(form, b"[redacted]")
    return body


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Seconds that a ``Retry-After`` header asks for, given as seconds or as a date; never negative.

    None for no header or one that says nothing readable.
    """
    if header is None:
        return None
    try:
        if re.fullmatch(r"[+-]?\d{1,300}(\.\d{1,300})?", header.strip(), re.ASCII):
            return max(0.0, float(header))
        moment = parsedate_to_datetime(header)
        # A date without a zone means UTC: RFC 9110 knows no other.
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        return max(0.0, (moment - now).total_seconds())
    except (ValueError, OverflowError):
        return None


@dataclass
class _Reply:
    """One call's ending, while it is being read."""

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    body_bytes: int = 0
    pieces: list[bytes] = field(default_factory=list)
    verdict: Verdict = field(default_factory=lambda: Verdict(Outcome.UNAVAILABLE))
    is_sent: bool = True
    is_whole: bool = True
    is_decode_error: bool = False


class _Breaker:
    """Stops asking a provider that is down: after 5 failures in a row, one probe per minute, for all processes.

    It cannot block for ever: what it refuses, it refuses for at most the cool-down, whatever the clock does and
    whether or not the process that holds the probe lives to record it.
    """

    def __init__(self, path: Path, provider: str, clock: Clock) -> None:
        self._path, self._provider, self._clock = path, provider, clock
        create_state(
            path,
            [
                "CREATE TABLE IF NOT EXISTS breaker"
                " (provider TEXT PRIMARY KEY, failures INTEGER NOT NULL, open_until REAL NOT NULL)"
            ],
        )

    def refuses_until(self) -> datetime | None:
        """When to come back, or None: go ahead. Whoever is let through an open breaker is its one probe."""
        with transaction(self._path) as db:
            row = db.execute(
                "SELECT failures, open_until FROM breaker WHERE provider = ?", (self._provider,)
            ).fetchone()
            if row is None or row[0] < _BREAKER_FAILURES:
                return None
            now = self._clock.now().timestamp()
            if now < row[1] <= now + _BREAKER_COOL_DOWN_S:  # further ahead means the clock was set back
                return datetime.fromtimestamp(row[1], UTC)
            # The others wait while this process probes; should it die, they wait no longer than that.
            self._write(db, row[0], now + _BREAKER_COOL_DOWN_S)
            return None

    def open_until(self) -> datetime | None:
        """When the next probe may go, without being that probe."""
        with transaction(self._path) as db:
            row = db.execute(
                "SELECT open_until FROM breaker WHERE provider = ? AND failures >= ? AND open_until > ?",
                (self._provider, _BREAKER_FAILURES, self._clock.now().timestamp()),
            ).fetchone()
        return None if row is None else datetime.fromtimestamp(row[0], UTC)

    def record(self, *, failed: bool) -> None:
        with transaction(self._path) as db:
            if not failed:
                db.execute("DELETE FROM breaker WHERE provider = ?", (self._provider,))
                return
            row = db.execute("SELECT failures FROM breaker WHERE provider = ?", (self._provider,)).fetchone()
            failures = (0 if row is None else int(row[0])) + 1
            self._write(db, failures, self._clock.now().timestamp() + _BREAKER_COOL_DOWN_S)

    def _write(self, db: sqlite3.Connection, failures: int, open_until: float) -> None:
        db.execute("INSERT OR REPLACE INTO breaker VALUES (?, ?, ?)", (self._provider, failures, open_until))


def breaker_open_until(path: Path, provider: str, clock: Clock) -> datetime | None:
    """Until when the provider is not asked because it failed too often; asking changes nothing."""
    if not path.exists():
        return None
    breaker = _Breaker(path, provider, clock)
    return breaker.open_until()


class _Deadline:
    """The moment by which the exchange of this thread must be over."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._thread = threading.local()

    def start(self, seconds: float) -> None:
        self._thread.at = self._clock.monotonic() + seconds

    def remaining_s(self) -> float:
        """Seconds left, above zero; raises ``httpcore.ReadTimeout`` when there are none."""
        left: float = self._thread.at - self._clock.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout
        return left


class _Network(httpcore.NetworkBackend):
    """Sockets to public addresses only, every operation bounded by what is left of the deadline.

    The address that was checked is the one connected to, so a second lookup cannot lead elsewhere.
    """

    def __init__(self, deadline: _Deadline, *, allow_loopback: bool) -> None:
        self._deadline = deadline
        self._allow_loopback = allow_loopback
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):  # the latter for a name that no lookup can carry
            raise httpcore.ConnectError("name lookup failed") from None
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        loopback = self._allow_loopback and host in _LOOPBACK_HOSTS
        # One foul address among good ones is enough: whoever answers the lookup chooses the order.
        if not all(_is_loopback(each) if loopback else is_public(each) for each in addresses):
            raise _RefusedAddress
        trouble: Exception = httpcore.ConnectError("the name has no address")
        for address in addresses:
            try:
                stream = self._sockets.connect_tcp(
                    address, port, self._deadline.remaining_s(), local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                trouble = error
            else:
                return _Stream(stream, self._deadline)
        raise trouble


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.remaining_s())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.remaining_s())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, self._deadline.remaining_s())
        return _Stream(stream, self._deadline)

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


class _Transport(httpx.BaseTransport):
    """httpx's transport on our own network; errors stay httpcore's."""

    def __init__(self, network: _Network) -> None:
        # SSL_CERT_FILE is honoured: a company's own authority is the operator's choice.
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            keepalive_expiry=5.0,  # servers close idle connections too; whoever is later loses an attempt
            network_backend=network,
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        response = self._pool.handle_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                extensions=request.extensions,
            )
        )
        return httpx.Response(response.status, headers=response.headers, stream=_Body(response))

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        return self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet: not private, link-local, metadata, multicast."""
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        # Four ways to write an IPv4 address in IPv6; each leads where the inner one does.
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if ip in _NAT64:
            inner = IPv4Address(ip.packed[-4:])
        if inner is not None:
            ip = inner
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and ip != _AZURE_METADATA


def _is_loopback(address: str) -> bool:
    return ip_address(address.partition("%")[0]).is_loopback


def _checked_base(source: Source, *, allow_loopback: bool) -> httpx.URL:
    def refused(what: str) -> UsageError:
        return UsageError(
            what,
            where=f"{source.name}'s base address",
            safe="no call was made",
            hint="give it as https://host/path; plain http is for a sandbox on this machine",
        )

    try:
        url = httpx.URL(source.base_url)
    except httpx.InvalidURL:
        raise refused("it is not an address") from None
    is_plain = not (url.userinfo or url.query or url.fragment) and (url.port or 443) < 65_536
    if not url.host or not is_plain:
        raise refused("it needs a host, and no user, password, query or fragment")
    is_sandbox = allow_loopback and url.scheme == "http" and url.host in _LOOPBACK_HOSTS
    if url.scheme != "https" and not is_sandbox:
        raise refused(f"{url.scheme or 'no'} scheme is not allowed for this host")
    return url


def _decompressed(chunks: Iterable[bytes], headers: Mapping[str, str], max_bytes: int) -> Iterator[bytes]:
    """The body in pieces of at most ``max_bytes`` in all; a bomb is stopped before it unfolds."""
    encodings = [each for part in headers.get("content-encoding", "").split(",") if (each := part.strip().lower())]
    encodings = [each for each in encodings if each != "identity"]
    if not encodings:
        stated = headers.get("content-length", "")
        if stated.isdecimal() and int(stated[:20]) > max_bytes:  # what is too large is not fetched at all
            raise _TooLarge
        left = max_bytes
        for chunk in chunks:
            left -= len(chunk)
            if left < 0:
                raise _TooLarge
            yield chunk
        return
    if len(encodings) > 1 or encodings[0] not in {"gzip", "x-gzip", "deflate"}:
        raise _UnknownEncoding
    yield from _gunzipped(chunks, max_bytes)


def _gunzipped(chunks: Iterable[bytes], max_bytes: int) -> Iterator[bytes]:
    left, received = max_bytes, 0
    engine = zlib.decompressobj(wbits=47)  # gzip or zlib, whichever the header says
    for chunk in chunks:
        received += len(chunk)
        if received > max_bytes:  # endless empty members would pass the cap on the output
            raise _TooLarge
        data = chunk
        while data:
            if engine.eof:  # gzip files may be joined end to end
                engine = zlib.decompressobj(wbits=47)
            piece = engine.decompress(data, left + 1)
            left -= len(piece)
            if left < 0:
                raise _TooLarge
            yield piece
            data = engine.unused_data if engine.eof else engine.unconsumed_tail
    if received and not engine.eof:
        raise httpcore.RemoteProtocolError  # the compressed body was cut off: a short body


def _certificate_problem(error: BaseException) -> str | None:
    """OpenSSL's reason, such as ``self-signed certificate``, when a certificate is what failed."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return seen.verify_message.rstrip(".")
        seen = seen.__cause__ or seen.__context__
    return None


def _host_of(url: httpx.URL, headers: Mapping[str, str]) -> str:
    """The host alone of a redirect: the rest of the address may repeat a key."""
    try:
        host = url.join(headers.get("location", "")).host
    except (httpx.InvalidURL, ValueError):  # the latter for a broken [IPv6] host
        return "an unreadable address"
    return host if re.fullmatch(r"[A-Za-z0-9.:-]{1,253}", host) else "an unreadable address"


def _forms(secret: str) -> Iterator[bytes]:
    raw = secret.encode()
    escaped = json.dumps(secret)[1:-1]
    yield secret.lower().encode()  # as a host name, which is lower case however it was sent
    yield from (raw, escaped.encode(), escaped.replace("/", "\\/").encode())
    for encoded in (quote(secret, safe=""), quote(secret), quote_plus(secret)):
        yield encoded.encode()
        yield re.sub(r"%..", lambda match: match[0].lower(), encoded).encode()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        yield encode(raw)
        yield encode(raw).rstrip(b"=")
        for offset in range(3):
            # In a longer text ("user:key") only the characters made of the key's bits alone are ours.
            first = (offset * 8 + 5) // 6
            last = (offset + len(raw)) * 8 // 6
            yield encode(b"\0" * offset + raw)[first:last]


def _with_detail(answer: Answer, detail: str) -> Answer:
    return replace(answer, detail="; ".join(filter(None, (answer.detail, detail))))
