"""Every kind of expectation passes on good rows and fails on broken ones, and the library stays quiet and offline."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from crypto_assets.checks import suites
from crypto_assets.checks.verdicts import Severity, Verdict
from crypto_assets.tables import ALL_TABLES, raw, refined, trusted
from crypto_assets.tables.contract import Contract, Table, Write, Zone, key
from tests.conftest import NOON, RowsOf

SNAPSHOTS = trusted.AssetSnapshots


def told_of(contract: type[Contract], rows: pl.DataFrame) -> Mapping[str, Verdict]:
    return {verdict.check: verdict for verdict in suites.verdicts(suites.validate(contract, rows))}


def broken(contract: type[Contract], rows: pl.DataFrame) -> list[Verdict]:
    return [verdict for verdict in told_of(contract, rows).values() if not verdict.passed]


# ---- what a contract implies ----


def test_good_rows_meet_every_expectation(rows_of: RowsOf) -> None:
    told = told_of(SNAPSHOTS, rows_of(SNAPSHOTS, {"asset_id": "a"}, {"asset_id": "b", "supply": 5, "max_supply": 5}))
    assert [v for v in told.values() if not v.passed] == []
    assert len(told) == suites.expectation_count(SNAPSHOTS) == 15
    assert {v.suite for v in told.values()} == {"great_expectations"}
    columns = told["expect_table_columns_to_match_ordered_list:table"]
    assert (columns.observed, columns.expected) == ("as expected", "as the contract says")
    assert told["expect_column_values_to_be_between:price_usd"].observed == "0 of 2 unexpected"


def test_a_repeated_key_of_several_columns_is_seen(rows_of: RowsOf) -> None:
    (told,) = broken(SNAPSHOTS, rows_of(SNAPSHOTS, {"asset_id": "a"}, {"asset_id": "a"}, {"asset_id": "b"}))
    assert told.check == "expect_compound_columns_to_be_unique:table"
    assert (told.observed, told.n_failed, told.severity) == ("2 of 3 unexpected", 2, Severity.ERROR)
    row = {"provider": "x", "observed_at": "2024-01-01 12:00:00", "asset_id": "a"}
    assert json.loads(told.failing_rows or "") == [row, row]


class Venues(Contract):
    """A table with a key of one column, as none of ours is yet."""

    table = Table(zone=Zone.REFINED, name="venues", group="test", cadence="never", write=Write.MERGE, partition_by=())

    venue = key("Where it trades.")


def test_a_repeated_key_of_one_column_is_seen() -> None:
    assert broken(Venues, pl.DataFrame({"venue": ["kraken", "gdax"]})) == []
    (told,) = broken(Venues, pl.DataFrame({"venue": ["kraken", "gdax", "kraken"]}))
    assert told.check == "expect_column_values_to_be_unique:venue"
    assert (told.observed, told.failing_rows) == ("2 of 3 unexpected", '["kraken", "kraken"]')


def test_a_missing_key_is_seen(rows_of: RowsOf) -> None:
    (told,) = broken(SNAPSHOTS, rows_of(SNAPSHOTS, {"asset_id": "a"}, {"asset_id": None}))
    assert told.check == "expect_column_values_to_not_be_null:asset_id"
    assert (told.observed, told.n_failed, told.failing_rows) == ("1 of 2 unexpected", 1, "[null]")
    assert told.is_blocking


BOUNDS = [
    (SNAPSHOTS, "price_usd", Decimal("-0.000000000000000001"), "min_value 0.0, max_value 1000000000.0"),
    (SNAPSHOTS, "price_usd", Decimal(10**9 + 1), "min_value 0.0, max_value 1000000000.0"),
    (SNAPSHOTS, "change_pct_24h", Decimal("-100.1"), "min_value -100.0"),
    (SNAPSHOTS, "rank", 0, "min_value 1.0"),
    (trusted.ExchangeSnapshots, "volume_share_pct", Decimal("100.1"), "min_value 0.0, max_value 100.0"),
    (trusted.ExchangeSnapshots, "n_trading_pairs", -1, "min_value 0.0"),
    (refined.MarketOverview, "exchange_hhi", 1.01, "min_value 0.0, max_value 1.0"),
]


@pytest.mark.parametrize(("contract", "column", "value", "expected"), BOUNDS)
def test_a_number_outside_its_bounds_is_seen(
    rows_of: RowsOf, contract: Any, column: str, value: Any, expected: str
) -> None:
    clock = contract.table.clock
    rows = rows_of(contract, {}, {clock: NOON + timedelta(hours=1), column: value})
    (told,) = broken(contract, rows)
    assert told.check == f"expect_column_values_to_be_between:{column}"
    assert (told.observed, told.n_failed, told.expected) == ("1 of 2 unexpected", 1, expected)
    assert json.loads(told.failing_rows or "") == [pytest.approx(float(value))]
    assert told.is_blocking


@pytest.mark.parametrize("change", ["extra", "missing", "order"])
def test_other_columns_than_the_contracts_are_seen(rows_of: RowsOf, change: str) -> None:
    rows = rows_of(trusted.FxRates, {"currency_kind": "fiat"})
    changed = {
        "extra": rows.with_columns(extra=1),
        "missing": rows.drop("symbol"),
        "order": rows.select(reversed(rows.columns)),
    }
    (told,) = broken(trusted.FxRates, changed[change])
    assert told.check == "expect_table_columns_to_match_ordered_list:table"
    assert told.observed.startswith("found [")
    assert told.is_blocking


def test_an_expectation_that_cannot_be_judged_is_a_failed_verdict_that_says_so(rows_of: RowsOf) -> None:
    told = told_of(trusted.FxRates, rows_of(trusted.FxRates, {"currency_kind": "fiat"}).drop("rate_usd"))
    verdict = told["expect_column_values_to_be_between:rate_usd"]
    assert not verdict.passed
    assert verdict.observed.startswith("the expectation itself failed: ")
    assert "rate_usd" in verdict.observed
    assert "\n" not in verdict.observed
    assert verdict.is_blocking


# ---- what is written by hand ----


IN_SET = [
    *((source, "outcome", "ok") for source in raw.TABLES),
    (trusted.FxRates, "currency_kind", "crypto"),
    (trusted.AssetHistory, "interval", "d1"),
    (refined.AssetDaily, "source_kind", "history"),
    (refined.DimAsset, "status", "delisted"),
    (refined.DimExchange, "status", "active"),
]


@pytest.mark.parametrize(("contract", "column", "good"), IN_SET)
def test_a_word_that_is_none_of_the_known_ones_is_seen(rows_of: RowsOf, contract: Any, column: str, good: str) -> None:
    assert broken(contract, rows_of(contract, {column: good})) == []
    (told,) = broken(contract, rows_of(contract, {column: "surprise"}))
    assert told.check == f"expect_column_values_to_be_in_set:{column}"
    assert (told.observed, told.n_failed, told.failing_rows) == ("1 of 1 unexpected", 1, '["surprise"]')
    assert good in told.expected
    assert told.is_blocking


def supplies(n_above: int, n: int) -> list[dict[str, Any]]:
    return [{"asset_id": f"coin-{i}", "supply": 6 if i < n_above else 5, "max_supply": 5} for i in range(n)]


def test_more_units_than_can_exist_are_a_warning_from_one_in_twenty_on(rows_of: RowsOf) -> None:
    unknown = {"asset_id": "unlimited", "supply": 9}
    told = told_of(SNAPSHOTS, rows_of(SNAPSHOTS, *supplies(1, 20), unknown))
    pair = told["expect_column_pair_values_a_to_be_greater_than_b:max_supply"]
    assert (pair.passed, pair.n_failed) == (True, 1)
    (pair,) = broken(SNAPSHOTS, rows_of(SNAPSHOTS, *supplies(2, 20), unknown))
    assert pair.check == "expect_column_pair_values_a_to_be_greater_than_b:max_supply"
    assert (pair.severity, pair.is_blocking) == (Severity.WARNING, False)
    assert json.loads(pair.failing_rows or "") == [[5.0, 6.0], [5.0, 6.0]]
    assert "mostly 0.95" in pair.expected


# ---- all tables ----


def test_every_table_has_a_suite_of_named_expectations_that_an_empty_table_meets(rows_of: RowsOf) -> None:
    for contract in ALL_TABLES:
        verdicts = suites.verdicts(suites.validate(contract, rows_of(contract).clear()))
        assert len(verdicts) >= 4, contract
        assert len({verdict.check for verdict in verdicts}) == len(verdicts), contract
        assert [verdict for verdict in verdicts if not verdict.passed] == [], contract


def test_no_more_than_twenty_failing_values_are_kept(rows_of: RowsOf) -> None:
    rows = rows_of(SNAPSHOTS, *[{"asset_id": f"coin-{i}", "rank": -i} for i in range(50)])
    (told,) = broken(SNAPSHOTS, rows)
    assert (told.n_failed, len(json.loads(told.failing_rows or ""))) == (50, 20)


def test_the_result_is_a_page_of_data_docs(rows_of: RowsOf, tmp_path: Path) -> None:
    rows = rows_of(SNAPSHOTS, {"asset_id": "a", "price_usd": Decimal(-7)})
    page = tmp_path / "new" / "page.html"
    suites.write_docs(suites.validate(SNAPSHOTS, rows), page)
    html = page.read_text()
    assert "trusted.asset_snapshots" in html
    assert "price_usd" in html
    assert "-7" in html


QUIET = """
import socket, sys, warnings
warnings.simplefilter("error")
def refuse(*args, **kwargs):
    raise SystemExit("a network call")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from pathlib import Path
import crypto_assets.checks.asset_checks, crypto_assets.checks.rules
from crypto_assets.checks import suites
assert not {"great_expectations", "pandas"} & set(sys.modules), "imported too early"
from crypto_assets.tables import trusted
from crypto_assets.tables.contract import polars_schema
import polars as pl
result = suites.validate(trusted.FxRates, pl.DataFrame(schema=polars_schema(trusted.FxRates)))
suites.write_docs(result, Path(sys.argv[1]))
assert "great_expectations" in sys.modules
"""


def test_the_library_is_imported_on_first_use_prints_nothing_and_calls_nobody(tmp_path: Path) -> None:
    command = [sys.executable, "-c", QUIET, str(tmp_path / "page.html")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
