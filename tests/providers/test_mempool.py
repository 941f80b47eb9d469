"""mempool.space: what its answers mean, what is asked of it, and whose day a point belongs to."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from crypto_assets.providers import mempool
from crypto_assets.providers.answers import Pull, raw_rows
from crypto_assets.providers.mempool import PROVIDER, Mempool, classify
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.http import Answer, Outcome
from crypto_assets.sandbox import Fault, Market, Sandbox
from crypto_assets.tables.conform import Settled, settle
from crypto_assets.tables.trusted import OnchainStats
from crypto_assets.tables.window import Window
from tests.loopback import speaking

NOW = dt.datetime(2026, 10, 14, 12, 34, 56, tzinfo=dt.UTC)
MARKET = Market(7, n_assets=50)
# A block every ten minutes since the first one.
TIP = int((NOW.timestamp() - 1_231_006_505) // 600)
TODAY = Window.of_day(NOW.date())
YESTERDAY = Window.of_day(dt.date(2026, 10, 13))


@pytest.fixture
def provider(sandbox: Sandbox, tmp_path: Path, clock: FixedClock) -> Iterator[Mempool]:
    with speaking(PROVIDER, Mempool, sandbox.url, tmp_path, clock) as opened:
        yield opened


def pulled(endpoint: str, told: Any, window: Window | None = None, at: dt.datetime = NOW) -> Pull:
    body = told if isinstance(told, bytes) else json.dumps(told).encode()
    answer = Answer(endpoint, f"GET /{endpoint}", 200, Outcome.OK, body, at, "", 1)
    span = (at, at) if window is None else (window.start, window.end)
    return Pull("mempool", endpoint, endpoint if window else None, (answer,), True, at, span, (0,))


def settled(*pulls: Pull, window: Window = TODAY) -> Settled:
    return settle(OnchainStats, mempool.parse(raw_rows(pulls)), window)


def values(result: Settled) -> dict[str, float]:
    return dict(result.rows.select("metric", "value").rows())


def seconds(*when: int) -> int:
    return round(dt.datetime(*when, tzinfo=dt.UTC).timestamp())  # type: ignore[arg-type,misc]


# ---- what an answer means ----


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (200, b'{"fastestFee": 1}', "ok"),
        (200, b"861234", "ok"),
        (200, b"[]", "empty"),
        (200, b"Too many requests", "malformed"),
        (200, b"<html></html>", "malformed"),
        (429, b"Too Many Requests", "rate_limited"),
        (403, b"<html>banned</html>", "denied"),
        (404, b"Cannot GET", "not_found"),
        (400, b"Invalid period", "malformed"),
    ],
)
def test_what_an_answer_means(status: int, body: bytes, outcome: str) -> None:
    assert classify(status, {}, body).outcome == outcome


def test_a_wait_is_the_headers_or_a_minute() -> None:
    assert classify(429, {"retry-after": "7"}, b"").retry_after is None
    assert classify(429, {}, b"").retry_after == 60


# ---- what is asked ----


def test_a_round_is_one_answer_an_endpoint_of_now(provider: Mempool, sandbox: Sandbox) -> None:
    pulls = list(provider.now())
    assert [(p.endpoint, p.is_complete, len(p.answers)) for p in pulls] == [(name, True, 1) for name in mempool.LIVE]
    result = settled(*pulls)
    assert (len(result.rejected), result.rows["observed_at"].unique().to_list()) == (0, [NOW])
    assert set(result.rows["metric"]) == {m.metric for _, fields in mempool.LIVE.values() for m in fields.values()}
    tip = result.rows.filter(metric="tip_height").row(0, named=True)
    assert tip["value"] == tip["height"] == TIP
    assert sandbox.calls()["calls"] == {f"mempool.{name}": 1 for name in mempool.LIVE}


@pytest.mark.parametrize(("fault", "outcome"), [("throttled", "rate_limited"), ("ban", "denied")])
def test_a_refusal_ends_the_round(
    provider: Mempool, sandbox: Sandbox, clock: FixedClock, fault: Any, outcome: str
) -> None:
    sandbox.set_faults([Fault(fault, "mempool.mempool")])
    pulls = list(provider.now())
    assert [(p.endpoint, p.ending.outcome) for p in pulls] == [("fees", "ok"), ("mempool", outcome)]
    n_asked = {"rate_limited": 2, "denied": 1}[outcome]
    assert sandbox.calls()["calls"]["mempool.mempool"] == n_asked
    assert (clock.now() - NOW).total_seconds() == 60 * (n_asked - 1)


def test_another_failure_does_not_end_the_round(provider: Mempool, sandbox: Sandbox) -> None:
    sandbox.set_faults([Fault("html", "mempool.fees")])
    assert [p.is_complete for p in provider.now()] == [False, True, True, True, True]


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("fees", b"[1, 2]"),
        ("tip_height", b'"tall"'),
        ("hashrate", b'{"hashrates": {"timestamp": 1}}'),
        ("hashrate", b'{"hashrates": [1]}'),
        ("block_fees", b'{"avgFees": 1}'),
    ],
)
def test_another_shape_is_evidence_only(endpoint: str, body: bytes) -> None:
    answer = pulled(endpoint, body).answers[0]
    assert mempool._shaped(answer).outcome == "malformed"


@pytest.mark.parametrize(
    ("first", "period"),
    [
        (dt.date(2026, 10, 13), "3d"),
        (dt.date(2026, 10, 12), "1w"),
        (dt.date(2026, 9, 20), "1m"),
        (dt.date(2024, 10, 20), "2y"),
        (dt.date(2019, 1, 1), "all"),
    ],
)
def test_the_past_is_one_call_of_the_shortest_period_that_reaches_it(
    provider: Mempool, first: dt.date, period: str
) -> None:
    window = Window.of_days(first, dt.date(2026, 10, 13))
    (pull,) = provider.past("hashrate", window)
    assert pull.answers[0].request == f"GET /mempool/v1/mining/hashrate/{period}"
    assert (pull.window, pull.subject, pull.is_complete) == ((window.start, window.end), "hashrate", True)
    rows = settled(pull, window=window).rows.filter(metric="hashrate")
    assert rows["date"].to_list() == window.days


# ---- whose day a point belongs to ----


def test_points_are_rows_of_their_own_days_and_of_no_other_pull() -> None:
    told = {
        "hashrates": [{"timestamp": seconds(2026, 10, day), "avgHashrate": day * 10**20} for day in (11, 12, 13, 14)],
        "difficulty": [
            {"time": seconds(2026, 10, 12, 7), "height": 900000, "difficulty": 1.5e14, "adjustment": 1.1},
            {"timestamp": seconds(2026, 10, 13, 7), "height": 902016, "difficulty": 1.6e14},
        ],
        "currentHashrate": 7,
        "currentDifficulty": 8,
    }
    two_days = Window.of_days(dt.date(2026, 10, 12), dt.date(2026, 10, 13))
    rows = settled(pulled("hashrate", told, two_days), window=two_days).rows
    assert rows.select("metric", "observed_at", "value", "unit", "height").rows() == [
        ("difficulty", dt.datetime(2026, 10, 12, 7, tzinfo=dt.UTC), 1.5e14, "1", 900000),
        ("hashrate", dt.datetime(2026, 10, 12, tzinfo=dt.UTC), 1.2e21, "H/s", None),
        ("difficulty", dt.datetime(2026, 10, 13, 7, tzinfo=dt.UTC), 1.6e14, "1", 902016),
        ("hashrate", dt.datetime(2026, 10, 13, tzinfo=dt.UTC), 1.3e21, "H/s", None),
    ]
    # A day alone holds the same: what becomes of a point does not depend on which days are computed together.
    assert settled(pulled("hashrate", told, two_days), window=YESTERDAY).rows.equals(
        rows.filter(date=dt.date(2026, 10, 13))
    )
    # Asked live, the same body says what is true now, and nothing of its past.
    live = settled(pulled("hashrate", told))
    assert values(live) == {"hashrate_current": 7.0, "difficulty_current": 8.0}
    assert len(live.rejected) == 0


@pytest.mark.parametrize("stamp", [None, "soon", 1.5, 0, 1652486400000, 10**30, -5, seconds(2026, 10, 15)])
def test_a_point_whose_time_is_none_is_quarantined_where_it_was_asked_for(stamp: Any) -> None:
    told = [{"avgHeight": 1, "timestamp": stamp, "avgFees": 5}, {"timestamp": seconds(2026, 10, 13, 3), "avgFees": 6}]
    result = settled(pulled("block_fees", told, YESTERDAY), window=YESTERDAY)
    assert values(result) == {"block_fees": 6.0}
    (refused,) = result.rejected.to_dicts()
    assert (refused["observed_at"], refused["reasons"]) == (
        YESTERDAY.start,
        "date|nullability,observed_at|nullability",
    )
    assert json.loads(refused["record"])["avgFees"] == 5


def test_numbers_are_the_nearest_doubles_negative_ones_too_and_a_missing_one_is_refused() -> None:
    told = {"progressPercent": 44.397234501112074, "difficultyChange": -4.807005268478962, "remainingBlocks": None}
    result = settled(pulled("difficulty_adjustment", told))
    assert values(result) == {"epoch_progress": 44.397234501112074, "difficulty_change_expected": -4.807005268478962}
    assert result.rejected["reasons"].unique().to_list() == ["value|nullability"]
    assert len(result.rows) + len(result.rejected) == len(mempool.LIVE["difficulty_adjustment"][1])


@pytest.mark.parametrize("value", ['"NaN"', '"Infinity"', '"many"', "{}"])
def test_what_is_no_number_is_refused(value: str) -> None:
    result = settled(pulled("tip_height", b"7"), pulled("mempool", b'{"count": %s}' % value.encode()))
    assert values(result) == {"tip_height": 7.0}
    assert len(result.rejected) == 3


def test_a_point_that_is_stated_again_counts_once() -> None:
    told = [{"avgHeight": 1, "timestamp": seconds(2026, 10, 13, 3), "avgFees": 5}]
    later = NOW + dt.timedelta(hours=1)
    revised = pulled("block_fees", [{**told[0], "avgFees": 6}], YESTERDAY, later)
    (row,) = settled(pulled("block_fees", told, YESTERDAY), revised, window=YESTERDAY).rows.to_dicts()
    assert (row["value"], row["n_duplicates"]) == (6.0, 1)


@pytest.mark.recorded
def test_recorded_answers_are_stored(recorded: Path) -> None:
    def body(file: str) -> bytes:
        return (recorded.parent / "mempool" / file).read_bytes()

    live = settled(
        pulled("fees", body("fees_recommended.json")),
        pulled("mempool", body("mempool.json")),
        pulled("difficulty_adjustment", body("difficulty-adjustment.json")),
        pulled("hashrate", body("mining_hashrate.json")),
    )
    assert len(live.rejected) == 0
    told = values(live)
    assert told["fee_fastest"] == 1.0
    assert (told["mempool_transactions"], told["mempool_fees"]) == (3169.0, 20317481.0)
    assert (told["difficulty_change_expected"], told["epoch_next_height"]) == (98.45932018381687, 741888.0)
    assert (told["hashrate_current"], told["difficulty_current"]) == (2.520332473552123e20, 31251101365711.12)

    may = Window.of_days(dt.date(2022, 5, 9), dt.date(2022, 5, 16))
    past = settled(
        pulled("hashrate", body("mining_hashrate.json"), may),
        pulled("block_fees", body("mining_blocks_fees.json"), may),
        window=may,
    )
    assert (len(past.rows), len(past.rejected)) == (3 + 1 + 6, 0)
    rates = past.rows.filter(metric="hashrate")["value"].to_list()
    assert rates == [236499762108771800000.0, 217473276787331300000.0, 189877203506913000000.0]
    assert past.rows.filter(metric="difficulty").select("value", "height").row(0) == (31251101365711.12, 736249)
    assert past.rows.filter(metric="block_fees")["height"].to_list()[0] == 735644


def test_an_empty_raw_table_gives_no_records() -> None:
    empty = raw_rows([pulled("tip_height", b"7")]).clear()
    assert mempool.parse(empty).frame.is_empty()
    assert isinstance(mempool.parse(empty).frame, pl.DataFrame)
