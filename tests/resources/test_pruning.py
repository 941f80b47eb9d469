"""What a query reads: never too little (random predicates and statements), and no more than other planners say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable, WriterProperties, write_deltalake
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crypto_assets.errors import DataError, UsageError
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.pruning import Pruning
from crypto_assets.resources.query import _extension
from crypto_assets.tables.trusted import AssetSnapshots
from crypto_assets.tables.window import Window

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
TABLES = ("lake.a", "lake.b")
LONG = "x" * 40
N_ROWS_OF_GROUP = 8


def _frame(seed: int) -> pl.DataFrame:
    """Five files' worth of rows: four days and the null day, with every awkward value in some of them."""
    rows = []
    for i in range(120):
        n = (i * 37 + seed * 11) % 120
        part = i // 24
        rows.append(
            {
                "day": None if part == 4 else date(2026, 3, 1 + part),
                "whole": None if n % 13 == 0 else part * 20 + n % 25,
                "price": None if n % 17 == 0 else Decimal(part * 10 + n % 12) + Decimal("0.1"),
                "share": None if n % 19 == 0 else (part * 5 + n % 7) + 0.1,
                "name": None if n % 11 == 0 else f"{chr(97 + part * 3 + n % 5)}{LONG if n % 9 == 0 else ''}",
                "at": NOON.replace(day=1) + timedelta(hours=part * 20 + n % 30, milliseconds=n),
                "flag": None if n % 23 == 0 else n % 2 == 0,
                "none": None,
            }
        )
    schema = {
        "day": pl.Date(),
        "whole": pl.Int64(),
        "price": pl.Decimal(38, 18),
        "share": pl.Float64(),
        "name": pl.String(),
        "at": pl.Datetime("us", "UTC"),
        "flag": pl.Boolean(),
        "none": pl.Int64(),
    }
    return pl.DataFrame(rows, schema=schema)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tables of five files each, in small row groups."""
    folder = tmp_path_factory.mktemp("lake")
    small = WriterProperties(max_row_group_size=N_ROWS_OF_GROUP, write_batch_size=N_ROWS_OF_GROUP)
    for seed, name in enumerate(TABLES):
        write_deltalake(str(folder / name), _frame(seed).sort("whole"), partition_by=["day"], writer_properties=small)
        assert len(DeltaTable(str(folder / name)).file_uris()) == 5
    return folder


@pytest.fixture(scope="module")
def pruning(home: Path) -> Pruning:
    views = {"lake.seen": "select day, whole, price, upper(name) as loud from lake.a where share > 0"}
    return Pruning({name: str(home / name) for name in TABLES}, views, clock=FixedClock(NOON))


@pytest.fixture(scope="module")
def duck() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.load_extension(str(_extension("delta")))
        connection.execute("SET TimeZone = 'UTC'")
        # Over read_parquet it lets a join's filter slip below ORDER BY ... LIMIT, and answers wrongly (DuckDB 1.5.5);
        # delta_scan, by which the product reads, has no late materialization.
        connection.execute("SET disabled_optimizers = 'late_materialization'")
        yield connection


def _rows(files: Any) -> str:
    """The rows of some files of a table, with the partition's column, as DuckDB reads them."""
    if not files:
        return f"(select * from ({_EMPTY}) where false)"
    listed = ", ".join(f"'{file}'" for file in files)
    return f"(select * replace (cast(day as date) as day) from read_parquet([{listed}], hive_partitioning = true))"


_EMPTY = (
    "select null::bigint as whole, null::decimal(38,18) as price, null::double as share, null::varchar as name, "
    "null::timestamptz as at, null::boolean as flag, null::bigint as none, null::date as day"
)


def _all_files(home: Path, name: str) -> list[str]:
    return sorted(DeltaTable(str(home / name)).file_uris())


# one predicate

