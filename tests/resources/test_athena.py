"""Athena's engine: what it sends, what it makes of the answers, what it costs, and how it says what went wrong."""

from __future__ import annotations

import _thread
import datetime as dt
import json
import logging
import re
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import polars as pl
import pytest
from moto.server import ThreadedMotoServer
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from crypto_assets import cli
from crypto_assets.assets.lake_asset import _table_metadata, athena_link
from crypto_assets.commands import sql as sql_command
from crypto_assets.definitions import build_definitions
from crypto_assets.errors import CryptoAssetsError, DataError, NeedsYouError, TransientError, UsageError
from crypto_assets.resources import athena
from crypto_assets.resources.athena import AthenaEngine, Bill, console_url
from crypto_assets.resources.catalog import Catalog, table_input
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.settings import Settings
from crypto_assets.tables import BY_NAME
from crypto_assets.tables.window import Window
from tests.resources.test_query import ATTACKS

REGION = "eu-west-1"
NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
QUERY = "11111111-2222-3333-4444-555555555555"
TABLES = {
    "refined.asset_daily": {
        "asset_id": "string",
        "date": "date",
        "price_usd": "decimal(38,18)",
        "n_trades": "long",
        "observed_at": "timestamp",
        "tags": "array<string>",
    },
    "refined.assets": {"asset_id": "string"},
    "trusted.assets": {"asset_id": "string"},
    "refined.latest": {},
}
Script = Mapping[str, Sequence[Any]]


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "canary-key-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret")
    monkeypatch.setenv("AWS_REGION", REGION)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


# What an Athena answers is written down here, request by request; the last answer is given again.


def status(state: str, reason: str = "", *, scanned: int = 0, ms: int = 0, **more: Any) -> dict[str, Any]:
    statistics = {
        "DataScannedInBytes": scanned,
        "TotalExecutionTimeInMillis": ms,
        "ResultReuseInformation": {"ReusedPreviousResult": more.pop("is_reused", False)},
    }
    output = {"OutputLocation": location} if (location := more.pop("output", None)) else {}
    told = {"State": state, "StateChangeReason": reason, "AthenaError": more}
    return {
        "QueryExecution": {
            "QueryExecutionId": QUERY,
            "Query": "select",
            "Status": told,
            "Statistics": statistics,
            "ResultConfiguration": output,
        }
    }


def page(columns: Mapping[str, Any], rows: Sequence[Sequence[str | None]], *, header: bool = True) -> dict[str, Any]:
    """One page of results; a column is a type, or a decimal's precision and scale."""
    shown = [list(columns), *rows] if header else list(rows)
    told = [
        {
            "Name": name,
            "Type": kind if isinstance(kind, str) else "decimal",
            "Precision": 0 if isinstance(kind, str) else kind[0],
            "Scale": 0 if isinstance(kind, str) else kind[1],
            "Nullable": "UNKNOWN",
        }
        for name, kind in columns.items()
    ]
    data = [{"Data": [{} if value is None else {"VarCharValue": value} for value in row]} for row in shown]
    return {"ResultSet": {"Rows": data, "ResultSetMetadata": {"ColumnInfo": told}}}


def refusal(code: str, message: str = "") -> Response:
    body = {"__type": code, "Message": message, "message": message}
    return Response(json.dumps(body), 400, content_type="application/x-amz-json-1.1")


