"""Glue is what the lake is: entries, views, drift, races and refusals, against moto's Glue in a process of its own."""

from __future__ import annotations

import base64
import datetime as dt
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import boto3
import dagster as dg
import polars as pl
import pytest
import sqlglot
from botocore.exceptions import ClientError
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from crypto_assets.assets.handles import LakeHandle
from crypto_assets.automation import jobs
from crypto_assets.errors import DataError, NeedsYouError, TransientError
from crypto_assets.resources.catalog import (
    Catalog,
    answerable,
    catalog_of,
    ddl,
    location,
    reads,
    table_input,
    view_input,
    view_sql,
)
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.query import QueryEngine
from crypto_assets.tables import ALL_TABLES, BY_NAME, Contract
from crypto_assets.tables.contract import comment, description, fields, fingerprint, polars_schema
from crypto_assets.tables.refined import DimAsset, LatestAssets, TradeBars1m, TradeBars1s
from crypto_assets.tables.stream import RawStreamPrices, RawTrades
from crypto_assets.tables.trusted import AssetSnapshots, FxRates
from crypto_assets.tables.views import VIEWS
from crypto_assets.tables.window import Window

RowsOf = Callable[..., pl.DataFrame]
NOON = dt.datetime(2024, 1, 1, 12, tzinfo=dt.UTC)
DAY = Window.of_day(dt.date(2024, 1, 1))
NAME = "trusted.fx_rates"