_VALUES: dict[str, list[str]] = {
    "day": ["date '2026-03-01'", "date '2026-03-02'", "date '2026-03-04'", "cast('2026-03-03' as date)", "null"],
    "whole": ["0", "19", "-1", "40", "61", "104", "cast('22' as bigint)", "20.5", "1e2", "null"],
    "price": ["0.1", "10.1", "20.1", "41.1", "decimal '30.1'", "25", "cast('11.1' as decimal(38,18))", "null"],
    "share": ["0.1", "5.1", "10.1", "2.1e1", "26.1", "12", "null"],
    "name": ["'a'", "'d'", "'e'", "'q'", f"'d{LONG}'", f"'{'c' + LONG[:33]}'", "null"],
    "at": [
        "timestamp '2026-03-01 12:00:00 UTC'",
        "timestamp '2026-03-02 13:00:00.037 UTC'",
        "timestamp '2026-03-04 08:00:00 UTC'",
        "date '2026-03-03'",
        "cast('2026-03-05 00:00:00' as timestamp)",
        "null",
    ],
    "none": ["1", "null"],
}
_WRAPPED = {
    "at": ["date_trunc('day', {})", "cast({} as date)", "date_trunc('hour', {})"],
    "whole": ["cast({} as double)"],
}
_COMPARISONS = ["=", "<>", "<", "<=", ">", ">="]


@st.composite
def _atoms(draw: st.DrawFn, prefix: str = "") -> str:
    column = draw(st.sampled_from([*_VALUES, "flag"]))
    name = prefix + column
    if column == "flag":
        return draw(st.sampled_from([name, f"{name} is null", f"{name} = true"]))
    if column in _WRAPPED and draw(st.booleans()):
        name = draw(st.sampled_from(_WRAPPED[column])).format(name)
    value = st.sampled_from(_VALUES[column])
    kind = draw(st.sampled_from(["compare", "compare", "turned", "in", "between", "null"]))
    if kind == "compare":
        return f"{name} {draw(st.sampled_from(_COMPARISONS))} {draw(value)}"
    if kind == "turned":
        return f"{draw(value)} {draw(st.sampled_from(_COMPARISONS))} {name}"
    if kind == "in":
        return f"{name} in ({', '.join(draw(st.lists(value, min_size=1, max_size=3)))})"
    if kind == "between":
        return f"{name} between {draw(value)} and {draw(value)}"
    return f"{name} is {draw(st.sampled_from(['', 'not ']))}null"


def _predicates(prefix: str = "") -> st.SearchStrategy[str]:
    return st.recursive(
        _atoms(prefix),
        lambda inner: st.one_of(
            st.builds("({} and {})".format, inner, inner),
            st.builds("({} or {})".format, inner, inner),
            st.builds("(not {})".format, inner),
        ),
        max_leaves=4,
    )


def _local(sql: str) -> str:
    """Athena's SQL as DuckDB's."""
    import sqlglot

    return sqlglot.transpile(sql, read="athena", write="duckdb")[0].replace("AS TIMESTAMP)", "AS TIMESTAMPTZ)")


@settings(max_examples=100)
@given(_predicates())
@example("not (whole > 1000)")
@example("share <> 0.1")
@example("not (share = 5.1 or name is null)")
@example(f"name > 'd{LONG}'")
def test_what_is_skipped_holds_no_row_that_satisfies_the_predicate(
    home: Path, pruning: Pruning, duck: duckdb.DuckDBPyConnection, predicate: str
) -> None:
    (read,) = pruning.reads(f"select name from lake.a where {predicate}")
    left, every = set(read.files), _all_files(home, "lake.a")
    assert left <= set(every)

    def asked(what: str, rows: str) -> list[Any]:
        return duck.execute(
            _local(f"select {what} from t where {predicate}").replace("FROM t ", f"FROM {rows} ")
        ).fetchall()

    assert asked("count(*)", _rows([file for file in every if file not in left])) == [(0,)]
    # The same for the row groups of the files that are left.
    needed = 0
    for file in sorted(left):
        numbered = f"read_parquet('{file}', hive_partitioning = true, file_row_number = true)"
        places = f"file_row_number // {N_ROWS_OF_GROUP} as place"
        found = asked("distinct place", f"(select * replace (cast(day as date) as day), {places} from {numbered})")
        sizes = _group_sizes(duck, file, read.columns)
        needed += sum(sizes[place] for (place,) in found)
    assert needed <= read.n_bytes


@pytest.mark.parametrize(
    ("predicate", "n_files"),
    [
        ("cast(text as bigint) = 50", 1),
        ("cast(text as double) < 10", 1),
        ("try_cast(whole as smallint) is null", 1),
        ("cast(text as varchar) = '90'", 0),
        ("whole = cast('2' as bigint)", 1),
        ("whole = cast('-2' as bigint)", 0),
    ],
)
def test_a_cast_that_orders_anew_or_makes_nulls_rules_nothing_out(tmp_path: Path, predicate: str, n_files: int) -> None:
    write_deltalake(tmp_path / "t", pl.DataFrame({"text": ["10", "50", "9"], "whole": [1, 2, 100_000]}))
    (read,) = Pruning({"lake.t": str(tmp_path / "t")}).reads(f"select text from lake.t where {predicate}")
    assert read.n_files_read == n_files


