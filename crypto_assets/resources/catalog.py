"""Glue's tables, made equal to the lake's: what Athena, Lake Formation and the console know of a table.

Belongs here: how a contract, a table's log and a view look in Glue, writing them there, and finding what differs. Does
not: the tables (``lake.py`` calls this module after a commit), the databases (``infra/`` makes them), queries.

The catalog holds nothing of its own. Names, types and their order are the Delta log's, comments and facts the
contract's, views are ``tables/views.py``; whatever is lost or changed in Glue is made again from these. Entries are
written one at a time and whole, by whoever comes: two writers that meet compare again, and end equal. Only a rebuild,
which a person asks for, gives a table another address or deletes: the entry may be another lake's.

A table is a native Delta one, as Athena engine 3 and Trino want it: ``table_type=DELTA``, its address as the SerDe's
``path`` too (Trino looks nowhere else), all columns in ``Columns`` and no partition keys, which it takes from the log.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit

from crypto_assets.errors import CryptoAssetsError, DataError, NeedsYouError, TransientError
from crypto_assets.resources.aws import client_config, code_of, explained
from crypto_assets.resources.clock import Clock, SystemClock
from crypto_assets.resources.settings import storage_options
from crypto_assets.tables import ALL_TABLES, BY_NAME, Contract
from crypto_assets.tables.contract import (
    Zone,
    comment,
    delta_type,
    description,
    fields,
    fingerprint,
    hive_name,
    primary_key,
)
from crypto_assets.tables.views import VIEWS

if TYPE_CHECKING:
    from sqlglot import exp

    from crypto_assets.resources.lake import Lake

log = logging.getLogger(__name__)

# What is ours in a database carries these parameters; whatever else lies there is left alone.
_FACTS: Final = "crypto_assets."
_MARK: Final = f"{_FACTS}contract"
# Two writers that meet differ by one request; six turns with jitter outlast a dozen of them.
_TRIES: Final = 6
# Glue answers in tens of milliseconds.
_REQUEST_S: Final = 10
_SAFE: Final = "the lake is untouched, and each entry in Glue is a whole one"
_TRINO_TYPES: Final = {
    "binary": "varbinary",
    "integer": "integer",
    "long": "bigint",
    "string": "varchar",
    "timestamp": "timestamp(3) with time zone",
}

TableInput = dict[str, Any]
What = Literal["missing", "location", "columns", "facts", "statement", "stray"]


@dataclass(frozen=True)
class Drift:
    """One difference between Glue and the lake.

    Attributes:
        table: ``zone.name``.
        database: Glue's.
        what: ``missing`` in Glue; at another ``location``; with other ``columns`` (names, order, types, comments),
            ``facts`` (parameters, owner, formats) or, of a view, another ``statement``; or ``stray``: in Glue and
            not in the lake.
        told: the difference in words.
        is_ours: whether it is about an entry of ours; a stray one of somebody else is nobody's fault here.
    """

    table: str
    database: str
    what: What
    told: str
    is_ours: bool = True

    @property
    def remedy(self) -> str:
        """What mends it."""
        if not self.is_ours:
            return f"move {self.database}.{self.table.partition('.')[2]} to a database of its own"
        if self.what == "location":
            return f"crypto-assets catalog rebuild --take-over mends {self.table}, where no other lake owns it"
        if self.what == "stray":
            return f"crypto-assets catalog rebuild mends {self.table}"
        return "crypto-assets catalog sync mends what is missing or changed"


@dataclass(frozen=True)
class Entry:
    """What was done for a table or view: ``registered`` anew, ``updated``, found ``equal``, or left alone because it is
    registered ``elsewhere``, in another lake.
    """

    table: str
    database: str
    done: Literal["registered", "updated", "equal", "elsewhere"]


class Catalog:
    """The Glue databases of the zones, ``<prefix><zone>``.

    Args:
        client: boto3's Glue client; without one it is made when it is first needed, with the credentials and endpoints
            that boto3 finds.
        prefix: what the databases' names begin with.
        region: the client's region; it has to be told, since tables in another region than the bucket's are no use.
        clock, rng: time and jitter of retries.

    What a database holds is asked once and remembered: one request a zone and process.
    """

    def __init__(
        self,
        client: Any = None,
        prefix: str = "crypto_",
        *,
        region: str | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.prefix = prefix
        self._given, self._region = client, region
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not secrets
        self._known: dict[str, dict[str, TableInput]] = {}

    @cached_property
    def client(self) -> Any:
        """boto3's client, which waits and asks again where Glue is throttled or out of order."""
        if self._given is not None:
            return self._given
        import boto3

        if self._region is None:
            raise NeedsYouError("no region is set", where="glue", safe=_SAFE, hint="set AWS_REGION to the bucket's")
        with _border("glue", self._region):
            try:
                return boto3.session.Session().client(
                    "glue",
                    region_name=self._region,
                    config=client_config(_REQUEST_S),
                )
            except ValueError as error:
                # What boto3 says to an endpoint that is no address.
                raise _typed(error, "glue", self._region) from None

    def database(self, zone: str) -> str:
        """The Glue database of a zone."""
        return f"{self.prefix}{zone}"

    # ---- writing ----

    def sync(self, contract: type[Contract], uri: str, schema: Mapping[str, str]) -> list[Entry]:
        """Make Glue's entry of one table equal to the lake's, and those of views over it that find all they read.

        ``schema`` is the log's: column names in order with their Delta types. Views in another database than the
        table's are left to others where this role may not see or write that database; for them, views of its own
        database that Glue lacks are made, too, whatever they read.

        Raises:
            NeedsYouError: no credentials, no permission, no such database, or the table is registered elsewhere.
            TransientError: Glue is out of reach, throttles, or others keep changing the entry.
        """
        name = contract.table.full_name
        entry = self._put(name, self.table_input(contract, uri, schema))
        if entry.done == "elsewhere":
            raise NeedsYouError(
                f"{entry.database} has it at another address, which may be another lake's",
                where=name,
                safe=_SAFE,
                hint="set another CRYPTO_ASSETS_CATALOG_PREFIX, or crypto-assets catalog rebuild --take-over",
            )
        return [entry, *self._put_views(name)]

    def sync_all(self, lake: Lake) -> Iterator[Entry]:
        """The same for all that the lake holds, and every view; strays stay.

        A table that cannot be read does not hold up the others. Raises as ``sync`` and ``Lake``, at last.
        """
        self.forget()
        broken: list[CryptoAssetsError] = []
        for name, wanted in self._wanted(lake, broken).items():
            yield self._put(name, wanted)
        if broken:
            raise broken[0]

    def rebuild(self, lake: Lake, *, takes_over: bool = False) -> Iterator[Entry]:
        """Delete what is ours in Glue and make it again. Grants on single tables go with them, those on databases stay.

        The lake is read before anything is deleted: one that cannot be read keeps its catalog. Raises as ``sync_all``,
        and NeedsYouError where entries are of another lake and are not to be taken over.
        """
        self.forget()
        wanted = self._wanted(lake)
        ours = [
            (self.database(zone), name, held)
            for zone in Zone
            for name, held in self._held(self.database(zone)).items()
            if f"{zone}.{name}" in wanted or _MARK in held.get("Parameters", {})
        ]
        root = f"{location(lake.root)}/"
        foreign = [
            f"{database}.{name}" for database, name, held in ours if not f"{_address(held) or root}/".startswith(root)
        ]
        if foreign and not takes_over:
            raise NeedsYouError(
                f"{len(foreign)} entries are of another lake than {lake.root}",
                where=", ".join(foreign[:5]),
                safe="nothing was deleted",
                hint="correct CRYPTO_ASSETS_LAKE_URI or CRYPTO_ASSETS_CATALOG_PREFIX, or say --take-over",
            )
        for database, name, _ in ours:
            self._drop(database, name)
        self.forget()
        for name, table in wanted.items():
            yield self._put(name, table)

    def make_databases(self) -> list[str]:
        """Make the zones' databases that are not there, where no ``infra/`` does; returns their names."""
        made = []
        for database in map(self.database, Zone):
            with _border(database, self._region):
                try:
                    self.client.create_database(DatabaseInput={"Name": database})
                except self.client.exceptions.AlreadyExistsException:
                    continue
            made.append(database)
        self.forget()
        return made

    def forget(self) -> None:
        """Ask Glue anew what it holds."""
        self._known.clear()

    # ---- looking ----

    def check(self, lake: Lake) -> list[Drift]:
        """Every difference between Glue and the lake, by table. Raises as ``sync`` and ``Lake``; nothing is changed."""
        self.forget()
        wanted = self._wanted(lake)
        found: list[Drift] = []
        for zone in Zone:
            database = self.database(zone)
            held = self._held(database)
            names = {name.partition(".")[2]: name for name in wanted if name.startswith(f"{zone}.")}
            for bare, name in sorted(names.items()):
                if bare not in held:
                    told = "Glue does not know it: it was dropped by hand, or never registered"
                    found.append(Drift(name, database, "missing", told))
                else:
                    found += [Drift(name, database, what, told) for what, told in differences(wanted[name], held[bare])]
            for bare in sorted(held.keys() - names.keys()):
                is_ours = _MARK in held[bare].get("Parameters", {})
                told = "the lake does not hold it any more" if is_ours else "it is not in the lake, and not ours"
                found.append(Drift(f"{zone}.{bare}", database, "stray", told, is_ours))
        return found

    # ---- inside ----

    def table_input(self, contract: type[Contract], uri: str, schema: Mapping[str, str] | None = None) -> TableInput:
        """The entry of a table, refused where Athena could never read it."""
        if "://" not in uri and not _is_loopback(self.client.meta.endpoint_url):
            raise NeedsYouError(
                "the lake is a directory of this machine, which Athena cannot read",
                where=contract.table.full_name,
                safe=_SAFE,
                hint="set CRYPTO_ASSETS_LAKE_URI to s3://bucket/prefix, or CRYPTO_ASSETS_CATALOG=none",
            )
        return table_input(contract, location(uri), schema)

    def _wanted(self, lake: Lake, broken: list[CryptoAssetsError] | None = None) -> dict[str, TableInput]:
        """What Glue should hold for what the lake holds now, tables first; ``broken`` takes what is wrong with some."""
        found: dict[str, TableInput] = {}
        for contract in ALL_TABLES:
            try:
                schema = lake.schema(contract)
            except DataError as error:
                if broken is None:
                    raise
                broken.append(error)
                continue
            if schema is not None:
                found[contract.table.full_name] = self.table_input(contract, lake.uri(contract), schema)
        return found | {view: view_input(view, self.prefix) for view in answerable(found)}

    def _put_views(self, name: str) -> Iterator[Entry]:
        """The views that ``sync`` of a table brings along. Raises as ``sync``."""
        zone, _ = _split(name)
        touched = {name}
        for view in VIEWS:
            own, bare = _split(view)
            is_over = not touched.isdisjoint(reads(view))
            if is_over:
                touched.add(view)
            try:
                is_lacking = own == zone and bare not in self._held(self.database(own))
                if (is_over or is_lacking) and self._is_readable(view):
                    yield self._put(view, view_input(view, self.prefix))
            except NeedsYouError as error:
                if is_over and own == zone:
                    raise
                log.warning("%s is left to who may write it: %s", view, error.what)

    def _is_readable(self, view: str) -> bool:
        """Whether all tables that a view reads are registered."""
        return all(table in self._held(self.database(zone)) for zone, table in map(_split, reads(view)))

    def _put(self, name: str, wanted: TableInput) -> Entry:
        """Make one entry equal, comparing again with what Glue holds whenever somebody was faster."""
        zone, table = _split(name)
        database = self.database(zone)
        held: TableInput | None = None
        with _border(name, self._region):
            for n_tries in range(1, _TRIES + 1):
                held = self._held(database).get(table)
                try:
                    if held is None:
                        self.client.create_table(DatabaseName=database, TableInput=wanted)
                    elif any(what == "location" for what, _ in differences(wanted, held)):
                        return Entry(name, database, "elsewhere")
                    elif any(differences(wanted, held)):
                        # Old versions of an entry say nothing that the log does not.
                        self.client.update_table(DatabaseName=database, TableInput=wanted, SkipArchive=True)
                    else:
                        return Entry(name, database, "equal")
                except (
                    self.client.exceptions.AlreadyExistsException,
                    self.client.exceptions.EntityNotFoundException,
                    self.client.exceptions.ConcurrentModificationException,
                ):
                    self._known.pop(database, None)
                    self._clock.sleep(self._rng.uniform(0, 0.05 * 2**n_tries))
                    continue
                self._known[database][table] = wanted
                return Entry(name, database, "registered" if held is None else "updated")
        if held is None:
            raise NeedsYouError(
                f"{database} has it, and this role may not see it",
                where=name,
                safe=_SAFE,
                hint="grant the role SELECT or DESCRIBE on the database's tables",
            )
        raise TransientError("others keep changing it in Glue", where=name, safe=_SAFE, hint="run the same again")

    def _drop(self, database: str, table: str) -> None:
        with _border(f"{database}.{table}", self._region):
            try:
                self.client.delete_table(DatabaseName=database, Name=table)
            except self.client.exceptions.EntityNotFoundException:
                return

    def _held(self, database: str) -> dict[str, TableInput]:
        """What Glue holds in a database, by table."""
        if database not in self._known:
            with _border(database, self._region):
                try:
                    pages = self.client.get_paginator("get_tables").paginate(DatabaseName=database)
                    self._known[database] = {table["Name"]: table for page in pages for table in page["TableList"]}
                except self.client.exceptions.EntityNotFoundException:
                    raise NeedsYouError(
                        f"Glue in {self.client.meta.region_name} has no database {database}",
                        where="glue",
                        safe=_SAFE,
                        hint="deploy it, or make it with crypto-assets catalog sync --create; "
                        "if it is there, check AWS_REGION and CRYPTO_ASSETS_CATALOG_PREFIX",
                    ) from None
        return self._known[database]


