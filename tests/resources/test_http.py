import base64
import gzip
import json
import logging
import random
import resource
import socket
import ssl
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from crypto_assets import __version__
from crypto_assets.errors import UsageError
from crypto_assets.resources.budget import MONTH_S, Budget, BudgetExhausted, Limit
from crypto_assets.resources.clock import Clock, FixedClock, SystemClock
from crypto_assets.resources.http import (
    Answer,
    Client,
    Outcome,
    Source,
    Verdict,
    is_public,
    redact,
    retry_after_s,
)
from tests.faults.hostile import Script, answer, dripping, gzip_bomb, hostile, silent

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)
CANARY = "c4n4ry/Key+0123456789=="
PER_MONTH = Limit(500, MONTH_S, "credits")
OK_BODY = b'{"data":[{"id":"bitcoin"}],"timestamp":1711723088665}'


class Waits(FixedClock):
    """A fixed clock that remembers every wait."""

    def __init__(self) -> None:
        super().__init__(NOON)
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        super().sleep(seconds)


def classify(status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
    """CoinCap's rules, in short."""
    if status == 429:
        minute = b"per minute" in body
        return Verdict(Outcome.RATE_LIMITED if minute else Outcome.QUOTA_EXHAUSTED, body.decode())
    if status in {401, 403}:
        return Verdict(Outcome.DENIED, "the key was refused: " + body.decode())
    if status == 404:
        return Verdict(Outcome.NOT_FOUND)
    return Verdict(Outcome.OK if json.loads(body)["data"] else Outcome.EMPTY)


def source(base_url: str, **changes: Any) -> Source:
    return replace(
        Source(
            name="coincap",
            base_url=base_url,
            limits=(PER_MONTH,),
            secret=CANARY,
            auth_header=lambda key: {"Authorization": f"Bearer {key}"},
            credits=lambda size: 1 + size // 2500,
            classify=classify,
        ),
        **changes,
    )


Make = Callable[..., Client]


@pytest.fixture
def clock() -> Waits:
    return Waits()


@pytest.fixture
def budget(tmp_path: Path, clock: Waits) -> Budget:
    return Budget(tmp_path / "state.sqlite", "coincap", [PER_MONTH], clock)


@pytest.fixture
def make(budget: Budget, clock: Waits) -> Iterator[Make]:
    clients = []

    def build(base_url: str, clock: Clock = clock, allow_loopback: bool = True, **changes: Any) -> Client:
        transport = changes.pop("transport", None)
        clients.append(
            Client(
                source(base_url, **changes),
                budget=budget,
                clock=clock,
                random=random.Random(7),  # noqa: S311 (jitter)
                transport=transport,
                allow_loopback=allow_loopback,
            )
        )
        return clients[-1]

    yield build
    for client in clients:
        client.close()


@pytest.fixture
def client(make: Make, httpserver: HTTPServer) -> Client:
    return make(httpserver.url_for("/v3"))


def answering(server: HTTPServer, *answers: Response | tuple[int, bytes]) -> list[Request]:
    """Let the server give these answers in order, the last one for ever; returns the requests it gets."""
    seen: list[Request] = []

    def handler(request: Request) -> Response:
        seen.append(request)
        answer = answers[min(len(seen), len(answers)) - 1]
        return answer if isinstance(answer, Response) else Response(answer[1], status=answer[0])

    server.expect_request("/v3/assets").respond_with_handler(handler)
    return seen


def whole(body: bytes, *headers: str) -> Script:
    return answer(body, kind=None, headers=headers)


def short_body(connection: socket.socket, _: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + OK_BODY)


def reset(connection: socket.socket, _: bytes) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_a_good_answer_arrives_as_it_was_sent(client: Client, httpserver: HTTPServer, clock: Waits) -> None:
    seen = answering(httpserver, (200, OK_BODY))
    answer = client.get("assets", "/assets", {"limit": 2000, "offset": 0})
    assert answer == Answer(
        endpoint="assets",
        request="GET /v3/assets?limit=2000&offset=0",
        status=200,
        outcome=Outcome.OK,
        body=OK_BODY,
        received_at=NOON,
        detail="",
        attempts=1,
    )
    assert seen[0].method == "GET"
    assert seen[0].headers["Authorization"] == f"Bearer {CANARY}"
    assert seen[0].headers["User-Agent"] == f"crypto-assets/{__version__}"
    assert seen[0].headers["Accept-Encoding"] == "gzip"
    assert clock.waits == []


def test_an_empty_answer_and_an_unknown_thing_are_not_asked_again(client: Client, httpserver: HTTPServer) -> None:
    seen = answering(httpserver, (200, b'{"data":[]}'), (404, b'{"error":"x not found"}'))
    assert client.get("assets", "/assets").outcome is Outcome.EMPTY
    assert client.get("assets", "/assets").outcome is Outcome.NOT_FOUND
    assert len(seen) == 2


def test_not_modified_is_its_own_outcome(client: Client, httpserver: HTTPServer) -> None:
    answering(httpserver, (304, b""))
    assert client.get("assets", "/assets").outcome is Outcome.NOT_MODIFIED


def test_cookies_are_not_kept(client: Client, httpserver: HTTPServer) -> None:
    seen = answering(httpserver, Response(OK_BODY, headers={"Set-Cookie": "who=you"}))
    client.get("assets", "/assets")
    client.get("assets", "/assets")
    assert "Cookie" not in seen[1].headers


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_a_compressed_answer_is_handed_over_plain(make: Make, compress: Callable[[bytes], bytes]) -> None:
    with hostile(whole(compress(OK_BODY), "Content-Encoding: gzip")) as server:
        assert make(server.url).get("assets", "/assets").body == OK_BODY


def test_gzip_members_joined_end_to_end_are_one_body(make: Make) -> None:
    joined = gzip.compress(OK_BODY[:10]) + gzip.compress(b"") + gzip.compress(OK_BODY[10:])
    with hostile(whole(joined, "Content-Encoding: gzip")) as server:
        assert make(server.url).get("assets", "/assets").body == OK_BODY


@pytest.mark.fault(row=2, fault="some 5xx, then a good answer", promise="retried with jitter, one landing")
def test_a_server_error_is_asked_again_with_full_jitter(client: Client, httpserver: HTTPServer, clock: Waits) -> None:
    seen = answering(httpserver, (503, b"later"), (500, b""), (502, b""), (200, OK_BODY))
    answer = client.get("assets", "/assets")
    assert (answer.outcome, answer.attempts, len(seen)) == (Outcome.OK, 4, 4)
    drawn = random.Random(7)  # noqa: S311 (jitter)
    assert clock.waits == [drawn.uniform(0, 1), drawn.uniform(0, 2), drawn.uniform(0, 4)]


def test_server_errors_for_ever_end_as_unavailable(client: Client, httpserver: HTTPServer) -> None:
    seen = answering(httpserver, (503, b"later"))
    answer = client.get("assets", "/assets")
    assert (answer.outcome, answer.status, answer.body) == (Outcome.UNAVAILABLE, 503, b"later")
    assert (answer.detail, answer.attempts, len(seen)) == ("status 503", 4, 4)


@pytest.mark.parametrize(
    ("header", "waited"),
    [("7", 7.0), (format_datetime(NOON + timedelta(seconds=90)), 90.0), ("120", 120.0)],
)
@pytest.mark.fault(row=1, fault="429 with Retry-After", promise="wait as told up to a cap, else the window is pending")
def test_retry_after_is_honoured(
    client: Client, httpserver: HTTPServer, clock: Waits, header: str, waited: float
) -> None:
    answering(httpserver, Response(b"per minute", 429, {"Retry-After": header}), (200, OK_BODY))
    assert client.get("assets", "/assets").outcome is Outcome.OK
    assert clock.waits == [waited]


@pytest.mark.parametrize("header", ["-30", "soon", format_datetime(NOON - timedelta(days=1))])
@pytest.mark.fault(row=1, fault="429 with Retry-After", promise="wait as told up to a cap, else the window is pending")
def test_a_senseless_retry_after_leaves_the_jitter(
    client: Client, httpserver: HTTPServer, clock: Waits, header: str
) -> None:
    answering(httpserver, Response(b"per minute", 429, {"Retry-After": header}), (200, OK_BODY))
    assert client.get("assets", "/assets").outcome is Outcome.OK
    assert clock.waits == [random.Random(7).uniform(0, 1)]  # noqa: S311 (jitter)


@pytest.mark.parametrize("header", ["121", "9" * 200, format_datetime(NOON + timedelta(hours=2))])
@pytest.mark.fault(row=1, fault="429 with Retry-After", promise="wait as told up to a cap, else the window is pending")
def test_a_long_retry_after_is_left_for_the_next_run(
    client: Client, httpserver: HTTPServer, clock: Waits, header: str
) -> None:
    seen = answering(httpserver, Response(b"per minute", 429, {"Retry-After": header}))
    answer = client.get("assets", "/assets")
    assert (answer.outcome, len(seen), clock.waits) == (Outcome.RATE_LIMITED, 1, [])
    assert answer.detail == "per minute; asked to wait longer than 120 s; left for the next run"


def test_the_providers_own_reading_of_the_wait_outranks_the_header(
    make: Make, httpserver: HTTPServer, clock: Waits
) -> None:
    answering(httpserver, Response(b"", 429, {"Retry-After": "1"}), (200, OK_BODY))

    def minute(status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
        assert headers["content-length"]
        return Verdict(Outcome.RATE_LIMITED, "", 60) if status == 429 else Verdict(Outcome.OK)

    assert make(httpserver.url_for("/v3"), classify=minute).get("assets", "/assets").attempts == 2
    assert clock.waits == [60]


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d{1,6} [\d:]{1,9} ?[+-]?[\w]{0,6}"))
def test_any_retry_after_is_seconds_or_nothing(header: str) -> None:
    seconds = retry_after_s(header, NOON)
    assert seconds is None or seconds >= 0


@pytest.mark.fault(row=4, fault="401 or 403", promise="never retried; the error names the setting, never the key")
def test_a_refused_key_is_never_retried(client: Client, httpserver: HTTPServer) -> None:
    seen = answering(httpserver, (403, b"no"))
    answer = client.get("assets", "/assets")
    assert (answer.outcome, answer.detail, len(seen)) == (Outcome.DENIED, "the key was refused: no", 1)


@pytest.mark.parametrize("body", [OK_BODY[:-9], b"<html>busy</html>", b"[" * 200_000])
def test_a_body_that_cannot_be_read_is_asked_for_once_more_and_then_kept(
    client: Client, httpserver: HTTPServer, body: bytes
) -> None:
    seen = answering(httpserver, (200, body))
    answer = client.get("assets", "/assets")
    assert (answer.outcome, answer.body, len(seen)) == (Outcome.MALFORMED, body, 2)
    assert answer.detail.startswith("the body cannot be read as coincap's format")


def test_a_truncated_answer_followed_by_a_whole_one_is_good(client: Client, httpserver: HTTPServer) -> None:
    answering(httpserver, (200, OK_BODY[:-9]), (200, OK_BODY))
    assert client.get("assets", "/assets").outcome is Outcome.OK


@pytest.mark.parametrize("break_off", [short_body, reset])
@pytest.mark.fault(row=8, fault="reset or short body", promise="retried; never parsed")
def test_a_connection_that_breaks_is_retried_and_never_parsed(make: Make, break_off: Script) -> None:
    with hostile(break_off, whole(OK_BODY)) as server:
        answer = make(server.url).get("assets", "/assets")
    assert (answer.outcome, answer.body, len(server.requests)) == (Outcome.OK, OK_BODY, 2)
    with hostile(break_off) as server:
        answer = make(server.url, attempts=1).get("assets", "/assets")
    assert (answer.outcome, answer.body) == (Outcome.UNAVAILABLE, b"")
    assert answer.detail.startswith("the connection failed before the answer was whole")


def test_a_compressed_body_cut_short_is_a_short_body(make: Make) -> None:
    cut = whole(gzip.compress(OK_BODY)[:-12], "Content-Encoding: gzip")
    with hostile(cut, whole(OK_BODY)) as server:
        assert make(server.url).get("assets", "/assets").attempts == 2


def test_damaged_compression_is_tried_twice(make: Make) -> None:
    with hostile(whole(b"this is no gzip", "Content-Encoding: gzip")) as server:
        answer = make(server.url).get("assets", "/assets")
    assert (answer.outcome, answer.detail) == (Outcome.MALFORMED, "the body's compression is damaged")
    assert len(server.requests) == 2


@pytest.mark.fault(
    row=7, fault="connection refused, DNS or TLS failure", promise="transient; a bad certificate is terminal"
)
def test_nobody_listening_is_unavailable_and_costs_no_credits(make: Make, budget: Budget) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    answer = make(f"http://127.0.0.1:{port}").get("assets", "/assets", estimate=9)
    assert (answer.outcome, answer.status, answer.attempts) == (Outcome.UNAVAILABLE, None, 4)
    assert budget.spent(PER_MONTH) == 0


@pytest.mark.fault(row=1, fault="429 with Retry-After", promise="wait as told up to a cap, else the window is pending")
def test_a_quota_refusal_is_never_retried_and_closes_the_month(
    client: Client, httpserver: HTTPServer, clock: Waits
) -> None:
    seen = answering(httpserver, (429, b"Monthly usage limit exceeded"))
    answer = client.get("assets", "/assets")
    assert (answer.outcome, answer.attempts) == (Outcome.QUOTA_EXHAUSTED, 1)
    assert answer.detail == "Monthly usage limit exceeded; no more calls until 2026-04-01 00:00:00 UTC"
    with pytest.raises(BudgetExhausted, match="2026-04-01 00:00:00 UTC"):
        client.get("assets", "/assets")
    assert (len(seen), clock.waits) == (1, [])


def test_a_daily_quota_closes_as_long_as_the_provider_says(make: Make, httpserver: HTTPServer) -> None:
    answering(httpserver, (200, b"25 per day"))
    client = make(httpserver.url_for("/v3"), classify=lambda *_: Verdict(Outcome.QUOTA_EXHAUSTED, "", 43_200))
    assert client.get("assets", "/assets").detail == "no more calls until 2026-03-15 00:00:00 UTC"


def test_the_real_size_of_an_answer_is_what_is_booked(client: Client, httpserver: HTTPServer, budget: Budget) -> None:
    answering(httpserver, (200, b'{"data":[1]}' + b" " * 10_000))
    client.get("assets", "/assets", estimate=99)
    assert budget.spent(PER_MONTH) == 5


def test_an_answer_that_broke_off_is_booked_as_estimated(make: Make, budget: Budget) -> None:
    with hostile(short_body) as server:
        make(server.url, attempts=1).get("assets", "/assets", estimate=9)
    assert budget.spent(PER_MONTH) == 9


def test_a_retry_that_the_budget_refuses_returns_the_answer_there_is(
    client: Client, httpserver: HTTPServer, budget: Budget
) -> None:
    budget.take(credits=499)
    seen = answering(httpserver, (503, b""))
    answer = client.get("assets", "/assets")
    assert (answer.outcome, len(seen)) == (Outcome.UNAVAILABLE, 1)
    assert answer.detail.startswith("status 503; not asked again: 1 more credits do not fit")
    with pytest.raises(BudgetExhausted):
        client.get("assets", "/assets")


@pytest.mark.fault(
    row=14, fault="compression bomb, endless body, deep nesting", promise="stopped early, memory bounded"
)
def test_a_gzip_bomb_stops_at_the_size_limit_with_bounded_memory(make: Make) -> None:
    bomb = gzip_bomb(300)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with hostile(whole(bomb, "Content-Encoding: gzip")) as server:
        answer = make(server.url, max_bytes=5_000_000).get("assets", "/assets")
    assert (answer.outcome, answer.body, len(server.requests)) == (Outcome.MALFORMED, b"", 1)
    assert answer.detail == "the body is larger than 5000000 bytes; it was not kept"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64_000  # kB


def test_a_body_that_says_it_is_too_large_is_not_read_at_all(make: Make) -> None:
    # A byte more would be waited for: this server never sends one.
    stated = b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n"
    with hostile(silent(stated)) as server:
        answer = make(server.url, max_bytes=5_000_000, deadline_s=2).get("assets", "/assets")
    assert answer.detail == "the body is larger than 5000000 bytes; it was not kept"
    assert len(server.requests) == 1


def test_a_source_says_what_kind_of_answer_it_takes(make: Make) -> None:
    with hostile(whole(OK_BODY)) as server:
        make(server.url, accept="application/zip").get("assets", "/assets")
    assert b"accept: application/zip\r\n" in server.requests[0].lower()


@pytest.mark.fault(
    row=14, fault="compression bomb, endless body, deep nesting", promise="stopped early, memory bounded"
)
def test_a_large_plain_body_stops_at_the_size_limit(make: Make) -> None:
    with hostile(whole(bytes(200_000))) as server:
        assert make(server.url, max_bytes=100_000).get("assets", "/assets").outcome is Outcome.MALFORMED
    with hostile(whole(gzip.compress(b"") * 10_000, "Content-Encoding: gzip")) as server:
        assert make(server.url, max_bytes=100_000).get("assets", "/assets").outcome is Outcome.MALFORMED


def test_a_body_of_exactly_the_limit_is_good(make: Make) -> None:
    for headers, body in (([], OK_BODY), (["Content-Encoding: gzip"], gzip.compress(OK_BODY * 1))):
        with hostile(whole(body, *headers)) as server:
            size = max(len(OK_BODY), len(body))
            assert make(server.url, max_bytes=size).get("assets", "/assets").body == OK_BODY


def test_an_encoding_that_was_not_asked_for_is_refused(make: Make) -> None:
    with hostile(whole(OK_BODY, "Content-Encoding: br")) as server:
        answer = make(server.url).get("assets", "/assets")
    assert (answer.outcome, len(server.requests)) == (Outcome.MALFORMED, 1)


@pytest.mark.parametrize(
    "script",
    [
        dripping(b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b" "),
        dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["headers", "body", "endless 100 Continue"],
)
@pytest.mark.fault(row=6, fault="headers or body in drops", promise="the total deadline ends it")
def test_an_answer_that_drips_is_stopped_at_the_deadline(make: Make, script: Script) -> None:
    with hostile(script) as server:
        began = time.monotonic()
        answer = make(server.url, clock=SystemClock(), deadline_s=0.3, attempts=1).get("assets", "/assets")
        took = time.monotonic() - began
    assert (answer.outcome, answer.detail) == (Outcome.UNAVAILABLE, "no whole answer within 0.3 s")
    assert 0.25 < took < 0.8


@pytest.mark.fault(row=26, fault="redirect", promise="refused; the key goes to no other host")
def test_a_redirect_is_not_followed_and_names_the_other_host_only(make: Make, httpserver: HTTPServer) -> None:
    there = f"https://elsewhere.example/login?key={quote(CANARY)}"
    seen = answering(httpserver, Response(b"", 302, {"Location": there}))
    answer = make(httpserver.url_for("/v3")).get("assets", "/assets")
    assert (answer.outcome, answer.status, len(seen)) == (Outcome.MALFORMED, 302, 1)
    assert answer.detail == "redirected to elsewhere.example; redirects are not followed"


@pytest.mark.parametrize("location", ["http://[bad", "https://<script>.example/", "\u00e9"])
def test_a_redirect_to_nonsense_is_named_without_it(make: Make, location: str) -> None:
    transport = httpx.MockTransport(
        lambda _: httpx.Response(301, headers=[(b"Location", location.encode())], content=b"")
    )
    answer = make("https://api.example", transport=transport).get("assets", "/assets")
    assert answer.outcome is Outcome.MALFORMED
    assert "<" not in answer.detail
    assert "[" not in answer.detail


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.8",
        "127.0.0.1",
        "0.0.0.0",  # noqa: S104 (refused, not bound)
        "224.0.0.1",
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "::1",
        "fd00:ec2::254",
        "fe80::1%eth0",
        "::ffff:10.0.0.8",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "::7f00:1",
    ],
)
@pytest.mark.fault(row=26, fault="redirect", promise="refused; the key goes to no other host")
def test_a_name_that_leads_to_a_private_or_metadata_address_is_refused(
    make: Make, monkeypatch: pytest.MonkeyPatch, address: str, clock: Waits
) -> None:
    assert not is_public(address)
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 443)) for each in ("1.1.1.1", address)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    answer = make("https://api.example").get("assets", "/assets")
    assert (answer.outcome, answer.status) == (Outcome.DENIED, None)
    assert answer.detail == "api.example is not a public address; no call was made"
    assert clock.waits == []


