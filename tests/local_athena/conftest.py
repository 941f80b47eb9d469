"""One local AWS for all tests here, with a small awkward Delta table in Glue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import deltalake
import pytest

from tests.local_athena.endpoint import DATABASE, ROWS, Aws, running


@pytest.fixture(scope="session")
def server() -> Iterator[Aws]:
    with running() as aws:
        yield aws


@pytest.fixture(scope="session")
def prepared(server: Aws) -> Aws:
    """The same, with `ROWS` as the table ``t`` of the database."""
    uri = "s3://lake/refined/t"
    # Statistics of all but the decimal, as the lake writes them.
    settings = {"delta.dataSkippingStatsColumns": "asset_id,volume,trades,at"}
    deltalake.write_deltalake(
        uri, ROWS, partition_by="date", storage_options=dict(server.options), configuration=settings
    )
    ddl = f"CREATE EXTERNAL TABLE {DATABASE}.t LOCATION '{uri}/' TBLPROPERTIES ('table_type'='DELTA')"
    assert server.run(ddl)["Status"]["State"] == "SUCCEEDED"
    return server


@pytest.fixture
def aws(prepared: Aws) -> Iterator[Aws]:
    """The prepared AWS; faults that a test sets end with it."""
    yield prepared
    prepared.faults()


@pytest.fixture
def workgroup(aws: Aws, request: pytest.FixtureRequest) -> Iterator[Callable[..., str]]:
    """Makes a workgroup with a configuration, and removes it."""
    client = aws.client("athena")
    made: list[str] = []

    def make(**configuration: Any) -> str:
        name = f"wg-{len(made)}-{abs(hash(request.node.name))}"
        client.create_work_group(Name=name, Configuration=configuration)
        made.append(name)
        return name

    yield make
    for name in made:
        client.delete_work_group(WorkGroup=name)