class Scripted:
    """An Athena and an S3 that answer by the book, and remember what they were asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.script: dict[str, list[Any]] = {}
        # By path, what is there or the status and code that S3 refuses it with.
        self.objects: dict[str, bytes | tuple[int, str]] = {}

    def says(self, **script: Any) -> Scripted:
        self.script = {name: list(told) if isinstance(told, list) else [told] for name, told in script.items()}
        self.script.setdefault("StartQueryExecution", [{"QueryExecutionId": QUERY}])
        self.script.setdefault("GetQueryExecution", [status("SUCCEEDED")])
        self.script.setdefault("StopQueryExecution", [{}])
        self.script.setdefault("GetQueryResults", [page({"one": "integer"}, [["1"]])])
        return self

    def asked(self, name: str) -> list[dict[str, Any]]:
        return [body for called, body in self.calls if called == name]

    def answer(self, request: Request) -> Response:
        target = request.headers.get("X-Amz-Target", "").partition(".")[2]
        if not target:
            held = self.objects.get(request.path, (404, "NoSuchKey"))
            if isinstance(held, bytes):
                return Response(held)
            return Response(f"<Error><Code>{held[1]}</Code><Message>canary</Message></Error>", held[0])
        self.calls.append((target, json.loads(request.data)))
        told = self.script[target]
        answer = told.pop(0) if len(told) > 1 else told[0]
        answer = answer() if callable(answer) and not isinstance(answer, Response) else answer
        return answer if isinstance(answer, Response) else Response(json.dumps(answer))


@pytest.fixture
def aws(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    scripted = Scripted().says()
    httpserver.expect_request(re.compile(".*")).respond_with_handler(scripted.answer)
    monkeypatch.setenv("AWS_ENDPOINT_URL", httpserver.url_for("").rstrip("/"))
    return scripted


@pytest.fixture(scope="module")
def opened() -> Iterator[AthenaEngine]:
    # Its clients are made at the first query, by the variables of that test, and are dear.
    with AthenaEngine(TABLES, region=REGION, poll_s=0.01) as engine:
        yield engine


@pytest.fixture
def engine(aws: Scripted, opened: AthenaEngine) -> AthenaEngine:
    return opened


# what is sent


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ("select 1 from asset_daily", "select 1 from crypto_dev_refined.asset_daily"),
        ("select 1 from refined.asset_daily;", "select 1 from crypto_dev_refined.asset_daily"),
        ("select 1 from crypto_refined.ASSET_DAILY a", "select 1 from crypto_dev_refined.asset_daily a"),
        ("select 1 from crypto_dev_refined.asset_daily", "select 1 from crypto_dev_refined.asset_daily"),
        (
            'select \'süß 🐕 refined.assets\' from "AwsDataCatalog"."refined"."asset_daily" -- refined.assets',
            "select 'süß 🐕 refined.assets' from crypto_dev_refined.asset_daily -- refined.assets",
        ),
        (
            'select refined.asset_daily.close_usd, asset_daily.date from "crypto_refined".asset_daily '
            'where "crypto_refined".asset_daily.date > x',
            "select crypto_dev_refined.asset_daily.close_usd, asset_daily.date from crypto_dev_refined.asset_daily "
            "where crypto_dev_refined.asset_daily.date > x",
        ),
        (
            "with a as (select * from trusted.assets)\nselect count(*) from a join latest l on a.asset_id = l.asset_id",
            "with a as (select * from crypto_dev_trusted.assets)\n"
            "select count(*) from a join crypto_dev_refined.latest l on a.asset_id = l.asset_id",
        ),
    ],
)
def test_a_statement_is_sent_as_it_was_written_but_for_the_tables_names(aws: Scripted, asked: str, sent: str) -> None:
    with AthenaEngine(TABLES, prefix="crypto_dev_", workgroup="w", poll_s=0.01) as engine:
        engine.query(asked)
    request = aws.asked("StartQueryExecution")[0]
    assert request["QueryString"] == sent
    assert request["WorkGroup"] == "w"
    assert "ResultConfiguration" not in request
    assert "ResultReuseConfiguration" not in request


def test_place_for_results_and_reuse_are_asked_for_where_they_are_set(aws: Scripted) -> None:
    with AthenaEngine(TABLES, output="s3://results/here", reuse_minutes=30, poll_s=0.01) as engine:
        engine.query("select 1 as one")
    request = aws.asked("StartQueryExecution")[0]
    assert request["ResultConfiguration"] == {"OutputLocation": "s3://results/here/"}
    assert request["ResultReuseConfiguration"] == {
        "ResultReuseByAgeConfiguration": {"Enabled": True, "MaxAgeInMinutes": 30}
    }


def test_parameters_travel_apart_from_the_statement_and_keep_their_types(aws: Scripted, engine: AthenaEngine) -> None:
    at = dt.datetime(2026, 1, 1, 13, tzinfo=dt.timezone(dt.timedelta(hours=1)))
    values = ["o'x", 7, Decimal("1.50"), dt.date(2026, 1, 1), at, None, True]
    places = " or ".join(["asset_id = ?"] * len(values))
    engine.query(f"select '?' as mark from asset_daily where {places} -- ?", values)
    request = aws.asked("StartQueryExecution")[0]
    assert request["QueryString"].startswith("select '?' as mark from crypto_refined.asset_daily where asset_id = ? or")
    assert request["ExecutionParameters"] == [
        "'o''x'",
        "7",
        "DECIMAL '1.50'",
        "DATE '2026-01-01'",
        "TIMESTAMP '2026-01-01 12:00:00.000000 UTC'",
        "NULL",
        "true",
    ]


@pytest.mark.parametrize(
    ("sql", "values", "message"),
    [
        ("select * from assets", [], "write refined.assets or trusted.assets"),
        ("select * from asset_dayly", [], "did you mean refined.asset_daily"),
        ("select * from read_text('/etc/passwd')", [], "refused"),
        ("drop table refined.assets", [], "DROP is refused"),
        ("select 1; select 2", [], "several statements"),
        ("select ifnull(n_trades, 0) from asset_daily", [], "ifnull is refused or unknown.*write coalesce"),
        ("select n_trades::double from asset_daily", [], r"does not know ::.*write cast\(x as type\)"),
        ("select 1 from asset_daily limit 5 offset 3", [], "write OFFSET before LIMIT"),
        ("select 1 from asset_daily where date = ?", [], "1 places for parameters and was given 0"),
        ("select 1 from asset_daily", [1], "0 places for parameters and was given 1"),
        ("select 1 from asset_daily where observed_at > ?", [dt.datetime(2026, 1, 1)], "no zone"),  # noqa: DTZ001
    ],
)
def test_what_the_local_engine_refuses_is_not_sent(
    aws: Scripted, engine: AthenaEngine, sql: str, values: list[Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        engine.query(sql, values)
    assert refused.value.safe == "nothing was read or written"
    assert aws.calls == []
    assert engine.last is None


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.fault(row=101, fault="SQL that reaches beyond the tables", promise="refused; nothing is read or written")
def test_whatever_is_not_one_select_over_our_tables_is_not_sent(
    aws: Scripted, engine: AthenaEngine, attack: str
) -> None:
    with pytest.raises(UsageError):
        engine.query(attack.format(secret="/etc/passwd", out="/tmp/out"))  # noqa: S108
    assert aws.calls == []


@pytest.mark.parametrize(
    ("sql", "value", "sent"),
    [
        ("select ? as x from asset_daily", 7, "select 7 as x from crypto_refined.asset_daily"),
        ("select asset_id from asset_daily limit ?", 7, "select asset_id from crypto_refined.asset_daily limit 7"),
        (
            "select '?' as x from asset_daily where asset_id = ?",
            "y" * 1023,
            f"select '?' as x from crypto_refined.asset_daily where asset_id = '{'y' * 1023}'",
        ),
    ],
)
def test_parameters_that_athena_does_not_take_are_written_into_the_statement(
    aws: Scripted, engine: AthenaEngine, sql: str, value: Any, sent: str
) -> None:
    engine.query(sql, [value])
    request = aws.asked("StartQueryExecution")[0]
    assert request["QueryString"] == sent
    assert "ExecutionParameters" not in request


# what comes back


def test_answers_have_the_local_engines_types(aws: Scripted, engine: AthenaEngine) -> None:
    utc = pl.Datetime("us", "UTC")
    columns: dict[str, tuple[Any, pl.DataType, list[str], list[Any]]] = {
        "flag": ("boolean", pl.Boolean(), ["true", "false"], [True, False]),
        "tiny": ("tinyint", pl.Int8(), ["-128", "127"], [-128, 127]),
        "small": ("smallint", pl.Int16(), ["-1", "1"], [-1, 1]),
        "plain": ("integer", pl.Int32(), ["-1", "2147483647"], [-1, 2**31 - 1]),
        "big": ("bigint", pl.Int64(), ["9223372036854775807", "0"], [2**63 - 1, 0]),
        "real": ("float", pl.Float32(), ["1.5", "-2.0E-3"], [1.5, pytest.approx(-0.002)]),
        "double": ("double", pl.Float64(), ["1.0E10", "-Infinity"], [1e10, float("-inf")]),
        "price": (
            (38, 18),
            pl.Decimal(38, 18),
            ["69703.123456789012345678", "-0.000000000000000001"],
            [Decimal("69703.123456789012345678"), Decimal("-0.000000000000000001")],
        ),
        "text": ("varchar", pl.String(), ["", 'a "b", c\nd'], ["", 'a "b", c\nd']),
        "bytes": ("varbinary", pl.Binary(), ["01 ff", ""], [b"\x01\xff", b""]),
        "day": ("date", pl.Date(), ["2026-01-01", "0001-01-01"], [dt.date(2026, 1, 1), dt.date(1, 1, 1)]),
        "at": (
            "timestamp with time zone",
            utc,
            ["2026-01-01 12:00:00.123 UTC", "1969-12-31 23:59:59.999 UTC"],
            [
                dt.datetime(2026, 1, 1, 12, 0, 0, 123000, tzinfo=dt.UTC),
                dt.datetime(1969, 12, 31, 23, 59, 59, 999000, tzinfo=dt.UTC),
            ],
        ),
        "there": (
            "timestamp with time zone",
            utc,
            ["2026-01-01 13:00:00.000 Europe/Berlin", "2026-01-01 12:00:00.000000001 +02:00"],
            [dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC), dt.datetime(2026, 1, 1, 10, tzinfo=dt.UTC)],
        ),
        "bare": (
            "timestamp",
            utc,
            ["2026-01-01 12:00:00.000000999", "2026-01-01 12:00:00"],
            [dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)] * 2,
        ),
        "clock": ("time", pl.Time(), ["12:34:56.789", "00:00:00.000"], [dt.time(12, 34, 56, 789000), dt.time(0)]),
        "span": ("interval day to second", pl.String(), ["5 00:00:00.000", "1"], ["5 00:00:00.000", "1"]),
        "_col16": ("map", pl.String(), ["{a=1}", "{}"], ["{a=1}", "{}"]),
    }
    rows = [[texts[i] for _, _, texts, _ in columns.values()] for i in range(2)]
    rows.append([None] * len(columns))  # type: ignore[list-item]
    aws.says(GetQueryResults=page({name: kind for name, (kind, *_) in columns.items()}, rows))
    frame = engine.query("select * from asset_daily")
    assert dict(frame.schema) == {name: dtype for name, (_, dtype, _, _) in columns.items()}
    for name, (_, _, _, values) in columns.items():
        assert frame[name].to_list() == [*values, None], name


def test_an_answer_without_rows_has_its_types(aws: Scripted, engine: AthenaEngine) -> None:
    aws.says(GetQueryResults=page({"day": "date", "price": (38, 18), "at": "timestamp with time zone"}, []))
    frame = engine.query("select * from asset_daily")
    assert frame.shape == (0, 3)
    assert list(frame.schema.values()) == [pl.Date, pl.Decimal(38, 18), pl.Datetime("us", "UTC")]


def test_arrays_maps_and_rows_are_asked_for_as_json_and_are_exact(aws: Scripted, engine: AthenaEngine) -> None:
    rows = [
        ['["a, b",null,"]"]', "[1,null]", '{"süß":"1.000000000000000001"}', '["2026-01-01"]', "2"],
        [None, "[]", "{}", None, "0"],
    ]
    columns = dict.fromkeys(("tags", "_col1", "prices", "_col3"), "varchar") | {"_col4": "bigint"}
    aws.says(GetQueryResults=page(columns, rows))
    frame = engine.query(
        "select tags, array_agg(n_trades), map_agg(asset_id, price_usd) as prices, array_agg(date), count(*) "
        "from asset_daily group by tags order by count(*) desc"
    )
    assert aws.asked("StartQueryExecution")[0]["QueryString"] == (
        "SELECT "
        'JSON_FORMAT(CAST(CAST(tags AS ARRAY(VARCHAR)) AS JSON)) AS "tags", '
        'JSON_FORMAT(CAST(CAST(ARRAY_AGG(n_trades) AS ARRAY(BIGINT)) AS JSON)) AS "_col1", '
        'JSON_FORMAT(CAST(CAST(MAP_AGG(asset_id, price_usd) AS MAP(VARCHAR, VARCHAR)) AS JSON)) AS "prices", '
        'JSON_FORMAT(CAST(CAST(ARRAY_AGG(date) AS ARRAY(DATE)) AS JSON)) AS "_col3", COUNT(*) '
        "FROM crypto_refined.asset_daily GROUP BY tags ORDER BY COUNT(*) DESC"
    )
    assert frame.schema["_col1"] == pl.List(pl.Int64)
    assert frame.schema["prices"] == pl.Map(pl.String(), pl.Decimal(38, 18))
    assert frame.rows() == [
        (["a, b", None, "]"], [1, None], {"süß": Decimal("1.000000000000000001")}, [dt.date(2026, 1, 1)], 2),
        (None, [], {}, None, 0),
    ]


def test_a_value_that_is_not_of_its_type_is_no_null(aws: Scripted, engine: AthenaEngine) -> None:
    aws.says(GetQueryResults=page({"price": (38, 18)}, [["1.5"], ["soon"]]))
    with pytest.raises(DataError, match="column price holds what is no decimal"):
        engine.query("select price_usd as price from asset_daily")


def test_two_columns_of_one_name_are_refused(aws: Scripted, engine: AthenaEngine) -> None:
    told = page({"a": "integer"}, [])
    told["ResultSet"]["ResultSetMetadata"]["ColumnInfo"] *= 2
    aws.says(GetQueryResults=told)
    with pytest.raises(UsageError, match="several columns named a"):
        engine.query("select 1 as a, 2 as a")


def test_a_long_answer_is_read_from_its_file(aws: Scripted, engine: AthenaEngine) -> None:
    values = [None if i % 7 == 0 else "" if i % 7 == 1 else f'{i} "q", \n' for i in range(2500)]
    lines = "".join("\n" if v is None else '"' + v.replace('"', '""') + '"\n' for v in values)
    aws.objects["/results/x/1.csv"] = f'"text"\n{lines}'.encode()
    first = page({"text": "varchar"}, [[value] for value in values[:999]]) | {"NextToken": "2"}
    aws.says(GetQueryExecution=status("SUCCEEDED", output="s3://results/x/1.csv"), GetQueryResults=first)
    frame = engine.query("select asset_id as text from asset_daily")
    assert frame["text"].to_list() == values
    assert len(aws.asked("GetQueryResults")) == 1


def test_a_long_answer_that_athena_keeps_itself_is_read_page_by_page(aws: Scripted, engine: AthenaEngine) -> None:
    pages = [page({"n": "bigint"}, [[str(i)] for i in range(999)]) | {"NextToken": "2"}]
    pages.append(page({"n": "bigint"}, [[str(i)] for i in range(999, 1999)], header=False) | {"NextToken": "3"})
    pages.append(page({"n": "bigint"}, [["1999"]], header=False))
    aws.says(GetQueryResults=pages)
    assert engine.query("select n_trades as n from asset_daily")["n"].to_list() == list(range(2000))
    assert [body.get("NextToken") for body in aws.asked("GetQueryResults")] == [None, "2", "3"]


def test_too_long_an_answer_is_an_error_and_never_cut(aws: Scripted) -> None:
    aws.says(GetQueryResults=page({"n": "bigint"}, [["1"], ["2"], ["3"]]))
    with AthenaEngine(TABLES, max_rows=2, poll_s=0.01) as engine, pytest.raises(UsageError, match="more than 2 rows"):
        engine.query("select n_trades as n from asset_daily")


def test_threads_may_share_an_engine(aws: Scripted, engine: AthenaEngine) -> None:
    answers: list[tuple[object, bool]] = []

    def ask() -> None:
        answers.append((engine.query("select 1 as one").item(), engine.last is not None))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [(1, True)] * 4


# what it costs


@pytest.mark.parametrize(
    ("bill", "megabytes", "usd"),
    [
        (Bill(QUERY, "SUCCEEDED", 0, 1), 10, 10 / 2**20 * 5),
        (Bill(QUERY, "SUCCEEDED", 10 * 2**20 + 1, 1), 11, 11 / 2**20 * 5),
        (Bill(QUERY, "SUCCEEDED", 2**40, 1), 2**20, 5.0),
        (Bill(QUERY, "SUCCEEDED", 0, 1, is_reused=True), 0, 0.0),
        (Bill(QUERY, "FAILED", 10**9, 1), 0, 0.0),
        (Bill(QUERY, "CANCELLED", 0, 1), 0, 0.0),
        (Bill(QUERY, "CANCELLED", 1, 1), 10, 10 / 2**20 * 5),
    ],
)
def test_a_query_costs_whole_megabytes_and_ten_at_least(bill: Bill, megabytes: int, usd: float) -> None:
    assert bill.billed_bytes == megabytes * 2**20
    assert bill.usd == pytest.approx(usd)


def test_what_a_query_read_and_cost_is_told_also_where_it_failed(aws: Scripted, engine: AthenaEngine) -> None:
    assert AthenaEngine(TABLES).bill() is None
    aws.says(GetQueryExecution=[status("QUEUED"), status("RUNNING"), status("SUCCEEDED", scanned=12_900_000, ms=1234)])
    engine.query("select 1 as one")
    assert engine.bill() == f"athena: 12.30 MB scanned, 13 MB billed, $0.000062, 1,234 ms (query {QUERY})"
    aws.says(GetQueryExecution=status("FAILED", "SYNTAX_ERROR: line 1:8: no", scanned=5))
    with pytest.raises(UsageError):
        engine.query("select 1 as one")
    assert engine.last == Bill(QUERY, "FAILED", 5, 0)
    aws.says(GetQueryExecution=status("SUCCEEDED", is_reused=True))
    engine.query("select 1 as one")
    assert engine.bill() == f"athena: 0.00 MB scanned, 0 MB billed, $0.000000, 0 ms, a former answer (query {QUERY})"


# stopping


def test_a_slow_query_is_stopped_and_seen_to_be_stopped(aws: Scripted) -> None:
    aws.says(GetQueryExecution=[status("RUNNING")])

    def stop() -> dict[str, Any]:
        aws.script["GetQueryExecution"] = [status("RUNNING"), status("CANCELLED", "x", scanned=2**30)]
        return {}

    aws.script["StopQueryExecution"] = [stop]
    with AthenaEngine(TABLES, timeout_s=0.2, poll_s=0.02) as engine:
        with pytest.raises(TransientError, match=r"longer than 0\.2 s and was stopped; no table was changed"):
            engine.query("select 1 as one")
        names = [name for name, _ in aws.calls]
        assert aws.asked("StopQueryExecution") == [{"QueryExecutionId": QUERY}]
        assert names[names.index("StopQueryExecution") :] == ["StopQueryExecution", *["GetQueryExecution"] * 2]
        assert engine.last is not None
        assert (engine.last.state, engine.last.billed_bytes) == ("CANCELLED", 2**30)
        aws.says()
        assert engine.query("select 1 as one").item() == 1


def test_a_query_that_does_not_stop_is_named(aws: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(athena, "_STOP_S", 0.05)
    aws.says(GetQueryExecution=status("RUNNING"))
    with (
        AthenaEngine(TABLES, timeout_s=0.05, poll_s=0.02) as engine,
        pytest.raises(TransientError, match=f"query {QUERY} may still be running at Athena"),
    ):
        engine.query("select 1 as one")


def test_an_interrupt_stops_the_query_at_athena(aws: Scripted, engine: AthenaEngine) -> None:
    def interrupted() -> dict[str, Any]:
        _thread.interrupt_main()
        return status("RUNNING", scanned=2**30)

    def stop() -> dict[str, Any]:
        aws.script["GetQueryExecution"] = [status("RUNNING"), status("CANCELLED", scanned=2**30)]
        return {}

    aws.says(GetQueryExecution=[status("QUEUED"), interrupted, status("RUNNING")], StopQueryExecution=stop)
    with pytest.raises(KeyboardInterrupt):
        engine.query("select 1 as one")
    names = [name for name, _ in aws.calls]
    assert names[names.index("StopQueryExecution") :] == ["StopQueryExecution", *["GetQueryExecution"] * 2]
    assert engine.last is not None
    assert (engine.last.state, engine.last.billed_bytes) == ("CANCELLED", 2**30)


# errors

INVALID = "InvalidRequestException"
ARN = "arn:aws:sts::123456789012:assumed-role/dashboard/x"


@pytest.mark.parametrize(
    ("code", "message", "kind", "told"),
    [
        (INVALID, "WorkGroup w is not found.", NeedsYouError, "workgroup w: there is no such workgroup in eu-west-1"),
        (INVALID, "WorkGroup w is disabled", NeedsYouError, "the workgroup is disabled"),
        (
            INVALID,
            "No output location provided. An output location is required either through the Workgroup result "
            "configuration setting or as an API input.",
            NeedsYouError,
            "nothing says where results go.*CRYPTO_ASSETS_ATHENA_OUTPUT=s3://",
        ),
        (
            INVALID,
            "Unable to verify/create output bucket results",
            NeedsYouError,
            "bucket for results of the workgroup",
        ),
        (
            INVALID,
            "line 1:8: mismatched input 'x'. Expecting: y",
            UsageError,
            "cannot read the SQL at line 1, column 8",
        ),
        ("UnrecognizedClientException", "The security token is invalid", NeedsYouError, "does not know the access key"),
        ("InvalidSignatureException", "Signature expired", NeedsYouError, "refuses the secret key.*clock"),
        ("ExpiredTokenException", "The security token included in the request is expired", NeedsYouError, "expired"),
        (
            "AccessDeniedException",
            f"User: {ARN} is not authorized to perform: athena:StartQueryExecution on resource: {ARN}",
            NeedsYouError,
            "the role may not athena:StartQueryExecution",
        ),
        (
            "AccessDeniedException",
            "Insufficient Lake Formation permission(s) on asset_daily",
            NeedsYouError,
            "Lake Formation denies it.*grant this role",
        ),
        ("SomethingNewException", "what", TransientError, "Athena failed with SomethingNewException"),
    ],
)
def test_what_athena_does_not_take_is_one_clear_line(
    aws: Scripted, code: str, message: str, kind: type[CryptoAssetsError], told: str
) -> None:
    aws.says(StartQueryExecution=refusal(code, message))
    with AthenaEngine(TABLES, workgroup="w", poll_s=0.01) as engine, pytest.raises(kind, match=told) as error:
        engine.query("select 1 as one")
    _is_clear(error.value)


@pytest.mark.parametrize(
    ("reason", "kind", "told"),
    [
        (
            "COLUMN_NOT_FOUND: line 1:8: Column 'a.prise_usd' cannot be resolved or requester is not authorized to "
            "access requested resources",
            UsageError,
            "no column 'prise_usd'.*did you mean price_usd",
        ),
        ("COLUMN_NOT_FOUND: line 1:8: Column 'zzz' cannot be resolved", UsageError, "columns here are asset_id, date"),
        (
            "FUNCTION_NOT_FOUND: line 1:8: Function 'any_value' not registered",
            UsageError,
            "Athena has no function any_value",
        ),
        (
            "TABLE_NOT_FOUND: line 1:15: Table 'awsdatacatalog.crypto_refined.asset_daily' does not exist",
            UsageError,
            "refined.asset_daily: Athena does not know it.*catalog sync",
        ),
        ("SCHEMA_NOT_FOUND: line 1:15: Schema 'crypto_refined' does not exist", UsageError, "catalog sync"),
        ("SYNTAX_ERROR: line 2:3: '+' cannot be applied to date, bigint", UsageError, "at line 2, column 3"),
        ("INVALID_CAST_ARGUMENT: Cannot cast 'x' to INT", UsageError, "does not fit its type.*try_cast"),
        ("DIVISION_BY_ZERO: / by zero", UsageError, "does not fit its type"),
        ("TYPE_MISMATCH: line 1:8: no", UsageError, "cannot be answered at line 1, column 8"),
        ("Bytes scanned limit was exceeded", UsageError, "more bytes than the workgroup allows.*condition on date"),
        ("Query exhausted resources at this scale factor", UsageError, "more memory than Athena gives"),
        ("Query timeout", UsageError, "longer than Athena allows"),
        ("Insufficient permissions to execute the query.", NeedsYouError, "refined.asset_daily: the role may not read"),
        (
            "PERMISSION_DENIED: Access Denied: Insufficient Lake Formation permission(s) on asset_daily",
            NeedsYouError,
            "refined.asset_daily: Lake Formation denies it",
        ),
        (
            "PERMISSION_DENIED: com.amazonaws.services.s3.model.AmazonS3Exception: Access Denied (Service: Amazon S3; "
            f"Status Code: 403; Request ID: X), User: {ARN}",
            NeedsYouError,
            "the role may not read it",
        ),
        ("DELTA_LAKE_INVALID_SCHEMA: No path property defined for table", DataError, "its entry in Glue.*catalog sync"),
        ("HIVE_CANNOT_OPEN_SPLIT: NoSuchKey s3://lake/x.parquet", DataError, "gone or damaged.*doctor --deep"),
        ("GENERIC_INTERNAL_ERROR: null", TransientError, "Athena failed with GENERIC_INTERNAL_ERROR"),
        ("Please reduce your request rate (SlowDown)", TransientError, "trying again may help"),
        ("", UsageError, "Athena gives no reason"),
    ],
)
def test_a_query_that_fails_is_one_clear_line(
    aws: Scripted, engine: AthenaEngine, reason: str, kind: type[CryptoAssetsError], told: str
) -> None:
    aws.says(GetQueryExecution=[status("RUNNING"), status("FAILED", reason, ErrorCategory=2, Retryable=False)])
    with pytest.raises(kind, match=told) as error:
        engine.query("select asset_id from asset_daily")
    _is_clear(error.value)


def _is_clear(error: CryptoAssetsError) -> None:
    text = str(error)
    assert "\n" not in text
    assert error.hint
    assert error.safe in {"no table was changed", "nothing was returned"}
    for foreign in ("arn:", "123456789012", "amazonaws", "canary", "Request ID"):
        assert foreign not in text


def test_a_query_over_the_limit_is_told_also_where_athena_calls_it_cancelled(
    aws: Scripted, engine: AthenaEngine
) -> None:
    aws.says(GetQueryExecution=status("CANCELLED", "Query cancelled! : Bytes scanned limit was exceeded"))
    with pytest.raises(UsageError, match="more bytes than the workgroup allows"):
        engine.query("select asset_id from asset_daily")


def test_a_query_that_somebody_stopped_may_be_asked_again(aws: Scripted, engine: AthenaEngine) -> None:
    aws.says(GetQueryExecution=status("CANCELLED", "Query cancelled by user"))
    with pytest.raises(TransientError, match=f"query {QUERY} was cancelled at Athena"):
        engine.query("select asset_id from asset_daily")


def test_a_fault_of_athenas_own_may_pass(aws: Scripted, engine: AthenaEngine) -> None:
    aws.says(GetQueryExecution=status("FAILED", "[ErrorCode: INTERNAL] worker lost", ErrorCategory=1))
    with pytest.raises(TransientError, match="trying again may help"):
        engine.query("select asset_id from asset_daily")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that botocore waits between attempts; nobody waits here."""
    waited: list[float] = []
    monkeypatch.setattr("botocore.endpoint.time.sleep", waited.append)
    return waited