def catalog_of(kind: str, prefix: str, environment: Mapping[str, str] = os.environ) -> Catalog | None:
    """The catalog of this kind (``none`` or ``glue``), in the bucket's region. Nothing is asked yet."""
    return Catalog(prefix=prefix, region=storage_options(environment).get("AWS_REGION")) if kind == "glue" else None


# ---- what an entry says ----


def location(uri: str) -> str:
    """A table's address as Glue holds it; of a directory a ``file://`` one, for what answers Athena's calls here."""
    return uri if "://" in uri else Path(uri).absolute().as_uri()


def table_input(contract: type[Contract], place: str, schema: Mapping[str, str] | None = None) -> TableInput:
    """Glue's TableInput of a table at ``place``; ``schema`` is the log's, without one the contract's own."""
    told = {field.name: field for field in fields(contract)}
    schema = schema or {field.name: delta_type(field.dtype) for field in told.values()}
    table = contract.table
    return {
        "Name": table.name,
        "Description": description(contract),
        "Owner": table.owner,
        "TableType": "EXTERNAL_TABLE",
        "Parameters": {
            "EXTERNAL": "TRUE",
            "classification": "delta",
            "spark.sql.sources.provider": "delta",
            "table_type": "DELTA",
            _MARK: fingerprint(contract),
            f"{_FACTS}zone": str(table.zone),
            f"{_FACTS}grain": ", ".join(primary_key(contract)),
            f"{_FACTS}partition_by": ", ".join(table.partition_by),
            f"{_FACTS}cadence": table.cadence,
            f"{_FACTS}retention": table.retention,
            f"{_FACTS}owner": table.owner,
        },
        "PartitionKeys": [],
        "StorageDescriptor": {
            "Columns": [
                {"Name": name, "Type": hive_name(kind), "Comment": comment(told[name])} for name, kind in schema.items()
            ],
            "Location": place,
            "InputFormat": "org.apache.hadoop.mapred.SequenceFileInputFormat",
            "OutputFormat": "org.apache.hadoop.hive.ql.io.HiveSequenceFileOutputFormat",
            "SerdeInfo": {
                "SerializationLibrary": "org.apache.hadoop.hive.serde2.lazy.LazySimpleSerDe",
                "Parameters": {"serialization.format": "1", "path": place},
            },
        },
    }


