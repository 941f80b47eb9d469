"""Every contract says everything that the lake, the docs and the readers need of it."""

from __future__ import annotations

import json
from types import ModuleType

import dataframely as dy
import polars as pl
import pytest
from deltalake import Schema

from crypto_assets.tables import ALL_TABLES, BY_NAME, quality, raw, refined, trusted
from crypto_assets.tables.contract import (
    MONEY,
    UTC_TIME,
    Contract,
    Kind,
    Table,
    Write,
    Zone,
    clock,
    comment,
    count,
    day,
    delta_schema_json,
    delta_type,
    fields,
    fingerprint,
    hive_type,
    key,
    money,
    number,
    polars_schema,
    primary_key,
    skipping_columns,
)

EVERY_TABLE = pytest.mark.parametrize("contract", ALL_TABLES, ids=lambda c: c.table.full_name)
ALL_COLUMNS = {f"{c.table.full_name}.{f.name}" for c in ALL_TABLES for f in fields(c)}


def contract_of(**columns: dy.Column) -> type[Contract]:
    table = Table(zone=Zone.REFINED, name="t", group="g", cadence="never", write=Write.REPLACE)
    return type("T", (Contract,), {"__doc__": "A table.", "table": table, **columns})


# ---- every table ----


@EVERY_TABLE
def test_a_table_says_what_it_is_and_whose(contract: type[Contract]) -> None:
    table = contract.table

    assert contract.__doc__
    assert contract.__doc__.rstrip().endswith(".")
    assert table.group
    assert table.cadence
    assert table.retention
    assert table.owner.startswith("team:")
    assert table.name == table.name.lower()
    assert table.path == (str(table.zone), table.name)


@EVERY_TABLE
def test_partitions_sort_order_and_clocks_are_columns_of_the_table(contract: type[Contract]) -> None:
    columns = set(contract.column_names())
    table = contract.table

    assert set(table.partition_by) <= columns
    assert table.sort_by, "readers skip row groups only of sorted files"
    assert set(table.sort_by) <= columns
    assert {c for c in (table.clock, *(table.span or ())) if c} <= columns


@EVERY_TABLE
def test_a_table_has_a_key_without_nulls(contract: type[Contract]) -> None:
    keys = [f for f in fields(contract) if f.is_key]

    assert keys
    assert not any(f.nullable for f in keys)
    assert primary_key(contract) == tuple(f.name for f in keys)


@EVERY_TABLE
def test_the_way_of_writing_follows_from_the_zone_and_the_partitions(contract: type[Contract]) -> None:
    assert (contract.table.write is Write.APPEND) == (contract.table.zone is Zone.RAW)
    assert (contract.table.write is Write.MERGE) == (contract.table.partition_by == ())


@EVERY_TABLE
def test_every_clock_of_a_table_is_in_utc_to_the_millisecond(contract: type[Contract]) -> None:
    for name, column in contract.columns().items():
        if isinstance(column, dy.Datetime):
            assert column.dtype == UTC_TIME, name
            assert column.resolution == "1ms", name


@EVERY_TABLE
def test_the_log_keeps_bounds_of_keys_clocks_and_doubles_but_never_of_a_decimal(contract: type[Contract]) -> None:
    schema = polars_schema(contract)
    kept = skipping_columns(contract)

    assert not [name for name in kept if schema[name] == MONEY]
    assert not set(kept) & set(contract.table.partition_by)
    assert {c for c in (contract.table.clock, *(contract.table.span or ())) if c} <= set(kept)


@EVERY_TABLE
def test_the_delta_schema_is_the_contract_and_survives_a_round_trip(contract: type[Contract]) -> None:
    sent = json.loads(delta_schema_json(contract))

    assert json.loads(Schema.from_json(json.dumps(sent)).to_json()) == sent
    assert [f["name"] for f in sent["fields"]] == contract.column_names()
    assert [f["metadata"]["comment"] for f in sent["fields"]] == [comment(f) for f in fields(contract)]
    assert all(f["nullable"] for f in sent["fields"])


@EVERY_TABLE
def test_sampled_rows_fit_the_contract(contract: type[Contract]) -> None:
    sampled = contract.sample(3, generator=dy.random.Generator(7))

    assert contract.is_valid(sampled)
    assert sampled.schema == polars_schema(contract)


# ---- every column of it ----


@EVERY_TABLE
def test_a_column_says_what_it_is_its_unit_and_its_kind(contract: type[Contract]) -> None:
    for field in fields(contract):
        metadata = contract.columns()[field.name].metadata or {}

        assert field.description.endswith("."), field.name
        assert field.unit, field.name
        assert set(metadata) == {"unit", "kind", "sources", "rounded"}, field.name
        assert isinstance(metadata["kind"], Kind), field.name
        assert comment(field) == f"{field.description} [{field.unit}; {field.kind}]"


@EVERY_TABLE
def test_a_column_has_a_type_that_every_reader_reads_alike(contract: type[Contract]) -> None:
    assert all(delta_type(f.dtype) and hive_type(f.dtype) for f in fields(contract))


