"""Athena's DDL and its SHOW and DESCRIBE, over Glue; of tables only Delta ones are made.

``CREATE EXTERNAL TABLE`` takes a LOCATION and ``table_type``, and nothing else, as Athena does for Delta: columns come
from the table's log. Dropping a table takes it out of Glue and leaves its files.

Rows are single texts, padded and joined by tabs, as Athena gives them. What fails has Hive's words.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from crypto_assets.local_athena.catalog import Catalog, address, is_delta
from crypto_assets.local_athena.errors import QueryError, RequestError
from crypto_assets.local_athena.results import Answer, Column
from crypto_assets.local_athena.statements import literals, stripped

Columns = Callable[[tuple[str, str]], Mapping[str, str]]

_NAME: Final = r"([\w`\".-]+)"
_SHOW_TABLES: Final = re.compile(
    rf"SHOW\s+(?:TABLES|VIEWS)(?:\s+(?:IN|FROM)\s+{_NAME})?(?:\s+(?:LIKE\s+)?'(.*)')?", re.I
)
_SHOW_DATABASES: Final = re.compile(r"SHOW\s+(?:DATABASES|SCHEMAS)(?:\s+(?:LIKE\s+)?'(.*)')?", re.I)
_SHOW_COLUMNS: Final = re.compile(rf"SHOW\s+COLUMNS\s+(?:IN|FROM)\s+{_NAME}(?:\s+(?:IN|FROM)\s+{_NAME})?", re.I)
_SHOW_PROPERTIES: Final = re.compile(rf"SHOW\s+TBLPROPERTIES\s+{_NAME}(?:\s*\(\s*'(.*)'\s*\))?", re.I)
_SHOW_CREATE: Final = re.compile(rf"SHOW\s+CREATE\s+TABLE\s+{_NAME}", re.I)
_DESCRIBE: Final = re.compile(rf"DESC(?:RIBE)?\s+(?:EXTENDED\s+|FORMATTED\s+)?{_NAME}", re.I)
_DATABASE: Final = re.compile(
    rf"(CREATE|DROP)\s+(?:DATABASE|SCHEMA)\s+(IF\s+(?:NOT\s+)?EXISTS\s+)?{_NAME}(?:\s+COMMENT\s+'(.*?)')?"
    r"(?:\s+LOCATION\s+'(.*?)')?(?:\s+(CASCADE|RESTRICT))?",
    re.I | re.S,
)
_DROP_TABLE: Final = re.compile(rf"DROP\s+TABLE\s+(IF\s+EXISTS\s+)?{_NAME}", re.I)

_WIDTH: Final = 20
_TASK: Final = "FAILED: Execution Error, return code 1 from org.apache.hadoop.hive.ql.exec.DDLTask."
_TASK_FAILED: Final = f"{_TASK} {{0}}(message:{{1}})"
_ONLY_DELTA: Final = (
    "NOT_SUPPORTED: CREATE TABLE statements that include more than the LOCATION and table_type property are not "
    "allowed for Delta Lake tables, which are what the local Athena creates"
)


def answered(sql: str, database: str, catalog: Catalog, columns: Columns) -> Answer:
    """Do what the statement says; ``columns`` reads the names and Hive types in the log of a
    table, told by its name and address.

    Raises:
        QueryError: it fails; Glue is as it was.
    """
    text = stripped(sql)
    for pattern, work in _WORK:
        if found := pattern.fullmatch(text):
            return work(found, database, catalog)
    return _create_table(text, database, catalog, columns)


def require_table(sql: str, database: str, catalog: Catalog) -> None:
    """Athena looks for the table of DESCRIBE and SHOW COLUMNS before it takes the statement.

    Raises:
        RequestError: ``Entity Not Found``.
    """
    found = _DESCRIBE.fullmatch(stripped(sql)) or _SHOW_COLUMNS.fullmatch(stripped(sql))
    if found is not None and catalog.table(*_spoken(found.group(1), _second(found) or database)) is None:
        raise RequestError.invalid("Entity Not Found")


def _second(found: re.Match[str]) -> str | None:
    return _bare(found.group(2)) if found.re is _SHOW_COLUMNS and found.group(2) else None


def _show_tables(found: re.Match[str], database: str, catalog: Catalog) -> Answer:
    name = _bare(found.group(1) or database)
    tables = catalog.tables(name)
    if tables is None:
        raise QueryError(f"FAILED: SemanticException [Error 10072]: Database does not exist: {name}")
    only_views = found.group(0).split()[1].upper() == "VIEWS"
    names = [each["Name"] for each in tables if not only_views or each.get("TableType") == "VIRTUAL_VIEW"]
    return _list("tab_name", _matching(names, found.group(2)))


def _show_databases(found: re.Match[str], database: str, catalog: Catalog) -> Answer:
    return _list("database_name", _matching([each["Name"] for each in catalog.databases()], found.group(1)))


def _show_columns(found: re.Match[str], database: str, catalog: Catalog) -> Answer:
    table = _table(catalog, *_spoken(found.group(1), _second(found) or database))
    return _list("field", [column["Name"].ljust(_WIDTH) for column in _columns(table)])


def _show_properties(found: re.Match[str], database: str, catalog: Catalog) -> Answer:
    table = _table(catalog, *_spoken(found.group(1), database))
    wanted = found.group(2)
    pairs = sorted(table.get("Parameters", {}).items())
    shown = [(key, value) for key, value in pairs if wanted in {None, key}]
    return _joined(("prpt_name", "prpt_value"), shown)


def _describe(found: re.Match[str], database: str, catalog: Catalog) -> Answer:
    table = _table(catalog, *_spoken(found.group(1), database))
    rows = [(column["Name"], column["Type"], column.get("Comment", "")) for column in _columns(table)]
    return _joined(("col_name", "data_type", "comment"), rows)


def _show_create(found: re.Match[str], database: str, catalog: Catalog) -> Answer:
    schema, name = _spoken(found.group(1), database)
    table = _table(catalog, schema, name)
    if table.get("TableType") == "VIRTUAL_VIEW":
        raise QueryError(f"NOT_SUPPORTED: '{schema}.{name}' is a view, not a table")
    lines = [f"CREATE EXTERNAL TABLE `{schema}.{name}`("]
    columns = _columns(table)
    for i, column in enumerate(columns):
        comment = str(column.get("Comment", "")).replace("'", "\\'")
        end = ")" if i == len(columns) - 1 else ", "
        lines.append(
            f"  `{column['Name']}` {column['Type']}{f' COMMENT {chr(39)}{comment}{chr(39)}' if comment else ''}{end}"
        )
    lines += ["LOCATION", f"  '{address(table)}'", "TBLPROPERTIES (" + literals(table.get("Parameters", {})) + ")"]
    return _list("createtab_stmt", "\n".join(lines).split("\n"))


def _database(found: re.Match[str], database: str, catalog: Catalog) -> Answer:
    verb, condition, spoken, comment, location, rule = found.groups()
    name = _bare(spoken)
    is_there = catalog.database(name) is not None
    if verb.upper() == "CREATE":
        if is_there and not condition:
            raise QueryError(_TASK_FAILED.format("AlreadyExistsException", f"Database {name} already exists"))
        if not is_there:
            told = {"Description": comment, "LocationUri": location}
            catalog.glue.create_database(DatabaseInput={"Name": name} | {k: v for k, v in told.items() if v})
        return Answer()
    if not is_there:
        if condition:
            return Answer()
        raise QueryError(f"FAILED: SemanticException [Error 10072]: Database does not exist: {name}")
    if catalog.tables(name) and (rule or "").upper() != "CASCADE":
        raise QueryError(
            _TASK_FAILED.format("InvalidOperationException", f"Database {name} is not empty. One or more tables exist.")
        )
    catalog.glue.delete_database(Name=name)
    return Answer()


def _drop_table(found: re.Match[str], database: str, catalog: Catalog) -> Answer:
    schema, name = _spoken(found.group(2), database)
    table = catalog.table(schema, name)
    if table is None:
        if found.group(1):
            return Answer()
        raise QueryError(f"FAILED: SemanticException [Error 10001]: Table not found {schema}.{name}")
    if table.get("TableType") == "VIRTUAL_VIEW":
        raise QueryError(f"FAILED: SemanticException Cannot drop a view with DROP TABLE: {schema}.{name}")
    catalog.glue.delete_table(DatabaseName=schema, Name=name)
    return Answer()


def _create_table(text: str, database: str, catalog: Catalog, columns: Columns) -> Answer:
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    try:
        tree = sqlglot.parse_one(text, read="athena")
    except SqlglotError:
        tree = None
    if not isinstance(tree, exp.Create):
        raise QueryError(f"FAILED: ParseException line 1:0 cannot recognize input near '{text[:40]}'")
    told = tree.args["properties"].expressions if tree.args.get("properties") else []
    location = next((str(each.this.name) for each in told if isinstance(each, exp.LocationProperty)), "")
    properties = {each.name.lower(): each.text("value") for each in told if type(each) is exp.Property}
    known = (exp.LocationProperty, exp.ExternalProperty, exp.Property)
    if (
        isinstance(tree.this, exp.Schema)
        or not location
        or {key: value.upper() for key, value in properties.items()} != {"table_type": "DELTA"}
        or not all(isinstance(each, known) for each in told)
    ):
        raise QueryError(_ONLY_DELTA)
    schema, name = (tree.this.db or database).lower(), tree.this.name.lower()
    if catalog.database(schema) is None:
        raise QueryError(f"FAILED: SemanticException [Error 10072]: Database does not exist: {schema}")
    if catalog.table(schema, name) is not None:
        if tree.args.get("exists"):
            return Answer()
        raise QueryError(_TASK_FAILED.format("AlreadyExistsException", f"Table {name} already exists"))
    uri = location.rstrip("/")
    found = columns((f"{schema}.{name}", uri))
    catalog.glue.create_table(DatabaseName=schema, TableInput=_table_input(name, uri, found))
    return Answer()


def _table_input(name: str, uri: str, columns: Mapping[str, str]) -> dict[str, Any]:
    """Glue's entry of a Delta table as Athena's DDL writes it: its address twice, no partition keys."""
    return {
        "Name": name,
        "TableType": "EXTERNAL_TABLE",
        "Parameters": {"EXTERNAL": "TRUE", "table_type": "DELTA", "spark.sql.sources.provider": "delta"},
        "PartitionKeys": [],
        "StorageDescriptor": {
            "Location": uri,
            "Columns": [{"Name": column, "Type": kind} for column, kind in columns.items()],
            "InputFormat": "org.apache.hadoop.mapred.SequenceFileInputFormat",
            "OutputFormat": "org.apache.hadoop.hive.ql.io.HiveSequenceFileOutputFormat",
            "SerdeInfo": {
                "SerializationLibrary": "org.apache.hadoop.hive.serde2.lazy.LazySimpleSerDe",
                "Parameters": {"serialization.format": "1", "path": uri},
            },
        },
    }


def _table(catalog: Catalog, database: str, name: str) -> dict[str, Any]:
    found = catalog.table(database, name)
    if found is None:
        raise QueryError(f"FAILED: SemanticException [Error 10001]: Table not found {database}.{name}")
    return found


def _columns(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    if table.get("TableType") != "VIRTUAL_VIEW" and is_delta(table):
        address(table)  # without one, Athena cannot open the table, whatever it is asked of it
    columns: list[dict[str, Any]] = table.get("StorageDescriptor", {}).get("Columns", [])
    return columns


def _spoken(name: str, database: str) -> tuple[str, str]:
    parts = [_bare(part) for part in name.split(".")]
    return (parts[-2] if len(parts) > 1 else database.lower()), parts[-1]


def _bare(name: str) -> str:
    return name.strip('`"').lower()


def _matching(names: Sequence[str], pattern: str | None) -> list[str]:
    """Hive's patterns: ``*`` for any characters, ``|`` between alternatives."""
    if pattern is None:
        return list(names)
    return [name for name in names if any(fnmatch.fnmatchcase(name, each) for each in pattern.lower().split("|"))]


def _list(column: str, values: Sequence[str]) -> Answer:
    return Answer((Column(column, "string"),), tuple((value,) for value in values))


def _joined(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Answer:
    columns = tuple(Column(name, "string") for name in names)
    return Answer(columns, tuple(("\t".join(str(value).ljust(_WIDTH) for value in row),) for row in rows))


_WORK: Final[Sequence[tuple[re.Pattern[str], Callable[[re.Match[str], str, Catalog], Answer]]]] = (
    (_SHOW_TABLES, _show_tables),
    (_SHOW_DATABASES, _show_databases),
    (_SHOW_COLUMNS, _show_columns),
    (_SHOW_PROPERTIES, _show_properties),
    (_SHOW_CREATE, _show_create),
    (_DESCRIBE, _describe),
    (_DATABASE, _database),
    (_DROP_TABLE, _drop_table),
)
