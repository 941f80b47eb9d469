"""What Glue says of databases, tables and views, as a query needs it.

A table is a Delta table where its parameters say so and its SerDe has a ``path``: Athena takes the address from there
and nowhere else. A view holds its SQL in Presto's form: base64 of JSON in a comment.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from crypto_assets.local_athena import statements
from crypto_assets.local_athena.errors import QueryError, RequestError, not_delta, table_not_found

_VIEW: Final = re.compile(r"/\* Presto View: ([A-Za-z0-9+/=]+) \*/")
_PLAIN: Final = re.compile(r"[a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*")
_DEEPEST: Final = 16  # views within views; a circle ends here


@dataclass(frozen=True)
class Settled:
    """A SELECT whose names are settled.

    Attributes:
        sql: with every table named ``database.table``.
        tables: the Delta tables of the databases that it names, by that name, with their addresses.
        views: their views, with their SQL, its tables named in full too.
    """

    sql: str
    tables: Mapping[str, str]
    views: Mapping[str, str]


class Catalog:
    """One region's Glue, asked through its client."""

    def __init__(self, glue: Any) -> None:
        self.glue = glue

    def databases(self) -> list[dict[str, Any]]:
        pages = self.glue.get_paginator("get_databases").paginate()
        return sorted((each for page in pages for each in page["DatabaseList"]), key=lambda each: each["Name"])

    def database(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self.glue.get_database(Name=name)["Database"]
        except self.glue.exceptions.EntityNotFoundException:
            return None
        return found

    def tables(self, database: str) -> list[dict[str, Any]] | None:
        """A database's tables by name; None where there is no database."""
        try:
            pages = list(self.glue.get_paginator("get_tables").paginate(DatabaseName=database))
        except self.glue.exceptions.EntityNotFoundException:
            return None
        return sorted((each for page in pages for each in page["TableList"]), key=lambda each: each["Name"])

    def table(self, database: str, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self.glue.get_table(DatabaseName=database, Name=name)["Table"]
        except self.glue.exceptions.EntityNotFoundException:
            return None
        return found

    def settled(self, sql: str, database: str) -> Settled:
        """The statement with its tables and views found.

        Raises:
            RequestError: it cannot be parsed.
            QueryError: a table is not there, or is none that Athena reads as Delta.
        """
        found = _Settling(self)
        settled = found.settle(sql, database, 0)
        found.settle_views()
        return Settled(settled, found.tables, found.views)


class _Settling:
    """The work of one statement: each database that it names is asked for once.

    What else can be read there comes along, so that an engine that is opened for one question has what the next needs.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._held: dict[str, dict[str, dict[str, Any]] | None] = {}
        self.tables: dict[str, str] = {}
        self.views: dict[str, str] = {}

    def settle(self, sql: str, database: str, depth: int) -> str:
        names = statements.named(sql, database)
        for name in names:
            full = f"{name.database}.{name.table}"
            if full in self.views:
                continue
            held = self._in(name.database)
            if held is None:
                raise QueryError(f"SCHEMA_NOT_FOUND: {name.at}: Schema '{name.database}' does not exist")
            found = held.get(name.table)
            if found is None:
                raise table_not_found(name.database, name.table, name.at)
            if found.get("TableType") == "VIRTUAL_VIEW":
                if depth == _DEEPEST:
                    raise QueryError(f"VIEW_IS_RECURSIVE: {name.at}: View '{full}' leads back to itself")
                text, context = view_sql(found)
                self.views[full] = self.settle(text, context or name.database, depth + 1)
            else:
                self.tables[full] = address(found)
        return statements.written_out(sql, names)

    def settle_views(self) -> None:
        """The other views of the databases; one that is broken fails the queries that name it."""
        for database, held in list(self._held.items()):
            for name, table in (held or {}).items():
                full = f"{database}.{name}"
                if table.get("TableType") == "VIRTUAL_VIEW" and full not in self.views and _PLAIN.fullmatch(full):
                    with suppress(QueryError, RequestError):
                        text, context = view_sql(table)
                        self.views[full] = self.settle(text, context or database, 1)

    def _in(self, database: str) -> dict[str, dict[str, Any]] | None:
        """A database's tables by name; None where there is no database."""
        if database not in self._held:
            tables = self._catalog.tables(database)
            self._held[database] = None if tables is None else {each["Name"]: each for each in tables}
            for each in tables or ():
                if each.get("TableType") != "VIRTUAL_VIEW" and _PLAIN.fullmatch(f"{database}.{each['Name']}"):
                    with suppress(QueryError):
                        self.tables[f"{database}.{each['Name']}"] = address(each)
        return self._held[database]


def address(table: Mapping[str, Any]) -> str:
    """Where a Delta table lies.

    Raises:
        QueryError: Glue does not describe it as Athena needs.
    """
    database, name = table["DatabaseName"], table["Name"]
    if not is_delta(table):
        raise not_delta(database, name, "Parameters say neither table_type=DELTA nor spark.sql.sources.provider=delta")
    serde = table.get("StorageDescriptor", {}).get("SerdeInfo", {}).get("Parameters", {})
    path = str(serde.get("path") or "")
    if not path:
        raise not_delta(database, name, "No path property defined")
    if path.startswith("file://"):
        return unquote(urlsplit(path).path)  # a lake in a directory, which is read where the server runs
    return path.replace("s3a://", "s3://").rstrip("/")


def is_delta(table: Mapping[str, Any]) -> bool:
    parameters = {key.lower(): str(value).lower() for key, value in table.get("Parameters", {}).items()}
    return parameters.get("table_type") == "delta" or parameters.get("spark.sql.sources.provider") == "delta"


def view_sql(table: Mapping[str, Any]) -> tuple[str, str | None]:
    """A view's SELECT, and the database that its bare names are in.

    Raises:
        QueryError: its text is not what Athena writes.
    """
    found = _VIEW.fullmatch(str(table.get("ViewOriginalText", "")).strip())
    try:
        told = json.loads(base64.b64decode(found.group(1), validate=True)) if found else {}
        return str(told["originalSql"]), told.get("schema")
    except (binascii.Error, ValueError, KeyError, TypeError):
        full = f"{table['DatabaseName']}.{table['Name']}"
        raise QueryError(f"INVALID_VIEW: Invalid view JSON of view '{full}'") from None


def metadata(table: Mapping[str, Any]) -> dict[str, Any]:
    """Athena's ``TableMetadata`` of Glue's table."""
    descriptor = table.get("StorageDescriptor", {})
    parameters = dict(table.get("Parameters", {}))
    serde = descriptor.get("SerdeInfo", {})
    parameters |= {f"serde.param.{key}": value for key, value in serde.get("Parameters", {}).items()}
    known = {
        "inputformat": descriptor.get("InputFormat"),
        "location": descriptor.get("Location"),
        "outputformat": descriptor.get("OutputFormat"),
        "serde.serialization.lib": serde.get("SerializationLibrary"),
    }
    created = table.get("CreateTime")
    return {
        "Name": table["Name"],
        "TableType": table.get("TableType", "EXTERNAL_TABLE"),
        **({"CreateTime": created.timestamp()} if created is not None else {}),
        "Columns": list(_columns(descriptor.get("Columns", []))),
        "PartitionKeys": list(_columns(table.get("PartitionKeys", []))),
        "Parameters": parameters | {key: value for key, value in known.items() if value},
    }


def require_database(catalog: Catalog, name: str) -> dict[str, Any]:
    """Glue's database, or the exception of Athena's metadata calls."""
    found = catalog.database(name)
    if found is None:
        raise RequestError(f"Database {name} not found.", kind="MetadataException")
    return found


def _columns(columns: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for column in columns:
        comment = column.get("Comment")
        yield {"Name": column["Name"], "Type": column["Type"], **({"Comment": comment} if comment else {})}