@pytest.fixture(scope="module")
def glue(s3_options: dict[str, str]) -> Iterator[Any]:
    """boto3's client for moto's Glue."""
    client = boto3.client(
        "glue",
        endpoint_url=s3_options["AWS_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    yield client
    client.close()


@pytest.fixture
def prefix() -> str:
    """A prefix of the test's own: the server is shared."""
    return f"t{uuid4().hex[:8]}_"


@pytest.fixture
def catalog(glue: Any, prefix: str) -> Catalog:
    """A catalog whose databases are there and empty."""
    made = Catalog(glue, prefix, clock=FixedClock(NOON))
    made.make_databases()
    return made


@pytest.fixture
def lake(tmp_path: Path, catalog: Catalog) -> Lake:
    """An empty lake in a directory, whose tables are registered."""
    return Lake(str(tmp_path / "lake"), run_id="run-1", clock=FixedClock(NOON), catalog=catalog)


@pytest.fixture
def rates(rows_of: RowsOf) -> pl.DataFrame:
    return rows_of(FxRates, {"currency_id": "euro", "observed_at": NOON, "rate_usd": Decimal("1.1")})


def beside(lake: Lake) -> Lake:
    """The same lake as another process would open it, without a catalog."""
    return Lake(lake.root, clock=FixedClock(NOON))


def entry(glue: Any, database: str, table: str) -> dict[str, Any]:
    return dict(glue.get_table(DatabaseName=database, Name=table)["Table"])


def names(glue: Any, prefix: str) -> set[str]:
    return {
        f"{zone}.{table['Name']}"
        for zone in ("raw", "trusted", "refined", "quality")
        for table in glue.get_tables(DatabaseName=f"{prefix}{zone}")["TableList"]
    }


def written(held: dict[str, Any]) -> dict[str, Any]:
    """An entry without what Glue itself says of it."""
    said_by_glue = {"CreateTime", "UpdateTime", "VersionId", "DatabaseName", "CreatedBy", "CatalogId"}
    return {name: value for name, value in held.items() if name not in said_by_glue}


class Through:
    """A client that runs something before a call the first time, as another writer would."""

    def __init__(self, client: Any, **before: Callable[[], object]) -> None:
        self._client, self._before, self.calls = client, before, list[str]()

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        if run := self._before.pop(name, None):
            run()
        return getattr(self._client, name)


# ---- what an entry says ----


def test_an_entry_is_a_native_delta_table_as_athena_and_trino_look_for_it() -> None:
    told = table_input(FxRates, "s3://lake/prod/trusted/fx_rates")
    storage = told["StorageDescriptor"]
    assert (told["Name"], told["TableType"], told["PartitionKeys"]) == ("fx_rates", "EXTERNAL_TABLE", [])
    assert told["Owner"] == "team:market-data"
    assert told["Description"] == description(FxRates)
    assert told["Parameters"] == {
        "EXTERNAL": "TRUE",
        "classification": "delta",
        "spark.sql.sources.provider": "delta",
        "table_type": "DELTA",
        "crypto_assets.contract": fingerprint(FxRates),
        "crypto_assets.zone": "trusted",
        "crypto_assets.grain": "provider, observed_at, currency_id",
        "crypto_assets.partition_by": "date",
        "crypto_assets.cadence": FxRates.table.cadence,
        "crypto_assets.retention": "for ever",
        "crypto_assets.owner": "team:market-data",
    }
    assert storage["Location"] == "s3://lake/prod/trusted/fx_rates"
    assert storage["SerdeInfo"]["Parameters"]["path"] == "s3://lake/prod/trusted/fx_rates"


def test_all_columns_are_told_with_their_type_unit_and_kind() -> None:
    told = {
        column["Name"]: (column["Type"], column["Comment"])
        for column in table_input(FxRates, "s3://lake/x")["StorageDescriptor"]["Columns"]
    }
    assert told["rate_usd"] == ("decimal(38,18)", "USD for one unit. [USD; instant]")
    assert told["observed_at"] == ("timestamp", "Provider's time of the fact. [UTC; clock]")
    assert told["date"][0] == "date"
    assert told["n_duplicates"][0] == "int"
    assert list(told) == [field.name for field in fields(FxRates)]


@pytest.mark.parametrize("contract", ALL_TABLES, ids=lambda c: c.table.full_name)
def test_every_contract_fits_glues_limits(contract: type[Contract]) -> None:
    told = table_input(contract, "s3://lake/x")
    assert re.fullmatch(r"[a-z_][a-z0-9_]{0,127}", told["Name"])
    assert len(told["Description"].encode()) <= 2048
    assert all(0 < len(column["Comment"].encode()) <= 255 for column in told["StorageDescriptor"]["Columns"])
    assert {column["Type"] for column in told["StorageDescriptor"]["Columns"]} <= {
        *("string", "binary", "boolean", "int", "bigint", "double", "date", "timestamp", "decimal(38,18)")
    }
    assert all(len(key) <= 255 and value for key, value in told["Parameters"].items() if "partition_by" not in key)


def test_names_types_and_order_are_the_logs_and_comments_the_contracts() -> None:
    log = {"rate_usd": "decimal(38,18)", "n_duplicates": "integer", "provider": "string"}
    told = table_input(FxRates, "s3://lake/x", log)["StorageDescriptor"]["Columns"]
    assert [(column["Name"], column["Type"]) for column in told] == [
        ("rate_usd", "decimal(38,18)"),
        ("n_duplicates", "int"),
        ("provider", "string"),
    ]
    assert told[0]["Comment"] == comment(next(f for f in fields(FxRates) if f.name == "rate_usd"))


def test_the_log_says_a_tables_columns_with_deltas_types(lake: Lake, rates: pl.DataFrame) -> None:
    assert lake.schema(FxRates) is None
    lake.replace(FxRates, rates, DAY)
    told = lake.schema(FxRates) or {}
    assert list(told) == [field.name for field in fields(FxRates)]
    assert told["rate_usd"] == "decimal(38,18)"
    assert told["observed_at"] == "timestamp"
    assert told["n_duplicates"] == "integer"
    assert told["date"] == "date"


def test_a_directory_has_an_address_that_an_engine_here_can_open() -> None:
    assert location("s3://lake/x") == "s3://lake/x"
    assert location("/data/my lake") == "file:///data/my%20lake"


# ---- commits ----


def test_a_commit_registers_its_table_once_a_process(
    glue: Any, prefix: str, lake: Lake, catalog: Catalog, rates: pl.DataFrame
) -> None:
    lake.catalog = Catalog(seen := Through(glue), prefix)
    lake.replace(FxRates, rates, DAY)
    held = entry(glue, f"{prefix}trusted", "fx_rates")
    assert held["StorageDescriptor"]["Location"] == location(lake.uri(FxRates))
    assert [c["Name"] for c in held["StorageDescriptor"]["Columns"]] == polars_schema(FxRates).names()
    n_calls = len(seen.calls)
    lake.replace(FxRates, rates.head(0), DAY)
    assert len(seen.calls) == n_calls
    assert catalog.check(beside(lake)) == []


def test_a_table_that_is_registered_already_costs_one_listing_of_each_zone(
    glue: Any, prefix: str, lake: Lake, rates: pl.DataFrame
) -> None:
    lake.replace(FxRates, rates, DAY)
    again = Lake(lake.root, catalog=Catalog(seen := Through(glue), prefix))
    again.replace(FxRates, rates, DAY)
    assert [call for call in seen.calls if call.endswith(("table", "paginator"))] == ["get_paginator"] * 2


def test_a_table_is_registered_though_its_commit_was_another_process_last_deed(
    glue: Any, prefix: str, lake: Lake, rates: pl.DataFrame
) -> None:
    beside(lake).replace(FxRates, rates, DAY)
    assert names(glue, prefix) == set()
    assert not lake.replace(FxRates, rates, DAY).is_new
    assert names(glue, prefix) == {NAME, "refined.currency_value"}


def test_appends_and_merges_register_too(glue: Any, prefix: str, lake: Lake, rows_of: RowsOf) -> None:
    raw = BY_NAME["raw.coincap_rates"]
    lake.append(raw, rows_of(raw, {"pull_id": "p"}), app="pull", version=1)
    lake.merge(DimAsset, rows_of(DimAsset, {"asset_id": "bitcoin"}))
    assert names(glue, prefix) == {"raw.coincap_rates", "refined.dim_asset"}


def test_rows_have_landed_where_glue_fails_and_the_next_commit_mends_it(
    glue: Any, prefix: str, tmp_path: Path, rates: pl.DataFrame
) -> None:
    lake = Lake(str(tmp_path), catalog=(without := Catalog(glue, prefix)))
    with pytest.raises(NeedsYouError) as caught:
        lake.replace(FxRates, rates, DAY)
    assert str(caught.value) == (
        "trusted.fx_rates: its rows have landed, but the catalog could not be told: "
        f"Glue in us-east-1 has no database {prefix}trusted; "
        "the table holds the whole commit, and writing the same again makes no second one; "
        "deploy it, or make it with crypto-assets catalog sync --create; "
        "if it is there, check AWS_REGION and CRYPTO_ASSETS_CATALOG_PREFIX; "
        "the next commit registers the table, or crypto-assets catalog sync"
    )
    assert beside(lake).read(FxRates).equals(rates)
    without.make_databases()
    assert not lake.replace(FxRates, rates, DAY).is_new
    assert NAME in names(glue, prefix)


def test_a_lake_without_a_catalog_asks_nobody(tmp_path: Path, rates: pl.DataFrame) -> None:
    code = "import sys; from crypto_assets.resources.lake import Lake; Lake(sys.argv[1]); print('boto3' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
    assert catalog_of("none", "crypto_") is None
    assert Lake(str(tmp_path)).replace(FxRates, rates, DAY).is_new


def test_dagsters_lake_registers_where_the_settings_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    handle = LakeHandle(uri="s3://lake", catalog="glue", catalog_prefix="crypto_dev_")
    lake = handle.create_resource(dg.build_init_resource_context())
    assert lake.catalog is not None
    assert lake.catalog.database("raw") == "crypto_dev_raw"
    assert LakeHandle(uri="s3://lake").create_resource(dg.build_init_resource_context()).catalog is None


@pytest.mark.s3
def test_a_lake_in_a_bucket_is_registered_by_its_address(
    glue: Any, prefix: str, catalog: Catalog, s3_lake: Lake, rates: pl.DataFrame
) -> None:
    s3_lake.catalog = catalog
    s3_lake.replace(FxRates, rates, DAY)
    held = entry(glue, f"{prefix}trusted", "fx_rates")
    assert held["StorageDescriptor"]["Location"] == f"{s3_lake.root}/trusted/fx_rates"
    assert catalog.check(s3_lake) == []


# ---- views ----


def decoded(held: dict[str, Any]) -> dict[str, Any]:
    match = re.fullmatch(r"/\* Presto View: ([A-Za-z0-9+/=]+) \*/", held["ViewOriginalText"])
    assert match
    return dict(json.loads(base64.b64decode(match[1])))


def test_a_view_is_registered_when_all_that_it_reads_is(glue: Any, prefix: str, lake: Lake, rows_of: RowsOf) -> None:
    lake.merge(DimAsset, rows_of(DimAsset, {"asset_id": "bitcoin"}))
    assert names(glue, prefix) == {"refined.dim_asset"}
    lake.replace(FxRates, rows_of(FxRates, {"currency_id": "euro"}), DAY)
    assert names(glue, prefix) == {"refined.dim_asset", NAME, "refined.currency", "refined.currency_value"}


@pytest.fixture
def nested(monkeypatch: pytest.MonkeyPatch) -> str:
    """A view over a view."""
    name = "refined.euro_value"
    monkeypatch.setitem(cast("dict[str, str]", VIEWS), name, "select rate_usd, date from refined.currency_value")
    return name


def test_a_view_over_views_is_registered_looked_at_and_made_again(
    glue: Any, prefix: str, lake: Lake, catalog: Catalog, rates: pl.DataFrame, nested: str
) -> None:
    lake.replace(FxRates, rates, DAY)
    held = {NAME, "refined.currency_value", nested}
    assert names(glue, prefix) == held
    assert catalog.check(lake) == []
    glue.delete_table(DatabaseName=f"{prefix}refined", Name="euro_value")
    assert [(drift.table, drift.what) for drift in catalog.check(lake)] == [(nested, "missing")]
    assert {entry.table for entry in catalog.rebuild(lake)} == held == names(glue, prefix)
    statements = list(ddl([(FxRates, "s3://lake/fx_rates")], prefix))
    assert statements[-1].startswith(f"CREATE OR REPLACE VIEW {prefix}refined.euro_value AS\n")


class Denied(Through):
    """A client whose role may not see one database."""

    def __init__(self, client: Any, database: str) -> None:
        super().__init__(client)
        self._database = database

    def get_paginator(self, name: str) -> Any:
        pages = self._client.get_paginator(name)

        class Pages:
            def paginate(_, DatabaseName: str) -> Any:  # noqa: N803, N805 - as boto3 calls it
                if DatabaseName == self._database:
                    told = {"Error": {"Code": "AccessDeniedException", "Message": "x"}}
                    raise ClientError(told, "GetTables")  # type: ignore[arg-type]
                return pages.paginate(DatabaseName=DatabaseName)

        return Pages()


def test_a_writer_that_may_not_see_a_views_database_leaves_the_view_to_one_that_may(
    glue: Any, prefix: str, lake: Lake, catalog: Catalog, rates: pl.DataFrame, rows_of: RowsOf, nested: str
) -> None:
    narrow = Catalog(Denied(glue, f"{prefix}refined"), prefix, clock=FixedClock(NOON))
    Lake(lake.root, clock=FixedClock(NOON), catalog=narrow).replace(FxRates, rates, DAY)
    assert names(glue, prefix) == {NAME}
    # It reads none of what these views read.
    lake.merge(LatestAssets, rows_of(LatestAssets, {"asset_id": "bitcoin"}))
    assert {"refined.latest_assets", "refined.currency_value", nested} <= names(glue, prefix)
    with pytest.raises(NeedsYouError, match="Glue denies access"):
        Lake(lake.root, clock=FixedClock(NOON), catalog=narrow).merge(
            LatestAssets, rows_of(LatestAssets, {"asset_id": "bitcoin"})
        )


def test_a_view_is_prestos_with_glues_names_and_times_without_a_zone(
    glue: Any, prefix: str, lake: Lake, rates: pl.DataFrame
) -> None:
    lake.replace(FxRates, rates, DAY)
    held = entry(glue, f"{prefix}refined", "currency_value")
    assert (held["TableType"], held["Parameters"]["presto_view"]) == ("VIRTUAL_VIEW", "true")
    told = decoded(held)
    assert (told["catalog"], told["schema"]) == ("awsdatacatalog", f"{prefix}refined")
    assert told["columns"] == [
        {"name": "currency_id", "type": "varchar"},
        {"name": "rate_usd", "type": "decimal(38,18)"},
        {"name": "timestamp", "type": "timestamp(3)"},
        {"name": "date", "type": "date"},
    ]
    assert [(c["Name"], c["Type"]) for c in held["StorageDescriptor"]["Columns"]] == [
        ("currency_id", "string"),
        ("rate_usd", "decimal(38,18)"),
        ("timestamp", "timestamp"),
        ("date", "date"),
    ]
    assert f"FROM {prefix}trusted.fx_rates" in told["originalSql"]
    assert 'CAST("timestamp" AS TIMESTAMP) AS "timestamp"' in told["originalSql"]


POLARS: dict[str, pl.DataType] = {
    "date": pl.Date(),
    "varchar": pl.String(),
    "integer": pl.Int32(),
    "bigint": pl.Int64(),
    "double": pl.Float64(),
    "boolean": pl.Boolean(),
    "decimal(38,18)": pl.Decimal(38, 18),
    "timestamp(3)": pl.Datetime("us"),
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, rows_of: RowsOf) -> Iterator[QueryEngine]:
    """The local engine over what the views read, with each view as it is registered and as it is written."""
    lake = Lake(str(tmp_path_factory.mktemp("views")))
    asset = {"asset_id": "bitcoin", "symbol": "BTC", "observed_at": NOON, "provider": "coincap"}
    changed = {"change_pct_24h": Decimal("1.23456789")}
    lake.replace(FxRates, rows_of(FxRates, {"currency_id": "euro", "currency_symbol": "€", "observed_at": NOON}), DAY)
    lake.replace(AssetSnapshots, rows_of(AssetSnapshots, asset | changed), DAY)
    lake.merge(DimAsset, rows_of(DimAsset, {"asset_id": "bitcoin"}, {"asset_id": "euro"}))
    lake.merge(LatestAssets, rows_of(LatestAssets, asset | changed))
    # What streams say is shown while it is new.
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    told = {"traded_at": now, "traded_us": int(now.timestamp() * 10**6), "price": "2.5", "quantity": "3", "repeat": 0}
    trades = [
        {**told, "subject": f"binance:{base}/USDT", "pull_id": base, "ingested_at": now} for base in ("BTC", "ETH")
    ]
    lake.append(RawTrades, rows_of(RawTrades, *trades), app="trades", version=1)
    price = {"quoted_at": now, "price": "2.5", "ingested_at": now}
    lake.append(RawStreamPrices, rows_of(RawStreamPrices, price), app="prices", version=1)
    for bars in (TradeBars1s, TradeBars1m):
        opened = now - dt.timedelta(hours=2)
        final = rows_of(bars, {"opened_at": opened, "market_id": "binance:BTC/USDT"})
        lake.replace(bars, final, Window.of_day(opened.date()))
    held = (FxRates, AssetSnapshots, DimAsset, LatestAssets, RawTrades, RawStreamPrices, TradeBars1s, TradeBars1m)
    tables = {c.table.full_name: lake.uri(c) for c in held}
    registered = {f"registered.{name.partition('.')[2]}": view_sql(name, "crypto_") for name in VIEWS}
    with QueryEngine(tables, {**VIEWS, **registered}) as opened:
        yield opened


@pytest.mark.parametrize("view", VIEWS)
def test_a_registered_view_answers_as_ours_and_with_the_types_that_it_tells(engine: QueryEngine, view: str) -> None:
    ours = engine.query(f"select * from {view}")
    theirs = engine.query(f"select * from registered.{view.partition('.')[2]}")
    assert len(theirs) > 0
    told = {c["name"]: c["type"] for c in decoded(view_input(view, "crypto_"))["columns"]}
    assert {name: kind.base_type() for name, kind in theirs.schema.items()} == {
        name: POLARS[kind].base_type() for name, kind in told.items()
    }
    zoned = [name for name, kind in ours.schema.items() if kind == pl.Datetime("us", "UTC")]
    same = theirs.with_columns(pl.col(name).dt.replace_time_zone("UTC") for name in zoned)
    assert same.sort(pl.all()).equals(ours.sort(pl.all()))


# ---- drift ----


def _without(held: dict[str, Any], *path: str) -> None:
    for name in path[:-1]:
        held = held[name]
    del held[path[-1]]


DRIFTS: dict[str, tuple[Callable[[dict[str, Any]], object], str, str]] = {
    "a changed type": (
        lambda t: t["StorageDescriptor"]["Columns"][0].update(Type="int"),
        "columns",
        "column provider is int, not string",
    ),
    "a changed comment": (
        lambda t: t["StorageDescriptor"]["Columns"][0].update(Comment="?"),
        "columns",
        "the comment of provider is another",
    ),
    "a lost column": (lambda t: t["StorageDescriptor"]["Columns"].pop(0), "columns", "column provider is missing"),
    "a new column": (
        lambda t: t["StorageDescriptor"]["Columns"].append({"Name": "more", "Type": "int"}),
        "columns",
        "column more is not in the lake",
    ),
    "another order": (
        lambda t: t["StorageDescriptor"]["Columns"].reverse(),
        "columns",
        "columns are in another order",
    ),
    "partition keys": (
        lambda t: t.update(PartitionKeys=[{"Name": "date", "Type": "date"}]),
        "columns",
        "Glue has partition keys (date), a Delta table none",
    ),
    "no path": (
        lambda t: _without(t, "StorageDescriptor", "SerdeInfo", "Parameters", "path"),
        "facts",
        "SerdeInfo.Parameters.path is not there",
    ),
    "no Delta mark": (lambda t: _without(t, "Parameters", "table_type"), "facts", "table_type is not there, not DELTA"),
    "another owner": (lambda t: t.update(Owner="bob"), "facts", "Owner is bob, not team:market-data"),
    "another format": (
        lambda t: t["StorageDescriptor"].update(InputFormat="org.x.Parquet"),
        "facts",
        "InputFormat is org.x.Parquet, not org.apache.hadoop.mapred.SequenceFileInputFormat",
    ),
}


@pytest.mark.parametrize("kind", DRIFTS)
def test_what_was_changed_by_hand_is_named_and_mended(
    glue: Any, prefix: str, lake: Lake, catalog: Catalog, rates: pl.DataFrame, kind: str
) -> None:
    change, what, told = DRIFTS[kind]
    lake.replace(FxRates, rates, DAY)
    before = written(entry(glue, f"{prefix}trusted", "fx_rates"))
    changed = json.loads(json.dumps(before))
    change(changed)
    glue.update_table(DatabaseName=f"{prefix}trusted", TableInput=changed)
    (found,) = catalog.check(lake)
    assert (found.table, found.database, found.what) == (NAME, f"{prefix}trusted", what)
    assert found.told.startswith(told)
    assert found.remedy == "crypto-assets catalog sync mends what is missing or changed"
    assert [e.table for e in catalog.sync_all(lake) if e.done == "updated"] == [NAME]
    assert written(entry(glue, f"{prefix}trusted", "fx_rates")) == before
    assert catalog.check(lake) == []


def test_more_than_ours_in_an_entry_is_no_drift(
    glue: Any, prefix: str, lake: Lake, catalog: Catalog, rates: pl.DataFrame
) -> None:
    lake.replace(FxRates, rates, DAY)
    held = written(entry(glue, f"{prefix}trusted", "fx_rates"))
    held["Parameters"]["has_encrypted_data"] = "false"
    glue.update_table(DatabaseName=f"{prefix}trusted", TableInput=held)
    assert catalog.check(lake) == []


def test_a_table_dropped_by_hand_is_missing_and_comes_back(
    glue: Any, prefix: str, lake: Lake, catalog: Catalog, rates: pl.DataFrame
) -> None:
    lake.replace(FxRates, rates, DAY)
    glue.delete_table(DatabaseName=f"{prefix}trusted", Name="fx_rates")
    (found,) = catalog.check(lake)
    assert (found.table, found.what) == (NAME, "missing")
    assert [(e.table, e.done) for e in catalog.sync_all(lake)] == [
        (NAME, "registered"),
        ("refined.currency_value", "equal"),
    ]
    assert catalog.check(lake) == []


def test_a_views_other_statement_is_named_and_mended(
    glue: Any, prefix: str, lake: Lake, catalog: Catalog, rates: pl.DataFrame
) -> None:
    lake.replace(FxRates, rates, DAY)
    held = written(entry(glue, f"{prefix}refined", "currency_value"))
    glue.update_table(
        DatabaseName=f"{prefix}refined", TableInput=held | {"ViewOriginalText": "/* Presto View: e30= */"}
    )
    assert [(d.table, d.what) for d in catalog.check(lake)] == [("refined.currency_value", "statement")]
    assert [e.done for e in catalog.sync_all(lake)] == ["equal", "updated"]


def test_what_the_lake_does_not_hold_is_a_stray_and_only_ours_is_removed(
    glue: Any, prefix: str, lake: Lake, catalog: Catalog, rates: pl.DataFrame
) -> None:
    lake.replace(FxRates, rates, DAY)
    glue.create_table(DatabaseName=f"{prefix}refined", TableInput={"Name": "bobs"})
    glue.create_table(DatabaseName=f"{prefix}refined", TableInput=table_input(DimAsset, location(lake.uri(DimAsset))))
    found = {drift.table: drift for drift in catalog.check(lake)}
    assert {name: (drift.what, drift.is_ours) for name, drift in found.items()} == {
        "refined.bobs": ("stray", False),
        "refined.dim_asset": ("stray", True),
    }
    assert found["refined.bobs"].remedy == f"move {prefix}refined.bobs to a database of its own"
    assert found["refined.dim_asset"].remedy == "crypto-assets catalog rebuild mends refined.dim_asset"
    list(catalog.sync_all(lake))
    assert len(catalog.check(lake)) == 2
    list(catalog.rebuild(lake))
    assert [drift.table for drift in catalog.check(lake)] == ["refined.bobs"]


def test_rebuilding_loses_nothing(
    glue: Any, prefix: str, lake: Lake, catalog: Catalog, rates: pl.DataFrame, rows_of: RowsOf
) -> None:
    lake.replace(FxRates, rates, DAY)
    lake.merge(DimAsset, rows_of(DimAsset, {"asset_id": "bitcoin"}))
    held = {
        name: written(entry(glue, f"{prefix}{name.split('.')[0]}", name.split(".")[1])) for name in names(glue, prefix)
    }
    assert len(held) == 4
    done = list(catalog.rebuild(lake))
    assert {e.table: e.done for e in done} == dict.fromkeys(held, "registered")
    assert held == {
        name: written(entry(glue, f"{prefix}{name.split('.')[0]}", name.split(".")[1])) for name in names(glue, prefix)
    }
    assert lake.read(FxRates).equals(rates)


def test_a_role_that_may_not_delete_says_so(refusing: Glue, lake: Lake, rates: pl.DataFrame) -> None:
    beside(lake).replace(FxRates, rates, DAY)
    held = table_input(FxRates, location(lake.uri(FxRates)))
    refusing.answers["GetTables"] = [{"TableList": []}, {"TableList": [held]}, {"TableList": []}]
    refusing.answers["DeleteTable"] = [("AccessDeniedException", "x is not authorized to perform: glue:DeleteTable")]
    with pytest.raises(NeedsYouError, match=r"crypto_trusted\.fx_rates: the role may not glue:DeleteTable"):
        list(Catalog(region="us-east-1").rebuild(beside(lake)))


def test_a_lake_that_cannot_be_read_keeps_its_catalog(
    glue: Any, prefix: str, lake: Lake, catalog: Catalog, rates: pl.DataFrame, rows_of: RowsOf
) -> None:
    lake.replace(FxRates, rates, DAY)
    lake.merge(DimAsset, rows_of(DimAsset, {"asset_id": "bitcoin"}))
    before = names(glue, prefix)
    glue.delete_table(DatabaseName=f"{prefix}refined", Name="dim_asset")
    (Path(lake.uri(FxRates)) / "_delta_log" / "00000000000000000000.json").write_text("garbage\n")
    broken = beside(lake)
    with pytest.raises(DataError):
        list(catalog.rebuild(broken))
    assert names(glue, prefix) == before - {"refined.dim_asset"}
    with pytest.raises(DataError, match="fx_rates"):
        list(catalog.sync_all(broken))
    assert names(glue, prefix) == before


# ---- two lakes, two writers ----


def test_another_lakes_table_is_not_taken_over(
    glue: Any, prefix: str, lake: Lake, catalog: Catalog, rates: pl.DataFrame, tmp_path: Path
) -> None:
    lake.replace(FxRates, rates, DAY)
    held = entry(glue, f"{prefix}trusted", "fx_rates")
    other = Lake(str(tmp_path / "other"), catalog=Catalog(glue, prefix))
    with pytest.raises(NeedsYouError, match=r"its rows have landed.* at another address, which may be another lake's"):
        other.replace(FxRates, rates, DAY)
    assert other.read(FxRates).equals(rates)
    assert [e.done for e in catalog.sync_all(other)] == ["elsewhere", "equal"]
    assert entry(glue, f"{prefix}trusted", "fx_rates") == held
    assert {(d.what, d.remedy) for d in catalog.check(other)} == {
        ("location", "crypto-assets catalog rebuild --take-over mends trusted.fx_rates, where no other lake owns it")
    }
    with pytest.raises(NeedsYouError, match=r"1 entries are of another lake .*; nothing was deleted"):
        list(catalog.rebuild(other))
    assert entry(glue, f"{prefix}trusted", "fx_rates") == held
    list(catalog.rebuild(other, takes_over=True))
    assert catalog.check(other) == []


def test_an_address_with_a_slash_more_is_the_same(
    glue: Any, prefix: str, lake: Lake, catalog: Catalog, rates: pl.DataFrame
) -> None:
    lake.catalog = None
    lake.replace(FxRates, rates, DAY)
    place = location(lake.uri(FxRates)) + "/"
    # As Athena registers what `catalog ddl` prints.
    glue.create_table(
        DatabaseName=f"{prefix}trusted",
        TableInput={
            "Name": "fx_rates",
            "TableType": "EXTERNAL_TABLE",
            "Parameters": {"EXTERNAL": "TRUE", "table_type": "DELTA"},
            "StorageDescriptor": {"Location": place, "SerdeInfo": {"Parameters": {"path": place}}},
        },
    )
    assert "updated" in [e.done for e in catalog.sync_all(lake)]
    assert catalog.check(lake) == []


def test_a_writer_that_comes_second_compares_again(
    glue: Any, prefix: str, lake: Lake, catalog: Catalog, rates: pl.DataFrame
) -> None:
    beside(lake).replace(FxRates, rates, DAY)
    second = Catalog(Through(glue, create_table=lambda: list(catalog.sync_all(lake))), prefix, clock=FixedClock(NOON))
    assert [e.done for e in second.sync_all(lake)] == ["equal", "equal"]
    assert catalog.check(lake) == []


def test_an_entry_that_is_dropped_while_it_is_changed_is_made_anew(
    glue: Any, prefix: str, lake: Lake, catalog: Catalog, rates: pl.DataFrame
) -> None:
    lake.replace(FxRates, rates, DAY)
    held = written(entry(glue, f"{prefix}trusted", "fx_rates"))
    glue.update_table(DatabaseName=f"{prefix}trusted", TableInput=held | {"Owner": "bob"})

    def drop() -> None:
        glue.delete_table(DatabaseName=f"{prefix}trusted", Name="fx_rates")

    first = Catalog(Through(glue, update_table=drop), prefix, clock=FixedClock(NOON))
    assert [e.done for e in first.sync_all(lake)] == ["registered", "equal"]
    assert catalog.check(lake) == []


_WORKER = """
import sys, boto3
from crypto_assets.resources.catalog import Catalog
from crypto_assets.resources.lake import Lake
url, root, prefix = sys.argv[1:]
client = boto3.client("glue", endpoint_url=url, region_name="us-east-1",
                      aws_access_key_id="test", aws_secret_access_key="test")
catalog, lake = Catalog(client, prefix), Lake(root)
wanted = catalog._wanted(lake)
for zone in ("trusted", "refined"):
    catalog._held(f"{prefix}{zone}")
print("ready", flush=True)
sys.stdin.readline()
for name, table in wanted.items():
    print(catalog._put(name, table).done)
"""


def test_two_processes_that_register_at_once_end_equal(
    prefix: str, lake: Lake, catalog: Catalog, rows_of: RowsOf, s3_options: dict[str, str]
) -> None:
    plain = beside(lake)
    plain.replace(FxRates, rows_of(FxRates, {"currency_id": "euro"}), DAY)
    plain.replace(AssetSnapshots, rows_of(AssetSnapshots, {"asset_id": "bitcoin"}), DAY)
    plain.merge(DimAsset, rows_of(DimAsset, {"asset_id": "bitcoin"}))
    plain.merge(LatestAssets, rows_of(LatestAssets, {"asset_id": "bitcoin"}))
    command = [sys.executable, "-c", _WORKER, s3_options["AWS_ENDPOINT_URL"], lake.root, prefix]
    workers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    # Both know by now that nothing is registered.
    assert [worker.stdout.readline() for worker in workers if worker.stdout] == ["ready\n"] * 2
    for worker in workers:
        assert worker.stdin
        worker.stdin.write("go\n")
        worker.stdin.flush()
    told = [worker.communicate(timeout=60)[0].split() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    # Whoever came second found the entry, or made the same once more.
    assert all({"registered"} <= set(pair) <= {"registered", "equal"} for pair in zip(*told, strict=True))
    tables = {contract.table.full_name for contract in (FxRates, AssetSnapshots, DimAsset, LatestAssets)}
    assert len(told[0]) == 4 + len(answerable(tables)) > 4
    assert catalog.check(lake) == []


# ---- refusals ----


class Glue:
    """A Glue that answers each call by name: an error's code and message, or a body."""

    def __init__(self, server: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: dict[str, list[tuple[str, str] | dict[str, Any]]] = {"GetTables": [{"TableList": []}]}
        self.calls: list[str] = []
        server.expect_request("/").respond_with_handler(self._answer)
        monkeypatch.setenv("AWS_ENDPOINT_URL_GLUE", server.url_for("").rstrip("/"))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "canary-id")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret")

    def _answer(self, request: Request) -> Response:
        call = request.headers["X-Amz-Target"].partition(".")[2]
        self.calls.append(call)
        held = self.answers.get(call, [{}])
        told = held.pop(0) if len(held) > 1 else held[0]
        if isinstance(told, dict):
            return Response(json.dumps(told), content_type="application/x-amz-json-1.1")
        body = {"__type": told[0], "message": told[1]}
        return Response(json.dumps(body), status=400, content_type="application/x-amz-json-1.1")


@pytest.fixture
def refusing(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Glue:
    return Glue(httpserver, monkeypatch)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What boto3 would wait between its attempts."""
    found: list[float] = []
    monkeypatch.setattr("botocore.endpoint.time", type("Clock", (), {"sleep": staticmethod(found.append)}))
    return found


SECRET = "check AWS_SECRET_ACCESS_KEY, and this machine's clock"


def register(region: str | None = "us-east-1") -> None:
    made = Catalog(region=region, prefix="crypto_", clock=FixedClock(NOON))
    made.sync(BY_NAME["trusted.candles"], "s3://lake/candles", {"provider": "string"})


@pytest.mark.parametrize(
    ("code", "message", "what", "hint"),
    [
        (
            "AccessDeniedException",
            "User: arn:aws:sts::123456789012:role/x is not authorized to perform: glue:CreateTable on resource: y",
            "the role may not glue:CreateTable",
            "check the role's permissions on Glue",
        ),
        (
            "AccessDeniedException",
            "Insufficient Lake Formation permission(s): Required Create Table on crypto_trusted",
            "Lake Formation denies it",
            "grant this role what it needs on the database and its tables in Lake Formation",
        ),
        ("UnrecognizedClientException", "canary", "Glue does not know the access key", "check AWS_ACCESS_KEY_ID"),
        ("InvalidSignatureException", "canary", "Glue refuses the secret key", SECRET),
        ("ExpiredTokenException", "canary", "the credentials have expired", "renew them, or log in again"),
        (
            "ResourceNumberLimitExceededException",
            "canary",
            "the account holds as many tables as it may",
            "raise the quota of Glue",
        ),
        (
            "InvalidInputException",
            "canary",
            "Glue refuses the request as it is (InvalidInputException)",
            "to ask again would not help: report it with this line",
        ),
    ],
)
def test_what_only_a_person_can_mend_is_one_line(refusing: Glue, code: str, message: str, what: str, hint: str) -> None:
    refusing.answers["CreateTable"] = [(code, message)]
    with pytest.raises(NeedsYouError) as caught:
        register()
    assert (caught.value.what, caught.value.hint) == (what, hint)
    assert caught.value.where == "trusted.candles"
    assert "canary" not in str(caught.value)
    assert "123456789012" not in str(caught.value)


def test_throttling_is_waited_out(refusing: Glue, waits: list[float]) -> None:
    refusing.answers["GetTables"] = [*[("ThrottlingException", "Rate exceeded")] * 3, {"TableList": []}]
    register()
    assert refusing.calls == ["GetTables"] * 4 + ["CreateTable"]
    assert len(waits) == 3
    assert all(0 <= wait <= 2**i for i, wait in enumerate(waits))


def test_throttling_that_does_not_end_is_to_be_tried_again(refusing: Glue, waits: list[float]) -> None:
    refusing.answers["CreateTable"] = [("ThrottlingException", "Rate exceeded")]
    with pytest.raises(TransientError) as caught:
        register()
    assert caught.value.what == "Glue throttles us (ThrottlingException, 6 attempts)"
    assert caught.value.hint == "run the same again in a minute"
    assert len(waits) == 5


def test_an_entry_that_others_keep_changing_is_to_be_tried_again(refusing: Glue) -> None:
    held = table_input(BY_NAME["trusted.candles"], "s3://lake/candles", {"provider": "string"}) | {"Owner": "bob"}
    refusing.answers["GetTables"] = [{"TableList": [held]}]
    refusing.answers["UpdateTable"] = [("ConcurrentModificationException", "")]
    with pytest.raises(TransientError, match="others keep changing it in Glue"):
        register()
    assert refusing.calls.count("UpdateTable") == 6


def test_an_entry_that_the_role_may_not_see_is_no_riddle(refusing: Glue) -> None:
    refusing.answers["CreateTable"] = [("AlreadyExistsException", "")]
    with pytest.raises(NeedsYouError, match="crypto_trusted has it, and this role may not see it"):
        register()


def test_a_wrong_region_is_named(glue: Any, s3_options: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_options["AWS_ENDPOINT_URL"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with pytest.raises(NeedsYouError, match="Glue in eu-west-1 has no database crypto_trusted"):
        register("eu-west-1")
    with pytest.raises(NeedsYouError, match=r"no region is set; .*; set AWS_REGION to the bucket's"):
        register(None)
    with pytest.raises(NeedsYouError, match="AWS_REGION is not the name of a region"):
        register("not a region")


def test_missing_credentials_are_named(refusing: Glue, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(NeedsYouError, match=r"there are no credentials to be had; .*; set AWS_ACCESS_KEY_ID"):
        register()
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(NeedsYouError, match="there are no credentials to be had"):
        register()
    assert refusing.calls == []


def test_a_glue_out_of_reach_is_to_be_tried_again(
    monkeypatch: pytest.MonkeyPatch, refusing: Glue, waits: list[float]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_GLUE", "http://127.0.0.1:9")
    with pytest.raises(TransientError, match="Glue in us-east-1 cannot be reached"):
        register()
    monkeypatch.setenv("AWS_ENDPOINT_URL_GLUE", "nowhere")
    with pytest.raises(NeedsYouError, match="the endpoint is not an address"):
        register()


def test_a_directory_is_not_registered_where_athena_could_not_read_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL_GLUE", raising=False)
    with pytest.raises(NeedsYouError, match="the lake is a directory of this machine, which Athena cannot read"):
        Catalog(region="us-east-1").sync(FxRates, str(tmp_path), {})


def test_databases_are_made_only_where_they_are_missing(glue: Any, prefix: str) -> None:
    fresh = Catalog(glue, prefix)
    made = [f"{prefix}{zone}" for zone in ("raw", "trusted", "refined", "quality")]
    assert fresh.make_databases() == made
    assert fresh.make_databases() == []
    with pytest.raises(ClientError, match="AlreadyExists"):
        glue.create_database(DatabaseInput={"Name": made[0]})


# ---- Athena's own statements, maintenance ----


def test_the_statements_for_athena_name_no_more_than_it_takes() -> None:
    told = list(ddl([(FxRates, "s3://lake/prod/trusted/fx_rates")], "crypto_"))
    assert told[0] == (
        "CREATE EXTERNAL TABLE IF NOT EXISTS crypto_trusted.fx_rates\n"
        "LOCATION 's3://lake/prod/trusted/fx_rates/'\n"
        "TBLPROPERTIES ('table_type' = 'DELTA');"
    )
    assert [statement.split(" AS\n")[0] for statement in told[1:]] == [
        "CREATE OR REPLACE VIEW crypto_refined.currency_value"
    ]
    assert reads("refined.currency_value") == {NAME}
    assert all(isinstance(sqlglot.parse_one(statement, read="athena"), sqlglot.exp.Create) for statement in told)


def test_maintenance_mends_what_differs_and_fails_on_what_a_person_must_decide(
    glue: Any, prefix: str, lake: Lake, catalog: Catalog, rates: pl.DataFrame
) -> None:
    lake.replace(FxRates, rates, DAY)
    glue.delete_table(DatabaseName=f"{prefix}trusted", Name="fx_rates")
    glue.create_table(DatabaseName=f"{prefix}refined", TableInput={"Name": "bobs"})
    jobs.compare_catalog(dg.build_op_context(), lake=lake)
    assert [drift.table for drift in catalog.check(lake)] == ["refined.bobs"]
    glue.create_table(DatabaseName=f"{prefix}refined", TableInput=table_input(DimAsset, "file:///gone"))
    with pytest.raises(dg.Failure, match=r"refined\.dim_asset: the lake does not hold it any more, .* rebuild mends"):
        jobs.compare_catalog(dg.build_op_context(), lake=lake)
    jobs.compare_catalog(dg.build_op_context(), lake=beside(lake))
