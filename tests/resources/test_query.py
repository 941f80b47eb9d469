"""The query engine: Athena's answers from Delta tables, and no way out of them."""

from __future__ import annotations

import datetime as dt
import os
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import deltalake
import polars as pl
import pytest

from crypto_assets.errors import CryptoAssetsError, DataError, NeedsYouError, TransientError, UsageError
from crypto_assets.resources.query import QueryEngine, tables_in

STATISTICS = {"delta.dataSkippingStatsColumns": "asset_id,observed_at"}
NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
PRICES = [
    Decimal("69703.123456789012345678"),
    Decimal("0.000000000000000001"),
    Decimal("1384391894671.934944830000000001"),
    None,
    Decimal("99999999999999999999.999999999999999999"),
]
DAILY = pl.DataFrame(
    {
        "asset_id": ["bitcoin", "ether", 'süß 🐕 "q" o\'x', None, "bitcoin"],
        "observed_at": [NOON, NOON, NOON, NOON + dt.timedelta(microseconds=1), NOON + dt.timedelta(days=1)],
        "date": [dt.date(2026, 1, 1), dt.date(2026, 1, 1), dt.date(2026, 1, 1), None, dt.date(2026, 1, 2)],
        "price_usd": PRICES,
        "n_trades": [7, 8, None, 3, 2],
        "return_pct": [1.5, -2.5, None, 0.0, 4.0],
        "tags": [["pow", "old"], [], None, ["x"], ["pow"]],
    },
    schema={
        "asset_id": pl.String,
        "observed_at": pl.Datetime("us", "UTC"),
        "date": pl.Date,
        "price_usd": pl.Decimal(38, 18),
        "n_trades": pl.Int64,
        "return_pct": pl.Float64,
        "tags": pl.List(pl.String),
    },
)
ASSETS = pl.DataFrame({"asset_id": ["bitcoin", "ether"], "name": ["Bitcoin", "Ether"], "rank": [1, 2]})
VIEWS = {
    "refined.priced": "select asset_id, date, price_usd from refined.asset_daily where price_usd is not null",
    "refined.latest": "select asset_id, max(date) as last_date from crypto_refined.priced group by asset_id",
    "refined.loop_a": "select * from refined.loop_b",
    "refined.loop_b": "select * from refined.loop_a",
}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("a lake's root")
    tables = {
        "refined.asset_daily": (DAILY, "date"),
        "refined.assets": (ASSETS, None),
        "trusted.assets": (ASSETS, None),
        "trusted.secret": (ASSETS, None),
    }
    for name, (frame, partition) in tables.items():
        deltalake.write_deltalake(
            str(root / name.replace(".", "/")), frame, partition_by=partition, configuration=STATISTICS
        )
    return {name: str(root / name.replace(".", "/")) for name in tables}


@pytest.fixture(scope="module")
def engine(lake: dict[str, str]) -> Iterator[QueryEngine]:
    known = {name: uri for name, uri in lake.items() if name != "trusted.secret"}
    with QueryEngine({**known, "trusted.empty": str(Path(lake["trusted.assets"]).parent / "none")}, VIEWS) as engine:
        yield engine


def one(engine: QueryEngine, sql: str) -> object:
    return engine.query(sql).item()


def test_a_table_comes_back_as_it_was_written(engine: QueryEngine) -> None:
    frame = engine.query("select * from refined.asset_daily")
    assert frame.schema == DAILY.schema
    assert frame.sort("observed_at", "asset_id").equals(DAILY.sort("observed_at", "asset_id"))


@pytest.mark.parametrize("price", [price for price in PRICES if price is not None])
def test_every_decimal_is_found_by_equality(engine: QueryEngine, price: Decimal) -> None:
    assert engine.query(
        f"select price_usd from asset_daily where price_usd = DECIMAL '{price:f}'"
    ).to_series().to_list() == [price]
    assert one(engine, f"select count(*) from asset_daily where price_usd = {price:f}") == 1