def view_input(view: str, prefix: str) -> TableInput:
    """Glue's TableInput of a view: statement and columns as Presto's JSON in base64, where Athena looks for them."""
    zone, name = _split(view)
    sql, columns = view_sql(view, prefix), _columns(view)
    told = {
        "originalSql": sql,
        "catalog": "awsdatacatalog",
        "schema": f"{prefix}{zone}",
        "columns": [{"name": column, "type": _view_type(kind)} for column, kind in columns.items()],
    }
    return {
        "Name": name,
        "Description": f"A view over {', '.join(sorted(reads(view)))}.",
        "TableType": "VIRTUAL_VIEW",
        "Parameters": {"presto_view": "true", "comment": "Presto View", _MARK: "view", f"{_FACTS}zone": zone},
        "PartitionKeys": [],
        "ViewOriginalText": f"/* Presto View: {base64.b64encode(json.dumps(told).encode()).decode()} */",
        "ViewExpandedText": "/* Presto View */",
        "StorageDescriptor": {
            "Columns": [{"Name": column, "Type": _view_hive(kind)} for column, kind in columns.items()],
            "Location": "",
            "SerdeInfo": {},
        },
    }


def view_sql(view: str, prefix: str) -> str:
    """A view's SELECT with Glue's names for its tables, and its times as plain timestamps in UTC.

    Athena refuses a view with a ``timestamp with time zone`` column, for which Hive has no type. A Delta time's zone is
    UTC, so that the cast takes nothing but the zone.
    """
    from sqlglot import exp

    tree: Any = _parsed(view).copy()
    for table in tree.find_all(exp.Table):
        if table.db:
            table.set("db", exp.to_identifier(f"{prefix}{table.db}"))
    columns = _columns(view)
    if not any(kind.endswith("with time zone") for kind in columns.values()):
        return str(tree.sql("athena"))
    shown = [
        exp.alias_(exp.cast(_quoted(name), "timestamp"), name, quoted=True)
        if kind.endswith("with time zone")
        else _quoted(name)
        for name, kind in columns.items()
    ]
    return exp.select(*shown).from_(tree.subquery("held")).sql("athena")


