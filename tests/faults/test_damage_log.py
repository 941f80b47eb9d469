"""Logs that are torn, holed, emptied, foreign or from the future: refused by name, and the advice works."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from crypto_assets.errors import DataError
from crypto_assets.resources.lake import Lake
from crypto_assets.tables import quality, raw, refined, trusted
from crypto_assets.tables.contract import Contract, polars_schema
from crypto_assets.tables.window import Window
from tests.faults.damage import DAYS, MIDDLE, House, faults_of, same

TABLES = [trusted.FxRates, refined.DimAsset, raw.RawCoincapRates, quality.CheckResults]
by_name = pytest.mark.parametrize("contract", TABLES, ids=lambda c: c.table.full_name)
is_open = pytest.mark.parametrize("is_open", [False, True], ids=["fresh", "already open"])


def mended(house: House, error: DataError, contract: type[Contract], before: dict[str, pl.DataFrame]) -> None:
    """Doctor says the same as the refusal, and its advice brings every row back."""
    said = house.say("doctor")
    assert said.code == 1
    assert error.what in said.err
    house.follow(error, contract)
    assert same(before, house.content()) == []
    assert house.say("doctor").code == 0


# ---- entries ----


@pytest.mark.fault(row=50, fault="half a line in a log entry", promise="refused by the entry's name; rebuilt")
@by_name
def test_a_torn_log_entry_is_named_and_the_advice_brings_the_table_back(house: House, contract: type[Contract]) -> None:
    before = house.content()
    entry = house.entry(contract, house.newest(contract))
    entry.write_bytes(entry.read_bytes()[:80])

    error = house.refusal(contract)
    assert error.what == f"log entry {entry.name} is garbage from line 1"
    assert error.safe == "nothing was read in part"
    mended(house, error, contract, before)


@pytest.mark.fault(
    row=50, fault="garbage in the newest log entry", promise="refused by a process that has it open, too"
)
@is_open
def test_garbage_in_the_newest_entry_is_refused_and_nothing_is_written(house: House, is_open: bool) -> None:
    lake = house.lake
    if is_open:
        lake.read(trusted.FxRates)
    newest = house.newest(trusted.FxRates) + 1
    house.entry(trusted.FxRates, newest).write_bytes(b"\x00\xff garbage\n")
    none = pl.DataFrame(schema=polars_schema(trusted.FxRates))

    for use in (
        lambda: lake.scan(trusted.FxRates),
        lambda: lake.state(trusted.FxRates),
        lambda: lake.replace(trusted.FxRates, none, Window.of_day(MIDDLE)),
    ):
        with pytest.raises(DataError, match=rf"log entry {newest:020}.json is garbage from line 1; .*; move /"):
            use()
    assert not house.entry(trusted.FxRates, newest + 1).exists()


@pytest.mark.fault(row=51, fault="log hole", promise="refused by the missing entry's name; rebuilt")
@by_name
def test_a_missing_log_entry_is_named_and_the_advice_brings_the_table_back(
    house: House, contract: type[Contract]
) -> None:
    before = house.content()
    entry = house.entry(contract, house.newest(contract) - 1)
    entry.unlink()

    error = house.refusal(contract)
    assert error.what == f"log entry {entry.name} is missing"
    mended(house, error, contract, before)


@pytest.mark.fault(row=51, fault="log without its first entry", promise="refused by name")
def test_a_log_without_its_beginning_is_refused(house: House) -> None:
    house.entry(trusted.FxRates, 0).unlink()
    assert house.refusal(trusted.FxRates).what == "log entry 00000000000000000000.json is missing"


@pytest.mark.fault(row=52, fault="empty commit file", promise="doctor warns; the days are rebuilt")
@pytest.mark.parametrize("contract", [trusted.FxRates, raw.RawCoincapRates], ids=lambda c: c.table.full_name)
def test_an_emptied_log_entry_is_reported_and_the_advice_brings_its_rows_back(
    house: House, contract: type[Contract]
) -> None:
    before = house.content()
    house.entry(contract, 2).write_text("")
    assert len(house.lake.read(contract)) < len(before[contract.table.full_name])

    said = house.say("doctor")
    (finding,) = [json.loads(line) for line in said.out.splitlines() if f"{contract.table.full_name} log" in line]
    assert finding["ok"] is False
    assert finding["seen"].startswith("log entry 00000000000000000002.json is empty: what it said is lost; ")
    house.follow(finding["seen"], contract)
    assert same(before, house.content()) == []


@pytest.mark.fault(row=52, fault="empty commit file", promise="an empty newest entry stops nobody")
def test_an_empty_newest_entry_is_no_obstacle(house: House) -> None:
    before = house.content()
    house.entry(trusted.FxRates, house.newest(trusted.FxRates) + 1).write_text("")

    state = house.lake.state(trusted.FxRates)
    assert state is not None
    assert state.n_rows == 360
    assert "is empty" in house.say("doctor").out
    assert same(before, house.content()) == []


# ---- checkpoints ----


def checkpoint(house: House, contract: type[Contract]) -> Path:
    table = DeltaTable(house.lake.uri(contract))
    table.create_checkpoint()
    return house.folder(contract) / "_delta_log" / f"{table.version():020}.checkpoint.parquet"


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwritten(path: Path) -> None:
    path.write_bytes(b"x" * path.stat().st_size)


def hollowed(path: Path) -> None:
    body = path.read_bytes()
    path.write_bytes(body[:4] + bytes(len(body) - 8) + body[-4:])


@pytest.mark.fault(row=53, fault="corrupt or truncated checkpoint", promise="doctor --fix removes it: the log is truth")
@pytest.mark.parametrize("damage", [halved, overwritten, hollowed], ids=lambda d: d.__name__)
@pytest.mark.parametrize("contract", [trusted.FxRates, raw.RawCoincapRates], ids=lambda c: c.table.full_name)
def test_a_corrupt_checkpoint_is_named_and_doctor_fix_removes_it(
    house: House, contract: type[Contract], damage: object
) -> None:
    before = house.content()
    path = checkpoint(house, contract)
    damage(path)  # type: ignore[operator]

    error = house.refusal(contract)
    assert error.what.startswith(f"checkpoint {path.name} is corrupt")
    assert "crypto-assets doctor --fix" in error.hint
    entries = sorted(path.parent.glob("*.json"))
    said = house.say("doctor", "--fix")
    assert said.code == 0, said.err
    assert f"removed {path.name}: checkpoint {path.name} is corrupt" in said.out
    assert sorted(path.parent.glob("*.json")) == entries
    assert same(before, house.content()) == []
    assert "nothing was to be mended" in house.say("doctor", "--fix").out


@pytest.mark.fault(row=53, fault="_last_checkpoint pointing nowhere", promise="doctor --fix removes the hint")
def test_a_hint_to_no_checkpoint_is_named_and_the_advice_removes_it(house: House) -> None:
    before = house.content()
    hint = house.folder(trusted.FxRates) / "_delta_log" / "_last_checkpoint"
    hint.write_text('{"version": 77, "size": 5}')

    error = house.refusal(trusted.FxRates)
    assert error.what == "_last_checkpoint names version 77, of which there is no checkpoint"
    mended(house, error, trusted.FxRates, before)
    assert not hint.exists()


@pytest.mark.fault(row=53, fault="corrupt checkpoint, log cleaned", promise="never removed where the log is not whole")
def test_a_corrupt_checkpoint_that_the_log_cannot_replace_is_left_and_the_table_rebuilt(house: House) -> None:
    before = house.content()
    path = checkpoint(house, trusted.FxRates)
    house.entry(trusted.FxRates, 0).unlink()
    house.entry(trusted.FxRates, 1).unlink()
    assert faults_of(house.folder(trusted.FxRates)) == []
    assert len(house.lake.read(trusted.FxRates)) == 360
    halved(path)

    assert "nothing was to be mended" in house.say("doctor", "--fix").out
    assert path.exists()
    error = house.refusal(trusted.FxRates)
    assert f"checkpoint {path.name} is corrupt" in error.what
    mended(house, error, trusted.FxRates, before)


# ---- foreign writers ----


@pytest.mark.fault(row=54, fault="unknown reader or writer feature", promise="refused naming the feature; rebuilt")
def test_an_unknown_feature_is_named_and_the_advice_brings_the_table_back(house: House) -> None:
    before = house.content()
    newest = house.newest(trusted.FxRates) + 1
    features = {"readerFeatures": ["timeCrystals"], "writerFeatures": ["timeCrystals"]}
    protocol = {"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, **features}}
    house.entry(trusted.FxRates, newest).write_text(json.dumps(protocol) + "\n")

    error = house.refusal(trusted.FxRates)
    assert error.what == "the table asks for the Delta feature timeCrystals, which is not known here"
    mended(house, error, trusted.FxRates, before)


@pytest.mark.fault(row=56, fault="foreign writer changed the schema", promise="refused to read and write; rebuilt")
def test_a_foreign_column_is_named_and_the_advice_brings_the_table_back(house: House) -> None:
    before = house.content()
    foreign = house.lake.read(trusted.FxRates)[:1].with_columns(colour=pl.lit("red"))
    write_deltalake(house.lake.uri(trusted.FxRates), foreign, mode="append", schema_mode="merge")

    error = house.refusal(trusted.FxRates)
    assert error.what == "the table's columns are not the contract's: colour"
    mended(house, error, trusted.FxRates, before)


@pytest.mark.fault(
    row=56, fault="foreign writer changed the partitioning", promise="refused to read and write; rebuilt"
)
@is_open
def test_a_foreign_partitioning_is_named_and_the_advice_brings_the_table_back(house: House, is_open: bool) -> None:
    before, lake = house.content(), house.lake
    rows = lake.read(trusted.FxRates)
    reader = lake if is_open else Lake(lake.root)
    uri = lake.uri(trusted.FxRates)
    write_deltalake(uri, rows, mode="overwrite", schema_mode="overwrite", partition_by=["currency_id"])

    for use in (lambda: reader.scan(trusted.FxRates), lambda: reader.replace(trusted.FxRates, rows, _all_days())):
        with pytest.raises(DataError, match="the table is partitioned by currency_id, not by date; "):
            use()
    mended(house, house.refusal(trusted.FxRates), trusted.FxRates, before)


def _all_days() -> Window:
    return Window.of_days(DAYS[0], DAYS[-1])
