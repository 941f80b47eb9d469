"""``crypto-assets catalog``: what people type to see and mend what Athena knows."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import boto3
import polars as pl
import pytest

from crypto_assets import cli
from crypto_assets.resources.lake import Lake
from crypto_assets.tables.trusted import FxRates
from crypto_assets.tables.window import Window

DAY = Window.of_day(date(2024, 1, 1))
EQUAL = "Glue is equal to the lake\n"


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def prefix() -> str:
    return f"t{uuid4().hex[:8]}_"


@pytest.fixture
def say(
    prefix: str,
    s3_options: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Said]:
    """``catalog``, or another command, over a lake in a directory, with moto's Glue."""
    for name, value in s3_options.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CRYPTO_ASSETS_LAKE_URI", str(tmp_path / "lake"))
    monkeypatch.setenv("CRYPTO_ASSETS_CATALOG", "glue")
    monkeypatch.setenv("CRYPTO_ASSETS_CATALOG_PREFIX", prefix)

    def call(*words: str, command: str = "catalog") -> Said:
        code = cli.main([command, *words])
        return Said(code, *capsys.readouterr())

    return call


@pytest.fixture
def lake(tmp_path: Path, rows_of: Callable[..., pl.DataFrame]) -> Lake:
    """A lake that nobody has registered."""
    held = Lake(str(tmp_path / "lake"))
    noon = datetime(2024, 1, 1, 12, tzinfo=UTC)
    held.replace(FxRates, rows_of(FxRates, {"currency_id": "euro", "observed_at": noon}), DAY)
    return held


@pytest.fixture
def glue(s3_options: dict[str, str]) -> Any:
    return boto3.client(
        "glue",
        endpoint_url=s3_options["AWS_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


@pytest.mark.usefixtures("lake")
def test_from_nothing_to_equal(say: Callable[..., Said], prefix: str) -> None:
    refused = say("sync")
    assert refused.code == 4
    assert refused.err == (
        f"error: Glue in us-east-1 has no database {prefix}trusted — glue; "
        "the lake is untouched, and each entry in Glue is a whole one\n"
        "hint: deploy it, or make it with crypto-assets catalog sync --create; "
        "if it is there, check AWS_REGION and CRYPTO_ASSETS_CATALOG_PREFIX\n"
    )
    made = say("sync", "--create")
    assert made.code == 0
    assert made.err.splitlines() == [
        f"made the database {prefix}{zone}" for zone in ("raw", "trusted", "refined", "quality")
    ]
    assert made.rows == [
        {"table": "trusted.fx_rates", "database": f"{prefix}trusted", "done": "registered"},
        {"table": "refined.currency_value", "database": f"{prefix}refined", "done": "registered"},
    ]
    assert {row["done"] for row in say("sync").rows} == {"equal"}
    assert say("check") == Said(0, "", EQUAL)


@pytest.mark.usefixtures("lake")
def test_drift_is_rows_an_error_and_the_way_to_mend_it(say: Callable[..., Said], prefix: str, glue: Any) -> None:
    say("sync", "--create")
    glue.delete_table(DatabaseName=f"{prefix}trusted", Name="fx_rates")
    glue.create_table(DatabaseName=f"{prefix}raw", TableInput={"Name": "bobs"})
    found = say("check")
    assert found.code == 1
    assert [(row["table"], row["what"]) for row in found.rows] == [
        ("raw.bobs", "stray"),
        ("trusted.fx_rates", "missing"),
    ]
    assert found.err == (
        "error: 2 differences in 2 tables: raw.bobs, trusted.fx_rates — glue; the lake is untouched\n"
        f"hint: move {prefix}raw.bobs to a database of its own; "
        "crypto-assets catalog sync mends what is missing or changed\n"
    )
    told = next(row for row in say(command="doctor").rows if row["subject"] == "catalog")
    assert (told["ok"], told["seen"]) == (False, "2 differences in 2 tables: raw.bobs, trusted.fx_rates")
    assert say("sync").code == 0
    assert [row["table"] for row in say("check").rows] == ["raw.bobs"]


def test_another_lakes_tables_are_left_alone_until_a_rebuild(
    say: Callable[..., Said], lake: Lake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, prefix: str
) -> None:
    say("sync", "--create")
    (tmp_path / "lake").rename(tmp_path / "moved")
    monkeypatch.setenv("CRYPTO_ASSETS_LAKE_URI", str(tmp_path / "moved"))
    refused = say("sync")
    assert refused.code == 4
    assert refused.rows[0]["done"] == "elsewhere"
    assert refused.err == (
        "error: 1 tables are registered at another address, which may be another lake's — trusted.fx_rates; "
        "they were left alone\n"
        "hint: set another CRYPTO_ASSETS_CATALOG_PREFIX, or crypto-assets catalog rebuild --take-over\n"
    )
    kept = say("rebuild")
    assert (kept.code, kept.rows) == (4, [])
    moved = tmp_path / "moved"
    assert kept.err.splitlines() == [
        f"error: 1 entries are of another lake than {moved} — {prefix}trusted.fx_rates; nothing was deleted",
        "hint: correct CRYPTO_ASSETS_LAKE_URI or CRYPTO_ASSETS_CATALOG_PREFIX, or say --take-over",
    ]
    assert {row["done"] for row in say("rebuild", "--take-over").rows} == {"registered"}
    assert say("check") == Said(0, "", EQUAL)
    assert lake.root != str(tmp_path / "moved")


def test_the_fallback_is_statements_of_what_the_lake_holds(say: Callable[..., Said], lake: Lake, prefix: str) -> None:
    told = say("ddl")
    assert told.code == 0
    tables, views = told.out.split("CREATE OR REPLACE VIEW", 1)
    assert tables == (
        f"CREATE EXTERNAL TABLE IF NOT EXISTS {prefix}trusted.fx_rates\n"
        f"LOCATION 'file://{lake.uri(FxRates)}/'\n"
        "TBLPROPERTIES ('table_type' = 'DELTA');\n"
    )
    assert views.startswith(f" {prefix}refined.currency_value AS\nSELECT ")


def test_without_a_catalog_there_is_nothing_to_do(say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYPTO_ASSETS_CATALOG", "none")
    assert say("check") == Said(
        4,
        "",
        "error: no catalog is set — CRYPTO_ASSETS_CATALOG; nothing was done\n"
        "hint: set CRYPTO_ASSETS_CATALOG=glue, and AWS_REGION\n",
    )