@pytest.mark.parametrize("code", ["TooManyRequestsException", "ThrottlingException"])
def test_throttling_is_waited_out_with_jitter_and_starts_one_query(
    aws: Scripted, engine: AthenaEngine, waits: list[float], code: str
) -> None:
    aws.says(StartQueryExecution=[*[refusal(code, "Rate exceeded")] * 4, {"QueryExecutionId": QUERY}])
    assert engine.query("select 1 as one").item() == 1
    waited = [seconds for seconds in waits if seconds != 0.01]
    assert len(waited) == 4
    assert all(0 <= seconds <= 2**i for i, seconds in enumerate(waited))
    assert len(set(waited)) == 4
    tokens = {body["ClientRequestToken"] for body in aws.asked("StartQueryExecution")}
    assert len(tokens) == 1


def test_throttling_that_goes_on_is_told(
    aws: Scripted, engine: AthenaEngine, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = BufferingHandler(1000)
    monkeypatch.setattr(logging.getLogger(), "handlers", [heard])
    aws.says(StartQueryExecution=refusal("TooManyRequestsException", "You have exceeded the limit"))
    with pytest.raises(TransientError, match=r"throttles us \(TooManyRequestsException, 6 attempts\)") as error:
        engine.query("select 1 as one")
    _is_clear(error.value)
    assert len(aws.asked("StartQueryExecution")) == 6
    assert len(waits) == 5
    assert not [record for record in heard.buffer if record.name.startswith("pyathena")]


@pytest.mark.parametrize(
    ("held", "kind", "told"),
    [
        ((404, "NoSuchKey"), TransientError, "the answer is gone from its place"),
        ((404, "NoSuchBucket"), NeedsYouError, "bucket for results results cannot be used"),
        ((403, "AccessDenied"), NeedsYouError, "results: S3 denies access.*check the role's permissions on S3"),
        ((301, "PermanentRedirect"), NeedsYouError, "in another region.*set AWS_REGION"),
        (b"x" * 101, UsageError, "the answer is longer than 0 MB"),
    ],
)
def test_a_long_answer_that_cannot_be_read_is_told(
    aws: Scripted,
    engine: AthenaEngine,
    monkeypatch: pytest.MonkeyPatch,
    held: Any,
    kind: type[CryptoAssetsError],
    told: str,
) -> None:
    monkeypatch.setattr(athena, "_MAX_CSV_BYTES", 100)
    aws.objects["/results/x/1.csv"] = held
    full = page({"n": "bigint"}, [["1"]] * 999) | {"NextToken": "2"}
    aws.says(GetQueryExecution=status("SUCCEEDED", output="s3://results/x/1.csv"), GetQueryResults=full)
    with pytest.raises(kind, match=told) as error:
        engine.query("select n_trades as n from asset_daily")
    _is_clear(error.value)


def test_without_credentials_one_line_says_what_to_set(aws: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    with (
        AthenaEngine(TABLES) as engine,
        pytest.raises(NeedsYouError, match=r"no credentials to be had.*AWS_ACCESS_KEY_ID"),
    ):
        engine.query("select 1 as one")
    assert aws.calls == []


def test_without_a_region_one_line_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    with AthenaEngine(TABLES) as engine, pytest.raises(NeedsYouError, match=r"no region is set.*AWS_REGION"):
        engine.query("select 1 as one")


@pytest.mark.parametrize(
    ("region", "kind", "told"),
    [
        ("eu-nowhere-1", NeedsYouError, "eu-nowhere-1 is no region of Athena.*set AWS_REGION"),
        ("eu-west-1", TransientError, "Athena in eu-west-1 cannot be reached"),
        ("no region", NeedsYouError, "not the name of a region"),
    ],
)
def test_a_region_that_does_not_answer_is_named(
    monkeypatch: pytest.MonkeyPatch, waits: list[float], region: str, kind: type[CryptoAssetsError], told: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with AthenaEngine(TABLES, region=region) as engine, pytest.raises(kind, match=told):
        engine.query("select 1 as one")


def test_an_endpoint_that_is_no_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nowhere")
    with AthenaEngine(TABLES) as engine, pytest.raises(NeedsYouError, match="the endpoint is not an address"):
        engine.query("select 1 as one")


# what stands around it: workgroup, Glue, the command line, Dagster


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def account(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Clients of an empty account."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    urllib.request.urlopen(urllib.request.Request(f"{moto}/moto-api/reset", method="POST"))  # noqa: S310
    clients = {name: boto3.client(name, region_name=REGION) for name in ("athena", "glue", "s3")}
    clients["s3"].create_bucket(Bucket="results", CreateBucketConfiguration={"LocationConstraint": REGION})
    yield clients
    for client in clients.values():
        client.close()


def _queue(moto: str, answer: Mapping[str, Any]) -> None:
    """The next answer of moto's Athena, which runs no SQL."""
    told = answer["ResultSet"]
    columns = [
        {"CatalogName": "hive", "SchemaName": "", "TableName": "", "Label": c["Name"], "CaseSensitive": False, **c}
        for c in told["ResultSetMetadata"]["ColumnInfo"]
    ]
    body = {
        "account_id": "123456789012",
        "region": REGION,
        "results": [{"rows": told["Rows"], "column_info": columns}],
    }
    urllib.request.urlopen(  # noqa: S310
        urllib.request.Request(  # noqa: S310
            f"{moto}/moto-api/static/athena/query-results",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
    )


@pytest.mark.parametrize(
    ("settings", "output", "told"),
    [
        ({"ResultConfiguration": {"OutputLocation": "s3://results/x/"}}, None, "results in s3://results/x/, no limit"),
        (
            {"ResultConfiguration": {"OutputLocation": "s3://results/x/"}, "BytesScannedCutoffPerQuery": 10 * 2**30},
            "s3://results/mine/",
            "results in s3://results/x/, at most 10,240 MB a query",
        ),
        ({}, "s3://results/mine/", "results in s3://results/mine/"),
    ],
)
def test_a_workgroup_that_can_take_queries_is_described(
    account: dict[str, Any], settings: dict[str, Any], output: str | None, told: str
) -> None:
    enforced = {"EnforceWorkGroupConfiguration": bool(settings)}
    account["athena"].create_work_group(Name="w", Configuration={**enforced, **settings})
    with AthenaEngine(TABLES, workgroup="w", output=output) as engine:
        assert told in engine.check()


def test_a_workgroup_that_cannot_is_told(account: dict[str, Any]) -> None:
    client = account["athena"]
    client.create_work_group(Name="bare", Configuration={})
    client.create_work_group(
        Name="elsewhere", Configuration={"ResultConfiguration": {"OutputLocation": "s3://not-there/"}}
    )
    for workgroup, told in (
        ("bare", "nothing says where results go"),
        ("elsewhere", "bucket for results not-there cannot be used"),
    ):
        with AthenaEngine(TABLES, workgroup=workgroup) as engine, pytest.raises(NeedsYouError, match=told):
            engine.check()


def test_a_disabled_or_missing_workgroup_is_told(aws: Scripted) -> None:
    with AthenaEngine(TABLES, workgroup="w") as engine:
        aws.says(GetWorkGroup={"WorkGroup": {"Name": "w", "State": "DISABLED"}})
        with pytest.raises(NeedsYouError, match="the workgroup is disabled"):
            engine.check()
        aws.says(GetWorkGroup=refusal(INVALID, "WorkGroup w is not found."))
        with pytest.raises(NeedsYouError, match=r"no such workgroup in eu-west-1.*CRYPTO_ASSETS_ATHENA_WORKGROUP"):
            engine.check()


def test_tables_are_shown_and_described_as_glue_knows_them(account: dict[str, Any]) -> None:
    contract = BY_NAME["refined.asset_daily"]
    account["glue"].create_database(DatabaseInput={"Name": "crypto_dev_refined"})
    entry = table_input(contract, "s3://lake/refined/asset_daily")
    account["glue"].create_table(DatabaseName="crypto_dev_refined", TableInput=entry)
    account["glue"].create_table(DatabaseName="crypto_dev_refined", TableInput={"Name": "somebody_elses"})
    with sql_command.athena(Settings(catalog_prefix="crypto_dev_")) as engine:
        assert engine.query("show tables")["table"].to_list() == ["refined.asset_daily"]
        assert engine.query("SHOW TABLES IN crypto_dev_refined;")["table"].to_list() == ["refined.asset_daily"]
        assert engine.query("show tables in trusted").height == 0
        described = dict(engine.query("describe asset_daily").rows())
        assert list(described) == contract.column_names()
        assert described["date"] == "date"
        assert {described[name] for name in described if name.endswith("_at")} == {"timestamp with time zone"}
        with pytest.raises(UsageError, match=r"refined\.movers: Athena does not know it"):
            engine.query("describe refined.movers")


def test_databases_that_a_role_may_not_see_are_left_out(aws: Scripted) -> None:
    denied, zones = refusal("AccessDeniedException", f"{ARN} is not authorized to perform: glue:GetTables"), []
    held = {"TableList": [{"Name": "asset_daily"}]}

    def answer() -> Any:
        zones.append(aws.calls[-1][1]["DatabaseName"])
        return held if zones[-1] == "crypto_refined" else denied

    aws.says(GetTables=answer)
    with AthenaEngine(TABLES, region=REGION) as engine:
        assert engine.query("show tables")["table"].to_list() == ["refined.asset_daily"]
        assert len(zones) > 1
        zones.clear()
        assert engine.query("show tables in refined")["table"].to_list() == ["refined.asset_daily"]
        assert zones == ["crypto_refined"]
        with pytest.raises(NeedsYouError, match="the role may not glue:GetTables"):
            engine.query("show tables in trusted")


def test_sql_goes_where_settings_or_the_command_say(
    account: dict[str, Any], moto: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = {"ResultConfiguration": {"OutputLocation": "s3://results/x/"}}
    account["athena"].create_work_group(Name="crypto_assets", Configuration=place)
    answer = page({"price_usd": (38, 18)}, [["69703.123456789012345678"]])
    statement = "select price_usd from refined.asset_daily"
    for arguments, setting in ((["--engine", "athena"], "duckdb"), ([], "athena")):
        _queue(moto, answer)
        monkeypatch.setenv("CRYPTO_ASSETS_QUERY_ENGINE", setting)
        assert cli.main(["sql", statement, "--json", *arguments]) == 0
        said = capsys.readouterr()
        assert said.out == '{"price_usd": "69703.123456789012345678"}\n'
        assert re.fullmatch(
            r"athena: 0\.00 MB scanned, 10 MB billed, \$0\.000048, 0 ms \(query [0-9a-f-]{36}\)\n", said.err
        )
    assert cli.main(["sql", "select 7/2 as n", "--json", "--engine", "duckdb"]) == 0
    assert capsys.readouterr().out == '{"n": 3}\n'
    sent = account["athena"].list_query_executions(WorkGroup="crypto_assets")["QueryExecutionIds"]
    assert len(sent) == 2


def test_the_bill_of_a_query_that_failed_is_shown_too(aws: Scripted, capsys: pytest.CaptureFixture[str]) -> None:
    aws.says(GetQueryExecution=status("CANCELLED", "Bytes scanned limit was exceeded", scanned=2**30, ms=5))
    assert cli.main(["sql", "select asset_id from refined.asset_daily", "--engine", "athena"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[:2] == [
        f"athena: 1,024.00 MB scanned, 1,024 MB billed, $0.004883, 5 ms (query {QUERY})",
        "error: the query would read more bytes than the workgroup allows — sql; nothing was returned",
    ]


def test_doctor_looks_at_the_workgroup_where_athena_is_the_engine(
    aws: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crypto_assets.commands.doctor import _environment

    aws.says(GetWorkGroup=refusal(INVALID, "WorkGroup crypto_assets is not found."))
    found = {finding.subject: finding for finding in _environment(Settings(query_engine="athena"))}
    assert not found["athena"].is_well
    assert found["athena"].seen == "there is no such workgroup in eu-west-1"
    assert "athena" not in {finding.subject for finding in _environment(Settings())}


@pytest.mark.parametrize("name", ["query_engine", "athena_workgroup", "athena_output", "athena_reuse_minutes"])
def test_settings_that_make_no_sense_are_refused(name: str) -> None:
    wrong = {"query_engine": "presto", "athena_workgroup": "a b", "athena_output": "/tmp", "athena_reuse_minutes": -1}  # noqa: S108
    with pytest.raises(ValueError, match=name):
        Settings(**{name: wrong[name]})  # type: ignore[arg-type]
    assert Settings(athena_output=" ").athena_output is None


def test_assets_link_to_their_tables_at_athena_where_there_is_a_catalog() -> None:
    key = dg.AssetKey(["refined", "asset_daily"])
    specs = {spec.key: spec for spec in build_definitions(Settings(catalog="glue")).resolve_all_asset_specs()}
    plain = {spec.key: spec for spec in build_definitions(Settings()).resolve_all_asset_specs()}
    url = (
        "https://eu-west-1.console.aws.amazon.com/glue/home?region=eu-west-1"
        "#/v2/data-catalog/tables/view/asset_daily?database=crypto_refined"
    )
    assert specs[key].metadata["athena_table"] == "crypto_refined.asset_daily"
    assert specs[key].metadata["athena"] == dg.MetadataValue.url(url)
    # Only the stand-ins of assets that are not registered, without a key, have no table to name.
    assert {spec.key for spec in specs.values() if "athena" not in spec.metadata} == {
        key for key, spec in plain.items() if "retention" not in spec.metadata
    }
    assert not any("athena" in spec.metadata for spec in plain.values())
    assert {**plain[key].metadata, **athena_link(Catalog(), BY_NAME["refined.asset_daily"])} == specs[key].metadata
    # What a materialization says is made of the same.
    contract = BY_NAME["refined.asset_daily"]
    assert athena_link(Catalog(prefix="crypto_dev_"), contract)["athena_table"] == "crypto_dev_refined.asset_daily"
    assert athena_link(None, contract) == {}


def test_a_materialization_links_to_the_table_at_athena(
    account: dict[str, Any], tmp_path: Path, rows_of: Callable[..., pl.DataFrame]
) -> None:
    contract = BY_NAME["refined.asset_daily"]
    account["glue"].create_database(DatabaseInput={"Name": "crypto_dev_refined"})
    lake = Lake(str(tmp_path), clock=FixedClock(NOON), catalog=Catalog(prefix="crypto_dev_", region=REGION))
    lake.replace(contract, rows_of(contract, {"date": NOON.date()}), Window.of_day(NOON.date()))
    told = _table_metadata(lake, contract)
    assert told["dagster/row_count"] == 1
    assert told["athena_table"] == "crypto_dev_refined.asset_daily"
    assert told["athena"] == dg.MetadataValue.url(console_url(REGION, "crypto_dev_refined", "asset_daily"))


def test_the_console_of_china_is_elsewhere() -> None:
    assert console_url("cn-north-1", "crypto_raw", "t").startswith("https://cn-north-1.console.amazonaws.cn/glue/home?")