def ddl(contracts: Iterable[tuple[type[Contract], str]], prefix: str) -> Iterator[str]:
    """What to run in Athena where Glue cannot be called: the tables' statements, then the views'.

    Athena takes no more than address and type there and reads the columns from the log, without their comments.
    """
    known = set()
    for contract, uri in contracts:
        zone, name = contract.table.path
        known.add(contract.table.full_name)
        place = location(uri).replace("'", "''")
        yield (
            f"CREATE EXTERNAL TABLE IF NOT EXISTS {prefix}{zone}.{name}\n"
            f"LOCATION '{place}/'\nTBLPROPERTIES ('table_type' = 'DELTA');"
        )
    for view in answerable(known):
        zone, name = _split(view)
        yield f"CREATE OR REPLACE VIEW {prefix}{zone}.{name} AS\n{view_sql(view, prefix)};"


def answerable(tables: Iterable[str]) -> list[str]:
    """The views that find all they read among the tables, and among each other; each after those it reads."""
    known, found = set(tables), list[str]()
    for view in VIEWS:
        if reads(view) <= known:
            known.add(view)
            found.append(view)
    return found


@cache
def reads(view: str) -> frozenset[str]:
    """The tables, and views, that a view reads, as ``zone.name``."""
    from sqlglot import exp

    return frozenset(f"{table.db}.{table.name}" for table in _parsed(view).find_all(exp.Table) if table.db)