def test_decimals_are_summed_exactly(engine: QueryEngine) -> None:
    sql = "select sum(price_usd) from asset_daily where date = date '2026-01-01'"
    assert one(engine, sql) == Decimal("1384391964375.058401619012345680")


@pytest.mark.parametrize("name", ["asset_daily", "refined.asset_daily", "crypto_refined.asset_daily", "ASSET_DAILY"])
def test_a_table_has_three_names(engine: QueryEngine, name: str) -> None:
    assert one(engine, f"SELECT count(*) FROM {name}") == 5


def test_a_table_may_be_asked_through_athenas_catalog(engine: QueryEngine) -> None:
    assert one(engine, 'select count(*) from "AwsDataCatalog"."crypto_refined"."asset_daily"') == 5


@pytest.mark.parametrize(
    ("sql", "answer"),
    [
        ("select 7/2", 3),
        ("select -7/2", -3),
        ("select 7/2e0", 3.5),
        ("select n_trades/2 from asset_daily where asset_id='bitcoin' and n_trades = 7", 3),
        ("select try(1/0)", None),
        ("select sum(n_trades) from asset_daily", 20),
        ("select approx_distinct(asset_id) from asset_daily", 3),
        ("select max_by(asset_id, return_pct) from asset_daily", "bitcoin"),
        ("select max_by(x, y) from (values (1, 1), (cast(null as integer), 2)) as t(x, y)", None),
        ("select min_by(x, y) from (values (1, 1), (2, cast(null as integer)), (3, 0)) as t(x, y)", 3),
        ("select min_by(asset_id, return_pct) from asset_daily", "ether"),
        ("select count_if(return_pct > 0) from asset_daily", 2),
        ("select every(n_trades > 1) from asset_daily", True),
        ("select arrays_overlap(array[1,2], array[2,3])", True),
        ("select element_at(map_agg(asset_id, n_trades), 'ether') from asset_daily where date=date '2026-01-01'", 8),
        ("select url_extract_host('https://me@api.example.org:8080/v1?x')", "api.example.org"),
        ("select width_bucket(5.3, 0.2, 10.6, 5)", 3),
        ("select cardinality(tags) from asset_daily where n_trades = 7", 2),
        ("select sum(x) from unnest(sequence(1, 5)) as t(x)", 15),
        ("select sum(k) from (values (1,'a'),(2,'b')) as v(k,l)", 3),
        ("select count(*) from asset_daily cross join unnest(tags) as t(tag) where tag = 'pow'", 2),
        ("with a as (select 1 as x), b as (select x + 1 as x from a) select max(x) from b", 2),
        ("with recursive r(n) as (select 1 union all select n + 1 from r where n < 10) select sum(n) from r", 55),
        ("select date_diff('hour', timestamp '2026-01-01 00:00:00', min(observed_at)) from asset_daily", 12),
        ("select date_diff('hour', timestamp '2026-01-01 00:59:00', timestamp '2026-01-01 01:01:00')", 0),
        ("select date_diff('day', date '2026-01-01', timestamp '2026-01-03 23:00:00 UTC')", 2),
        ("select date_diff('month', date '2026-01-15', date '2026-02-14')", 0),
        ("select date_diff('second', timestamp '2026-01-01 00:00:01', timestamp '2026-01-01 00:00:00.500')", 0),
        ("select date_trunc('month', date '2026-01-15')", dt.date(2026, 1, 1)),
        ("select date_add('day', 1, date_trunc('month', date '2026-01-15'))", dt.date(2026, 1, 2)),
        ("select date_format(min(observed_at), '%Y-%m-%d') from asset_daily", "2026-01-01"),
        ("select regexp_like(asset_id, '^bit') from asset_daily where n_trades = 7", True),
        ("select observed_at - observed_at from asset_daily where n_trades = 7", "00:00:00"),
        ("select asset_id from asset_daily where asset_id like 'süß%'", 'süß 🐕 "q" o\'x'),
        ("select count(*) from asset_daily where date is null and asset_id is null", 1),
    ],
)
def test_athena_sql_keeps_its_meaning(engine: QueryEngine, sql: str, answer: object) -> None:
    got = one(engine, sql)
    assert got == answer
    assert type(got) is type(answer)


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("observed_at = timestamp '2026-01-01 12:00:00'", 3),
        ("observed_at = timestamp '2026-01-01 12:00:00 UTC'", 3),
        ("observed_at = timestamp '2026-01-01 13:00:00 Europe/Berlin'", 3),
        ("observed_at > timestamp '2026-01-01 12:00:00.000'", 2),
        ("observed_at between timestamp '2026-01-01' and timestamp '2026-01-02'", 4),
        ("date_trunc('day', observed_at) = timestamp '2026-01-01 00:00:00'", 4),
        ("cast(observed_at as timestamp) = timestamp '2026-01-02 12:00:00'", 1),
        ("cast(observed_at as timestamp(3)) = observed_at", 5),
        ("cast(observed_at as date) = date '2026-01-02'", 1),
        ("observed_at < now()", 5),
    ],
)
def test_timestamps_without_a_zone_are_utc(engine: QueryEngine, condition: str, rows: int) -> None:
    if "now()" in condition:
        condition = condition.replace("now()", "now() + interval '100' year")
    assert one(engine, f"select count(*) from asset_daily where {condition}") == rows


