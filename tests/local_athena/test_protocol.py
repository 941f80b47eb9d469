"""Athena's protocol as boto3 speaks it: states, answers, files, limits and refusals."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

import deltalake
import numpy as np
import polars as pl
import pytest
from botocore.exceptions import ClientError

from crypto_assets.resources.pruning import Pruning
from tests.local_athena.endpoint import DATABASE, ROWS, WORKGROUP, Aws, running

# One server for all tests of this folder.
pytestmark = [pytest.mark.s3, pytest.mark.xdist_group("local_athena")]


def refused(aws: Aws, sql: str, **more: Any) -> dict[str, Any]:
    with pytest.raises(ClientError) as error:
        aws.start(sql, **more)
    answer: dict[str, Any] = error.value.response
    return answer


def test_a_query_is_queued_then_runs_then_succeeds(aws: Aws) -> None:
    aws.faults(hold_s=0.6)
    first, second, third = (aws.start(f"select {n} as n") for n in range(3))  # two run at once
    seen = [(aws.execution(first)["Status"]["State"], aws.execution(third)["Status"]["State"])]
    for _ in range(60):
        time.sleep(0.05)
        seen.append((aws.execution(first)["Status"]["State"], aws.execution(third)["Status"]["State"]))
        if seen[-1] == ("SUCCEEDED", "SUCCEEDED"):
            break
    assert ("RUNNING", "QUEUED") in seen
    assert ("SUCCEEDED", "RUNNING") in seen
    done = aws.ended(second)
    assert done["Status"]["SubmissionDateTime"] < done["Status"]["CompletionDateTime"]
    assert (done["StatementType"], done["SubstatementType"], done["WorkGroup"]) == ("DML", "SELECT", WORKGROUP)
    assert done["EngineVersion"]["EffectiveEngineVersion"] == "Athena engine version 3"
    statistics = aws.ended(third)["Statistics"]
    assert statistics["QueryQueueTimeInMillis"] >= 300
    assert statistics["EngineExecutionTimeInMillis"] >= 600
    assert statistics["TotalExecutionTimeInMillis"] >= statistics["EngineExecutionTimeInMillis"]


def test_values_and_types_are_written_as_athena_writes_them(aws: Aws) -> None:
    done = aws.run("select * from t order by asset_id desc")
    answer = aws.client("athena").get_query_results(QueryExecutionId=done["QueryExecutionId"])["ResultSet"]
    header, ethereum, bitcoin, null = [[v.get("VarCharValue") for v in row["Data"]] for row in answer["Rows"]]
    columns = answer["ResultSetMetadata"]["ColumnInfo"]
    assert header == [column["Name"] for column in columns]
    assert {c["Name"]: (c["Type"], c["Precision"], c["Scale"]) for c in columns} == {
        "asset_id": ("varchar", 2147483647, 0),
        "price": ("decimal", 38, 18),
        "volume": ("double", 17, 0),
        "trades": ("bigint", 19, 0),
        "at": ("timestamp with time zone", 3, 0),
        "is_listed": ("boolean", 0, 0),
        "tags": ("array", 0, 0),
        "venue": ("row", 0, 0),
        "hash": ("varbinary", 1073741824, 0),
        "note": ("varchar", 2147483647, 0),
        "date": ("date", 0, 0),
    }
    assert bitcoin == [
        *("bitcoin", "69703.123456789012345678", "1.0E10", "1", "2026-01-02 03:04:05.678 UTC", "true"),
        *("[x, y]", "{id=1, name=kraken}", "01 ff", "", "2026-01-01"),
    ]
    assert ethereum[1:9] == [
        *("0.100000000000000000", "1.0E-4", "-5", "2026-01-02 04:04:05.678 UTC", "false", "[]"),
        *("{id=null, name=}", ""),
    ]
    assert null == ['a"b,c', *[None] * 6, "{id=2, name=b}", None, None, "2026-01-02"]


def test_the_csv_and_its_metadata_lie_at_the_output_location(aws: Aws) -> None:
    done = aws.run("select asset_id, note, trades from t order by asset_id")
    address = done["ResultConfiguration"]["OutputLocation"]
    assert address == f"s3://lake/athena-results/{done['QueryExecutionId']}.csv"
    assert aws.object(address).decode() == (
        '"asset_id","note","trades"\n"a""b,c",,\n"bitcoin","","1"\n"ethereum","two\nlines","-5"\n'
    )
    metadata = aws.object(f"{address}.metadata")
    assert metadata[:2] == b"\n\x24"  # field 1, 36 bytes: the query's id
    assert metadata[2:38].decode() == done["QueryExecutionId"]
    assert metadata.count(b"varchar") == 2
    shown = aws.run("show tables")["ResultConfiguration"]["OutputLocation"]
    assert shown.endswith(".txt")
    assert "t" in aws.object(shown).decode().split("\n")


def test_results_come_in_pages_and_the_first_begins_with_the_header(aws: Aws) -> None:
    query_id = aws.run("select n from unnest(sequence(1, 7)) as t(n) order by n")["QueryExecutionId"]
    pages = (
        aws.client("athena")
        .get_paginator("get_query_results")
        .paginate(QueryExecutionId=query_id, PaginationConfig={"PageSize": 3})
    )
    found = [[row["Data"][0]["VarCharValue"] for row in page["ResultSet"]["Rows"]] for page in pages]
    assert found == [["n", "1", "2"], ["3", "4", "5"], ["6", "7"]]
    with pytest.raises(ClientError, match="maximum allowed length"):
        aws.client("athena").get_query_results(QueryExecutionId=query_id, MaxResults=1001)


def test_bytes_scanned_are_what_is_left_after_pruning(aws: Aws) -> None:
    sql = "select sum(volume) from t where date = date '2026-01-01'"
    pruned, whole = aws.run(sql), aws.run("select * from t")
    pruning = Pruning({f"{DATABASE}.t": "s3://lake/refined/t"}, storage_options=aws.options)
    told = pruning.reads(sql.replace(" t ", f" {DATABASE}.t "))
    assert pruned["Statistics"]["DataScannedInBytes"] == sum(read.n_bytes for read in told) > 0
    assert pruned["Statistics"]["DataScannedInBytes"] * 5 < whole["Statistics"]["DataScannedInBytes"]


def test_a_repeated_token_is_the_same_query_and_another_statement_under_it_is_refused(aws: Aws) -> None:
    token = str(uuid.uuid4())
    first = aws.start("select 41 as n", ClientRequestToken=token)
    assert aws.start("select 41 as n", ClientRequestToken=token) == first
    answer = refused(aws, "select 42 as n", ClientRequestToken=token)
    assert answer["Error"]["Message"] == "Idempotent parameters do not match"
    assert answer["AthenaErrorCode"] == "IDEMPOTENT_PARAMETER_MISMATCH"


def test_parameters_are_expressions_or_texts_and_never_more_sql(aws: Aws) -> None:
    sql = "select trades from t where asset_id = ? and trades < ? + 1 -- is it ?"
    assert aws.rows(sql, ExecutionParameters=["'bitcoin'", "1"]) == [["1"]]
    assert aws.rows(sql, ExecutionParameters=["bitcoin", "1"]) == [["1"]]
    assert aws.rows("select count(*) from t where asset_id = ?", ExecutionParameters=["x' or '1'='1"]) == [["0"]]
    done = aws.run(sql, ExecutionParameters=["bitcoin"])
    assert done["Status"]["StateChangeReason"].startswith("INVALID_PARAMETER_USAGE")
    assert done["ExecutionParameters"] == ["bitcoin"]


def test_a_prepared_statement_is_executed(aws: Aws) -> None:
    sql = "select trades from t where asset_id = ? and is_listed = ?"
    aws.client("athena").create_prepared_statement(StatementName="trades_of", WorkGroup=WORKGROUP, QueryStatement=sql)
    assert aws.rows("EXECUTE trades_of USING 'bitcoin', true") == [["1"]]
    assert aws.rows("EXECUTE trades_of", ExecutionParameters=["'ethereum'", "false"]) == [["-5"]]
    assert refused(aws, "EXECUTE nothing")["Error"]["Message"].startswith("PreparedStatement nothing was not found")


def test_an_answer_is_reused_where_it_is_young_and_the_statement_is_the_same(aws: Aws) -> None:
    reuse = {"ResultReuseConfiguration": {"ResultReuseByAgeConfiguration": {"Enabled": True, "MaxAgeInMinutes": 5}}}
    sql = "select count(*) as n, sum(trades) as reused from t"
    first, second, other = aws.run(sql, **reuse), aws.run(sql, **reuse), aws.run(f"{sql} where trades > 0", **reuse)
    told = [each["Statistics"]["ResultReuseInformation"]["ReusedPreviousResult"] for each in (first, second, other)]
    assert told == [False, True, False]
    assert first["Statistics"]["DataScannedInBytes"] > 0
    assert second["Statistics"]["DataScannedInBytes"] == 0
    assert aws.object(second["ResultConfiguration"]["OutputLocation"]) == b'"n","reused"\n"3","-4"\n'
    assert aws.run(sql)["Statistics"]["ResultReuseInformation"]["ReusedPreviousResult"] is False


def test_a_stopped_query_is_cancelled_at_once_and_the_next_is_answered(aws: Aws) -> None:
    # Minutes of work: only the end of its process ends it.
    numbers = "(select x from unnest(sequence(1, 200000)) as t(x))"
    heavy = aws.start(f"select count(*) from {numbers} a cross join {numbers} b where (a.x * b.x) % 3 = 1")
    for _ in range(100):
        if aws.execution(heavy)["Status"]["State"] == "RUNNING":
            break
        time.sleep(0.05)
    time.sleep(0.5)
    client = aws.client("athena")
    client.stop_query_execution(QueryExecutionId=heavy)
    status = aws.execution(heavy)["Status"]
    assert (status["State"], status["StateChangeReason"]) == ("CANCELLED", "Query cancelled by user")
    with pytest.raises(ClientError, match="Could not find results"):
        client.get_query_results(QueryExecutionId=heavy)
    assert aws.rows("select 1 as n") == [["1"]]
    client.stop_query_execution(QueryExecutionId=heavy)  # one that has ended stays as it is


def test_a_query_can_be_stopped_while_it_waits(aws: Aws) -> None:
    aws.faults(hold_s=1)
    held = [aws.start(f"select {n} as n") for n in range(3)]
    with pytest.raises(ClientError, match=r"Query has not yet finished\. Current state: QUEUED"):
        aws.client("athena").get_query_results(QueryExecutionId=held[2])
    aws.client("athena").stop_query_execution(QueryExecutionId=held[2])
    done = aws.ended(held[2])
    assert done["Status"]["State"] == "CANCELLED"
    assert "EngineExecutionTimeInMillis" not in done["Statistics"]
    assert [aws.ended(query_id)["Status"]["State"] for query_id in held] == ["SUCCEEDED", "SUCCEEDED", "CANCELLED"]


def test_a_query_over_the_workgroups_bytes_is_cancelled_in_athenas_words(
    aws: Aws, workgroup: Callable[..., str]
) -> None:
    numbers = pl.DataFrame({"x": np.random.default_rng(7).random(1_400_000)})  # 11 MB, which nothing makes smaller
    deltalake.write_deltalake("s3://lake/refined/numbers", numbers, storage_options=dict(aws.options))
    aws.run("create external table numbers location 's3://lake/refined/numbers' tblproperties ('table_type'='DELTA')")
    result = {"OutputLocation": "s3://lake/limited/"}
    smallest = 10_000_000  # that AWS takes
    name = workgroup(
        ResultConfiguration=result, BytesScannedCutoffPerQuery=smallest, EnforceWorkGroupConfiguration=True
    )
    over = aws.run("select sum(x) from numbers", WorkGroup=name)
    assert over["Status"]["State"] == "CANCELLED"
    assert over["Status"]["StateChangeReason"] == "Bytes scanned limit was exceeded"
    assert over["Statistics"]["DataScannedInBytes"] == smallest
    assert aws.rows("select count(*) from numbers", WorkGroup=name) == [["1400000"]]
    assert aws.run("select sum(x) from numbers")["Statistics"]["DataScannedInBytes"] > smallest


def test_an_enforced_workgroup_says_where_results_go(aws: Aws, workgroup: Callable[..., str]) -> None:
    mine = {"ResultConfiguration": {"OutputLocation": "s3://lake/mine"}}
    enforced = workgroup(ResultConfiguration={"OutputLocation": "s3://lake/theirs"}, EnforceWorkGroupConfiguration=True)
    free = workgroup(ResultConfiguration={"OutputLocation": "s3://lake/theirs"}, EnforceWorkGroupConfiguration=False)
    found = [
        aws.run("select 1 as n", WorkGroup=name, **more)["ResultConfiguration"]["OutputLocation"].rpartition("/")[0]
        for name, more in ((enforced, mine), (free, mine), (free, {}))
    ]
    assert found == ["s3://lake/theirs", "s3://lake/mine", "s3://lake/theirs"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"WorkGroup": "primary"}, "No output location provided"),
        ({"WorkGroup": "no-such-group"}, "is not found"),
        (
            {"WorkGroup": "primary", "ResultConfiguration": {"OutputLocation": "s3://no-such-bucket/x"}},
            "Unable to verify/create output bucket no-such-bucket",
        ),
        (
            {"WorkGroup": "primary", "ResultConfiguration": {"OutputLocation": "http://x"}},
            "outputLocation is not a valid S3 path",
        ),
    ],
)
def test_a_query_without_a_place_for_its_result_is_not_taken(aws: Aws, more: dict[str, Any], message: str) -> None:
    answer = refused(aws, "select 1", **more)
    assert answer["Error"]["Code"] == "InvalidRequestException"
    assert message in answer["Error"]["Message"]


def test_more_queries_than_the_quota_are_throttled_and_clients_that_wait_get_through(aws: Aws) -> None:
    aws.faults(active_query_quota=0)
    answer = refused(aws, "select 1")
    assert answer["Error"]["Code"] == "TooManyRequestsException"
    assert "exceeded the limit for the number of queries you can run concurrently" in answer["Error"]["Message"]
    assert answer["ResponseMetadata"]["RetryAttempts"] == 2
    aws.faults(refuse_next=1)
    assert aws.rows("select 1 as n") == [["1"]]


@pytest.mark.parametrize(
    ("sql", "kind", "reason"),
    [
        (
            "select * from nope",
            1301,
            f"TABLE_NOT_FOUND: line 1:15: Table 'awsdatacatalog.{DATABASE}.nope' does not exist",
        ),
        ("select 1 from\n  t, no.pe", 1301, "SCHEMA_NOT_FOUND: line 2:6: Schema 'no' does not exist"),
        (
            "select trades, prise from t",
            1006,
            "COLUMN_NOT_FOUND: line 1:16: Column 'prise' cannot be resolved or requester is not authorized to access "
            "requested resources",
        ),
        (
            "select strptime(note, '%Y') from t",
            1303,
            "FUNCTION_NOT_FOUND: line 1:8: Function 'strptime' not registered",
        ),
        ("select * from read_text('/etc/hosts')", 1303, "not registered"),
        ("select 1/0", 1001, "DIVISION_BY_ZERO: Division by zero"),
        ("select cast(asset_id as integer) from t", 1100, "INVALID_CAST_ARGUMENT: "),
        ("insert into t select * from t", 1200, "NOT_SUPPORTED: INSERT INTO"),
        ("select * from t for version as of 1", 1200, "NOT_SUPPORTED: time travel"),
        ("drop table nope", 1000, f"FAILED: SemanticException [Error 10001]: Table not found {DATABASE}.nope"),
    ],
)
def test_a_query_that_cannot_be_answered_fails_in_athenas_words(aws: Aws, sql: str, kind: int, reason: str) -> None:
    done = aws.run(sql)
    assert done["Status"]["State"] == "FAILED"
    assert reason in done["Status"]["StateChangeReason"]
    assert done["Status"]["AthenaError"] == {
        "ErrorCategory": 2,
        "ErrorType": kind,
        "Retryable": False,
        "ErrorMessage": done["Status"]["StateChangeReason"],
    }
    with pytest.raises(ClientError, match="Final query state: FAILED"):
        aws.client("athena").get_query_results(QueryExecutionId=done["QueryExecutionId"])


@pytest.mark.parametrize(
    ("sql", "message", "code"),
    [
        ("selec 1", "line 1:1: mismatched input 'SELEC'", "MALFORMED_QUERY"),
        ("select from where", "line 1:13: mismatched input 'where'", "MALFORMED_QUERY"),
        ("select trades::int from t", "line 1:14: mismatched input '::'", "MALFORMED_QUERY"),
        ("select 'open", "Queries of this type are not supported", "MALFORMED_QUERY"),
        ("select 1; select 2", "Only one sql statement is allowed", "INVALID_INPUT"),
        ("describe nope", "Entity Not Found", "INVALID_INPUT"),
        ("-- nothing", "empty or blank", "INVALID_INPUT"),
        (f"select '{'x' * 262_144}'", "exceeds the maximum", "INVALID_INPUT"),
    ],
)
def test_what_cannot_be_parsed_is_refused_before_it_is_a_query(aws: Aws, sql: str, message: str, code: str) -> None:
    answer = refused(aws, sql)
    assert answer["Error"]["Code"] == "InvalidRequestException"
    assert message in answer["Error"]["Message"]
    assert answer["AthenaErrorCode"] == code


def test_several_queries_are_looked_up_at_once_and_listed_newest_first(aws: Aws, workgroup: Callable[..., str]) -> None:
    name = workgroup(ResultConfiguration={"OutputLocation": "s3://lake/x"}, EnforceWorkGroupConfiguration=True)
    ids = [aws.start(f"select {n} as n", WorkGroup=name) for n in range(3)]
    client = aws.client("athena")
    found = client.batch_get_query_execution(QueryExecutionIds=[*ids, "unknown"])
    assert [each["QueryExecutionId"] for each in found["QueryExecutions"]] == ids
    assert [each["QueryExecutionId"] for each in found["UnprocessedQueryExecutionIds"]] == ["unknown"]
    pages = client.get_paginator("list_query_executions").paginate(WorkGroup=name, PaginationConfig={"PageSize": 2})
    assert [page["QueryExecutionIds"] for page in pages] == [ids[:0:-1], ids[:1]]
    with pytest.raises(ClientError, match="QueryExecution unknown was not found"):
        client.get_query_execution(QueryExecutionId="unknown")


def test_named_queries_stay_motos(aws: Aws) -> None:
    client = aws.client("athena")
    told = {"Name": "prices", "Database": DATABASE, "QueryString": "select 1", "WorkGroup": WORKGROUP}
    query_id = client.create_named_query(**told)["NamedQueryId"]
    assert client.get_named_query(NamedQueryId=query_id)["NamedQuery"]["QueryString"] == "select 1"


def test_another_store_holds_tables_and_results(s3_options: dict[str, str]) -> None:
    deltalake.write_deltalake("s3://lake/elsewhere", ROWS, storage_options=s3_options)
    keys = {key: value for key, value in s3_options.items() if key.endswith(("KEY_ID", "ACCESS_KEY"))}
    with running("--s3-endpoint", s3_options["AWS_ENDPOINT_URL"], environment=keys) as aws:
        aws.run("create external table t location 's3://lake/elsewhere' tblproperties ('table_type'='DELTA')")
        done = aws.run("select sum(trades) as n from t")
        elsewhere = Aws(s3_options["AWS_ENDPOINT_URL"], s3_options)
        assert elsewhere.object(done["ResultConfiguration"]["OutputLocation"]) == b'"n"\n"-4"\n'
        assert aws.client("s3").list_buckets()["Buckets"] == []