@EVERY_TABLE
def test_a_column_comes_from_columns_that_exist(contract: type[Contract]) -> None:
    assert {source for f in fields(contract) for source in f.sources} <= ALL_COLUMNS


@pytest.mark.parametrize("contract", refined.TABLES, ids=lambda c: c.table.full_name)
def test_a_refined_column_names_its_sources_unless_it_is_a_calendar_day(contract: type[Contract]) -> None:
    assert [f.name for f in fields(contract) if not f.sources and f.dtype != pl.Date()] == []


@EVERY_TABLE
def test_a_name_keeps_the_promise_of_its_prefix_and_its_ending(contract: type[Contract]) -> None:
    for field in fields(contract):
        if field.name.endswith("_24h"):
            assert field.kind is Kind.ROLLING_24H, field.name
        if field.name.endswith("_at"):
            assert field.dtype == UTC_TIME, field.name
        if field.name.endswith("_usd"):
            assert field.unit == "USD", field.name
        if "_pct" in field.name:
            assert field.unit == "%", field.name
        if field.name.startswith(("is_", "has_")):
            assert field.dtype == pl.Boolean(), field.name
        if field.name.startswith("n_"):
            assert field.dtype in (pl.Int32(), pl.Int64()), field.name


# ---- the tables together ----


def test_table_names_are_unique_and_lead_to_their_contracts() -> None:
    assert len({c.table.full_name for c in ALL_TABLES}) == len(ALL_TABLES) == len(BY_NAME)
    assert all(BY_NAME[c.table.full_name] is c for c in ALL_TABLES)
    assert len({c.__name__ for c in ALL_TABLES}) == len(ALL_TABLES)


def test_column_names_are_unique_even_for_readers_that_ignore_case() -> None:
    assert all(len({n.lower() for n in c.column_names()}) == len(c.column_names()) for c in ALL_TABLES)


@pytest.mark.parametrize("module", [raw, trusted, refined, quality], ids=lambda m: m.__name__.rsplit(".", 1)[-1])
def test_every_contract_of_a_module_is_in_its_list_of_tables(module: ModuleType) -> None:
    declared = {
        thing
        for thing in vars(module).values()
        if isinstance(thing, type)
        and issubclass(thing, Contract)
        and thing.__module__ == module.__name__
        and hasattr(thing, "table")
    }

    assert set(module.TABLES) == declared
    assert {str(c.table.zone) for c in declared} == {module.__name__.rsplit(".", 1)[-1]}


def test_every_raw_table_has_the_columns_of_raw_answers() -> None:
    assert {tuple(polars_schema(c).items()) for c in raw.TABLES} == {tuple(polars_schema(raw.RawAnswers).items())}


# ---- what follows from a contract ----


def test_a_fingerprint_changes_with_a_type_a_name_a_key_and_a_nullability() -> None:
    same = contract_of(id=key("Id."), n=count("N."))
    others = [
        contract_of(id=key("Id."), n=count("N.", wide=True)),
        contract_of(id=key("Id."), m=count("N.")),
        contract_of(id=key("Id."), n=count("N.", primary_key=True)),
        contract_of(id=key("Id."), n=count("N.", nullable=True)),
        contract_of(id=key("Id.")),
    ]

    assert fingerprint(same) == fingerprint(contract_of(id=key("Id."), n=count("Another description.")))
    assert len({fingerprint(c) for c in (same, *others)}) == 6


@pytest.mark.parametrize(
    "dtype",
    [
        pl.Categorical(),
        pl.Enum(["a"]),
        pl.UInt64(),
        pl.Time(),
        pl.Duration("us"),
        pl.Datetime("us"),
        pl.Datetime("ns", "UTC"),
        pl.Datetime("us", "Europe/Berlin"),
        pl.Decimal(38, 10),
        pl.Float32(),
        pl.Int8(),
        pl.List(pl.String()),
    ],
    ids=str,
)
def test_a_type_that_readers_understand_differently_has_no_place_in_a_contract(dtype: pl.DataType) -> None:
    with pytest.raises(KeyError):
        delta_type(dtype)


def test_types_have_the_names_that_delta_and_athena_give_them() -> None:
    contract = contract_of(
        id=key("Id."),
        at=clock("At."),
        on=day(),
        price=money("Price."),
        share=number("Share.", unit="1"),
        n=count("N."),
        wide=count("Wide.", wide=True),
    )

    assert [(f.name, delta_type(f.dtype), hive_type(f.dtype)) for f in fields(contract)] == [
        ("id", "string", "string"),
        ("at", "timestamp", "timestamp"),
        ("on", "date", "date"),
        ("price", "decimal(38,18)", "decimal(38,18)"),
        ("share", "double", "double"),
        ("n", "integer", "int"),
        ("wide", "long", "bigint"),
    ]
    assert skipping_columns(contract) == ("id", "at", "on", "share")