def test_unnamed_columns_are_called_as_in_athena(engine: QueryEngine) -> None:
    frame = engine.query("select 1, asset_id, 'x' from refined.assets order by asset_id")
    assert frame.columns == ["_col0", "asset_id", "_col2"]


def test_a_view_may_stand_on_a_view(engine: QueryEngine) -> None:
    frame = engine.query("select last_date from latest l join refined.assets a on a.asset_id = l.asset_id order by 1")
    assert frame["last_date"].to_list() == [dt.date(2026, 1, 1), dt.date(2026, 1, 2)]


def test_a_view_that_leads_back_to_itself_is_refused(engine: QueryEngine) -> None:
    with pytest.raises(UsageError, match="leads back to itself"):
        engine.query("select * from refined.loop_a")


def test_a_cte_may_hide_a_table_and_read_it(engine: QueryEngine) -> None:
    sql = "with asset_daily as (select * from asset_daily where n_trades = 7) select asset_id from asset_daily"
    assert one(engine, sql) == "bitcoin"


def test_a_new_commit_is_seen_by_the_next_query(tmp_path: Path) -> None:
    table = str(tmp_path / "t")
    deltalake.write_deltalake(table, ASSETS)
    with QueryEngine({"refined.t": table}) as engine:
        assert one(engine, "select count(*) from t") == 2
        wider = ASSETS.with_columns(extra=pl.lit("x"))
        deltalake.write_deltalake(table, wider, mode="append", schema_mode="merge")
        assert engine.query("select extra from t where extra is not null").height == 2
        assert engine.query("select * from t").columns == ["asset_id", "name", "rank", "extra"]


def test_tables_are_shown_and_described(engine: QueryEngine) -> None:
    assert engine.query("SHOW TABLES IN crypto_trusted;")["table"].to_list() == ["trusted.assets", "trusted.empty"]
    assert "refined.latest" in engine.query("show tables")["table"].to_list()
    described = dict(engine.query("DESCRIBE asset_daily").rows())
    assert described["price_usd"] == "decimal(38, 18)"
    assert described["date"] == "date"


