"""Glue's side: DDL, SHOW and DESCRIBE, metadata calls, views, and tables that Athena cannot read."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local_athena.endpoint import DATABASE, ROWS, Aws

# One server for all tests of this folder.
pytestmark = [pytest.mark.s3, pytest.mark.xdist_group("local_athena")]


def reason(aws: Aws, sql: str) -> str:
    status = aws.run(sql)["Status"]
    assert status["State"] == "FAILED", status
    return str(status["StateChangeReason"])


def put_view(aws: Aws, name: str, sql: str, schema: str) -> None:
    told = base64.b64encode(json.dumps({"originalSql": sql, "catalog": "awsdatacatalog", "schema": schema}).encode())
    put(aws, name, TableType="VIRTUAL_VIEW", ViewOriginalText=f"/* Presto View: {told.decode()} */")


def put(aws: Aws, name: str, **told: Any) -> None:
    descriptor: Mapping[str, Any] = told.pop("StorageDescriptor", {"Columns": [], "Location": "", "SerdeInfo": {}})
    aws.client("glue").create_table(
        DatabaseName=DATABASE, TableInput={"Name": name, "StorageDescriptor": descriptor, **told}
    )


def test_a_delta_table_is_registered_with_the_logs_columns_and_no_partition_keys(aws: Aws) -> None:
    table = aws.client("glue").get_table(DatabaseName=DATABASE, Name="t")["Table"]
    assert {c["Name"]: c["Type"] for c in table["StorageDescriptor"]["Columns"]} == {
        "asset_id": "string",
        "price": "decimal(38,18)",
        "volume": "double",
        "trades": "bigint",
        "at": "timestamp",
        "is_listed": "boolean",
        "tags": "array<string>",
        "venue": "struct<id:bigint,name:string>",
        "hash": "binary",
        "note": "string",
        "date": "date",
    }
    assert table["PartitionKeys"] == []
    assert table["Parameters"]["table_type"] == "DELTA"
    assert table["StorageDescriptor"]["SerdeInfo"]["Parameters"]["path"] == "s3://lake/refined/t"


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("create external table u (a int) location 's3://lake/refined/t' {delta}", "more than the LOCATION"),
        (
            "create external table u location 's3://lake/refined/t' tblproperties ('table_type'='DELTA', 'a'='b')",
            "more than the LOCATION",
        ),
        ("create external table u location 's3://lake/refined/t'", "more than the LOCATION"),
        ("create external table u location 's3://lake/nothing/' {delta}", "Metadata not found in transaction log"),
        ("create external table no.u location 's3://lake/refined/t' {delta}", "Database does not exist: no"),
        ("create external table t location 's3://lake/refined/t' {delta}", "Table t already exists"),
    ],
)
def test_a_table_that_is_not_delta_alone_is_not_registered(aws: Aws, sql: str, message: str) -> None:
    before = aws.rows("show tables")
    assert message in reason(aws, sql.format(delta="tblproperties ('table_type'='DELTA')"))
    assert aws.rows("show tables") == before


def test_tables_and_databases_come_and_go(aws: Aws) -> None:
    aws.run("create database if not exists scratch comment 'for a test'")
    assert ["scratch"] in aws.rows("show databases")
    assert aws.rows("show databases like 'scr*|nothing'") == [["scratch"]]
    assert "already exists" in reason(aws, "create database scratch")
    aws.run("create external table scratch.u location 's3://lake/refined/t' tblproperties ('table_type'='DELTA')")
    assert aws.rows("select count(*) from scratch.u") == [["3"]]
    assert aws.rows("show tables in scratch 'u*'") == [["u"]]
    assert "is not empty" in reason(aws, "drop database scratch")
    assert aws.run("drop table `scratch`.`u`")["Status"]["State"] == "SUCCEEDED"
    assert aws.rows("select count(*) from t") == [["3"]]  # dropping leaves the files
    assert aws.run("drop database scratch")["Status"]["State"] == "SUCCEEDED"
    assert "does not exist: scratch" in reason(aws, "drop schema scratch cascade")
    assert aws.run("drop table if exists scratch.u")["Status"]["State"] == "SUCCEEDED"


def test_a_table_is_described_in_padded_texts(aws: Aws) -> None:
    assert aws.rows("describe t")[1] == ["price               \tdecimal(38,18)      \t                    "]
    assert [row[0].strip() for row in aws.rows(f"show columns in {DATABASE}.t") if row[0]] == ROWS.columns
    assert aws.rows("show tblproperties t('table_type')") == [["table_type          \tDELTA               "]]
    created = "\n".join(row[0] or "" for row in aws.rows("show create table t"))
    assert created.startswith(f"CREATE EXTERNAL TABLE `{DATABASE}.t`(\n  `asset_id` string, \n")
    assert "LOCATION\n  's3://lake/refined/t'\nTBLPROPERTIES (\n" in created
    done = aws.run("describe t")
    assert (done["StatementType"], done["SubstatementType"]) == ("UTILITY", "DESCRIBE_TABLE")


def test_metadata_is_glues(aws: Aws) -> None:
    client = aws.client("athena")
    databases = client.list_databases(CatalogName="AwsDataCatalog")["DatabaseList"]
    assert {"crypto_quality", "crypto_raw", DATABASE, "crypto_trusted"} <= {each["Name"] for each in databases}
    assert client.get_database(CatalogName="AwsDataCatalog", DatabaseName=DATABASE)["Database"]["Name"] == DATABASE
    told = client.get_table_metadata(CatalogName="AwsDataCatalog", DatabaseName=DATABASE, TableName="t")
    assert told["TableMetadata"]["Columns"][0] == {"Name": "asset_id", "Type": "string"}
    assert told["TableMetadata"]["Parameters"]["location"] == "s3://lake/refined/t"
    listed = client.list_table_metadata(CatalogName="AwsDataCatalog", DatabaseName=DATABASE, Expression="t")
    assert [each["Name"] for each in listed["TableMetadataList"]] == ["t"]
    for call in (
        lambda: client.get_table_metadata(CatalogName="AwsDataCatalog", DatabaseName=DATABASE, TableName="nope"),
        lambda: client.list_table_metadata(CatalogName="AwsDataCatalog", DatabaseName="nope"),
    ):
        with pytest.raises(client.exceptions.MetadataException, match="not found"):
            call()


def test_views_are_answered_in_the_database_that_they_were_made_in(aws: Aws) -> None:
    put_view(aws, "listed", "select asset_id, trades from t where is_listed", DATABASE)
    put_view(aws, "outer_view", f"select upper(asset_id) as name from {DATABASE}.listed", "crypto_raw")
    sql = f"select name, (select count(*) from {DATABASE}.t) from {DATABASE}.outer_view"
    assert aws.rows(sql, QueryExecutionContext={"Database": "crypto_raw"}) == [["BITCOIN", "3"]]
    assert aws.run(sql)["Statistics"]["DataScannedInBytes"] > 0
    assert ["listed"] in aws.rows("show views")
    assert "is a view" in reason(aws, "show create table listed")
    assert "Cannot drop a view" in reason(aws, "drop table listed")


def test_a_view_that_leads_back_to_itself_or_is_no_view_fails(aws: Aws) -> None:
    put_view(aws, "circle", "select * from circle", DATABASE)
    put(aws, "broken", TableType="VIRTUAL_VIEW", ViewOriginalText="select 1")
    assert "circle" in reason(aws, "select * from circle")
    assert "INVALID_VIEW" in reason(aws, "select * from broken")


@pytest.mark.parametrize(
    ("parameters", "path", "message"),
    [
        ({"table_type": "DELTA"}, "", "No path property defined for table: crypto_refined.bad"),
        ({}, "s3://lake/refined/t", "neither table_type=DELTA nor spark.sql.sources.provider=delta for table"),
        ({"table_type": "DELTA"}, "s3://lake/nothing", "Metadata not found in transaction log"),
    ],
)
def test_a_table_that_athena_cannot_read_as_delta_fails(
    aws: Aws, parameters: dict[str, str], path: str, message: str
) -> None:
    serde = {"Parameters": {"path": path} if path else {}}
    put(aws, "bad", Parameters=parameters, StorageDescriptor={"Location": "s3://lake/refined/t", "SerdeInfo": serde})
    try:
        told = reason(aws, "select * from bad")
    finally:
        aws.client("glue").delete_table(DatabaseName=DATABASE, Name="bad")
    assert told.startswith("DELTA_LAKE_INVALID_SCHEMA: ")
    assert message in told


def test_a_missing_workgroup_is_refused_as_athena_does(aws: Aws) -> None:
    with pytest.raises(ClientError, match=r"InvalidRequestException.*WorkGroup is not found"):
        aws.client("athena").get_work_group(WorkGroup="nope")