def _group_sizes(duck: duckdb.DuckDBPyConnection, file: str, columns: tuple[str, ...]) -> dict[int, int]:
    rows = duck.execute(
        "select row_group_id, sum(total_compressed_size) filter (list_contains(?, path_in_schema)) "
        "from parquet_metadata(?) group by 1",
        [list(columns), file],
    ).fetchall()
    return {place: int(size or 0) for place, size in rows}


# whole statements


_GROUPED = ", ".join(f"max({c}) as {c}" for c in ("price", "share", "name", "at", "none"))
_SIDES = (
    "lake.a",
    "(select * from lake.a where {})",
    "(select * from lake.a order by whole, at limit 30)",
    "(select *, row_number() over (partition by day order by whole, at) as nth from lake.a)",
    "(select *, count(*) over () as n from lake.a)",
    f"(select day, whole, bool_or(flag) as flag, {_GROUPED} from lake.a group by day, whole)",
    f"(select day, sum(whole) as whole, bool_or(flag) as flag, {_GROUPED} from lake.a group by day)",
    "(select distinct * from lake.a)",
    "(select day, whole + 1 as whole, price, share, name, at, flag, none from lake.a)",
    "(select day, none as whole, price, share, name, at, flag, whole as none from lake.a)",
)
_ONS = ("x.whole = y.whole", "x.day = y.day", "x.day = y.day and x.name = y.name")
_JOINS = ("join", "left join", "right join", "full join")


@st.composite
def _statements(draw: st.DrawFn) -> str:
    """A SELECT over both tables, each named once, with predicates in every place that one can stand in."""
    left = draw(st.sampled_from(_SIDES)).format(draw(_predicates()))
    on = draw(st.sampled_from(_ONS))
    if draw(st.booleans()):
        on += " and " + draw(st.one_of(_predicates("x."), _predicates("y.")))
    join = f"{draw(st.sampled_from(_JOINS))} lake.b as y on {on}"
    where = draw(st.one_of(_predicates("x."), _predicates("y.")))
    both = "x.day, x.whole, x.name, y.day as day_y, y.whole as whole_y, y.price, y.flag"
    shape = draw(st.sampled_from(["plain", "cte", "around", "exists"]))
    if shape == "exists":
        inner = f"exists (select 1 from lake.b as y where {on})"
        return f"select x.day, x.whole, x.name from {left} as x where {inner} and {draw(_predicates('x.'))}"
    if shape == "cte":
        return f"with c as (select * from {left} as c1) select {both} from c as x {join} where {where}"
    if shape == "around":
        kept = "x.day, x.whole, x.price, x.share, x.name, x.at, x.flag, x.none, y.whole as whole_y"
        inner = f"(select {kept} from {left} as x {join})"
        return f"select z.day, z.whole, z.name, z.whole_y from {inner} as z where {draw(_predicates('z.'))}"
    return f"select {both} from {left} as x {join} where {where}"


@settings(max_examples=100)
@given(_statements())
@example("select x.day, x.whole from lake.a as x left join lake.b as y on x.day = y.day where y.whole is null")
@example(
    "select x.day, y.whole as w from lake.a as x left join lake.b as y on x.day = y.day "
    "where x.day = date '2026-03-02' and (y.whole is null or y.whole > 3)"
)
@example(
    "select z.day from (select * from lake.a order by whole, at limit 3) as z cross join lake.b as y where z.whole > 60"
)
def test_a_statement_answers_the_same_from_what_is_left(
    home: Path, pruning: Pruning, duck: duckdb.DuckDBPyConnection, statement: str
) -> None:
    reads = {read.table: read for read in pruning.reads(statement)}
    local = _local(statement)
    whole, part = local, local
    for name in TABLES:
        mark = re.compile(re.escape(name) + r"\b")
        whole = mark.sub(lambda _, n=name: _rows(_all_files(home, n)), whole)  # type: ignore[misc]
        part = mark.sub(lambda _, n=name: _rows(reads[n].files), part)  # type: ignore[misc]
    ordered = "select * from ({}) order by all"
    assert duck.execute(ordered.format(part)).fetchall() == duck.execute(ordered.format(whole)).fetchall()


# what is pruned

_INNER = "select x.name from lake.a as x join lake.b as y on x.day = y.day"
_LEFT = "select x.name from lake.a as x left join lake.b as y on x.day = y.day"