ATTACKS = [
    "select * from read_csv('{secret}')",
    "select * from read_csv_auto('{secret}')",
    "select * from read_text('{secret}')",
    "select * from read_blob('{secret}')",
    "select * from read_parquet('{secret}')",
    "select * from parquet_scan('{secret}')",
    "select * from parquet_metadata('{secret}')",
    "select * from read_json_auto('{secret}')",
    "select * from glob('/*')",
    "select * from delta_scan('{secret}')",
    "select * from sniff_csv('{secret}')",
    "select * from '{secret}'",
    'select * from "{secret}"',
    "select * from main.'{secret}'",
    "select * from query('select 1')",
    "select * from query_table('sqlite_master')",
    "select * from duckdb_secrets()",
    "select * from duckdb_settings()",
    "select * from sqlite_master",
    "select * from duckdb_tables",
    "select * from information_schema.tables",
    "select * from temp.main.asset_daily",
    "select * from table(read_text('{secret}'))",
    "select * from refined.assets, lateral read_text('{secret}')",
    "select * from refined.assets join read_text('{secret}') on true",
    "select (select content from read_text('{secret}'))",
    "with x as (select * from read_text('{secret}')) select * from x",
    "with recursive duckdb_settings as (select * from duckdb_settings) select * from duckdb_settings",
    "with recursive sqlite_master as (select * from sqlite_master union all select 1) select * from sqlite_master",
    "with a as (select * from sqlite_master), sqlite_master as (select 1) select * from a",
    "select * from (with sqlite_master as (select 1 as x) select x from sqlite_master) t, sqlite_master",
    "select 1 where exists (select * from read_text('{secret}'))",
    "select read_text('{secret}')",
    "select getenv('HOME')",
    "select current_setting('memory_limit')",
    "select getvariable('x')",
    "select write_log('x')",
    "select nextval('x')",
    "select main.current_setting('memory_limit')",
    "copy (select 1) to '{out}'",
    "copy refined.assets to '{out}'",
    "attach '{out}'",
    "install json",
    "load json",
    "load '{out}'",
    "set memory_limit='9GB'",
    "reset memory_limit",
    "pragma version",
    "call pragma_version()",
    "export database '{out}'",
    "import database '{out}'",
    "create table x as select 1",
    "create secret (type s3)",
    "create macro f() as 1",
    "insert into refined.assets values ('x','y',3)",
    "delete from refined.assets",
    "update refined.assets set rank = 0",
    "drop view refined.assets",
    "with x as (delete from refined.assets) select 1",
    "select * into x from refined.assets",
    "explain select 1",
    "explain analyze select 1",
    "values (1)",
    "from refined.assets",
    "begin",
    "checkpoint",
    "vacuum",
    "use temp",
    "prepare x as select 1",
    "execute x",
    "select 1; select 2",
    "select 1; copy (select 1) to '{out}'",
    "select 1 /* ; */; drop table x",
    "select * from refined.assets where rank = ?",
    "select * from refined.assets for version as of 0",
    "select * from trusted.secret",
    "",
    ";",
    "-- nothing",
]


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.fault(row=101, fault="SQL that reaches beyond the tables", promise="refused; nothing is read or written")
def test_whatever_is_not_one_select_over_our_tables_is_refused(
    engine: QueryEngine, tmp_path: Path, attack: str
) -> None:
    secret, out = tmp_path / "secret.csv", tmp_path / "out"
    secret.write_text("canary\n1\n")
    with pytest.raises(UsageError) as refused:
        engine.query(attack.format(secret=secret, out=out))
    assert "\n" not in str(refused.value)
    assert refused.value.safe == "nothing was read or written"
    assert "canary" not in str(refused.value)
    assert list(tmp_path.iterdir()) == [secret]


