"""A backfill on S3 that registers in Glue as it writes, asked through Athena's API: the lake is what Athena knows.

SeaweedFS holds the lake, ``crypto-assets athena`` is the account, and the run is a user's: `market_lake` fills it by
the product's own definitions.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import boto3
import polars as pl
import pytest
from botocore.config import Config
from polars.testing import assert_frame_equal

from crypto_assets import cli
from crypto_assets.commands import sql as asking
from crypto_assets.errors import TransientError, UsageError
from crypto_assets.resources import aws
from crypto_assets.resources.athena import AthenaEngine, Bill
from crypto_assets.resources.catalog import Catalog, answerable
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.query import QueryEngine
from crypto_assets.resources.settings import Settings
from crypto_assets.tables import ALL_TABLES
from crypto_assets.tables.contract import comment, fields
from tests.cookbook.recipes import Recipe, recipes
from tests.faults.seaweed import seaweed
from tests.local_athena.endpoint import Aws, running
from tests.market_lake import NOW, market_lake

pytestmark = [pytest.mark.e2e, pytest.mark.s3, pytest.mark.xdist_group("athena")]

every_recipe = pytest.mark.parametrize("recipe", recipes(), ids=lambda recipe: recipe.name)
PRICES = "select asset_id, price_usd, observed_at from refined.latest_assets order by asset_id limit 20"


@dataclass(frozen=True)
class Account:
    """The lake in its bucket, the catalog of it, and both ways to ask."""

    aws: Aws
    lake: Lake
    catalog: Catalog
    here: QueryEngine
    there: AthenaEngine

    def table(self, database: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.aws.client("glue").get_table(DatabaseName=database, Name=name)["Table"]
        return found


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    home = tmp_path_factory.mktemp("account")
    with pytest.MonkeyPatch.context() as patch, seaweed(home / "s3") as store:
        options = store.options()
        keys = {key: options[key] for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        with running("--s3-endpoint", options["AWS_ENDPOINT_URL"], environment=keys) as aws:
            told = {
                **options,
                "AWS_ENDPOINT_URL_ATHENA": aws.url,
                "AWS_ENDPOINT_URL_GLUE": aws.url,
                "CRYPTO_ASSETS_LAKE_URI": "s3://lake/tables",
                "CRYPTO_ASSETS_CATALOG": "glue",
                "CRYPTO_ASSETS_STATE_DIR": str(home / "state"),
            }
            for key, value in told.items():
                patch.setenv(key, value)
            settings = Settings()
            catalog = Catalog(prefix=settings.catalog_prefix, region="us-east-1")
            lake = market_lake(
                home, Lake(settings.lake_root, storage_options=options, clock=FixedClock(NOW), catalog=catalog)
            )
            there = asking.athena(settings)
            there._poll_s = 0.05
            with asking.engine(lake) as here, there:
                yield Account(aws, lake, catalog, here, there)


def test_what_was_written_is_registered_with_its_comments(account: Account) -> None:
    written = [contract for contract in ALL_TABLES if account.lake.state(contract) is not None]
    assert len(written) > 40
    for contract in written:
        told = account.table(f"crypto_{contract.table.zone}", contract.table.name)
        assert told["StorageDescriptor"]["SerdeInfo"]["Parameters"]["path"] == account.lake.uri(contract)
        comments = {column["Name"]: column.get("Comment") for column in told["StorageDescriptor"]["Columns"]}
        assert comments == {field.name: comment(field) for field in fields(contract)}
        assert all(comments.values())
    views = account.aws.client("glue").get_tables(DatabaseName="crypto_refined", Expression="currency")["TableList"]
    assert [view["TableType"] for view in views if view["Name"] == "currency"] == ["VIRTUAL_VIEW"]
    assert account.catalog.check(account.lake) == []


@pytest.fixture(scope="module")
def answers(account: Account) -> Iterator[dict[str, Future[tuple[pl.DataFrame, Bill | None]]]]:
    """Athena's answers to the cookbook, asked two at a time."""

    def ask(recipe: Recipe) -> tuple[pl.DataFrame, Bill | None]:
        return account.there.query(recipe.text), account.there.last

    with ThreadPoolExecutor(2) as pool:
        yield {recipe.name: pool.submit(ask, recipe) for recipe in recipes()}
        pool.shutdown(cancel_futures=True)


@every_recipe
def test_a_question_of_the_cookbook_has_one_answer(
    account: Account, answers: dict[str, Future[tuple[pl.DataFrame, Bill | None]]], recipe: Recipe
) -> None:
    here = account.here.query(recipe.text)
    there, bill = answers[recipe.name].result()
    assert there.height > 0
    # Sums of doubles depend on the order in which threads meet.
    assert_frame_equal(there, here, check_row_order=False, rel_tol=1e-9)
    assert bill is not None
    assert bill.state == "SUCCEEDED"
    assert bill.scanned_bytes > 0


def test_the_command_line_asks_athena_and_says_what_it_cost(
    account: Account, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["sql", "--engine", "athena", "--json", PRICES]) == 0
    told = capfd.readouterr()
    rows = [json.loads(line) for line in told.out.splitlines()]
    assert [row["asset_id"] for row in rows] == account.here.query(PRICES)["asset_id"].to_list()
    assert "MB scanned" in told.err