@pytest.mark.parametrize(
    ("statement", "n_files"),
    [
        ("select name from lake.a", [5]),
        ("select name from lake.a where day = date '2026-03-02'", [1]),
        ("select name from crypto_lake.a where day in (date '2026-03-02', date '2026-03-03')", [2]),
        ("select name from lake.a where day is null", [1]),
        ("select name from lake.a where day < current_date - interval '2' day", [1]),
        ("select name from lake.a where day >= date_add('day', -1, date '2026-03-04')", [2]),
        ("select name from lake.a where name < 'd'", [1]),
        ("select name from lake.a where at < timestamp '2026-03-01 13:00:00 UTC'", [1]),
        ("select name from lake.a where cast(at as date) = date '2026-03-01'", [1]),
        ("select name from lake.a where date_trunc('day', at) = timestamp '2026-03-01 00:00:00 UTC'", [1]),
        ("select name from lake.a where lower(name) = 'a'", [5]),
        ("select name from lake.a where day = (select max(day) from lake.b)", [4, 5]),
        ("select w.name from (select * from lake.a) as w where w.day = date '2026-03-02'", [1]),
        ("select w.name from (select * from lake.a limit 9) as w where w.day = date '2026-03-02'", [5]),
        ("select w.m from (select day, max(name) as m from lake.a group by day) as w where w.day is null", [1]),
        ("select w.m from (select day, max(whole) as m from lake.a group by day) as w where w.m = 3", [5]),
        (
            "select w.name from (select *, rank() over (partition by day order by at) as nth from lake.a) as w "
            "where w.day = date '2026-03-02' and nth = 1",
            [1],
        ),
        (
            "select w.name from (select *, rank() over (order by at) as nth from lake.a) as w "
            "where w.day = date '2026-03-02' and nth = 1",
            [5],
        ),
        ("with c as (select * from lake.a) select name from c where day = date '2026-03-02'", [1]),
        (
            "with c as (select * from lake.a) select l.name from c as l join c as r on l.day = r.day "
            "where l.day = date '2026-03-02'",
            [1, 1],
        ),
        (f"{_INNER} where y.day > date '2026-03-03'", [1, 1]),
        (f"{_LEFT} where x.day = date '2026-03-01'", [1, 1]),
        (f"{_LEFT} where y.day = date '2026-03-01'", [5, 1]),
        (f"{_LEFT} where y.day is null", [5, 4]),
        ("select day from lake.a where day < date '2026-03-02' union select day from lake.b where day is null", [1, 1]),
        ("select loud from lake.seen where day = date '2026-03-02'", [1]),
        ("select name from lake.a where false", [0]),
    ],
)  # fmt: skip
def test_predicates_reach_the_table_where_they_may(pruning: Pruning, statement: str, n_files: list[int]) -> None:
    assert [read.n_files_read for read in pruning.reads(statement)] == n_files


def test_only_columns_that_are_named_are_read_and_partitions_cost_nothing(pruning: Pruning, home: Path) -> None:
    with duckdb.connect() as connection:
        sizes: dict[str, int] = dict(
            connection.execute(
                "select path_in_schema, sum(total_compressed_size)::bigint from parquet_metadata(?) group by 1",
                [_all_files(home, "lake.a")],
            ).fetchall()
        )

    def read(statement: str) -> tuple[tuple[str, ...], int]:
        (only,) = pruning.reads(statement)
        return only.columns, only.n_bytes

    assert read("select count(*) as n from lake.a") == ((), 0)
    assert read("select day from lake.a") == (("day",), 0)
    assert read("select name from lake.a") == (("name",), sizes["name"])
    assert read("select n from (select name as n, price, share from lake.a) as t") == (("name",), sizes["name"])
    both = sizes["price"] + sizes["name"]
    assert read("select sum(price) as p from lake.a group by name") == (("price", "name"), both)
    assert read("select loud from lake.seen") == (("share", "name"), sizes["share"] + sizes["name"])


def test_row_groups_are_skipped_by_their_own_bounds(pruning: Pruning) -> None:
    (every,) = pruning.reads("select whole from lake.a where day = date '2026-03-02'")
    (few,) = pruning.reads("select whole from lake.a where day = date '2026-03-02' and whole = 25")
    assert (every.n_files_read, few.n_files_read) == (1, 1)
    assert 0 < few.n_bytes < every.n_bytes
    assert few.n_bytes_files == every.n_bytes_files


