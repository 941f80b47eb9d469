"""Trusted against raw: each way of losing, inventing or bending a record is seen, and nothing good is refused."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from crypto_assets.checks.reconciliation import count_by_day
from crypto_assets.checks.verdicts import Severity, Verdict
from crypto_assets.resources.lake import Lake
from crypto_assets.tables import quality, raw, trusted
from crypto_assets.tables.contract import Contract
from crypto_assets.tables.window import Window
from tests.checks.cases import (
    FIRST,
    SECOND,
    THIRD,
    answer,
    asset,
    failing,
    history,
    land,
    noon,
    point,
    settled,
    verdict,
)

THREE_DAYS = Window.of_days(FIRST, THIRD)
REFUSED = asset("doge", priceUsd="-1")


@pytest.fixture
def three_days(lake: Lake) -> pl.DataFrame:
    """Three days of one pull each: two good assets, one of them sent twice, and one that is refused."""
    for day in (FIRST, SECOND, THIRD):
        records = [asset(), asset("ethereum"), asset("ethereum"), REFUSED]
        land(lake, raw.RawCoincapAssets, answer(records, noon(day)))
    return settled(lake, trusted.AssetSnapshots, THREE_DAYS)


def reconciled(lake: Lake, rows: pl.DataFrame, **days: Any) -> Verdict:
    return verdict("reconciled", lake, trusted.AssetSnapshots, rows, **days)


# ---- reconciled ----


def test_every_record_is_a_row_a_duplicate_or_quarantined(lake: Lake, three_days: pl.DataFrame) -> None:
    told = reconciled(lake, three_days, last=THIRD)
    assert told.passed
    assert told.observed == "raw 12 = trusted 6 + quarantined 3 + duplicates 3"
    assert (told.severity, told.is_blocking, told.suite) == (Severity.ERROR, True, "reconciliation")
    assert (told.n_failed, told.failing_rows) == (0, None)


def test_a_row_lost_from_trusted_is_missed_on_its_day(lake: Lake, three_days: pl.DataFrame) -> None:
    rows = three_days.filter(~((pl.col("date") == SECOND) & (pl.col("asset_id") == "bitcoin")))
    told = reconciled(lake, rows, last=THIRD)
    assert not told.passed
    assert told.observed == "raw 4 is not trusted 1 + quarantined 1 + duplicates 1"
    assert told.n_failed == 1
    assert failing(told) == [{"date": "2024-01-02", "raw": 4, "trusted": 1, "quarantined": 1, "duplicates": 1}]


def test_a_row_that_no_answer_holds_is_seen(lake: Lake, three_days: pl.DataFrame) -> None:
    day = three_days.filter(pl.col("date") == FIRST)
    told = reconciled(lake, pl.concat([day, day.head(1).with_columns(asset_id=pl.lit("made-up"))]))
    assert (told.passed, told.observed) == (False, "raw 4 is not trusted 3 + quarantined 1 + duplicates 1")


def test_a_record_taken_out_of_quarantine_is_missed(lake: Lake, three_days: pl.DataFrame) -> None:
    empty = lake.read(quality.Quarantine).clear()
    lake.replace(quality.Quarantine, empty, Window.of_day(FIRST), where={"table_name": "trusted.asset_snapshots"})
    told = reconciled(lake, three_days.filter(pl.col("date") == FIRST))
    assert (told.passed, told.observed) == (False, "raw 4 is not trusted 2 + quarantined 0 + duplicates 1")


def test_a_row_moved_to_another_day_fails_both_days_though_the_range_adds_up(
    lake: Lake, three_days: pl.DataFrame
) -> None:
    is_moved = (pl.col("date") == FIRST) & (pl.col("asset_id") == "bitcoin")
    moved = three_days.with_columns(date=pl.when(is_moved).then(pl.lit(SECOND)).otherwise("date"))
    told = reconciled(lake, moved, last=THIRD)
    assert not told.passed
    assert [row["date"] for row in failing(told)] == ["2024-01-01", "2024-01-02"]


def test_other_tables_quarantine_is_not_counted(lake: Lake, three_days: pl.DataFrame) -> None:
    other = lake.read(quality.Quarantine).with_columns(table_name=pl.lit("trusted.fx_rates"))
    lake.replace(quality.Quarantine, other, THREE_DAYS, where={"table_name": "trusted.fx_rates"})
    assert reconciled(lake, three_days, last=THIRD).passed


def test_pulls_that_broke_off_are_no_records(lake: Lake, three_days: pl.DataFrame) -> None:
    land(lake, raw.RawCoincapAssets, answer([asset("lost")], noon(FIRST, 13), n_pages=None))
    assert reconciled(lake, three_days, last=THIRD).observed.startswith("raw 12 =")


def test_a_history_point_belongs_to_its_own_day_and_outside_the_window_to_quarantine(lake: Lake) -> None:
    outside = point(THIRD + timedelta(days=1))
    land(lake, raw.RawCoincapHistory, history([*map(point, (FIRST, SECOND, THIRD)), outside], FIRST, THIRD))
    rows = settled(lake, trusted.AssetHistory, THREE_DAYS)
    whole = verdict("reconciled", lake, trusted.AssetHistory, rows, last=THIRD)
    assert (whole.passed, whole.observed) == (True, "raw 4 = trusted 3 + quarantined 1 + duplicates 0")
    second = rows.filter(pl.col("date") == SECOND)
    assert verdict("reconciled", lake, trusted.AssetHistory, second, first=SECOND).observed.startswith("raw 1 = ")
    none = verdict("reconciled", lake, trusted.AssetHistory, second.clear(), first=SECOND)
    assert (none.passed, failing(none)[0]["trusted"]) == (False, 0)


ODD_TIMES = [
    None,
    "",
    "yesterday",
    "1.7e12",
    1.7e12,
    1704067200,
    "9" * 30,
    True,
    [1],
    "+1704067200000",
    "1_704_067_200_000",
]


@pytest.mark.parametrize("time", ODD_TIMES, ids=str)
def test_a_history_point_of_an_unusable_time_counts_where_it_is_quarantined(lake: Lake, time: object) -> None:
    land(lake, raw.RawCoincapHistory, history([point(SECOND), point(THIRD, time=time)], FIRST, THIRD))
    rows = settled(lake, trusted.AssetHistory, THREE_DAYS)
    told = verdict("reconciled", lake, trusted.AssetHistory, rows, last=THIRD)
    assert told.passed, told
    assert verdict("lossless", lake, trusted.AssetHistory, rows, last=THIRD).passed


ODD_BODIES = [
    (b'[{"id": "a"}, {"id": "b"}]', 2),
    (b'{"data": {"id": "a"}}', 1),
    (b'{"data": [1, null, "x", [], {"id": "a"}]}', 5),
    (b'{"data": [{"id": "\xff\xfe"}]}', 1),
    (b'{"data": null}', 0),
    (b'{"error": "gone"}', 0),
]


@pytest.mark.parametrize(("body", "n"), ODD_BODIES)
def test_records_are_counted_in_whatever_came(lake: Lake, body: bytes, n: int) -> None:
    land(lake, raw.RawCoincapAssets, answer(body, noon(FIRST)))
    window = Window.of_day(FIRST)
    counted = count_by_day(raw.RawCoincapAssets, lake.scan(raw.RawCoincapAssets, window), window)
    assert counted.total() == n


def test_a_body_that_nobody_can_read_is_a_failed_verdict_and_no_crash(lake: Lake, three_days: pl.DataFrame) -> None:
    land(lake, raw.RawCoincapAssets, answer(b'{"data": [', noon(FIRST, 13)))
    told = reconciled(lake, three_days, last=THIRD)
    assert not told.passed
    assert told.observed.startswith("the check itself failed: JSONDecodeError: Expecting value")
    assert told.is_blocking


# ---- lossless ----


def lossless(lake: Lake, rows: pl.DataFrame, contract: type[Contract] = trusted.AssetSnapshots) -> Verdict:
    return verdict("lossless", lake, contract, rows)


def one_day(lake: Lake, *records: Any, contract: type[Contract] = trusted.AssetSnapshots) -> pl.DataFrame:
    """The trusted rows of one answer with these records."""
    land(lake, trusted.RAW_OF[contract][0], answer(list(records), noon(FIRST)))
    return settled(lake, contract, Window.of_day(FIRST))


def test_digits_as_sent_are_lossless(lake: Lake) -> None:
    told = lossless(lake, one_day(lake, asset(), asset("ethereum", priceUsd=2300.1, supply=5, marketCapUsd=None)))
    assert told.passed, told
    assert told.observed == "14 values compared, 0 differ"
    assert told.is_blocking
    assert told.suite == "reconciliation"


def test_one_digit_changed_is_seen_and_shown(lake: Lake) -> None:
    rows = one_day(lake, asset(), asset("ethereum"))
    last_digit = pl.lit(Decimal("43000.123456789012345679"), pl.Decimal(38, 18))
    bent = rows.with_columns(price_usd=pl.when(asset_id="bitcoin").then(last_digit).otherwise("price_usd"))
    told = lossless(lake, bent)
    assert (told.passed, told.observed, told.n_failed) == (False, "14 values compared, 1 differ", 1)
    assert failing(told) == [
        {
            "key": "coincap/bitcoin",
            "column": "price_usd",
            "stored": "43000.123456789012345679",
            "sent": "43000.123456789012345678",
        }
    ]


@pytest.mark.parametrize(
    ("column", "stored", "sent"), [("max_supply", 0, None), ("supply", None, "20000000.0000000000000000")]
)
def test_null_is_no_value_and_a_value_is_not_null(
    lake: Lake, column: str, stored: int | None, sent: str | None
) -> None:
    bent = one_day(lake, asset()).with_columns(pl.lit(stored).cast(pl.Decimal(38, 18)).alias(column))
    told = lossless(lake, bent)
    assert (told.passed, told.n_failed) == (False, 1)
    assert failing(told)[0]["column"] == column
    assert failing(told)[0]["sent"] == str(sent)


def test_rounded_columns_may_be_half_a_unit_off_and_no_more(lake: Lake) -> None:
    # Sent with 23 digits: ...678|90, which rounds up.
    rows = one_day(lake, asset())
    assert rows["change_pct_24h"].item() == Decimal("1.234567890123456789")
    assert lossless(lake, rows).passed
    bent = rows.with_columns(change_pct_24h=pl.lit(Decimal("1.234567890123456790"), pl.Decimal(38, 18)))
    assert failing(lossless(lake, bent))[0]["column"] == "change_pct_24h"


def test_a_row_that_its_pull_does_not_hold_is_no_such_record(lake: Lake) -> None:
    rows = one_day(lake, asset()).with_columns(provider_asset_id=pl.lit("made-up"))
    told = lossless(lake, rows)
    assert (told.passed, told.n_failed) == (False, 7)
    assert {row["sent"] for row in failing(told)} == {"no such record"}


def test_records_are_found_on_every_page_of_a_pull(lake: Lake) -> None:
    pages = [answer([asset(f"coin-{n}")], noon(FIRST), pull="paged", page=n, n_pages=2) for n in range(2)]
    land(lake, raw.RawCoincapAssets, *pages)
    told = lossless(lake, settled(lake, trusted.AssetSnapshots, Window.of_day(FIRST)))
    assert (told.passed, told.observed) == (True, "14 values compared, 0 differ")


def test_a_row_must_equal_one_of_the_records_that_repeat_its_id_and_not_a_mixture(lake: Lake) -> None:
    first, second = asset(supply="1", marketCapUsd=None), asset(supply="2", marketCapUsd=None, maxSupply="9")
    rows = one_day(lake, first, second)
    assert rows.select("supply", "max_supply").row(0) == (2, 9)
    assert lossless(lake, rows).passed
    mixed = rows.with_columns(supply=pl.lit(Decimal(1), pl.Decimal(38, 18)))
    told = lossless(lake, mixed)
    assert (told.passed, told.n_failed) == (False, 1)
    assert failing(told)[0]["key"] == "coincap/bitcoin"


def test_only_the_newest_row_of_each_entity_and_day_is_compared(lake: Lake) -> None:
    land(lake, raw.RawCoincapAssets, answer([asset(), asset("delisted")], noon(FIRST, 8)))
    land(lake, raw.RawCoincapAssets, answer([asset()], noon(FIRST, 9)))
    rows = settled(lake, trusted.AssetSnapshots, Window.of_day(FIRST))
    assert lossless(lake, rows).observed == "14 values compared, 0 differ"


def test_an_exchange_of_2018_is_found_by_its_old_id(lake: Lake) -> None:
    old = {"id": "kraken", "name": "Kraken", "rank": "1", "percentTotalVolume": "6.5", "volumeUsd": None}
    new = {"exchangeId": "gdax", "id": "other", "name": "Gdax", "rank": "2", "percentTotalVolume": 7.25}
    rows = one_day(lake, old, new, contract=trusted.ExchangeSnapshots)
    assert rows["exchange_id"].to_list() == ["gdax", "kraken"]
    told = lossless(lake, rows, trusted.ExchangeSnapshots)
    assert (told.passed, told.observed) == (True, "4 values compared, 0 differ")
    bent = rows.with_columns(volume_share_pct=pl.lit(Decimal(7), pl.Decimal(38, 18)))
    assert {row["key"] for row in failing(lossless(lake, bent, trusted.ExchangeSnapshots))} == {
        "coincap/gdax",
        "coincap/kraken",
    }


def test_markets_are_found_by_venue_and_renamed_assets(lake: Lake) -> None:
    sent = {"exchangeId": "kraken", "baseId": "ripple", "quoteId": "united-states-dollar", "priceUsd": "0.5"}
    market = {**sent, "baseSymbol": "XRP", "quoteSymbol": "USD", "priceQuote": "0.5000"}
    rows = one_day(lake, market, contract=trusted.MarketSnapshots)
    assert rows["base_id"].item() == "xrp"
    assert lossless(lake, rows, trusted.MarketSnapshots).observed == "4 values compared, 0 differ"
    bent = rows.with_columns(price_usd=pl.lit(Decimal("0.6"), pl.Decimal(38, 18)))
    told = lossless(lake, bent, trusted.MarketSnapshots)
    assert (told.passed, failing(told)[0]["sent"]) == (False, "0.5")


def test_a_rate_is_compared_with_its_own_currency(lake: Lake) -> None:
    euro = {"id": "euro", "symbol": "EUR", "type": "fiat", "rateUsd": "1.0951234567890123"}
    rows = one_day(lake, euro, {**euro, "id": "dollar", "rateUsd": 1}, contract=trusted.FxRates)
    assert lossless(lake, rows, trusted.FxRates).passed
    swapped = rows.with_columns(rate_usd=pl.col("rate_usd").reverse())
    assert lossless(lake, swapped, trusted.FxRates).n_failed == 2


def test_every_point_of_history_is_compared(lake: Lake) -> None:
    points = [point(day, f"4300{n}.000000000000000001") for n, day in enumerate((FIRST, SECOND, THIRD))]
    land(lake, raw.RawCoincapHistory, history(points, FIRST, THIRD), history(points, FIRST, THIRD, "ripple"))
    rows = settled(lake, trusted.AssetHistory, THREE_DAYS)
    told = verdict("lossless", lake, trusted.AssetHistory, rows, last=THIRD)
    assert (told.passed, told.observed) == (True, "12 values compared, 0 differ")
    swapped = rows.with_columns(price_usd=pl.col("price_usd").shift(1, fill_value=pl.col("price_usd").last()))
    assert not verdict("lossless", lake, trusted.AssetHistory, swapped, last=THIRD).passed


def test_records_that_are_no_objects_and_bare_arrays_do_not_stop_the_comparison(lake: Lake) -> None:
    rows = one_day(lake, 5, None, "x", asset(), {"id": ["bitcoin"]}, {**asset(), "priceUsd": [1]})
    assert lossless(lake, rows).passed
    land(
        lake,
        raw.RawCoincapAssets,
        answer(b'[{"id": "solo", "symbol": "S", "name": "S", "rank": 1, "priceUsd": "7"}]', noon(FIRST, 13)),
    )
    rows = settled(lake, trusted.AssetSnapshots, Window.of_day(FIRST))
    assert rows.filter(asset_id="solo")["price_usd"].item() == 7
    assert lossless(lake, rows).passed
