"""The clients that people use: pyathena's cursors, and awswrangler where it is installed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from tests.local_athena.endpoint import AT, DATABASE, WORKGROUP, Aws

# One server for all tests of this folder.
pytestmark = [pytest.mark.s3, pytest.mark.xdist_group("local_athena")]


@pytest.fixture
def connection(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from pyathena import connect

    for key, value in aws.options.items():
        monkeypatch.setenv(key, value)
    with connect(work_group=WORKGROUP, schema_name=DATABASE, region_name="us-east-1", poll_interval=0.05) as opened:
        yield opened


def test_pyathena_gives_typed_values(connection: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("select asset_id, price, volume, trades, at, is_listed, venue, hash, date from t where trades = 1")
    assert cursor.fetchall() == [
        (
            *("bitcoin", Decimal("69703.123456789012345678"), 1e10, 1, AT, True, {"id": "1", "name": "kraken"}),
            *(b"\x01\xff", dt.date(2026, 1, 1)),
        )
    ]
    assert [(column[0], column[1]) for column in cursor.description][:2] == [
        ("asset_id", "varchar"),
        ("price", "decimal"),
    ]
    assert cursor.data_scanned_in_bytes > 0
    assert cursor.total_execution_time_in_millis > 0


def test_pyathena_takes_parameters_and_pages(connection: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("select n from unnest(sequence(1, 2500)) as t(n) where n > ? order by n", ["3"], paramstyle="qmark")
    assert [row[0] for row in cursor] == list(range(4, 2501))
    cursor.execute("select trades from t where asset_id = %(asset)s", {"asset": 'a"b,c'})
    assert cursor.fetchall() == [(None,)]


def test_pyathena_gives_dictionaries_frames_and_metadata(connection: Any) -> None:
    from pyathena.cursor import DictCursor
    from pyathena.pandas.cursor import PandasCursor

    rows = (
        connection.cursor(DictCursor).execute("select asset_id, trades from t where trades < 2 order by 2").fetchall()
    )
    assert rows == [{"asset_id": "ethereum", "trades": -5}, {"asset_id": "bitcoin", "trades": 1}]
    frame = connection.cursor(PandasCursor).execute("select asset_id, note, at from t order by asset_id").as_pandas()
    assert frame["asset_id"].to_list() == ['a"b,c', "bitcoin", "ethereum"]
    assert frame["note"].to_list()[2] == "two\nlines"
    cursor = connection.cursor()
    assert [table.name for table in cursor.list_table_metadata(expression="t")] == ["t"]
    assert cursor.get_table_metadata("t").columns[0].type == "string"
    assert cursor.execute("show tables").fetchall()[-1] == ("t",)


def test_pyathena_raises_what_athena_says_and_cancels(aws: Aws, connection: Any) -> None:
    from pyathena.error import DatabaseError, OperationalError

    cursor = connection.cursor()
    with pytest.raises(OperationalError, match="COLUMN_NOT_FOUND: line 1:8: Column 'nope'"):
        cursor.execute("select nope from t")
    with pytest.raises(DatabaseError, match="mismatched input"):
        cursor.execute("select from")


# Its own use of pandas, which is newer than it.
@pytest.mark.filterwarnings("ignore:The copy keyword is deprecated")
def test_awswrangler_reads_frames(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    wr = pytest.importorskip("awswrangler", reason="awswrangler is heavy; install it to run this")
    for key, value in {**aws.options, "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(key, value)
    wr.config.athena_endpoint_url = wr.config.glue_endpoint_url = wr.config.s3_endpoint_url = aws.url
    wr.config.sts_endpoint_url = aws.url
    frame = wr.athena.read_sql_query(
        "select asset_id, price, at, date from t where trades = 1",
        database=DATABASE,
        workgroup=WORKGROUP,
        ctas_approach=False,
    )
    assert frame["asset_id"].to_list() == ["bitcoin"]
    assert frame["price"].to_list() == [Decimal("69703.123456789012345678")]
    assert frame["date"].to_list() == [dt.date(2026, 1, 1)]
    assert "t" in wr.catalog.tables(database=DATABASE)["Table"].to_list()
