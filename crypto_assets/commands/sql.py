"""``sql`` and ``show``: questions to the lake, in Athena SQL.

Belongs here: where the statement comes from and how the answer is written. What a statement may do and how it is
translated is ``resources/query.py``; views are ``tables/views.py``.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from crypto_assets.commands import output
from crypto_assets.commands import run as runs
from crypto_assets.errors import TransientError, UsageError

if TYPE_CHECKING:
    from crypto_assets.resources.lake import Lake
    from crypto_assets.resources.query import QueryEngine


def engine(lake: Lake) -> QueryEngine:
    """A query engine over every table and view of the lake."""
    from crypto_assets.resources.query import QueryEngine
    from crypto_assets.tables import BY_NAME
    from crypto_assets.tables.views import VIEWS

    tables = {name: lake.uri(contract) for name, contract in BY_NAME.items()}
    return QueryEngine(
        tables,
        VIEWS,
        require_whole=lambda name: lake.require_whole(BY_NAME[name]),
        storage_options=lake.options or {},
    )


def sql(statement: str, form: output.Format) -> int:
    """Answer one statement; ``-`` reads it from stdin."""
    from crypto_assets.resources.settings import Settings
    from crypto_assets.tables.quality import CheckResults

    text = sys.stdin.read() if statement == "-" else statement
    lake = runs.lake_of(Settings())
    with engine(lake) as asked:
        try:
            found = asked.query(text)
        except TransientError:
            # The store's own reason, where it has one: a bucket that is not there needs a person.
            lake.state(CheckResults)
            raise
    output.rows(found.iter_rows(named=True), form, columns=found.columns)
    return 0


def show(table: str, limit: int, form: output.Format, *, has_columns: bool) -> int:
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
    return sql(f"describe {name}" if has_columns else f"select * from {name} limit {limit}", form)  # noqa: S608