@cache
def _parsed(view: str) -> exp.Expr:
    import sqlglot

    return sqlglot.parse_one(VIEWS[view], read="athena")


@cache
def _columns(view: str) -> Mapping[str, str]:
    """A view's columns with their Trino types, from the types of what it reads."""
    from sqlglot import exp
    from sqlglot.optimizer.annotate_types import annotate_types
    from sqlglot.optimizer.qualify import qualify
    from sqlglot.schema import MappingSchema

    held: dict[str, dict[str, dict[str, str]]] = {}
    for name in reads(view):
        zone, table = _split(name)
        held.setdefault(zone, {})[table] = dict(_columns(name)) if name in VIEWS else _trino_columns(BY_NAME[name])
    schema: Any = MappingSchema(dict(held), dialect="trino")
    typed: Any = annotate_types(
        qualify(_parsed(view).copy(), schema=schema, dialect="trino"), schema=schema, dialect="trino"
    )
    found = {}
    for column in typed.selects:
        if column.type is None or column.type.is_type(exp.DataType.Type.UNKNOWN):
            raise ValueError(f"the type of {view}.{column.alias_or_name} cannot be told: write a cast")
        found[column.alias_or_name] = (
            column.type.sql("trino").lower().replace(" ", "").replace("withtimezone", " with time zone")
        )
    return found


