"""Gaps on a spine: found, explained from answers, followed until they are filled or given up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto_assets.analytics.gaps import MAX_ATTEMPTS, Evidence, explain, intervals, ledger, missing
from crypto_assets.tables.contract import UTC_TIME, polars_schema
from crypto_assets.tables.quality import GapLedger
from crypto_assets.tables.window import Window
from tests.analytics.answers import ANSWER

MINUTE = timedelta(minutes=1)
T0 = datetime(2026, 1, 1, tzinfo=UTC)
NOW = T0 + timedelta(days=2)
WINDOW = Window(T0, T0 + 60 * MINUTE)
KEY = "binance:BTC/USDT 1m"
OTHER = "binance:ETH/USDT 1m"


def at(minute: int) -> datetime:
    return T0 + minute * MINUTE


def held(*minutes: int, key: str = KEY) -> pl.DataFrame:
    rows = [(key, at(m)) for m in minutes]
    return pl.DataFrame(rows, schema={"key": pl.String, "moment": UTC_TIME}, orient="row")


def answer(source: str = "archive", outcome: str = "ok", *, complete: bool = True, **changes: Any) -> dict[str, Any]:
    told = {
        "key": KEY,
        "source": source,
        "window_start_at": T0,
        "window_end_at": T0 + timedelta(days=1),
        "outcome": outcome,
        "detail": "",
        "is_complete": complete,
        "ingested_at": NOW - timedelta(hours=1),
    }
    return {**told, **changes}


def evidence(*answers: dict[str, Any], sources: tuple[str, ...] = ("archive", "rest"), **facts: Any) -> Evidence:
    return Evidence(
        answers=pl.DataFrame(list(answers), schema=ANSWER),
        first=facts.get("first", {KEY: T0 - timedelta(days=1)}),
        last=facts.get("last", {KEY: NOW}),
        silent=facts.get("silent", {}),
        group={KEY: "binance", OTHER: "binance"},
        sources={KEY: sources, OTHER: sources},
    )


NOTHING = pl.DataFrame(schema=polars_schema(GapLedger))


def found(moments: pl.DataFrame, *answers: dict[str, Any], known: pl.DataFrame = NOTHING, **facts: Any) -> pl.DataFrame:
    told = evidence(*answers, **facts)
    return ledger("trusted.candles", known, moments, every=MINUTE, evidence=told, now=NOW)


@given(st.sets(st.integers(0, 59)))
def test_missing_times_and_held_ones_are_the_spine_and_intervals_cover_exactly_the_missing(minutes: set[int]) -> None:
    moments = missing([KEY], held(*minutes), WINDOW, MINUTE)
    assert {m for _, m in moments.iter_rows()} == {at(m) for m in range(60)} - {at(m) for m in minutes}
    covered = []
    ends = None
    for _, start, end, n in intervals(moments, MINUTE).iter_rows():
        assert ends is None or start > ends, "two intervals that touch are one"
        assert (end - start) // MINUTE == n
        covered += [start + i * MINUTE for i in range(n)]
        ends = end
    assert covered == moments["moment"].to_list()


def test_gaps_of_two_keys_do_not_run_together() -> None:
    moments = missing([KEY, OTHER], pl.concat([held(*range(59)), held(*range(1, 60), key=OTHER)]), WINDOW, MINUTE)
    assert intervals(moments, MINUTE).rows() == [(KEY, at(59), at(60), 1), (OTHER, at(0), at(1), 1)]


GAP = {"key": KEY, "gap_start_at": at(10), "gap_end_at": at(20)}


@pytest.mark.parametrize(
    ("answers", "facts", "cause", "is_repairable"),
    [
        ([], {}, "our_downtime", True),
        ([answer()], {}, "provider_error", True),
        ([answer(), answer("rest")], {}, "no_trades", False),
        ([answer(), answer("rest")], {"sources": ("archive", "rest"), "last": {KEY: at(5)}}, "delisted", False),
        ([answer("rest")], {"first": {KEY: at(30)}}, "not_listed", False),
        ([answer()], {"silent": {"binance": frozenset(at(m) for m in range(10, 20))}}, "venue_outage", False),
        ([answer()], {"silent": {"binance": frozenset(at(m) for m in range(11, 20))}}, "provider_error", True),
        ([answer("rest", "rate_limited", complete=False)], {}, "rate_limited", True),
        ([answer("rest", "quota_exhausted", complete=False)], {}, "rate_limited", True),
        ([answer("archive", "not_found", complete=False)], {}, "provider_error", True),
        ([answer("archive", "malformed", complete=False), answer("rest")], {}, "provider_error", True),
        # That there is no file is an answer beside one that covers the time, and none alone.
        ([answer("archive", "not_found", complete=False), answer("rest")], {"last": {KEY: at(5)}}, "delisted", False),
        # Two answers that meet inside the gap cover it together; one that ends there does not.
        (
            [answer("rest", window_end_at=at(15)), answer("rest", window_start_at=at(15)), answer()],
            {},
            "no_trades",
            False,
        ),
        ([answer("rest", "not_found", detail="history unreachable")], {"sources": ("rest",)}, "provider_error", False),
        # An answer that arrived before the gap was over says nothing of its end.
        ([answer(ingested_at=at(15)), answer("rest", ingested_at=at(15))], {}, "our_downtime", True),
        # An answer about a part of it, and one about another market.
        ([answer(window_end_at=at(15)), answer("rest", window_end_at=at(15))], {}, "our_downtime", True),
        ([answer(key=OTHER), answer("rest", key=OTHER)], {}, "our_downtime", True),
    ],
)
def test_causes_are_read_from_the_answers(
    answers: list[dict[str, Any]], facts: dict[str, Any], cause: str, is_repairable: bool
) -> None:
    told = explain(GAP, evidence(*answers, **facts), MINUTE)
    assert (told.cause, told.is_repairable) == (cause, is_repairable), told


def test_a_gap_is_repaired_when_its_last_time_is_filled_and_keeps_its_bounds_until_then() -> None:
    (first,) = found(held(10, 11, 12)).to_dicts()
    assert (first["state"], first["cause"], first["n_missing"]) == ("open", "our_downtime", 3)
    assert (first["gap_start_at"], first["gap_end_at"], first["detected_at"]) == (at(10), at(13), NOW)

    known = pl.DataFrame([first], schema=polars_schema(GapLedger))
    (partly,) = found(held(12), known=known).to_dicts()
    assert (partly["n_missing"], partly["gap_start_at"], partly["gap_end_at"]) == (1, at(10), at(13))

    (closed,) = found(held(), known=known).to_dicts()
    assert (closed["state"], closed["n_missing"], closed["closed_at"]) == ("repaired", 0, NOW)


def test_what_did_not_change_is_not_written_again() -> None:
    known = found(held(10, 11))
    assert found(held(10, 11), known=known).is_empty()


def test_new_missing_times_beside_a_known_gap_are_a_gap_of_their_own() -> None:
    known = found(held(10, 11))
    (new,) = found(held(10, 11, 12, 13), known=known).to_dicts()
    assert (new["gap_start_at"], new["gap_end_at"]) == (at(12), at(14))


def test_a_gap_is_given_up_after_its_last_repair_and_never_opened_again() -> None:
    tried = found(held(10)).with_columns(state=pl.lit("queued"), attempts=pl.lit(MAX_ATTEMPTS, pl.Int32))
    (told,) = found(held(10), answer("rest", "unavailable", complete=False), known=tried).to_dicts()
    assert (told["state"], told["cause"], told["closed_at"]) == ("unrecoverable", "provider_error", NOW)
    assert told["detail"].startswith(f"given up after {MAX_ATTEMPTS} repairs")
    over = pl.DataFrame([told], schema=polars_schema(GapLedger))
    assert found(held(10), known=over).is_empty()


def test_a_gap_that_was_given_up_and_is_filled_after_all_is_repaired() -> None:
    over = found(held(10), answer(), answer("rest"))
    assert over["state"].to_list() == ["unrecoverable"]
    assert found(held(), known=over)["state"].to_list() == ["repaired"]


def test_a_repaired_gap_whose_rows_went_away_is_open_again() -> None:
    known = found(held(10))
    repaired = found(held(), known=known)
    (told,) = found(held(10), known=repaired).to_dicts()
    assert (told["state"], told["n_missing"], told["closed_at"]) == ("open", 1, None)


def test_the_step_of_a_gap_that_is_half_filled_is_still_the_spines() -> None:
    """Five of ten minutes were filled: the others are every second one, at all of which the venue was silent."""
    quiet = frozenset(at(m) for m in range(10, 20, 2))
    first = found(missing([KEY], held(*range(10), *range(20, 60)), WINDOW, MINUTE))
    left = missing([KEY], held(*range(10), *range(11, 20, 2), *range(20, 60)), WINDOW, MINUTE)
    second = found(left, known=first)
    assert second["n_missing"].to_list() == [5]
    told = found(left, answer(), answer("rest"), known=second, silent={"binance": quiet})
    assert told.select("cause", "state").rows() == [("no_trades", "unrecoverable")]
