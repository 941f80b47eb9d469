"""A provider that refuses, stalls, breaks off or sends elsewhere: rows 1 to 8, 26 and 28, from socket to table."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from crypto_assets.checks.rules import rules_of
from crypto_assets.checks.verdicts import Case
from crypto_assets.errors import CryptoAssetsError, DataError, NeedsYouError, TransientError
from crypto_assets.resources.budget import BudgetExhausted
from crypto_assets.resources.clock import SystemClock
from crypto_assets.tables import raw, trusted
from tests.faults.hostile import (
    GARBAGE,
    SLOW_BODY,
    SLOW_HEADERS,
    Script,
    answer,
    hostile,
    not_modified,
    redirect,
    refusal,
    reset,
    short,
)
from tests.faults.payloads import DAY, GOOD, KEY, N_ASSETS, NOON, RATES, Line, assets, body, line

MINUTE = refusal(429, "Too many requests: per minute limit exceeded", "Retry-After: 7")
QUOTA = refusal(429, "Monthly usage limit exceeded", "Retry-After: 7")


def nothing_but_evidence(on: Line, outcome: str) -> list[bytes]:
    """Nothing is published, and raw says how the pull ended; returns the bodies that it keeps."""
    assert on.settle().is_empty()
    outcomes, bodies = on.evidence()
    assert outcomes == {outcome}
    return bodies


@pytest.mark.fault(row=1, fault="429 with Retry-After", promise="wait as told up to a cap, else the window is pending")
def test_a_minute_limit_is_waited_for_and_the_pull_lands_once(tmp_path: Path) -> None:
    with line(tmp_path, MINUTE, answer(GOOD)) as on:
        assert len(on.pull()) == 1
        assert on.clock.now() == NOON + timedelta(minutes=1)
        assert on.settle().height == N_ASSETS


@pytest.mark.fault(row=1, fault="429 with Retry-After", promise="wait as told up to a cap, else the window is pending")
def test_a_minute_limit_for_ever_leaves_the_window_pending(tmp_path: Path) -> None:
    with line(tmp_path, MINUTE) as on:
        with pytest.raises(TransientError, match=r"ended rate_limited .*the minute limit is used up"):
            on.pull()
        assert len(on.server.requests) == 4
        nothing_but_evidence(on, "rate_limited")
        on.server.answer(answer(body(assets(), NOON + timedelta(minutes=9))))
        on.pull()
        assert on.settle().height == N_ASSETS


@pytest.mark.fault(row=1, fault="429 with Retry-After", promise="wait as told up to a cap, else the window is pending")
def test_a_used_up_quota_is_met_by_one_call_and_by_no_other_until_it_returns(tmp_path: Path) -> None:
    with line(tmp_path, QUOTA) as on:
        with pytest.raises(NeedsYouError, match="no more calls until 2026-11-01 00:00:00 UTC"):
            on.pull()
        with pytest.raises(BudgetExhausted, match="2026-11-01 00:00:00 UTC"):
            on.pull(raw.RawCoincapRates)
        assert len(on.server.requests) == 1
        on.server.answer(answer(body(assets(), datetime(2026, 11, 1, tzinfo=UTC))))
        on.clock.set(datetime(2026, 11, 1, 0, 1, tzinfo=UTC))
        assert len(on.pull()) == 1


@pytest.mark.fault(row=2, fault="some 5xx, then a good answer", promise="retried with jitter, one landing")
def test_server_errors_that_end_are_one_landing(tmp_path: Path) -> None:
    scripts = [refusal(status, "later") for status in (500, 502, 503)]
    with line(tmp_path, *scripts, answer(GOOD)) as on:
        on.pull()
        held = on.lake.read(raw.RawCoincapAssets)
        assert held.select("outcome", "n_pages", "body").rows() == [("ok", 1, GOOD)]
        assert NOON < on.clock.now() < NOON + timedelta(seconds=7)
        assert on.settle().height == N_ASSETS


@pytest.mark.fault(row=3, fault="5xx for ever", promise="the breaker opens, says since when; what landed goes on")
def test_an_outage_opens_the_breaker_and_spares_what_has_landed(tmp_path: Path) -> None:
    with line(tmp_path, refusal(504, "later")) as on:
        on.server.answer(answer(RATES), to="rates")
        on.pull(raw.RawCoincapRates)
        told = []
        for _ in range(2):
            with pytest.raises(TransientError) as error:
                on.pull()
            told.append(str(error.value))
        assert "ended unavailable (status 504)" in told[0]
        assert "breaker open until 2026-10-01 12:01:" in told[1]
        n_asked = len(on.server.requests)
        with pytest.raises(TransientError, match="breaker open until"):
            on.pull()
        assert len(on.server.requests) == n_asked == 1 + 5
        assert on.settle(trusted.FxRates)["currency_id"].to_list() == ["euro"]
        on.forward(minutes=2)
        on.server.answer(answer(body(assets(), NOON + timedelta(minutes=2))))
        assert len(on.pull()) == 1


@pytest.mark.fault(row=4, fault="401 or 403", promise="never retried; the error names the setting, never the key")
@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_needs_a_person_and_is_told_to_nobody(tmp_path: Path, status: int) -> None:
    with line(tmp_path, refusal(status, f"invalid key {KEY}")) as on:
        with pytest.raises(NeedsYouError, match="check COINCAP_API_KEY") as error:
            on.pull()
        assert KEY.encode() in on.server.requests[0]
        assert len(on.server.requests) == 1
        assert KEY not in str(error.value)
        assert nothing_but_evidence(on, "denied") == [b'{"error":"invalid key [redacted]"}']


@pytest.mark.fault(row=5, fault="402 for one endpoint", promise="terminal for the endpoint, the others go on")
def test_an_endpoint_outside_the_plan_stops_alone(tmp_path: Path) -> None:
    with line(tmp_path, refusal(402, "upgrade your plan")) as on:
        on.server.answer(answer(RATES), to="rates")
        with pytest.raises(NeedsYouError, match="HTTP 402"):
            on.pull()
        assert len(on.server.requests) == 1
        on.pull(raw.RawCoincapRates)
        assert on.settle(trusted.FxRates).height == 1


@pytest.mark.fault(row=6, fault="headers or body in drops", promise="the total deadline ends it")
@pytest.mark.parametrize("script", [SLOW_HEADERS, SLOW_BODY], ids=["headers", "body"])
def test_an_answer_in_drops_ends_at_the_deadline(tmp_path: Path, script: Script) -> None:
    with line(tmp_path, script, time=SystemClock(), deadline_s=0.3, attempts=1) as on:
        began = time.monotonic()
        with pytest.raises(TransientError, match=r"no whole answer within 0\.3 s"):
            on.pull()
        assert 0.25 < time.monotonic() - began < 2
        assert nothing_but_evidence(on, "unavailable") == [b""]


@pytest.mark.fault(
    row=7, fault="connection refused, DNS or TLS failure", promise="transient; a bad certificate is terminal"
)
def test_nobody_listening_is_transient_and_costs_nothing(tmp_path: Path) -> None:
    with line(tmp_path, answer(GOOD)) as on:
        pass
    with pytest.raises(TransientError, match="the connection failed before the answer was whole"):
        on.pull()
    assert on.lake.read(raw.RawCoincapAssets)["credits"].to_list() == [0]


BREAKS: list[Any] = [
    pytest.param(reset(GOOD), id="reset in the body"),
    pytest.param(short(GOOD), id="half of the length"),
    pytest.param(GARBAGE, id="not HTTP"),
]


@pytest.mark.fault(row=8, fault="reset or short body", promise="retried; never parsed")
@pytest.mark.parametrize("script", BREAKS)
def test_an_answer_that_breaks_off_is_asked_for_again(tmp_path: Path, script: Script) -> None:
    with line(tmp_path, script, answer(GOOD)) as on:
        on.pull()
        assert on.lake.read(raw.RawCoincapAssets)["body"].to_list() == [GOOD]
        assert on.settle().height == N_ASSETS
        assert len(on.server.requests) == 2


@pytest.mark.fault(row=8, fault="reset or short body", promise="retried; never parsed")
@pytest.mark.parametrize("script", BREAKS)
def test_an_answer_that_always_breaks_off_publishes_nothing(tmp_path: Path, script: Script) -> None:
    with line(tmp_path, script) as on:
        with pytest.raises(TransientError, match="ended unavailable"):
            on.pull()
        assert nothing_but_evidence(on, "unavailable") == [b""]


@pytest.mark.fault(row=26, fault="redirect", promise="refused; the key goes to no other host")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_the_other_host_hears_nothing(tmp_path: Path, status: int) -> None:
    with hostile(answer(GOOD)) as other, line(tmp_path, redirect(f"{other.url}/assets", status)) as on:
        with pytest.raises(DataError, match="redirected to localhost; redirects are not followed"):
            on.pull()
        assert (len(on.server.requests), other.requests) == (1, [])
        nothing_but_evidence(on, "malformed")


@pytest.mark.fault(row=26, fault="redirect", promise="refused; the key goes to no other host")
@pytest.mark.parametrize(
    ("location", "host"),
    [
        ("http://169.254.169.254/latest/meta-data", "169.254.169.254"),
        ("http://rest.coincap.io/v3/assets", "rest.coincap.io"),
        ("//evil.example/", "evil.example"),
        ("file:///etc/passwd", "an unreadable address"),
        (f"https://{KEY}.evil.example/?k={KEY}", r"\[redacted\].evil.example"),
    ],
)
def test_a_redirect_names_its_host_and_nothing_else(tmp_path: Path, location: str, host: str) -> None:
    with line(tmp_path, redirect(location)) as on:
        with pytest.raises(DataError, match=f"redirected to {host};") as error:
            on.pull()
        assert KEY.lower() not in str(error.value).lower()


@pytest.mark.fault(
    row=28, fault="304, or a copy that does not change", promise="no new data is not zero rows; age is seen"
)
def test_304_is_an_error_that_leaves_every_row(tmp_path: Path) -> None:
    with line(tmp_path, answer(GOOD), not_modified) as on:
        on.pull()
        before = on.settle()
        on.forward(minutes=5)
        with pytest.raises(CryptoAssetsError, match="ended not_modified"):
            on.pull()
        assert on.settle().equals(before)


@pytest.mark.fault(
    row=28, fault="304, or a copy that does not change", promise="no new data is not zero rows; age is seen"
)
def test_a_stale_copy_lands_once_and_its_age_is_the_providers(tmp_path: Path) -> None:
    with line(tmp_path, answer(GOOD, headers=["Age: 7200", 'ETag: "x"'])) as on:
        assert len(on.pull()) == 1
        before = on.settle()
        on.forward(hours=2)
        assert len(on.pull()) == 0
        assert on.settle().equals(before)
        (fresh,) = [check for check in rules_of(raw.RawCoincapAssets) if check.name == "fresh"]
        held = on.lake.read(raw.RawCoincapAssets)
        (verdict,) = fresh.judge(Case(on.lake, raw.RawCoincapAssets, DAY, held, on.clock.now()))
        assert (verdict.passed, verdict.observed) == (False, "newest answer is 2:00:00 old")