def _trino_columns(contract: type[Contract]) -> dict[str, str]:
    kinds = {field.name: delta_type(field.dtype) for field in fields(contract)}
    return {name: _TRINO_TYPES.get(kind, kind) for name, kind in kinds.items()}


def _view_type(kind: str) -> str:
    """A column's type as the view shows it: a time without its zone."""
    return "timestamp(3)" if kind.startswith("timestamp") else kind


def _view_hive(kind: str) -> str:
    """Hive's name of the same."""
    if kind.startswith("timestamp"):
        return "timestamp"
    return {"varchar": "string", "varbinary": "binary", "integer": "int"}.get(kind, kind)


def _quoted(name: str) -> exp.Column:
    from sqlglot import exp

    return exp.column(name, quoted=True)


def _split(name: str) -> tuple[str, str]:
    zone, _, table = name.partition(".")
    return zone, table


# ---- what differs ----


def differences(wanted: TableInput, held: TableInput) -> Iterator[tuple[What, str]]:
    """How the entry that Glue holds differs from the one it should hold; more than it should say is no difference."""
    for path, ours, theirs in _leaves(wanted, held):
        if path == "StorageDescriptor.Columns":
            yield from (("columns", told) for told in _differing_columns(ours, theirs))
        elif path in _PLACES and _address(held) not in {"", _address(wanted)}:
            yield "location", f"{path.rpartition('.')[2]} is {theirs or 'not there'}, not {ours or 'none'}"
        elif path == "PartitionKeys":
            yield "columns", f"Glue has partition keys ({', '.join(key['Name'] for key in theirs)}), a Delta table none"
        elif path == "ViewOriginalText":
            yield "statement", "its statement is another"
        else:
            name = path.removeprefix("StorageDescriptor.").removeprefix("Parameters.")
            yield "facts", f"{name} is {theirs or 'not there'}, not {ours}"


_PLACES: Final = {"StorageDescriptor.Location", "StorageDescriptor.SerdeInfo.Parameters.path"}


def _address(entry: TableInput) -> str:
    """Where an entry says that its data lie: by the path that Trino goes by, else by its location. A view has none."""
    storage = entry.get("StorageDescriptor") or {}
    path = ((storage.get("SerdeInfo") or {}).get("Parameters") or {}).get("path")
    return str(path or storage.get("Location") or "").rstrip("/")


def _leaves(wanted: TableInput, held: TableInput, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where the two differ: path, wanted value, held value. Glue leaves out what is empty."""
    for name, ours in wanted.items():
        theirs = held.get(name) or type(ours)()
        if isinstance(ours, dict):
            yield from _leaves(ours, theirs, f"{path}{name}.")
        elif ours != theirs:
            yield f"{path}{name}", ours, theirs


def _differing_columns(ours: list[dict[str, str]], theirs: list[dict[str, str]]) -> Iterator[str]:
    wanted = {column["Name"]: column for column in ours}
    held = {column["Name"]: column for column in theirs}
    yield from (f"column {name} is missing" for name in wanted if name not in held)
    yield from (f"column {name} is not in the lake" for name in held if name not in wanted)
    for name in (name for name in wanted if name in held):
        if held[name].get("Type") != wanted[name]["Type"]:
            yield f"column {name} is {held[name].get('Type')}, not {wanted[name]['Type']}"
        if held[name].get("Comment", "") != wanted[name].get("Comment", ""):
            yield f"the comment of {name} is another"
    if wanted.keys() == held.keys() and list(wanted) != list(held):
        yield "columns are in another order"


# ---- errors ----


@contextmanager
def _border(where: str, region: str | None) -> Iterator[None]:
    """What boto3 raises leaves as ours, in one line; its own text may hold addresses and stays behind."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise _typed(error, where, region) from None


def _typed(error: Exception, where: str, region: str | None) -> CryptoAssetsError:
    if code_of(error) == "ResourceNumberLimitExceededException":
        what = "the account holds as many tables as it may"
        return NeedsYouError(what, where=where, safe=_SAFE, hint="raise the quota of Glue")
    return explained(error, "Glue", where=where, safe=_SAFE, region=region)


def _is_loopback(endpoint: str) -> bool:
    return urlsplit(endpoint).hostname in {"127.0.0.1", "localhost", "::1"}
