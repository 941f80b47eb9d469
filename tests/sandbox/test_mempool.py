"""mempool.space as the sandbox speaks it: one chain as a function of seed and time."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from crypto_assets.sandbox import Fault, Market, Sandbox

NOW = datetime(2026, 10, 14, 12, 34, 56, tzinfo=UTC)
MARKET = Market(7, n_assets=50)
Ask = Callable[[str], httpx.Response]


@pytest.fixture
def ask(sandbox: Sandbox, http: httpx.Client) -> Ask:
    return lambda path: http.get(f"{sandbox.url}/mempool{path}")


def test_the_tip_is_a_bare_number_ten_minutes_a_block(ask: Ask, sandbox: Sandbox) -> None:
    first = ask("/blocks/tip/height")
    assert first.headers["content-type"].startswith("text/plain")
    sandbox.set_now(NOW + timedelta(hours=1))
    assert int(ask("/blocks/tip/height").text) == int(first.text) + 6


def test_fees_fall_with_patience(ask: Ask) -> None:
    told = ask("/v1/fees/recommended").json()
    names = ("fastestFee", "halfHourFee", "hourFee", "economyFee", "minimumFee")
    assert tuple(told) == names
    assert all(told[a] >= told[b] >= 1 for a, b in pairwise(names))


def test_hashrates_are_daily_and_beyond_what_64_bits_hold(ask: Ask) -> None:
    told = ask("/v1/mining/hashrate/1m").json()
    stamps = [point["timestamp"] for point in told["hashrates"]]
    assert {b - a for a, b in pairwise(stamps)} == {86_400}
    assert stamps[-1] == datetime(2026, 10, 14, tzinfo=UTC).timestamp()
    assert all(point["avgHashrate"] > 2**63 for point in told["hashrates"])
    assert {b["height"] - a["height"] for a, b in pairwise(told["difficulty"])} == {2016}


def test_a_difficulty_holds_for_its_epoch(ask: Ask, sandbox: Sandbox) -> None:
    last = ask("/v1/mining/hashrate/1m").json()["difficulty"][-1]
    assert last["difficulty"] == ask("/v1/mining/hashrate/3d").json()["currentDifficulty"]
    coming = ask("/v1/difficulty-adjustment").json()
    assert coming["nextRetargetHeight"] == last["height"] + 2016
    sandbox.set_now(NOW + timedelta(minutes=10 * coming["remainingBlocks"]))
    assert ask("/v1/mining/hashrate/3d").json()["currentDifficulty"] != last["difficulty"]


def test_fees_a_block_come_block_by_block_and_thinner_over_long_periods(ask: Ask) -> None:
    day, year = (ask(f"/v1/mining/blocks/fees/{period}").json() for period in ("24h", "1y"))
    assert len(day) == 144
    assert {b["timestamp"] - a["timestamp"] for a, b in pairwise(day)} == {600}
    assert len(year) <= 450
    assert ask("/v1/mining/blocks/fees/forever").status_code == 400


def test_refusals(ask: Ask, sandbox: Sandbox) -> None:
    sandbox.set_faults([Fault("rate_limited_minute", "mempool.fees")])
    assert (ask("/v1/fees/recommended").status_code, ask("/mempool").status_code) == (429, 200)
    sandbox.set_faults([Fault("ban", "mempool.fees")])
    assert ask("/v1/fees/recommended").status_code == 403


@pytest.mark.recorded
@pytest.mark.parametrize(
    ("file", "path"),
    [
        ("fees_recommended.json", "/v1/fees/recommended"),
        ("mempool.json", "/mempool"),
        ("difficulty-adjustment.json", "/v1/difficulty-adjustment"),
        ("mining_hashrate.json", "/v1/mining/hashrate/3d"),
        ("mining_blocks_fees.json", "/v1/mining/blocks/fees/24h"),
    ],
)
def test_answers_have_the_recorded_fields(ask: Ask, recorded: Path, file: str, path: str) -> None:
    real, ours = json.loads((recorded.parent / "mempool" / file).read_bytes()), ask(path).json()
    if isinstance(real, list):
        real, ours = real[0], ours[0]
    assert real.keys() <= ours.keys()
    if "hashrates" in real:
        assert real["hashrates"][0].keys() == ours["hashrates"][0].keys()
