"""What Athena does not know is refused on this machine too, with the word for it; parameters keep their types."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from crypto_assets.errors import UsageError
from crypto_assets.resources.dialect import bound, literal
from crypto_assets.resources.query import QueryEngine, parse
from crypto_assets.tables.views import VIEWS


@pytest.fixture(scope="module")
def engine() -> Iterator[QueryEngine]:
    with QueryEngine({}) as engine:
        yield engine


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("select x::integer from (values 1) as t(x)", "does not know ::; .*write cast"),
        ("select * exclude (x) from (values (1, 2)) as t(x, y)", "choice of columns"),
        ("select * replace (1 as x) from (values 1) as t(x)", "choice of columns"),
        ("select columns('x') from (values 1) as t(x)", "choice of columns"),
        ("select 1 where 'a' ilike 'A'", "ILIKE"),
        ("select distinct on (x) x from (values 1) as t(x)", "DISTINCT ON"),
        ("select [1, 2]", r"write array\[...\]"),
        ("select {'a': 1}", "write cast"),
        ("select x from (values 1) as t(x) group by all", "GROUP BY ALL"),
        ("select x from (values 1) as t(x) using sample 10", "sample without a method"),
        ("select x from (values 1) as t(x) limit 10%", "LIMIT of a part"),
        ("select x from (values 1) as t(x) limit 5 offset 3", "OFFSET before LIMIT"),
        ("select x from (values 1) as t(x) semi join (values 1) as u(x) using (x)", "SEMI JOIN.*exists"),
        ("select 1 from (values 1) as t(x) asof join (values 1) as u(y) on x >= y", "ASOF JOIN"),
        ("select 1 as x union by name select 2 as x", "UNION BY NAME"),
        ("select x -> 'a' from (values '{}') as t(x)", "json_extract_scalar"),
        ("select x ->> 'a' from (values '{}') as t(x)", "json_extract_scalar"),
        ("select interval 5 day", "interval '5' day"),
        ("select x[1:2] from (values (array[1])) as t(x)", r"slice\(x, a, n\)"),
        ("select 1 == 1", "write ="),
        ("select x as y, y + 1 from (values 1) as t(x)", "there is no column 'y'"),
        ("select x as y from (values 1) as t(x) where y > 0", "there is no column 'y'"),
        ("select x as y from (values 1) as t(x) group by y", "there is no column 'y'"),
        ("select strftime(now(), '%Y')", "strftime is refused or unknown; .*write date_format"),
        ("select list(x) from (values 1) as t(x)", "write array_agg"),
        ("select left('abc', 1)", r"write substr\(x, 1, n\)"),
        ("select len('abc')", "write length"),
        ("select list_transform(array[1], x -> x)", "write transform"),
        ("select median(x) from (values 1) as t(x)", "write approx_percentile"),
        ("select date_trumc('day', now())", "did you mean date_trunc"),
        ("select xxhash64(cast('a' as varbinary))", "ask Athena itself"),
    ],
)
def test_what_only_duckdb_knows_is_refused_with_athenas_word(engine: QueryEngine, sql: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as refused:
        engine.query(sql)
    assert refused.value.safe == "nothing was read or written"


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("select transform(array[1, 2], x -> x + 1)", [2, 3]),
        ("select array[1, 2][2]", 2),
        ("select element_at(map(array['a'], array[7]), 'a')", 7),
        ("select filter(array[1, 2], x -> x > 1)", [2]),
        ("select sum(y) from (select x as y from (values 1, 2) as t(x) order by y) as u", 3),
        ("select count(*) filter (where x > 1) from (values 1, 2) as t(x)", 1),
        ("select x from (values 1, 2, 3) as t(x) order by x offset 1 limit 1", 2),
        ("select if(1 < 2, 'a', 'b')", "a"),
        ("with recursive r(n) as (select 1 union all select n + 1 from r where n < 3) select max(n) from r", 3),
        ("select extract(year from date '2026-01-01')", 2026),
        ("select max(v) from unnest(array[1, 5]) with ordinality as u(v, i)", 5),
        ("select listagg(x, ',') within group (order by x) from (values 'b', 'a') as t(x)", "a,b"),
    ],
)
def test_what_athena_knows_is_answered(engine: QueryEngine, sql: str, value: Any) -> None:
    answer = engine.query(sql).item()
    assert (answer.to_list() if isinstance(answer, pl.Series) else answer) == value


@pytest.mark.parametrize("name", VIEWS)
def test_views_are_athenas_sql(name: str) -> None:
    assert parse(VIEWS[name], engine="athena") is not None


AT = dt.datetime(2026, 1, 1, 13, 0, 0, 123456, tzinfo=dt.timezone(dt.timedelta(hours=1)))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("it's", "'it''s'"),
        (7, "7"),
        (True, "true"),
        (None, "NULL"),
        (0.1, "DOUBLE '0.1'"),
        (Decimal("1E-18"), "DECIMAL '0.000000000000000001'"),
        (dt.date(2026, 1, 1), "DATE '2026-01-01'"),
        (AT, "TIMESTAMP '2026-01-01 12:00:00.123456 UTC'"),
        (b"\x01\xff", "X'01FF'"),
    ],
)
def test_a_parameter_is_a_literal_and_comes_back_as_it_was(engine: QueryEngine, value: Any, text: str) -> None:
    assert literal(value) == text
    if not isinstance(value, bytes | None):
        assert engine.query("select ? as x", [value]).item() == value


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_infinities_have_words(engine: QueryEngine, value: float) -> None:
    assert engine.query("select ? as x", [value]).item() == value


@pytest.mark.parametrize("value", [dt.datetime(2026, 1, 1), Decimal("NaN"), object(), [1]])  # noqa: DTZ001
def test_what_has_no_literal_is_refused(value: Any) -> None:
    with pytest.raises(UsageError, match=r"no zone|has no literal"):
        literal(value)


def test_places_in_quotes_and_comments_are_no_places() -> None:
    sql = "select '?', \"a?\" -- ?\n, ? /* ? */ from t where x = ? and y = 'it''s ?'"
    assert bound(sql, ["1", "'?'"]) == "select '?', \"a?\" -- ?\n, 1 /* ? */ from t where x = '?' and y = 'it''s ?'"
    with pytest.raises(UsageError, match="2 places for parameters and was given 3"):
        bound(sql, ["1", "2", "3"])


def test_a_parameter_cannot_change_the_statement(engine: QueryEngine) -> None:
    hostile = "' or 1=1; drop table x --"
    assert engine.query("select count(*) from (values 'a', 'b') as t(x) where x = ?", [hostile]).item() == 0
    assert engine.query("select ? as x", [hostile]).item() == hostile