@pytest.mark.fault(
    row=7, fault="connection refused, DNS or TLS failure", promise="transient; a bad certificate is terminal"
)
def test_a_name_that_cannot_be_looked_up_is_unavailable(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    answer = make("https://api.example").get("assets", "/assets")
    assert (answer.outcome, answer.attempts) == (Outcome.UNAVAILABLE, 4)
    assert answer.detail == "the connection failed before the answer was whole (ConnectError)"


def test_public_addresses_are_public() -> None:
    assert is_public("1.1.1.1")
    assert is_public("2606:4700:4700::1111")


@pytest.mark.parametrize("host", ["https://127.0.0.1:9/v3", "https://localhost:9/v3", "https://[::1]:9/v3"])
def test_loopback_is_refused_unless_it_is_allowed(make: Make, host: str) -> None:
    assert make(host, allow_loopback=False).get("assets", "/assets").outcome is Outcome.DENIED
    assert make(host, attempts=1).get("assets", "/assets").outcome is Outcome.UNAVAILABLE


@pytest.mark.parametrize("loopback", [True, False])
@pytest.mark.parametrize(
    "base_url",
    [
        "http://api.example/v3",
        "http://10.0.0.8/",
        "file:///etc/passwd",
        "https://",
        "https://me:word@api.example",
        "api.example",
        "https://api.example/?key=1",
        "http://127.0.0.1.example/",
        "https://[::bad::]",
        "https://api.example:99999",
    ],
)
def test_a_base_address_that_is_not_https_is_a_usage_error(make: Make, base_url: str, loopback: bool) -> None:
    with pytest.raises(UsageError, match="coincap's base address"):
        make(base_url, allow_loopback=loopback)


def test_plain_http_to_this_machine_needs_to_be_allowed(make: Make) -> None:
    with pytest.raises(UsageError):
        make("http://127.0.0.1:8000", allow_loopback=False)
    for host in ("127.0.0.1", "localhost", "[::1]"):
        make(f"http://{host}:8000")


@pytest.mark.parametrize(
    "path",
    ["assets", "@evil.example/", "//evil.example/", "/a/../b", "/a/%2e%2e/b", "/a?x=1", "/a#b", "/a\\b", "/a b", "/.."],
)
def test_a_path_cannot_leave_the_base_address(client: Client, path: str) -> None:
    with pytest.raises(ValueError, match="a path starts with /"):
        client.get("assets", path)


def _self_signed(tmp_path: Path) -> ssl.SSLContext:
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2120, 1, 1, tzinfo=UTC))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "server.pem").write_bytes(private + certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    return context


@pytest.mark.fault(
    row=7, fault="connection refused, DNS or TLS failure", promise="transient; a bad certificate is terminal"
)
def test_a_certificate_that_cannot_be_verified_is_terminal_in_plain_words(
    make: Make, tmp_path: Path, clock: Waits, budget: Budget
) -> None:
    with hostile(whole(OK_BODY), tls=_self_signed(tmp_path)) as server:
        answer = make(server.url).get("assets", "/assets")
    assert (answer.outcome, answer.attempts, clock.waits, server.requests) == (Outcome.DENIED, 1, [], [])
    assert answer.detail == (
        "the certificate of localhost could not be verified (self-signed certificate); nothing was sent"
    )
    assert budget.spent(PER_MONTH) == 0


def test_a_server_that_speaks_no_tls_is_unavailable(make: Make) -> None:
    with hostile(whole(OK_BODY)) as server:
        answer = make(server.url.replace("http:", "https:"), attempts=1, deadline_s=0.3).get("assets", "/assets")
    assert answer.outcome is Outcome.UNAVAILABLE


@pytest.mark.fault(row=3, fault="5xx for ever", promise="the breaker opens, says since when; what landed goes on")
def test_the_breaker_opens_after_five_failures_and_lets_one_probe_through_a_minute(
    make: Make, httpserver: HTTPServer, clock: Waits
) -> None:
    seen = answering(httpserver, *[(503, b"")] * 6, (200, OK_BODY))
    one, other = make(httpserver.url_for("/v3")), make(httpserver.url_for("/v3"))  # as two processes would
    one.get("assets", "/assets")
    answer = one.get("assets", "/assets")
    assert len(seen) == 5
    assert (answer.outcome, answer.attempts) == (Outcome.UNAVAILABLE, 1)
    assert answer.detail.startswith("status 503; breaker open until 2026-03-14 12:01:")

    refused = other.get("assets", "/assets")
    assert (refused.outcome, refused.status, refused.attempts) == (Outcome.UNAVAILABLE, None, 0)
    assert refused.detail.startswith("breaker open until")
    assert len(seen) == 5

    clock.sleep(61)
    assert other.get("assets", "/assets").attempts == 1  # the probe fails: open again
    assert one.get("assets", "/assets").attempts == 0
    clock.sleep(61)
    assert one.get("assets", "/assets").outcome is Outcome.OK
    assert other.get("assets", "/assets").outcome is Outcome.OK


def test_answers_of_any_other_kind_keep_the_breaker_closed(client: Client, httpserver: HTTPServer) -> None:
    seen = answering(httpserver, *[(503, b""), (503, b""), (503, b""), (404, b"")] * 3)
    for _ in range(3):
        assert client.get("assets", "/assets").outcome is Outcome.NOT_FOUND
    assert len(seen) == 12


@settings(max_examples=20, deadline=None)  # each writes to a real file some hundred times
@given(st.lists(st.integers(-200_000, 200_000), max_size=12), st.lists(st.booleans(), max_size=20))
def test_the_breaker_never_blocks_for_ever(
    tmp_path_factory: pytest.TempPathFactory, jumps: list[int], failures: list[bool]
) -> None:
    clock = Waits()
    calls: list[int] = []

    def answer(_: httpx.Request) -> httpx.Response:
        calls.append(1)
        fails = failures[len(calls) % len(failures)] if failures else True
        return httpx.Response(503 if fails else 200, content=OK_BODY)

    budget = Budget(tmp_path_factory.mktemp("breaker") / "state.sqlite", "coincap", [], clock)
    client = Client(
        source("https://api.example", attempts=6),
        budget=budget,
        clock=clock,
        random=random.Random(1),  # noqa: S311 (jitter)
        transport=httpx.MockTransport(answer),
    )
    client.get("assets", "/assets")
    for jump in jumps:
        clock.set(clock.now() + timedelta(seconds=jump))
        client.get("assets", "/assets")
        before = len(calls)
        clock.sleep(60)
        client.get("assets", "/assets")
        assert len(calls) > before  # a minute after anything at all, somebody is let through
    client.close()


def test_a_probe_whose_process_died_is_not_waited_for(make: Make, httpserver: HTTPServer, clock: Waits) -> None:
    answering(httpserver, *[(503, b"")] * 5, (200, OK_BODY))
    client = make(httpserver.url_for("/v3"))
    for _ in range(2):
        client.get("assets", "/assets")
    clock.sleep(61)

    def dies(*_: object) -> Verdict:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(httpserver.url_for("/v3"), classify=dies).get("assets", "/assets")
    assert client.get("assets", "/assets").attempts == 0
    clock.sleep(61)
    assert client.get("assets", "/assets").outcome is Outcome.OK


CANARY_FORMS = (
    CANARY,
    quote(CANARY, safe=""),
    quote(CANARY),
    quote(CANARY, safe="").lower(),
    base64.b64encode(CANARY.encode()).decode().rstrip("="),
    base64.urlsafe_b64encode(CANARY.encode()).decode().rstrip("="),
    CANARY.replace("/", "\\/"),
)


def assert_no_canary(text: str) -> None:
    for form in CANARY_FORMS:
        assert form not in text


@pytest.mark.parametrize("status", [200, 302, 401, 429, 503])
@pytest.mark.fault(row=12, fault="the body repeats the key", promise="the key is in no table, file or error")
def test_the_key_is_in_no_answer_and_no_log_even_at_debug(
    make: Make, httpserver: HTTPServer, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    caplog.set_level(logging.DEBUG)
    echo = f'{{"data":["We have detected your API key as {CANARY}", "{quote(CANARY, safe="")}"]}}'.encode()
    where = {"Location": f"https://{CANARY[:6]}.example/{CANARY}"}
    seen = answering(httpserver, Response(echo, status, where))
    client = make(httpserver.url_for("/v3"), auth_params=lambda key: {"apikey": key}, attempts=2, deadline_s=5)
    answer = client.get("assets", "/assets", {"symbol": "BTC", "debug": CANARY})
    assert seen[0].args["apikey"] == CANARY
    assert answer.request == "GET /v3/assets?symbol=BTC&debug=[redacted]"
    assert answer.body.count(b"[redacted]") == 2
    assert_no_canary(repr(answer) + repr(client) + repr(source("https://api.example")))
    # werkzeug's lines are the test server's, which may know what it was asked.
    ours = [record for record in caplog.records if record.name != "werkzeug"]
    logged = "".join(repr(vars(record)) + record.getMessage() for record in ours)
    assert_no_canary(logged)
    assert "GET 127.0.0.1/v3/assets" in logged
    assert "symbol" not in logged


def test_the_key_is_in_no_exception(make: Make, budget: Budget, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    budget.block_until(NOON + timedelta(days=1))
    client = make("https://api.example", auth_params=lambda key: {"apikey": key})
    with pytest.raises(BudgetExhausted) as exhausted:
        client.get("assets", "/assets", {"debug": CANARY})
    with pytest.raises(UsageError) as usage:
        make(f"https://api.example/?apikey={CANARY}")
    with pytest.raises(ValueError, match="a path") as path:
        client.get("assets", f"/{CANARY}?x")
    assert_no_canary(str(exhausted.value) + str(usage.value) + str(path.value) + caplog.text)


def test_the_key_is_not_sent_where_it_was_not_asked_for(make: Make, httpserver: HTTPServer) -> None:
    seen = answering(httpserver, (200, OK_BODY))
    make(httpserver.url_for("/v3"), auth_header=None).get("assets", "/assets")
    make(httpserver.url_for("/v3"), secret=None).get("assets", "/assets")
    for request in seen:
        assert "Authorization" not in request.headers


@given(st.text(min_size=8, max_size=60), st.binary(max_size=9), st.binary(max_size=9))
@pytest.mark.fault(row=12, fault="the body repeats the key", promise="the key is in no table, file or error")
def test_no_form_of_a_secret_survives_redaction(secret: str, before: bytes, after: bytes) -> None:
    raw = secret.encode()
    for form in (raw, quote(secret, safe="").encode(), quote(secret).encode(), json.dumps(secret).encode()[1:-1]):
        cleaned = redact(b"<" + form + b">", [secret])
        assert cleaned == b"<[redacted]>" or secret in "[redacted]"
    hidden = redact(base64.b64encode(before + raw + after), [secret])
    assert b"[redacted]" in hidden


def test_an_ordinary_short_word_is_not_taken_for_a_secret() -> None:
    assert redact(b'{"note":"a democratic demo"}', ["demo"]) == b'{"note":"a democratic demo"}'


def test_the_libraries_below_do_not_log_addresses() -> None:
    for name in ("httpx", "httpcore"):
        assert logging.getLogger(name).level == logging.WARNING