def test_the_lake_writes_row_groups_that_one_asset_needs_few_of(tmp_path: Path, rows_of: Any) -> None:
    hours = [NOON + timedelta(minutes=n) for n in range(100)]
    rows = rows_of(
        AssetSnapshots, *({"asset_id": f"asset-{n:03}", "observed_at": hour} for n in range(250) for hour in hours)
    )
    lake = Lake(str(tmp_path / "lake"))
    lake.replace(AssetSnapshots, rows, Window.of_day(NOON.date()))
    pruning = Pruning({"trusted.asset_snapshots": lake.uri(AssetSnapshots)})
    asked = f"select observed_at, price_usd from trusted.asset_snapshots where date = date '{NOON.date()}'"
    (every,) = pruning.reads(asked)
    (one,) = pruning.reads(f"{asked} and asset_id = 'asset-007'")
    with duckdb.connect() as connection:
        groups = connection.execute(
            "select distinct row_group_id, row_group_num_rows from parquet_metadata(?) order by 1", [list(every.files)]
        ).fetchall()
    # 25,000 rows by asset, 4,096 to a group: 41 assets.
    assert [n_rows for _, n_rows in groups] == [4096] * 6 + [424]
    assert one.n_bytes < every.n_bytes / 3


_OTHERS_SAY = (
    "day = date '2026-03-02'",
    "whole > 61",
    "share <= 5.1",
    "name = 'a'",
    "day >= date '2026-03-02' and name < 'h'",
    "at > timestamp '2026-03-04 00:00:00 UTC' and whole <> 3",
    "none is not null",
    "whole between 95 and 200",
    "whole in (1, 99)",
)


@pytest.mark.parametrize("predicate", _OTHERS_SAY)
def test_duckdb_reads_no_fewer_files(
    home: Path, pruning: Pruning, duck: duckdb.DuckDBPyConnection, predicate: str
) -> None:
    (read,) = pruning.reads(f"select name from lake.a where {predicate}")
    local = _local(f"select name from lake.a where {predicate}").replace("lake.a", f"delta_scan('{home}/lake.a')")
    plan = duck.execute(f"explain analyze {local}").fetchall()[0][1]
    told = re.search(r"Scanning Files: (\d+)/5", plan)
    n_theirs = int(told.group(1)) if told else 0
    # It prunes by neither lists nor times.
    is_blind = "in (" in predicate or "timestamp" in predicate
    assert n_theirs == (5 if is_blind else read.n_files_read)
    assert read.n_files_read < 5


@pytest.mark.parametrize("predicate", _OTHERS_SAY)
def test_delta_explain_keeps_the_same_files(home: Path, pruning: Pruning, predicate: str) -> None:
    (read,) = pruning.reads(f"select name from lake.a where {predicate}")
    theirs = predicate.replace("date '", "'").replace("timestamp '", "'").replace(" UTC'", "Z'")
    tool = Path(sys.executable).with_name("delta-explain")
    answer = subprocess.run(
        [tool, home / "lake.a", "-w", theirs, "--format", "json"], capture_output=True, check=False, text=True
    )
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["final_files"] == read.n_files_read


# bad input


def test_an_unknown_table_or_column_or_statement_is_one_line(pruning: Pruning) -> None:
    with pytest.raises(UsageError, match=r"there is no table 'lake\.c'"):
        pruning.reads("select name from lake.c")
    with pytest.raises(UsageError, match="cannot be understood"):
        pruning.reads("select nothing_such from lake.a")
    with pytest.raises(UsageError, match="DELETE is refused"):
        pruning.reads("delete from lake.a")


def test_an_address_without_a_table_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read or written"):
        Pruning({"lake.a": str(tmp_path / "nothing")}).reads("select name from lake.a")


@pytest.mark.s3
def test_a_table_in_a_bucket_is_read_alike(home: Path, pruning: Pruning, s3_options: dict[str, str]) -> None:
    statement = "select name from lake.a where day = date '2026-03-02' and whole < 25"
    write_deltalake("s3://lake/pruning/a", _frame(0).sort("whole"), partition_by=["day"], storage_options=s3_options)
    there = Pruning({"lake.a": "s3://lake/pruning/a"}, storage_options=s3_options)
    (here_read,), (there_read,) = pruning.reads(statement), there.reads(statement)
    assert (there_read.n_files_read, there_read.n_files) == (here_read.n_files_read, here_read.n_files)
    assert 0 < there_read.n_bytes < there_read.n_bytes_files
