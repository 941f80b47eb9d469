"""``sql`` and ``show``: questions to the lake, in Athena SQL.

Belongs here: where the statement comes from, which engine is asked and how the answer is written. What a statement may
do and how it is translated is ``resources/query.py``, how Athena is asked ``resources/athena.py``; views are
``tables/views.py``.
"""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING, Literal

from crypto_assets.commands import output
from crypto_assets.commands import run as runs
from crypto_assets.errors import TransientError, UsageError

if TYPE_CHECKING:
    from crypto_assets.resources.athena import AthenaEngine
    from crypto_assets.resources.lake import Lake
    from crypto_assets.resources.query import Engine, QueryEngine
    from crypto_assets.resources.settings import Settings

EngineName = Literal["duckdb", "athena"]


def engine(lake: Lake, prefix: str | None = None) -> QueryEngine:
    """DuckDB on this machine, over every table and view of the lake; ``prefix`` as in Glue's databases."""
    from crypto_assets.resources.query import DATABASE_PREFIX, QueryEngine
    from crypto_assets.tables import BY_NAME
    from crypto_assets.tables.views import VIEWS

    tables = {name: lake.uri(contract) for name, contract in BY_NAME.items()}
    return QueryEngine(
        tables,
        VIEWS,
        require_whole=lambda name: lake.require_whole(BY_NAME[name]),
        storage_options=lake.options or {},
        prefix=prefix or DATABASE_PREFIX,
    )


def athena(settings: Settings) -> AthenaEngine:
    """Athena, over every table and view as Glue knows them."""
    from crypto_assets.resources.athena import AthenaEngine
    from crypto_assets.tables import BY_NAME
    from crypto_assets.tables.contract import delta_type, fields
    from crypto_assets.tables.views import VIEWS

    tables = {name: {f.name: delta_type(f.dtype) for f in fields(contract)} for name, contract in BY_NAME.items()}
    return AthenaEngine(
        {**tables, **{name: {} for name in VIEWS}},
        prefix=settings.catalog_prefix,
        workgroup=settings.athena_workgroup,
        output=settings.athena_output,
        reuse_minutes=settings.athena_reuse_minutes,
    )


def sql(statement: str, form: output.Format, chosen: EngineName | None = None) -> int:
    """Answer one statement by the engine that is set, or by this one; ``-`` reads it from stdin."""
    from crypto_assets.resources.settings import Settings
    from crypto_assets.tables.quality import CheckResults

    text = sys.stdin.read() if statement == "-" else statement
    settings = Settings()
    is_athena = (chosen or settings.query_engine) == "athena"
    lake = runs.lake_of(settings)
    answering: Engine = athena(settings) if is_athena else engine(lake, settings.catalog_prefix)
    with closing(answering):
        try:
            found = answering.query(text)
        except TransientError:
            if not is_athena:
                # The store's own reason, where it has one: a bucket that is not there needs a person.
                lake.state(CheckResults)
            raise
        finally:
            # Also of a query that failed or was stopped: what it read is paid for.
            if bill := answering.bill():
                output.note(bill)
    output.rows(found.iter_rows(named=True), form, columns=found.columns)
    return 0


def show(table: str, limit: int, form: output.Format, chosen: EngineName | None = None, *, has_columns: bool) -> int:
    """The first rows of a table or view, or its columns."""
    from crypto_assets.tables import BY_NAME
    from crypto_assets.tables.contract import delta_type, fields
    from crypto_assets.tables.views import VIEWS

    name = table.replace("/", ".").lower()
    if name not in BY_NAME and name not in VIEWS:
        raise runs.unknown(table, [*BY_NAME, *VIEWS], "show")
    if limit < 1:
        raise UsageError("a limit is at least 1", where="--limit", safe="nothing was read", hint="leave it out for 20")
    if has_columns and name in BY_NAME:
        output.rows(
            [
                {
                    "column": field.name,
                    "type": delta_type(field.dtype),
                    "unit": field.unit,
                    "measure": str(field.kind),
                    "key": field.is_key,
                    "nullable": field.nullable,
                    "description": field.description,
                }
                for field in fields(BY_NAME[name])
            ],
            form,
        )
        return 0
    # The name is one of ours, the limit is a number.
    return sql(f"describe {name}" if has_columns else f"select * from {name} limit {limit}", form, chosen)  # noqa: S608
