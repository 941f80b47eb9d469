"""Bodies that are cut, foreign, empty, endless, or that repeat the key: rows 9, 10 and 12 to 14."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from crypto_assets.errors import DataError
from crypto_assets.tables import raw, trusted
from crypto_assets.tables.window import Window
from tests.faults.conftest import Figure
from tests.faults.hostile import (
    Script,
    answer,
    chunked,
    echo,
    gzip_bomb,
    gzip_cut,
    huge,
    nested,
    packed,
    until_closed,
)
from tests.faults.payloads import DAY, GOOD, KEY, N_ASSETS, NOON, asset, assets, body, line

CUT = GOOD[: len(GOOD) // 2]


@pytest.mark.fault(
    row=9, fault="truncated JSON", promise="asked for once more, then the bytes are kept and none is parsed"
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_body_that_only_the_connection_ends_is_kept_as_evidence_when_it_is_cut(tmp_path: Path, version: str) -> None:
    with line(tmp_path, until_closed(CUT, version)) as on:
        with pytest.raises(DataError, match="the answer is not the JSON that was due"):
            on.pull()
        assert len(on.server.requests) == 2
        assert on.evidence() == ({"malformed"}, [CUT])
        assert on.settle().is_empty()


@pytest.mark.fault(
    row=9, fault="truncated JSON", promise="asked for once more, then the bytes are kept and none is parsed"
)
def test_a_cut_body_followed_by_a_whole_one_is_one_good_pull(tmp_path: Path) -> None:
    with line(tmp_path, until_closed(CUT), until_closed(GOOD)) as on:
        on.pull()
        assert on.settle().height == N_ASSETS
        assert on.evidence() == (set(), [])


@pytest.mark.fault(row=10, fault="HTML with status 200", promise="refused; the body is kept, without the key")
@pytest.mark.parametrize("kind", ["text/html", "application/json", None])
def test_a_web_page_is_no_answer_whatever_it_says_of_itself(tmp_path: Path, kind: str | None) -> None:
    page = b"<!doctype html><title>Just a moment</title>"
    with line(tmp_path, answer(page, kind=kind)) as on:
        with pytest.raises(DataError, match="ended malformed"):
            on.pull()
        assert on.evidence() == ({"malformed"}, [page])


@pytest.mark.fault(row=12, fault="the body repeats the key", promise="the key is in no table, file or error")
@pytest.mark.parametrize("status", [200, 401, 429, 500])
def test_a_repeated_key_is_redacted_before_anything_is_stored(tmp_path: Path, status: int) -> None:
    market = body(assets(name="We have detected your API key as @")).replace(b"@", b"@@")
    with line(tmp_path, echo(status, template=market)) as on:
        if status == 200:
            on.pull()
            names = on.settle()["name"].to_list()
            assert "We have detected your API key as [redacted][redacted]" in names
        else:
            with pytest.raises(Exception, match="ended") as error:
                on.pull()
            assert KEY not in repr(error.value)
        assert KEY.encode() in on.server.requests[0]
        bodies = on.lake.read(raw.RawCoincapAssets)["body"].to_list()
        assert all(b"[redacted][redacted]" in told and KEY.encode() not in told for told in bodies)
    for file in tmp_path.rglob("*"):
        content = file.read_bytes() if file.is_file() and file.suffix != ".parquet" else b""
        assert KEY.encode() not in content, file


NOTHING: list[Any] = [
    (b"[]", "empty"),
    (b'{"data":[]}', "empty"),
    (b'{"data":[],"timestamp":1790856000000}', "empty"),
    (b'{"data":null}', "malformed"),
    (b"{}", "malformed"),
    (b"null", "malformed"),
    (b"", "malformed"),
]


@pytest.mark.fault(row=13, fault="an empty list, or no data", promise="an error says so; what was there stays")
@pytest.mark.parametrize(("nothing", "outcome"), NOTHING)
def test_nothing_is_no_success_and_leaves_what_was_there(tmp_path: Path, nothing: bytes, outcome: str) -> None:
    with line(tmp_path, answer(GOOD), answer(nothing)) as on:
        on.pull()
        before = on.settle()
        on.forward(minutes=5)
        with pytest.raises(DataError, match=f"ended {outcome} ") as error:
            on.pull()
        if outcome == "empty":
            assert "(no records)" in error.value.what
            assert error.value.hint == "earlier data stay as they are; the next run asks again"
        assert on.settle().equals(before)
        assert before.height == N_ASSETS


@pytest.mark.fault(row=13, fault="an empty list, or no data", promise="an error says so; what was there stays")
def test_history_without_points_is_warned_of(tmp_path: Path) -> None:
    warnings: list[str] = []
    with line(tmp_path, answer(b'{"data":[]}')) as on:
        landed = on.history(NOON.date(), NOON.date(), warnings.append)
        assert landed["outcome"].to_list() == ["empty"]
        assert on.settle(trusted.AssetHistory, Window.of_day(NOON.date())).is_empty()
    (told,) = warnings
    assert "/assets/bitcoin/history" in told
    assert "the provider has no records of that time" in told


BOMBS: list[Any] = [
    pytest.param(packed(gzip_bomb(300), "gzip"), "larger than 16000000 bytes", id="gzip"),
    pytest.param(packed(gzip_bomb(300), "deflate"), "larger than 16000000 bytes", id="gzip said to be deflate"),
    pytest.param(packed(gzip_bomb(1), "br"), "an encoding that was not asked for", id="brotli"),
    pytest.param(packed(gzip_bomb(1), "zstd"), "an encoding that was not asked for", id="zstd"),
    pytest.param(packed(gzip_bomb(1), "gzip, gzip"), "an encoding that was not asked for", id="gzip in gzip"),
    pytest.param(huge(1_000_000_000), "larger than 16000000 bytes", id="a gigabyte"),
    pytest.param(chunked(bytes(65_536), 1_000_000_000), "larger than 16000000 bytes", id="chunks without an end"),
    pytest.param(answer(nested(200_000)), "the answer is not the JSON that was due", id="brackets"),
    pytest.param(
        answer(body([asset(1, tokens="@" + "[" * 5000 + "]" * 5000 + "@")])), "not the JSON", id="in a record"
    ),
]


@pytest.mark.fault(
    row=14, fault="compression bomb, endless body, deep nesting", promise="stopped early, memory bounded"
)
@pytest.mark.parametrize(("script", "detail"), BOMBS)
def test_a_bomb_is_stopped_in_little_time_and_memory(
    tmp_path: Path, script: Script, detail: str, figure: Figure, request: pytest.FixtureRequest
) -> None:
    with line(tmp_path, script) as on:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.monotonic()
        pull = on.coincap.assets()
        took = time.monotonic() - began
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert (pull.ending.outcome, pull.is_complete) == ("malformed", False)
    assert detail in pull.ending.detail
    assert grown < 64_000  # kB
    assert took < 5  # seconds, on a loaded machine
    figure(f"{request.node.name}: stopped after {took:.2f} s, {grown / 1000:.0f} MB more memory")


@pytest.mark.fault(
    row=14, fault="compression bomb, endless body, deep nesting", promise="stopped early, memory bounded"
)
def test_a_drip_of_tiny_chunks_is_retried_and_a_cut_gzip_is_no_body(tmp_path: Path) -> None:
    with line(tmp_path, packed(gzip_cut(GOOD), "gzip"), answer(GOOD)) as on:
        on.pull()
        assert on.lake.read(raw.RawCoincapAssets)["body"].to_list() == [GOOD]


def _deeper(levels: int, work: Any) -> Any:
    return _deeper(levels - 1, work) if levels else work()


@pytest.mark.fault(
    row=14, fault="compression bomb, endless body, deep nesting", promise="stopped early, memory bounded"
)
def test_nesting_that_was_just_readable_is_a_plain_error_for_whoever_stands_deeper(tmp_path: Path) -> None:
    """How much can be nested depends on the caller's own depth: what landed may be unreadable elsewhere."""
    deep = body([*assets(), asset(99, tokens="@" + "[" * 780 + "]" * 780 + "@")])
    with line(tmp_path, answer(deep)) as on:
        on.pull()
        with pytest.raises(DataError, match=r"an answer that was good when it landed cannot be read: .*too deeply"):
            _deeper(300, on.settle)
        assert on.lake.read(trusted.AssetSnapshots).is_empty()
        assert on.settle().height == N_ASSETS + 1


@pytest.mark.fault(
    row=15,
    fault="NaN, infinity, null, text where a number was due",
    promise="the record is quarantined with its reason",
)
@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity", "01", "1.", ".5", "+1", "'1'", "undefined"])
def test_a_number_that_json_does_not_know_makes_the_body_no_json(tmp_path: Path, token: str) -> None:
    sent = body(assets(priceUsd=f"@{token}@"))
    with line(tmp_path, answer(sent)) as on:
        with pytest.raises(DataError, match="the answer is not the JSON that was due"):
            on.pull()
        assert on.evidence() == ({"malformed"}, [sent])


def test_the_day_of_these_tests_is_the_day_of_their_answers() -> None:
    assert DAY.start <= NOON < DAY.end
    assert json.loads(GOOD)["timestamp"] == NOON.timestamp() * 1000
    assert pl.DataFrame(json.loads(GOOD)["data"]).height == N_ASSETS
