"""One settled SELECT over Delta tables, answered: what it reads, its rows, and what is wrong with it in Athena's words.

Runs in the engine's process. Rows come from `crypto_assets.resources.query.QueryEngine`, bytes from
`crypto_assets.resources.pruning`; their errors are told apart by the text before the semicolon, which their own tests
hold.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from crypto_assets.errors import CryptoAssetsError, DataError, NeedsYouError, TransientError
from crypto_assets.local_athena import statements
from crypto_assets.local_athena.errors import SYSTEM, QueryError
from crypto_assets.local_athena.results import Answer, selected
from crypto_assets.resources.lake import snapshot
from crypto_assets.resources.pruning import Pruning
from crypto_assets.resources.query import QueryEngine, outer_tables, parse

_TIMEOUT_S: Final = 1800.0  # Athena's own for DML


@dataclass(frozen=True)
class Question:
    """A SELECT for the engine.

    Attributes:
        text: as it was asked, for the places in messages.
        sql: with every table named in full.
        tables, views: as `catalog.Settled` has them.
        limit: bytes that it may read, or None.
    """

    text: str
    sql: str
    tables: Mapping[str, str]
    views: Mapping[str, str]
    limit: int | None = None


class LimitReachedError(Exception):
    """The query would read more bytes than its workgroup allows."""


class Answering:
    """Answers questions over one store; keeps what it opened, and what it learned of files, for the next."""

    def __init__(self, storage_options: Mapping[str, str]) -> None:
        self._options = dict(storage_options)
        self._tables: dict[str, str] = {}
        self._views: dict[str, str] = {}
        self._opened: tuple[QueryEngine, Pruning] | None = None

    def answer(self, question: Question) -> Answer:
        """The rows, and the bytes that Athena would bill.

        Raises:
            QueryError: the query fails, for this reason.
            LimitReachedError: it reads too much; nothing was read.
        """
        begin = time.monotonic()
        engine, pruning = self._open(question)
        n_bytes = self._pruned(pruning, question)
        if question.limit is not None and (n_bytes or 0) > question.limit:
            raise LimitReachedError
        planned = time.monotonic()
        try:
            found = selected(engine.query(question.sql))
            if n_bytes is None:
                n_bytes = self._whole(question)
        except CryptoAssetsError as error:
            raise failure(error, question.text) from None
        return replace(found, bytes_scanned=n_bytes, planning_ms=round((planned - begin) * 1000))

    def columns(self, table: tuple[str, str]) -> dict[str, str]:
        """The columns of a Delta table, told by its name and address, with Hive's words for their types.

        Raises:
            QueryError: there is no table, or the store does not give it.
        """
        try:
            with QueryEngine(dict([table]), storage_options=self._options) as engine:
                rows = engine.query(f"describe {table[0]}").rows()
        except CryptoAssetsError as error:
            raise failure(error, "") from None
        return {str(name): _hive(str(kind)) for name, kind in rows}

    def _whole(self, question: Question) -> int:
        """All bytes of the tables that the statement and its views name."""
        statements_read = (question.sql, *question.views.values())
        named = {f"{t.db}.{t.name}".lower() for sql in statements_read for t in outer_tables(parse(sql))}
        addresses = [question.tables[name] for name in named & question.tables.keys()]
        return sum(file.size for uri in addresses for file in snapshot(uri, self._options).files)

    def _pruned(self, pruning: Pruning, question: Question) -> int | None:
        """Bytes that are left after pruning; None where that cannot be told: the engine may know the reason."""
        try:
            return sum(read.n_bytes for read in pruning.reads(question.sql))
        except CryptoAssetsError:
            return None

    def _open(self, question: Question) -> tuple[QueryEngine, Pruning]:
        """The engine over all that was asked of it so far: to open one takes longer than most answers do."""
        tables = {name: uri for name, uri in self._tables.items() if name not in question.views}
        views = {name: sql for name, sql in self._views.items() if name not in question.tables}
        tables, views = {**tables, **question.tables}, {**views, **question.views}
        if self._opened is None or (tables, views) != (self._tables, self._views):
            if self._opened is not None:
                self._opened[0].close()
            self._tables, self._views = tables, views
            engine = QueryEngine(tables, views, storage_options=self._options, timeout_s=_TIMEOUT_S)
            self._opened = engine, Pruning(tables, views, storage_options=self._options)
        return self._opened


def _hive(kind: str) -> str:
    """Glue's word for a type of Athena's, e.g. ``struct<id:bigint,name:string>``."""
    from sqlglot import exp

    text = exp.DataType.build(kind, dialect="trino").sql("hive").lower()
    return text.replace(", ", ",").replace(": ", ":").replace("`", "")


def failure(error: CryptoAssetsError, sql: str) -> QueryError:
    """Athena's words for what our engine says."""
    if isinstance(error, DataError):
        return QueryError(f"DELTA_LAKE_BAD_DATA: {error.where}: {error.what}")
    if isinstance(error, NeedsYouError):
        return QueryError(f"PERMISSION_DENIED: {error.where}: {error.what}")
    if isinstance(error, TransientError):
        if "took longer" in error.what:
            return QueryError("Query timeout", is_retryable=True)
        return QueryError(
            f"DELTA_LAKE_FILESYSTEM_ERROR: {error.where}: {error.what}", category=SYSTEM, is_retryable=True
        )
    return QueryError(_of_usage(error, sql))


def _of_usage(error: CryptoAssetsError, sql: str) -> str:
    what = error.what
    if column := re.search(r"there is no column '([^']+)'", what):
        at = statements.place_of_word(sql, column.group(1))
        return (
            f"COLUMN_NOT_FOUND: {at}: Column '{column.group(1)}' cannot be resolved or requester is not authorized to "
            "access requested resources"
        )
    if function := re.search(r"function (\S+) is not known here", what):
        name = function.group(1)
        return f"NOT_SUPPORTED: {statements.place_of_word(sql, name)}: the local Athena has no function '{name}'"
    if "has no data yet" in what:
        return f"DELTA_LAKE_INVALID_SCHEMA: Metadata not found in transaction log for {error.where}"
    if "needs more memory" in what:
        return "Query exhausted resources at this scale factor"
    if value := re.search(r"a value does not fit its type \((.*)\)", what):
        fact = value.group(1)
        return "DIVISION_BY_ZERO: Division by zero" if _is_division(fact) else f"INVALID_CAST_ARGUMENT: {fact}"
    if "is refused" in what or "no local translation" in what or "several columns named" in what:
        return f"NOT_SUPPORTED: {what}; {error.hint}"
    return f"SYNTAX_ERROR: line 1:1: {what}"


def _is_division(fact: str) -> bool:
    return re.search(r"division by zero|[Ii]nfinity|\binf\b", fact) is not None
