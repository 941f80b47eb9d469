"""Ids and names that want to be a path, a predicate, a statement or a formula: each ends as a plain value or a refusal.

SQL attacks on the query engine are in ``tests/resources/test_query.py``, addresses in ``tests/resources/test_http.py``.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crypto_assets import cli
from crypto_assets.commands import output
from crypto_assets.errors import UsageError
from crypto_assets.providers.coincap import check_id
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.predicates import literal
from crypto_assets.tables import raw
from crypto_assets.tables.quality import CheckResults, Quarantine
from tests.conftest import RowsOf
from tests.faults.hostile import answer
from tests.faults.payloads import DAY, N_ASSETS, NOON, asset, assets, body, line

HOSTILE = [
    "../../etc/passwd",
    "..%2F..%2Fevil",
    "a/b",
    "a\\b",
    "x' OR '1'='1",
    "x'; DROP TABLE assets; --",
    'x" OR ""="',
    "date=2026-10-01",
    "a\nb",
    "-rf",
    "",
    ".",
    "é",
    "A" * 300,
]


@pytest.mark.parametrize("asset_id", HOSTILE)
@pytest.mark.fault(row=102, fault="ids and names that are paths or predicates", promise="a plain value or a refusal")
def test_an_id_that_is_no_id_becomes_no_path(asset_id: str) -> None:
    with pytest.raises(UsageError, match="is not an asset id") as error:
        check_id(asset_id)
    assert "\n" not in str(error.value)


@pytest.mark.fault(row=102, fault="ids and names that are paths or predicates", promise="a plain value or a refusal")
def test_hostile_ids_of_a_provider_end_in_quarantine_and_name_no_file(tmp_path: Path) -> None:
    poisoned = [asset(500 + i, id=told) for i, told in enumerate(HOSTILE)]
    with line(tmp_path, answer(body([*assets(401), *poisoned]))) as on:
        on.pull()
        assert on.settle().height == 401
        refused = on.lake.read(Quarantine)
        assert refused.height == len(HOSTILE)
        assert refused.filter(~pl.col("reasons").str.contains(r"asset_id\|")).is_empty()
    folders = {path.name for path in (tmp_path / "lake").rglob("*") if path.is_dir()}
    assert folders == {
        "raw",
        "coincap_assets",
        "trusted",
        "asset_snapshots",
        "quality",
        "quarantine",
        "revision_ledger",
        "date=2026-10-01",
        "table_name=trusted.asset_snapshots",
        "_delta_log",
    }


def verdict(name: str, check: str = "c") -> dict[str, Any]:
    return {"table_name": name, "check_name": check, "date": NOON.date(), "passed": True}


@pytest.mark.parametrize("name", [told for told in HOSTILE if 0 < len(told) < 200])
@pytest.mark.fault(row=102, fault="ids and names that are paths or predicates", promise="a plain value or a refusal")
def test_a_predicate_of_a_hostile_name_reaches_that_name_only(tmp_path: Path, rows_of: RowsOf, name: str) -> None:
    lake = Lake(str(tmp_path / "lake"))
    for table in (name, "trusted.fx_rates"):
        lake.replace(CheckResults, rows_of(CheckResults, verdict(table)), DAY, where={"table_name": table})
    lake.replace(CheckResults, rows_of(CheckResults), DAY, where={"table_name": name})
    assert lake.read(CheckResults)["table_name"].to_list() == ["trusted.fx_rates"]
    outside = [path for path in tmp_path.iterdir() if path.name != "lake"]
    assert outside == []


@given(st.text(max_size=50))
def test_a_literal_is_one_literal(text: str) -> None:
    told = literal(text)
    assert told[0] == told[-1] == "'"
    assert told[1:-1].replace("''", "") == text.replace("'", "")
    assert told[1:-1].count("'") == 2 * text.count("'")


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--select", "../../etc"],
        ["run", "--select", "trusted/fx_rates' OR '1'='1"],
        ["run", "--select", "trusted.fx_rates;drop"],
        ["run", "--day", "2026-10-01' OR 1=1"],
        ["backfill", "--from", "../2026-10-01", "--yes"],
        ["show", "trusted.fx_rates; drop table x"],
        ["show", "trusted.fx_rates where 1=1"],
        ["show", 'refined.movers" union select 1 --'],
        ["show", "../../etc/passwd"],
        ["quarantine", "show", "--table", "trusted.fx_rates' OR '1'='1"],
        ["quarantine", "show", "--day", "2026-10-01' OR 1=1"],
        ["quarantine", "replay", "--table", "../../x"],
    ],
)
@pytest.mark.fault(row=102, fault="ids and names that are paths or predicates", promise="a plain value or a refusal")
def test_the_command_line_takes_names_and_no_statements(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CRYPTO_ASSETS_LAKE_URI", str(tmp_path / "lake"))
    monkeypatch.setenv("CRYPTO_ASSETS_STATE_DIR", str(tmp_path / "state"))
    assert cli.main(words) == UsageError.exit_code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert len(said.err.splitlines()) == 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    name=st.text(min_size=1, max_size=20).map(lambda text: text.replace("\x00", "")).filter(bool),
    sign=st.sampled_from(["", "=", "+", "-", "@", "\t", "\r", "\n", "=cmd|' /C calc'!A0", '=HYPERLINK("x")']),
    text=st.text(max_size=20).map(lambda text: text.replace("\x00", "")),
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.fault(
    row=103, fault="a text that a spreadsheet would run", promise="no cell and no header of an export begins a formula"
)
def test_no_cell_and_no_header_of_an_export_begins_a_formula(
    capsys: pytest.CaptureFixture[str], name: str, sign: str, text: str
) -> None:
    """A column is called what the SQL calls it: a header is as foreign as a cell."""
    capsys.readouterr()
    output.rows([{f"{sign}{name}": f"{sign}{text}", "n": -1}], output.Format.CSV)
    header, row = csv.reader(io.StringIO(capsys.readouterr().out, newline=""))
    for told, sent in ((header[0], f"{sign}{name}"), (row[0], f"{sign}{text}")):
        assert told in (sent, f"'{sent}")
        assert not told.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert (header[1], row[1]) == ("n", "-1")


def test_raw_keeps_a_hostile_record_to_the_byte(tmp_path: Path) -> None:
    sent = body(assets(name="'; DROP TABLE x; --"))
    with line(tmp_path, answer(sent)) as on:
        on.pull()
        assert on.lake.read(raw.RawCoincapAssets)["body"].item() == sent
        assert on.settle().height == N_ASSETS