@pytest.mark.parametrize(
    "attack",
    [
        "select * from read_text('{secret}')",
        "select * from '{secret}'",
        "select * from glob('{root}/*')",
        "select * from delta_scan('{table}')",
        "select count(*) from delta_scan('{table}')",
        "select * from read_parquet('{table}/*.parquet')",
        "copy (select 1) to '{root}/out.csv'",
        "copy (select 1) to '{root}/out.parquet'",
        "export database '{root}/out'",
        "attach '{root}/out.db'",
        "install httpfs",
        "load '{root}/x.duckdb_extension'",
        "set enable_external_access = true",
        "set global allowed_directories = ['/']",
        "set temp_directory = '{root}'",
        "reset lock_configuration",
        "create persistent secret s (type s3)",
        "select * from frame",
    ],
)
@pytest.mark.fault(row=101, fault="SQL that reaches beyond the tables", promise="refused; nothing is read or written")
def test_duckdb_itself_refuses_when_the_parser_is_passed_by(
    engine: QueryEngine, lake: dict[str, str], tmp_path: Path, attack: str
) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("canary\n1\n")
    frame = ASSETS  # a Python variable that a replacement scan would find
    sql = attack.format(secret=secret, root=tmp_path, table=lake["trusted.secret"])
    with pytest.raises(CryptoAssetsError) as refused:
        engine._run(lambda session: pl.DataFrame(session.connection.sql(sql)))
    assert frame.height == 2
    assert "canary" not in str(refused.value)
    assert list(tmp_path.iterdir()) == [secret]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("select * from asset_dayly", "did you mean refined.asset_daily"),
        ("select * from refined.asset_dail", "did you mean refined.asset_daily"),
        ("select * from assets", "write refined.assets or trusted.assets"),
        ("select price from asset_daily", "no column 'price'.*price_usd"),
        ("select a.prise_usd from asset_daily a", "no column 'prise_usd'.*price_usd"),
        ("select approx_distinkt(asset_id) from asset_daily", "approx_distinkt.*did you mean approx_distinct"),
        ("select xxhash64(cast('a' as varbinary))", "xxhash64"),
        ("select from where", "cannot be read"),
        ("select count(* from asset_daily", "cannot be read at line 1"),
        ("select 'open from asset_daily", "left open"),
        ("select asset_id, asset_id from asset_daily", "several columns named asset_id"),
        ("select cast(asset_id as integer) from asset_daily", "does not fit its type.*try_cast"),
        ("select sum(x) from (values (9223372036854775807), (1)) as t(x)", "does not fit its type"),
        ("select 1/0", "does not fit its type"),
        ("select sum(asset_id) from asset_daily", "cannot be answered"),
        ("select * from trusted.empty", "trusted.empty: it has no data yet"),
        ("select array[interval '1' day]", "cast them to varchar"),
        ("select " + "(" * 3000 + "1" + ")" * 3000, "nested too deeply"),
        ("select '" + "x" * 300_000 + "'", "longer than"),
    ],
)
def test_a_mistake_is_named_in_one_line_with_what_to_do(engine: QueryEngine, sql: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        engine.query(sql)
    assert "\n" not in str(error.value)
    assert error.value.hint


def test_a_slow_query_is_stopped_and_the_engine_lives_on(lake: dict[str, str]) -> None:
    heavy = "select count(*) from {0} a cross join {0} b where a.x + b.x = 7 and (a.x * b.x) % 3 = 1"
    numbers = "(select x from unnest(sequence(1, 200000)) as t(x))"
    with QueryEngine(lake, timeout_s=0.5) as engine:
        start = time.monotonic()
        with pytest.raises(TransientError, match=r"longer than 0\.5 s"):
            engine.query(heavy.format(numbers))
        assert time.monotonic() - start < 5
        assert one(engine, "select count(*) from refined.assets") == 2
    assert not [thread for thread in threading.enumerate() if thread.name == "sql"]


def test_a_query_that_needs_too_much_memory_is_refused(lake: dict[str, str]) -> None:
    hungry = "select array_agg(a.x + b.x) from (select x from unnest(sequence(1, 100000)) as t(x)) a cross join (select x from unnest(sequence(1, 1000)) as t(x)) b"  # noqa: E501
    with QueryEngine(lake, memory_limit="64MB") as engine, pytest.raises(UsageError, match="memory"):
        engine.query(hungry)


def test_too_long_an_answer_is_an_error_and_never_cut(lake: dict[str, str]) -> None:
    with QueryEngine(lake, max_rows=5) as engine:
        ordered = engine.query("select observed_at, n_trades from asset_daily order by n_trades desc nulls last")
        assert ordered["n_trades"].to_list() == [8, 7, 3, 2, None]
        with pytest.raises(UsageError, match="more than 5 rows"):
            engine.query("select * from unnest(sequence(1, 6)) as t(x)")


def test_threads_may_share_an_engine(engine: QueryEngine) -> None:
    answers: list[object] = []
    sql = "select count(*) from asset_daily a join priced p on a.asset_id = p.asset_id"
    threads = [threading.Thread(target=lambda: answers.append(one(engine, sql))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [6] * 8


def test_a_name_must_be_zone_and_table() -> None:
    for name in ("assets", "a.b.c", "refined.x'y"):
        with pytest.raises(UsageError, match="cannot be the name"):
            QueryEngine({name: "x"})


def test_the_tables_of_a_statement_are_told_without_opening_them() -> None:
    sql = "with a as (select * from crypto_refined.x) select * from a join y on true union select * from trusted.z, a"
    assert tables_in(sql) == {"refined.x", "y", "trusted.z"}
    assert tables_in("with x as (select * from x) select * from x") == {"x"}
    assert tables_in("select * from (with q as (select 1 as i) select * from q) t, q") == {"q"}
    with pytest.raises(UsageError, match="DROP is refused"):
        tables_in("drop table x")


@pytest.mark.parametrize("size", [100, 3])
def test_a_file_that_is_damaged_on_the_way_is_no_fault_of_the_statement(tmp_path: Path, size: int) -> None:
    deltalake.write_deltalake(tmp_path / "t", DAILY, partition_by="date", configuration=STATISTICS)
    with QueryEngine({"refined.t": str(tmp_path / "t")}) as engine:
        for file in (tmp_path / "t").rglob("*.parquet"):
            os.truncate(file, size)
        with pytest.raises(DataError, match="a data file is damaged; nothing was read or written; run crypto-assets"):
            engine.query("select * from refined.t")


def test_what_is_known_of_a_tables_files_is_asked_before_it_is_opened(lake: dict[str, str]) -> None:
    asked: list[str] = []

    def require_whole(name: str) -> None:
        asked.append(name)
        raise DataError("cut short", where=name, safe="nothing was read", hint="mend it")

    with QueryEngine(lake, VIEWS, require_whole=require_whole) as engine:
        with pytest.raises(DataError, match="cut short"):
            engine.query("select * from refined.asset_daily where date = date '2026-01-02'")
        assert engine.query("select 1 as one")["one"].to_list() == [1]
    assert asked == ["refined.asset_daily"]


@pytest.mark.s3
def test_tables_on_s3_are_read_and_the_key_is_told_to_nobody() -> None:
    boto3 = pytest.importorskip("boto3")
    server_module = pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        options = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "canary-key-id",
            "AWS_SECRET_ACCESS_KEY": "canary-secret",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }
        boto3.client(
            "s3",
            endpoint_url=options["AWS_ENDPOINT_URL"],
            aws_access_key_id="canary-key-id",
            aws_secret_access_key="canary-secret",
            region_name="us-east-1",
        ).create_bucket(Bucket="lake")
        for name in ("asset_daily", "secret"):
            deltalake.write_deltalake(
                f"s3://lake/refined/{name}",
                DAILY,
                partition_by="date",
                configuration=STATISTICS,
                storage_options=options,
            )
        tables = {"refined.asset_daily": "s3://lake/refined/asset_daily", "refined.none": "s3://lake/refined/none"}
        with QueryEngine(tables, storage_options=options) as engine:
            frame = engine.query("select * from asset_daily where date = date '2026-01-02'")
            assert frame["price_usd"].to_list() == [PRICES[4]]
            with pytest.raises(UsageError, match="no data yet"):
                engine.query("select * from refined.none")
            foreign = "select * from delta_scan('s3://lake/refined/secret')"
            with pytest.raises(UsageError, match="reaches for a file"):
                engine._run(lambda session: pl.DataFrame(session.connection.sql(foreign)))
            with pytest.raises(NeedsYouError, match="no key"), QueryEngine(tables) as keyless:
                keyless.query("select * from asset_daily")
        server.stop()
        with QueryEngine(tables, storage_options=options, timeout_s=2) as engine:
            with pytest.raises(TransientError) as error:
                engine.query("select * from asset_daily")
            assert "canary" not in repr(error.value)
            assert error.value.__cause__ is None
    finally:
        server.stop()