def test_a_catalog_deleted_and_made_again_loses_nothing(account: Account) -> None:
    written = {contract.table.full_name for contract in ALL_TABLES if account.lake.state(contract) is not None}
    asked = [PRICES, *(f"select count(*) as n from {view}" for view in answerable(written))]
    assert len(asked) > 6
    glue = account.aws.client("glue")

    def entries() -> dict[str, Any]:
        databases = ("crypto_raw", "crypto_trusted", "crypto_refined", "crypto_quality")
        pages = [page for d in databases for page in glue.get_paginator("get_tables").paginate(DatabaseName=d)]
        by_glue = {"CreateTime", "UpdateTime", "VersionId"}
        tables = [table for page in pages for table in page["TableList"]]
        return {f"{t['DatabaseName']}.{t['Name']}": {k: v for k, v in t.items() if k not in by_glue} for t in tables}

    before, held = [account.there.query(sql) for sql in asked], entries()
    for database in ("crypto_raw", "crypto_trusted", "crypto_refined", "crypto_quality"):
        account.aws.run(f"drop database {database} cascade")
    with pytest.raises(UsageError, match=r"Athena does not know it"):
        account.there.query(PRICES)
    assert account.catalog.make_databases()
    assert {entry.done for entry in account.catalog.rebuild(account.lake)} == {"registered"}
    assert entries() == held
    for sql, answer in zip(asked, before, strict=True):
        assert_frame_equal(account.there.query(sql), answer, check_row_order=False)


def test_a_table_dropped_or_changed_by_hand_is_found_named_and_mended(account: Account) -> None:
    account.aws.run("drop table crypto_refined.latest_assets")
    changed = account.table("crypto_trusted", "fx_rates")
    kept = ("Name", "TableType", "Parameters", "PartitionKeys", "StorageDescriptor", "Description", "Owner")
    changed["StorageDescriptor"]["Columns"].pop()
    account.aws.client("glue").update_table(
        DatabaseName="crypto_trusted", TableInput={key: changed[key] for key in kept if key in changed}
    )
    found = {(drift.table, drift.what) for drift in account.catalog.check(account.lake)}
    assert ("refined.latest_assets", "missing") in found
    assert ("trusted.fx_rates", "columns") in found
    with pytest.raises(UsageError, match="latest_assets: Athena does not know it") as unknown:
        account.there.query(PRICES)
    assert "\n" not in str(unknown.value)
    assert "catalog sync" in unknown.value.hint
    done = {entry.table: entry.done for entry in account.catalog.sync_all(account.lake)}
    assert (done["refined.latest_assets"], done["trusted.fx_rates"]) == ("registered", "updated")
    assert account.catalog.check(account.lake) == []
    assert_frame_equal(account.there.query(PRICES), account.here.query(PRICES))


def test_a_query_over_the_workgroups_bytes_is_one_line(account: Account) -> None:
    # Less than AWS would take as a limit, as the lake is smaller than what would reach it.
    client = boto3.client("athena", region_name="us-east-1", config=Config(parameter_validation=False))
    client.create_work_group(
        Name="small",
        Configuration={
            "BytesScannedCutoffPerQuery": 100,
            "EnforceWorkGroupConfiguration": True,
            "ResultConfiguration": {"OutputLocation": "s3://lake/small/"},
        },
    )
    limited = asking.athena(Settings(athena_workgroup="small"))
    with limited, pytest.raises(UsageError, match="more bytes than the workgroup allows") as refused:
        limited.query(PRICES)
    assert "\n" not in str(refused.value)
    assert limited.last is not None
    assert (limited.last.state, limited.last.scanned_bytes) == ("CANCELLED", 100)


def test_a_query_that_somebody_cancels_is_one_line(account: Account) -> None:
    account.aws.faults(hold_s=20)
    known = set(ids(account))

    def cancel() -> None:
        while not (new := set(ids(account)) - known):
            time.sleep(0.05)
        account.aws.client("athena").stop_query_execution(QueryExecutionId=new.pop())

    somebody = threading.Thread(target=cancel)
    somebody.start()
    try:
        with pytest.raises(TransientError, match="was cancelled at Athena; no table was changed") as stopped:
            account.there.query(PRICES)
    finally:
        somebody.join()
        account.aws.faults()
    assert "\n" not in str(stopped.value)
    assert account.there.query(PRICES).height == 20


def test_throttling_is_waited_out_and_then_one_line(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws, "ATTEMPTS", 2)  # each further one waits twice as long
    with asking.athena(Settings()) as engine:
        account.aws.faults(refuse_next=1)
        assert engine.query("select 1 as one").equals(pl.DataFrame({"one": [1]}, schema={"one": pl.Int32}))
        account.aws.faults(active_query_quota=0)
        with pytest.raises(TransientError, match="throttles") as refused:
            engine.query("select 1 as one")
        account.aws.faults()
    assert "\n" not in str(refused.value)


def ids(account: Account) -> list[str]:
    """The workgroup's queries."""
    found: list[str] = account.aws.client("athena").list_query_executions(WorkGroup="crypto_assets")[
        "QueryExecutionIds"
    ]
    return found
