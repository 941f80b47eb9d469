"""Independent readers agree: the same rows, to the digit and the microsecond, whatever maintenance did to the files.

Two implementations of the log (delta-rs; delta-kernel-rs) and three of Parquet come with the project. Two more readers
run where ``READERS_PYTHON`` names an interpreter that has them: a separate environment with
``pip install pysail==0.7.2 pyspark-client==4.2.0 chdb==4.4.0 pyarrow``.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable, QueryBuilder

from crypto_assets.resources.lake import Lake
from crypto_assets.resources.query import QueryEngine
from crypto_assets.tables import Contract
from crypto_assets.tables.quality import GapLedger, Quarantine
from crypto_assets.tables.raw import RawCoincapRates
from crypto_assets.tables.refined import MarketOverview
from crypto_assets.tables.trusted import FxRates
from crypto_assets.tables.window import HOUR, Window
from tests.readers.canonical import digest

RowsOf = Callable[..., pl.DataFrame]
Rows = Iterable[Mapping[str, Any]]

TABLES: tuple[type[Contract], ...] = (FxRates, RawCoincapRates, Quarantine, GapLedger, MarketOverview)
STAGES = ("written", "compacted", "checkpointed", "vacuumed")
NAMES = ["", "são-tomé", "日本円", "🙂 \u202e", 'it\'s "quoted"', "tab\tand\nline", "x" * 300]
DECIMALS = ["99999999999999999999.999999999999999999", "0.000000000000000001", "70422.524121632830600712", "0", "1e3"]
BODIES = [b"", b"\x00\xff\xfe", "日本".encode(), b'{"data":[]}']
EDGES = [
    dt.datetime(2024, 2, 29, 0, 0, tzinfo=dt.UTC),
    dt.datetime(2024, 2, 29, 23, 59, 59, 999_000, tzinfo=dt.UTC),
    dt.datetime(2024, 12, 31, 23, 59, 59, 1_000, tzinfo=dt.UTC),
    dt.datetime(2025, 1, 1, 0, 0, tzinfo=dt.UTC),
]


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory, rows_of: RowsOf) -> dict[str, Lake]:
    """The same lake as it was written, and after each kind of maintenance, each in a folder of its own."""
    home = tmp_path_factory.mktemp("readers")
    lake = Lake(str(home / STAGES[0]))
    _write(lake, rows_of)
    for before, after in pairwise(STAGES):
        shutil.copytree(home / before, home / after)
        for contract in TABLES:
            table = DeltaTable(Lake(str(home / after)).uri(contract))
            if after == "compacted":
                assert table.optimize.compact()["numFilesRemoved"] > 1
            elif after == "checkpointed":
                table.create_checkpoint()
            else:
                assert table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    return {stage: Lake(str(home / stage)) for stage in STAGES}


def _write(lake: Lake, rows_of: RowsOf) -> None:
    for moment in EDGES:
        window = Window(
            moment.replace(minute=0, second=0, microsecond=0), moment.replace(minute=0, second=0, microsecond=0) + HOUR
        )
        rates = [
            {
                "observed_at": moment,
                "ingested_at": moment,
                "currency_id": f"c{i}",
                "symbol": name,
                "rate_usd": Decimal(d),
            }
            for i, (name, d) in enumerate(zip(NAMES, [*DECIMALS, *DECIMALS], strict=False))
        ]
        lake.replace(FxRates, rows_of(FxRates, *rates), window)
        name = "it's; table --"
        refused = [{"table_name": name, "observed_at": moment, "position": i, "record": n} for i, n in enumerate(NAMES)]
        lake.replace(Quarantine, rows_of(Quarantine, *refused), window, where={"table_name": name})
        shares = {"opened_at": moment.replace(minute=0, second=0, microsecond=0), "available_at": moment}
        lake.replace(MarketOverview, rows_of(MarketOverview, shares), window)
        gap = {"table_name": f"t-{moment:%f}", "date": moment.date(), "gap_start_at": moment}
        gap["closed_at"] = None if moment.hour else moment
        lake.merge(GapLedger, rows_of(GapLedger, gap), delete_missing=False)
    for i, body in enumerate(BODIES):
        pull = {"pull_id": f"p{i}", "body": body, "date": EDGES[0].date(), "detail": None if i % 2 else NAMES[i]}
        lake.append(RawCoincapRates, rows_of(RawCoincapRates, pull), app="a", version=i)


def by_polars(lake: Lake, contract: type[Contract]) -> Rows:
    return pl.scan_delta(lake.uri(contract)).collect().iter_rows(named=True)


def by_deltalake(lake: Lake, contract: type[Contract]) -> Rows:
    query = QueryBuilder().register("t", DeltaTable(lake.uri(contract)))
    return pl.DataFrame(query.execute("SELECT * FROM t").read_all()).iter_rows(named=True)


def by_duckdb(lake: Lake, contract: type[Contract]) -> Rows:
    name = contract.table.full_name
    with QueryEngine({name: lake.uri(contract)}) as engine:
        yield from engine.query(f"SELECT * FROM {name}").iter_rows(named=True)


@pytest.fixture(scope="module")
def expected(stages: dict[str, Lake]) -> dict[type[Contract], str]:
    """The digests of what was written, as the lake itself reads it."""
    told = {contract: digest(stages["written"].read(contract).iter_rows(named=True)) for contract in TABLES}
    assert [text.split()[0] for text in told.values()] == ["28", "4", "28", "4", "4"]
    return told


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("read", [by_polars, by_deltalake, by_duckdb], ids=lambda r: r.__name__)
def test_every_reader_gives_the_same_rows_at_every_stage(
    stages: dict[str, Lake],
    expected: dict[type[Contract], str],
    read: Callable[[Lake, type[Contract]], Rows],
    stage: str,
) -> None:
    assert {contract: digest(read(stages[stage], contract)) for contract in TABLES} == expected


@pytest.mark.parametrize("reader", ["sail", "chdb"])
def test_readers_of_other_houses_give_the_same_rows_at_every_stage(
    stages: dict[str, Lake], expected: dict[type[Contract], str], reader: str
) -> None:
    python, module = os.environ.get("READERS_PYTHON"), {"sail": "pysail", "chdb": "chdb"}[reader]
    if not python or subprocess.run([python, "-c", f"import {module}"], check=False, capture_output=True).returncode:
        pytest.skip(f"set READERS_PYTHON to an interpreter that has {module}: see the head of this file")
    folders = {lake.uri(contract): contract for lake in stages.values() for contract in TABLES}
    script = str(Path(__file__).with_name("foreign.py"))
    # ClickHouse reads files below its working directory only.
    home = Path(stages["written"].root).parent
    command = [python, script, reader, *folders]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=240, cwd=home)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    wrong = [f"{folder}: {text}" for folder, text in told.items() if text != expected[folders[folder]]]
    assert wrong == []
    assert len(told) == len(STAGES) * len(TABLES)


def test_a_digest_tells_a_digit_a_microsecond_a_null_and_a_byte() -> None:
    row = {"d": Decimal("1.5"), "t": EDGES[0], "n": None, "b": b"\x00", "s": "x"}
    others = [
        {**row, "d": Decimal("1.500000000000000001")},
        {**row, "t": EDGES[0] + dt.timedelta(microseconds=1)},
        {**row, "t": EDGES[0].replace(tzinfo=None)},
        {**row, "n": "null"},
        {**row, "b": b"\x01"},
        {**row, "s": ""},
    ]
    assert len({digest([r]) for r in (row, *others)}) == 7
    assert digest([row, others[0]]) == digest([others[0], row])
