"""``catalog sync``, ``check``, ``rebuild`` and ``ddl``: Glue's tables, by hand.

Belongs here: asking, and showing what was done or found. What an entry says is ``resources/catalog.py``; in everyday
life the lake registers tables itself, after a commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from crypto_assets.commands import output
from crypto_assets.commands import run as runs
from crypto_assets.errors import DataError, NeedsYouError

if TYPE_CHECKING:
    from crypto_assets.resources.catalog import Catalog, Drift, Entry
    from crypto_assets.resources.lake import Lake


def sync(form: output.Format, *, is_creating: bool) -> int:
    """Make Glue equal to the lake; one row a table or view."""
    lake, catalog = _opened()
    if is_creating:
        for name in catalog.make_databases():
            output.note(f"made the database {name}")
    return _told(catalog.sync_all(lake), form)


def rebuild(form: output.Format, *, takes_over: bool) -> int:
    """Delete and make again; one row a table or view."""
    lake, catalog = _opened()
    return _told(catalog.rebuild(lake, takes_over=takes_over), form)


def check(form: output.Format) -> int:
    """One row a difference. Raises as ``require_equal``."""
    lake, catalog = _opened()
    found = catalog.check(lake)
    output.rows(
        [{"table": d.table, "database": d.database, "what": d.what, "told": d.told} for d in found],
        form,
        columns=("table", "database", "what", "told"),
    )
    require_equal(found)
    output.note("Glue is equal to the lake")
    return 0


def require_equal(found: Sequence[Drift]) -> None:
    """Refuse any difference. Raises DataError, with the way to mend it."""
    if not found:
        return
    tables = sorted({drift.table for drift in found})
    raise DataError(
        f"{len(found)} differences in {len(tables)} tables: {', '.join(tables[:5])}{' …' if len(tables) > 5 else ''}",
        where="glue",
        safe="the lake is untouched",
        hint="; ".join(dict.fromkeys(drift.remedy for drift in found)),
    )


def ddl() -> int:
    """The statements for Athena, of the tables that the lake holds."""
    from crypto_assets.resources.catalog import ddl as statements
    from crypto_assets.resources.settings import Settings
    from crypto_assets.tables import ALL_TABLES

    settings = Settings()
    lake = runs.lake_of(settings)
    held = [(contract, lake.uri(contract)) for contract in ALL_TABLES if lake.schema(contract) is not None]
    for statement in statements(held, settings.catalog_prefix):
        output.line(statement)
    return 0


def _opened() -> tuple[Lake, Catalog]:
    from crypto_assets.resources.settings import Settings

    lake = runs.lake_of(Settings())
    if lake.catalog is None:
        raise NeedsYouError(
            "no catalog is set",
            where="CRYPTO_ASSETS_CATALOG",
            safe="nothing was done",
            hint="set CRYPTO_ASSETS_CATALOG=glue, and AWS_REGION",
        )
    return lake, lake.catalog


def _told(entries: Iterable[Entry], form: output.Format) -> int:
    shown: list[Entry] = []
    try:
        shown.extend(entries)
    finally:
        # What was done before an error was done.
        output.rows(
            [{"table": e.table, "database": e.database, "done": e.done} for e in shown],
            form,
            columns=("table", "database", "done"),
        )
    elsewhere = [entry.table for entry in shown if entry.done == "elsewhere"]
    if elsewhere:
        raise NeedsYouError(
            f"{len(elsewhere)} tables are registered at another address, which may be another lake's",
            where=", ".join(elsewhere[:5]),
            safe="they were left alone",
            hint="set another CRYPTO_ASSETS_CATALOG_PREFIX, or crypto-assets catalog rebuild --take-over",
        )
    return 0
