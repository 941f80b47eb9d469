"""Each rule of a single table passes on good rows and fails on rows that are broken for just its reason."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from crypto_assets.checks.rules import rules_of
from crypto_assets.checks.verdicts import Severity
from crypto_assets.resources.lake import Lake
from crypto_assets.tables import ALL_TABLES, raw, refined, trusted
from crypto_assets.tables.window import Window
from tests.checks.cases import FIRST, SECOND, THIRD, answer, asset, failing, noon, verdict
from tests.conftest import RowsOf

SNAPSHOTS = trusted.AssetSnapshots
BAD = {"outcome": "unavailable", "n_pages": None, "detail": "the provider fails (HTTP 503)"}


def days(*found: date) -> list[str]:
    return [f"{noon(day):%Y-%m-%dT%H:%M:%S+00:00}" for day in found]


# ---- raw ----


def test_a_new_field_is_named(lake: Lake, rows_of: RowsOf) -> None:
    known = rows_of(raw.RawCoincapAssets, answer([asset()], noon(FIRST)))
    told = verdict("known_fields", lake, raw.RawCoincapAssets, known)
    assert (told.passed, told.observed, told.n_failed) == (True, "known fields only", 0)
    new = rows_of(raw.RawCoincapAssets, answer([asset(), 5, asset(moonPhase="full")], noon(FIRST)))
    told = verdict("known_fields", lake, raw.RawCoincapAssets, new)
    assert (told.passed, told.observed, told.n_failed) == (False, "new fields: moonPhase", 1)
    assert failing(told) == [{"field": "moonPhase"}]
    assert (told.severity, told.is_blocking) == (Severity.WARNING, False)


def test_a_day_without_a_complete_pull_is_told_with_what_came(lake: Lake, rows_of: RowsOf) -> None:
    good, bad = answer([asset()], noon(FIRST)), answer(b"", noon(FIRST, 13), **BAD)
    told = verdict("complete_pull", lake, raw.RawCoincapAssets, rows_of(raw.RawCoincapAssets, good, bad))
    assert (told.passed, told.observed, told.n_failed) == (True, "1 good and 1 bad answers", 0)
    rows = rows_of(raw.RawCoincapAssets, good, bad, answer(b"", noon(SECOND), request="GET /assets", **BAD))
    told = verdict("complete_pull", lake, raw.RawCoincapAssets, rows, last=SECOND)
    assert (told.passed, told.observed, told.n_failed) == (False, "1 good and 2 bad answers", 1)
    assert failing(told)[0]["request"] == "GET /assets"
    assert failing(told)[0]["detail"] == "the provider fails (HTTP 503)"
    assert not told.is_blocking


def pages(*held: int, n_pages: int | None) -> list[dict[str, Any]]:
    return [answer([asset()], noon(FIRST), pull="paged", page=page, n_pages=n_pages) for page in held]


@pytest.mark.parametrize("held", [(0, 2), (0, 1), (1, 2)])
def test_a_page_that_went_missing_from_raw_is_seen(lake: Lake, rows_of: RowsOf, held: tuple[int, ...]) -> None:
    told = verdict("all_pages", lake, raw.RawCoincapAssets, rows_of(raw.RawCoincapAssets, *pages(0, 1, 2, n_pages=3)))
    assert (told.passed, told.observed) == (True, "0 of 1 pulls lack pages")
    told = verdict("all_pages", lake, raw.RawCoincapAssets, rows_of(raw.RawCoincapAssets, *pages(*held, n_pages=3)))
    assert (told.passed, told.observed, told.n_failed) == (False, "1 of 1 pulls lack pages", 1)
    assert failing(told) == [{"pull_id": "paged", "n_pages": 3, "n_held": 2, "last_page": max(held)}]
    assert told.is_blocking


def test_a_pull_that_broke_off_lacks_no_pages(lake: Lake, rows_of: RowsOf) -> None:
    broken = rows_of(raw.RawCoincapAssets, *pages(0, 1, n_pages=None))
    assert verdict("all_pages", lake, raw.RawCoincapAssets, broken).passed


def test_a_body_that_changed_after_it_landed_is_seen(lake: Lake, rows_of: RowsOf) -> None:
    good = answer([asset()], noon(FIRST))
    told = verdict("intact", lake, raw.RawCoincapAssets, rows_of(raw.RawCoincapAssets, good))
    assert (told.passed, told.observed) == (True, "0 of 1 bodies changed")
    told = verdict("intact", lake, raw.RawCoincapAssets, rows_of(raw.RawCoincapAssets, {**good, "body": b"{}"}))
    assert (told.passed, told.observed, told.n_failed) == (False, "1 of 1 bodies changed", 1)
    assert failing(told)[0]["pull_id"] == "pull-01-12"
    assert told.is_blocking


def test_todays_newest_answer_must_be_recent_and_other_days_need_not(lake: Lake, rows_of: RowsOf) -> None:
    rows = rows_of(
        raw.RawCoincapAssets, answer([asset()], noon(FIRST)), answer(b"", noon(FIRST) + timedelta(minutes=14), **BAD)
    )
    later = {minutes: noon(FIRST) + timedelta(minutes=minutes) for minutes in (15, 16)}
    told = verdict("fresh", lake, raw.RawCoincapAssets, rows, now=later[15])
    assert (told.passed, told.observed) == (True, "newest answer is 0:15:00 old")
    told = verdict("fresh", lake, raw.RawCoincapAssets, rows, now=later[16])
    assert (told.passed, told.observed, told.n_failed) == (False, "newest answer is 0:16:00 old", 1)
    assert failing(told) == [{"newest": "2024-01-01T12:00:00+00:00", "now": "2024-01-01T12:16:00+00:00"}]
    assert (told.suite, told.is_blocking) == ("freshness", False)
    told = verdict("fresh", lake, raw.RawCoincapAssets, rows.clear(), now=later[15])
    assert (told.passed, told.observed) == (False, "no good answer today")
    told = verdict("fresh", lake, raw.RawCoincapAssets, rows, now=noon(SECOND))
    assert (told.passed, told.observed) == (True, "the day is over")


def test_history_is_never_asked_to_be_fresh() -> None:
    assert [check.name for check in rules_of(raw.RawCoincapHistory)] == [
        "known_fields",
        "complete_pull",
        "all_pages",
        "intact",
    ]


# ---- trusted ----


def priced(n_off: int, n: int, day: date = FIRST) -> list[dict[str, Any]]:
    """``n`` assets of 10 USD x 100 units, ``n_off`` of them with a cap 2 % away."""
    return [
        {
            "asset_id": f"coin-{i}",
            "observed_at": noon(day),
            "price_usd": 10,
            "supply": 100,
            "market_cap_usd": 1020 if i < n_off else Decimal("1009.9"),
        }
        for i in range(n)
    ]


def test_caps_are_price_times_supply_for_99_of_100_assets(lake: Lake, rows_of: RowsOf) -> None:
    unknown = [{"asset_id": "a", "supply": 0, "market_cap_usd": 5}, {"asset_id": "b", "market_cap_usd": 5}]
    rows = rows_of(SNAPSHOTS, *priced(1, 100), *unknown)
    told = verdict("price_times_supply", lake, SNAPSHOTS, rows)
    assert (told.passed, told.observed, told.n_failed) == (True, "99.00% agree", 1)
    told = verdict("price_times_supply", lake, SNAPSHOTS, rows_of(SNAPSHOTS, *priced(2, 100)))
    assert (told.passed, told.observed, told.n_failed) == (False, "98.00% agree", 2)
    assert told.expected == "99% within 1% on every day, of every provider"
    assert failing(told)[0]["market_cap_usd"] == "1020.000000000000000000"
    assert not told.is_blocking


def test_one_bad_day_of_caps_is_not_hidden_by_good_days(lake: Lake, rows_of: RowsOf) -> None:
    rows = rows_of(SNAPSHOTS, *priced(2, 100), *priced(0, 900, SECOND))
    told = verdict("price_times_supply", lake, SNAPSHOTS, rows, last=SECOND)
    assert (told.passed, told.observed) == (False, "98.00% agree")


def ranked(*ranks: int) -> list[dict[str, Any]]:
    return [{"asset_id": f"coin-{i}", "exchange_id": f"x-{i}", "rank": rank} for i, rank in enumerate(ranks)]


@pytest.mark.parametrize("ranks", [(1, 2, 2), (1, 3, 4), (2, 3, 4)], ids=["twice", "hole", "no first"])
def test_ranks_are_a_permutation(lake: Lake, rows_of: RowsOf, ranks: tuple[int, ...]) -> None:
    told = verdict("ranks", lake, SNAPSHOTS, rows_of(SNAPSHOTS, *ranked(3, 1, 2)))
    assert (told.passed, told.observed) == (True, "0 of 1 pulls broken")
    told = verdict("ranks", lake, SNAPSHOTS, rows_of(SNAPSHOTS, *ranked(*ranks)))
    assert (told.passed, told.observed, told.n_failed) == (False, "1 of 1 pulls broken", 1)
    assert failing(told)[0]["observed_at"] == "2024-01-01T12:00:00+00:00"
    assert failing(told)[0]["highest"] == max(ranks)
    assert not told.is_blocking


@pytest.mark.parametrize("contract", [SNAPSHOTS, trusted.ExchangeSnapshots])
def test_more_than_one_of_a_hundred_missing_is_a_gap_in_coverage(lake: Lake, rows_of: RowsOf, contract: Any) -> None:
    told = verdict("coverage", lake, contract, rows_of(contract, *ranked(*range(1, 99), 100)))
    assert (told.passed, told.observed) == (True, "0 of 1 pulls short")
    told = verdict("coverage", lake, contract, rows_of(contract, *ranked(*range(1, 98), 100)))
    assert (told.passed, told.observed, told.n_failed) == (False, "1 of 1 pulls short", 1)
    assert {k: failing(told)[0][k] for k in ("n", "highest")} == {"n": 98, "highest": 100}
    assert told.expected == "99% of the provider's own count, its highest rank"


@pytest.mark.parametrize("last", ["38.9", "41.1"])
def test_shares_of_each_pull_sum_to_100(lake: Lake, rows_of: RowsOf, last: str) -> None:
    def exchanges(day: date, share: str) -> list[dict[str, Any]]:
        shares = [Decimal(60), Decimal(share), None]
        return [
            {"exchange_id": f"x-{i}", "observed_at": noon(day), "volume_share_pct": told}
            for i, told in enumerate(shares)
        ]

    rows = rows_of(trusted.ExchangeSnapshots, *exchanges(FIRST, "39.0"), *exchanges(SECOND, "41.0"))
    assert verdict("shares", lake, trusted.ExchangeSnapshots, rows, last=SECOND).observed == "0 of 2 pulls off"
    rows = rows_of(trusted.ExchangeSnapshots, *exchanges(FIRST, "40"), *exchanges(SECOND, last))
    told = verdict("shares", lake, trusted.ExchangeSnapshots, rows, last=SECOND)
    assert (told.passed, told.observed, told.n_failed) == (False, "1 of 2 pulls off", 1)
    assert failing(told)[0]["total_pct"] == pytest.approx(60 + float(last))
    assert [row["observed_at"] for row in failing(told)] == days(SECOND)
    assert not told.is_blocking


def prices(day: date, *values: str) -> list[dict[str, Any]]:
    return [
        {"asset_id": f"coin-{i}", "observed_at": noon(day), "price_usd": Decimal(value)}
        for i, value in enumerate(values)
    ]


@pytest.mark.fault(
    row=16, fault="negative, absurd or stuck prices", promise="beyond a bound: quarantine; stuck: a warning"
)
def test_a_day_that_repeats_the_day_before_is_seen_wherever_it_lies_in_the_range(lake: Lake, rows_of: RowsOf) -> None:
    half = [*prices(FIRST, "5", "6", "1"), *prices(SECOND, "5", "7", "1"), *prices(THIRD, "8", "9", "1")]
    lake.replace(SNAPSHOTS, rows := rows_of(SNAPSHOTS, *half), window := window_of(rows))
    told = verdict("no_copied_day", lake, SNAPSHOTS, rows, last=THIRD)
    assert (told.passed, told.observed) == (True, "0 of 3 days copied")
    copied = [*prices(FIRST, "5", "6", "1"), *prices(SECOND, "8", "9", "1"), *prices(THIRD, "8", "9", "1")]
    lake.replace(SNAPSHOTS, rows := rows_of(SNAPSHOTS, *copied), window)
    told = verdict("no_copied_day", lake, SNAPSHOTS, rows, last=THIRD)
    assert (told.passed, told.observed, told.n_failed) == (False, "1 of 3 days copied: 2 prices repeated", 2)
    assert {row["observed_at"] for row in failing(told)} == set(days(THIRD))
    third = rows.filter(pl.col("date") == THIRD)
    assert not verdict("no_copied_day", lake, SNAPSHOTS, third, first=THIRD).passed
    assert not told.is_blocking


@pytest.mark.parametrize(
    ("price", "caps", "is_copied"),
    [
        ("77671", ("1555886872303", "1555886872303"), True),
        ("77671", ("1555886872303", "1555886999999"), False),
        ("77671", (None, None), True),
        ("87711.199999999997089617", ("1555886872303", "1555886999999"), True),
    ],
)
def test_a_price_of_few_digits_is_copied_only_with_its_cap(
    lake: Lake, rows_of: RowsOf, price: str, caps: tuple[str | None, str | None], is_copied: bool
) -> None:
    told = [
        {**row, "market_cap_usd": None if cap is None else Decimal(cap)}
        for day, cap in zip((FIRST, SECOND), caps, strict=True)
        for row in prices(day, price)
    ]
    lake.replace(SNAPSHOTS, rows := rows_of(SNAPSHOTS, *told), window_of(rows))
    assert verdict("no_copied_day", lake, SNAPSHOTS, rows, last=SECOND).passed is not is_copied


def test_a_day_copied_from_one_provider_is_not_hidden_by_another(lake: Lake, rows_of: RowsOf) -> None:
    copied = [{**row, "provider": "coingecko"} for day in (FIRST, SECOND) for row in prices(day, "5", "6")]
    alive = [*prices(FIRST, *"234567"), *prices(SECOND, *"765432")]
    lake.replace(SNAPSHOTS, rows := rows_of(SNAPSHOTS, *copied, *alive), window_of(rows))
    told = verdict("no_copied_day", lake, SNAPSHOTS, rows, last=SECOND)
    assert (told.passed, told.observed) == (False, "1 of 2 days copied: 2 prices repeated")
    # Nor is a price that another provider stated the day before a copy of it.
    others = [*({**row, "provider": "coingecko"} for row in prices(FIRST, "5", "6")), *prices(SECOND, "5", "6")]
    lake.replace(SNAPSHOTS, rows := rows_of(SNAPSHOTS, *others), window_of(rows))
    assert verdict("no_copied_day", lake, SNAPSHOTS, rows, last=SECOND).passed


def test_caps_and_ranks_are_judged_by_provider(lake: Lake, rows_of: RowsOf) -> None:
    rows = [*priced(0, 900), *({**row, "provider": "coingecko"} for row in priced(2, 100))]
    told = verdict("price_times_supply", lake, SNAPSHOTS, rows_of(SNAPSHOTS, *rows))
    assert (told.passed, told.observed) == (False, "98.00% agree")
    both = [{**row, "provider": provider} for provider in ("coincap", "coingecko") for row in ranked(1, 2, 3)]
    assert verdict("ranks", lake, SNAPSHOTS, rows_of(SNAPSHOTS, *both)).passed


def test_an_unranked_asset_leaves_no_hole(lake: Lake, rows_of: RowsOf) -> None:
    rows = [*ranked(1, 2, 3), {"asset_id": "wrapped", "rank": None}]
    assert verdict("ranks", lake, SNAPSHOTS, rows_of(SNAPSHOTS, *rows)).passed
    assert not verdict("ranks", lake, SNAPSHOTS, rows_of(SNAPSHOTS, *ranked(1, 3), *rows[3:])).passed


def test_what_is_pulled_hourly_is_stale_after_three_hours(lake: Lake, rows_of: RowsOf) -> None:
    rows = rows_of(raw.RawMempool, answer({}, noon(FIRST)))
    told = verdict("fresh", lake, raw.RawMempool, rows, now=noon(FIRST, 15))
    assert (told.passed, told.observed) == (True, "newest answer is 3:00:00 old")
    assert not verdict("fresh", lake, raw.RawMempool, rows, now=noon(FIRST, 15) + timedelta(minutes=1)).passed


def window_of(rows: pl.DataFrame) -> Window:
    return Window.of_days(min(rows["date"]), max(rows["date"]))


# ---- refined ----


GOOD_BAR = {"open_usd": 5, "high_usd": 6, "low_usd": 4, "close_usd": 5}


@pytest.mark.parametrize("contract", [refined.AssetHourly, refined.AssetDaily])
@pytest.mark.parametrize("change", [{"high_usd": Decimal("4.9")}, {"low_usd": Decimal("5.1")}, {"close_usd": 7}])
def test_a_bars_high_and_low_hold_its_open_and_close(
    lake: Lake, rows_of: RowsOf, contract: Any, change: dict[str, Any]
) -> None:
    flat = dict.fromkeys(GOOD_BAR, 5)
    told = verdict("bars", lake, contract, rows_of(contract, GOOD_BAR, flat))
    assert (told.passed, told.observed) == (True, "0 of 2 bars broken")
    told = verdict("bars", lake, contract, rows_of(contract, GOOD_BAR, {**GOOD_BAR, **change, "asset_id": "bad"}))
    assert (told.passed, told.observed, told.n_failed) == (False, "1 of 2 bars broken", 1)
    assert failing(told)[0]["asset_id"] == "bad"
    assert told.is_blocking


ENTITIES = [(refined.DimAsset, "asset_id"), (refined.DimExchange, "exchange_id")]
CLOSED = {"version": 1, "valid_from": noon(FIRST), "valid_to": noon(SECOND), "is_current": False, "row_hash": "a"}
CURRENT = {"version": 2, "valid_from": noon(SECOND), "valid_to": None, "is_current": True, "row_hash": "b"}
BROKEN = [
    ({"valid_to": noon(FIRST, 13)}, {}, "gap"),
    ({"valid_to": noon(SECOND, 13)}, {}, "overlap"),
    ({"valid_to": None}, {}, "overlap"),
    ({"is_current": True}, {}, "current"),
    ({}, {"is_current": False}, "current"),
    ({}, {"valid_to": noon(THIRD)}, "ended"),
    ({}, {"version": 3}, "numbering"),
    ({"version": 0}, {}, "numbering"),
    ({}, {"row_hash": "a"}, "unchanged"),
]


@pytest.mark.parametrize(("contract", "entity"), ENTITIES)
@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: str(broken[:2]))
def test_versions_meet_differ_count_up_and_one_is_current(
    lake: Lake, rows_of: RowsOf, contract: Any, entity: str, broken: tuple[Any, Any, str]
) -> None:
    first, second, reason = broken
    other = [{**CLOSED, entity: "other"}, {**CURRENT, entity: "other"}]
    single = {**CURRENT, entity: "single", "version": 1}
    good = rows_of(contract, *other, single)
    told = verdict("versions", lake, contract, good)
    assert (told.passed, told.observed, told.failing_rows) == (True, "0 of 2 broken", None)
    bad = rows_of(contract, *other, {**CURRENT, **second, entity: "bad"}, {**CLOSED, **first, entity: "bad"})
    told = verdict("versions", lake, contract, bad)
    assert (told.passed, told.observed, told.n_failed) == (False, "1 of 2 broken", 1)
    assert [row["broken"] for row in failing(told)] == [reason]
    assert failing(told)[0][entity] == "bad"
    assert told.is_blocking


FOREIGN = [
    (refined.AssetDaily, refined.DimAsset, "asset_id"),
    (refined.LatestAssets, refined.DimAsset, "asset_id"),
    (refined.ExchangeDaily, refined.DimExchange, "exchange_id"),
    (refined.LatestExchanges, refined.DimExchange, "exchange_id"),
]


@pytest.mark.parametrize(("contract", "dimension", "entity"), FOREIGN)
def test_an_entity_that_the_dimension_does_not_know_is_named(
    lake: Lake, rows_of: RowsOf, contract: Any, dimension: Any, entity: str
) -> None:
    lake.merge(dimension, rows_of(dimension, {entity: "known"}, {entity: "listed-only"}))
    told = verdict("foreign_key", lake, contract, rows_of(contract, {entity: "known"}))
    assert (told.passed, told.observed) == (True, "0 of 1 unknown")
    told = verdict("foreign_key", lake, contract, rows_of(contract, *[{entity: e} for e in ("known", "new", "new")]))
    assert (told.passed, told.observed, told.n_failed) == (False, "1 of 2 unknown", 1)
    assert failing(told) == [{entity: "new"}]
    assert told.expected == f"every {entity} is in {dimension.table.full_name}"
    assert not told.is_blocking


HOUR = {"btc_dominance": 0.5, "eth_dominance": 0.5, "asset_hhi": 0.5, "n_assets": 2}


@pytest.mark.parametrize(
    "change",
    [{"btc_dominance": 0.51}, {"asset_hhi": 0.49}, {"exchange_hhi": 0.24, "n_exchanges": 4}],
    ids=["shares", "caps", "volumes"],
)
def test_shares_and_concentration_are_possible(lake: Lake, rows_of: RowsOf, change: dict[str, Any]) -> None:
    rounding = {**HOUR, "btc_dominance": 0.5 + 1e-12, "exchange_hhi": 0.25 - 1e-12, "n_exchanges": 4}
    told = verdict("dominance", lake, refined.MarketOverview, rows_of(refined.MarketOverview, HOUR, rounding))
    assert (told.passed, told.observed) == (True, "0 of 2 hours broken")
    rows = rows_of(refined.MarketOverview, HOUR, {**HOUR, **change})
    told = verdict("dominance", lake, refined.MarketOverview, rows)
    assert (told.passed, told.observed, told.n_failed) == (False, "1 of 2 hours broken", 1)
    assert {k: failing(told)[0][k] for k in change} == change
    assert told.is_blocking


# ---- all ----


@pytest.mark.parametrize("contract", ALL_TABLES, ids=lambda c: c.table.full_name)
def test_every_rule_has_a_name_of_its_own_and_is_content_with_an_empty_table(
    lake: Lake, rows_of: RowsOf, contract: Any
) -> None:
    names = [check.name for check in rules_of(contract)]
    assert len(set(names)) == len(names)
    for name in names:
        told = verdict(name, lake, contract, rows_of(contract).clear())
        assert (told.passed, told.n_failed) == (True, 0), told
