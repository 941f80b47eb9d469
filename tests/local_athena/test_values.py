"""Values, files and statements, without a server."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest

from crypto_assets.local_athena import statements
from crypto_assets.local_athena.errors import QueryError, RequestError
from crypto_assets.local_athena.results import Answer, Column, java_double, selected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.5, "1.5"),
        (1.0, "1.0"),
        (-0.0, "-0.0"),
        (100.0, "100.0"),
        (9999999.0, "9999999.0"),
        (1e7, "1.0E7"),
        (12345678.9, "1.23456789E7"),
        (0.001, "0.001"),
        (0.00099, "9.9E-4"),
        (-1e-7, "-1.0E-7"),
        (1e20, "1.0E20"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1.7976931348623157e308, "1.7976931348623157E308"),
        (float("nan"), "NaN"),
        (float("-inf"), "-Infinity"),
    ],
)
def test_a_double_is_written_as_java_writes_it(value: float, text: str) -> None:
    assert java_double(value) == text


def test_nested_values_have_no_quotes_and_maps_are_in_the_order_of_their_keys() -> None:
    duckdb = pytest.importorskip("duckdb")
    found = duckdb.sql(
        "select map([10, 9], ['b', null]) as m, [[1], null] as a, {'t': timestamp '2026-01-01 00:00:00.1'} as r, "
        "{'_0': 1, '_1': 'x'} as unnamed, cast(1.1 as real) as f, time '01:02:03' as t"
    )
    answer = selected(pl.DataFrame(found))
    assert [column.type for column in answer.columns] == ["map", "array", "row", "row", "float", "time"]
    assert answer.rows == (
        (*("{9=null, 10=b}", "[[1], null]", "{t=2026-01-01 00:00:00.100}", "{1, x}", "1.1", "01:02:03.000"),),
    )


def test_times_are_cut_to_milliseconds_and_say_their_zone() -> None:
    at = dt.datetime(2026, 1, 1, 0, 0, 0, 999_999, tzinfo=dt.UTC)
    frame = pl.DataFrame({"aware": [at], "plain": [at.replace(tzinfo=None)]})
    assert selected(frame).rows == (("2026-01-01 00:00:00.999 UTC", "2026-01-01 00:00:00.999"),)


def test_an_empty_answer_is_a_header() -> None:
    answer = selected(pl.DataFrame(schema={"a": pl.Int64, 'b"c': pl.String}))
    assert answer.file() == b'"a","b""c"\n'
    assert answer.page(0, 10) == ([{"Data": [{"VarCharValue": "a"}, {"VarCharValue": 'b"c'}]}], None)


def test_the_metadata_is_protobuf_that_tells_the_columns() -> None:
    """Read back by the wire format's rules: a key's last three bits are the kind, 0 a varint, 2 bytes with a length."""

    def fields(content: bytes) -> list[tuple[int, int | bytes]]:
        found: list[tuple[int, int | bytes]] = []
        at = 0

        def varint() -> int:
            nonlocal at
            value = shift = 0
            while True:
                byte = content[at]
                at += 1
                value |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    return value

        while at < len(content):
            key = varint()
            value: int | bytes = varint()
            if key & 7 == 2:
                value, at = content[at : at + int(value)], at + int(value)
            found.append((key >> 3, value))
        return found

    columns = (Column("price", "decimal", 38, 18), Column("note", "varchar", 2147483647))
    told = fields(Answer(columns, (), is_select=True).metadata("an-id"))
    assert told[0] == (1, b"an-id")
    assert [dict(fields(bytes(value))) for number, value in told[1:] if number == 4] == [  # type: ignore[arg-type]
        {1: b"hive", 4: b"price", 5: b"price", 6: b"decimal", 7: 38, 8: 18, 9: 3, 10: 0},
        {1: b"hive", 4: b"note", 5: b"note", 6: b"varchar", 7: 2147483647, 8: 0, 9: 3, 10: 1},
    ]


@pytest.mark.parametrize(
    ("value", "bound"),
    [
        ("'abc'", "'abc'"),
        ("1 + 1", "1 + 1"),
        ("DATE '2020-01-01'", "DATE '2020-01-01'"),
        ("NULL", "NULL"),
        ("abc def", "'abc def'"),
        ("it's", "'it''s'"),
        ("123e4567-e89b-12d3-a456-426614174000", "'123e4567-e89b-12d3-a456-426614174000'"),
        ("x + 1", "'x + 1'"),
        ("1) FROM t WHERE (1", "'1) FROM t WHERE (1'"),
        ("1, 2", "'1, 2'"),
        ("(select 1)", "'(select 1)'"),
        ("'a' -- x", "'''a'' -- x'"),
        ("1 /*", "'1 /*'"),
    ],
)
def test_a_parameter_is_an_expression_or_a_text(value: str, bound: str) -> None:
    assert statements.bound("select ? as v, '?' -- ?", [value]) == f"select {bound} as v, '?' -- ?"


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("-- why\n/* and */ select 1;", ("DML", "SELECT")),
        ("(select 1) union (select 2)", ("DML", "SELECT")),
        ("with a as (select 1) select * from a", ("DML", "SELECT")),
        ("show create table t", ("UTILITY", "SHOW_CREATE_TABLE")),
        ("DESC t", ("UTILITY", "DESCRIBE_TABLE")),
        ("create schema x", ("DDL", "CREATE_DATABASE")),
        ("CREATE EXTERNAL TABLE t LOCATION 's3://x/'", ("DDL", "CREATE_TABLE")),
    ],
)
def test_a_statement_is_classified_as_athena_does(sql: str, kind: tuple[str, str]) -> None:
    found = statements.classified(sql)
    assert (found.type, found.substatement) == kind


def test_names_are_found_with_their_places_and_bare_ones_are_the_contexts() -> None:
    sql = 'with q as (select * from a)\nselect * from q, crypto_b.c, "d e", awsdatacatalog.f.g'
    names = statements.named(sql, "ctx")
    assert [(n.database, n.table, n.at) for n in names] == [
        ("ctx", "a", "line 1:26"),
        ("crypto_b", "c", "line 2:18"),
        ("ctx", "d e", "line 2:30"),
        ("f", "g", "line 2:37"),
    ]
    written = 'with q as (select * from "ctx".a)\nselect * from q, crypto_b.c, "ctx"."d e", awsdatacatalog.f.g'
    assert statements.written_out(sql, names) == written


@pytest.mark.parametrize(
    ("sql", "error", "words"),
    [
        ("select bing_tile('x')", QueryError, "NOT_SUPPORTED: line 1:8: the local Athena does not have"),
        ("select a from t where a ilike 'x'", RequestError, "mismatched input 'ILIKE'"),
        ('select "foo"(1)', QueryError, "FUNCTION_NOT_FOUND: line 1:8: Function 'foo' not registered"),
        ("select (1", RequestError, "mismatched input"),
    ],
)
def test_what_only_one_engine_knows_is_refused_by_its_name(sql: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match="(?s)" + words.replace("(", r"\(")):
        statements.parsed(sql)
