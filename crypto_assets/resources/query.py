"""Athena SQL answered on this machine: one SELECT, over Delta tables, in a DuckDB that can reach nothing else.

What belongs here: judging a statement, turning Athena's dialect into DuckDB's, and running it locked down.
What does not: which tables exist (`crypto_assets.tables`), writing them (`lake.py`), the real Athena.

Two walls stand one behind the other. The statement is parsed, and only what is known to be harmless is let
through: one query, over tables we name, with functions we list. Then DuckDB itself is closed before the first
statement of a user is seen: no file outside the tables' directories, no extension, no setting, no spill file.

Known differences from Athena: ``avg`` of a decimal and decimal division are doubles, timestamps keep their
microseconds, ``TIMESTAMP '...'`` without a zone is taken as UTC and comes back as such.
"""

from __future__ import annotations

import difflib
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, Self
from urllib.parse import unquote, urlsplit

import polars as pl

from crypto_assets.errors import CryptoAssetsError, DataError, NeedsYouError, TransientError, UsageError
from crypto_assets.resources.dialect import Parameter, bound, literal, require_athena, unknown_function

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation
    from sqlglot import exp

DATABASE_PREFIX: Final = "crypto_"
"""Athena's database of a zone is this and the zone: ``crypto_refined`` holds the tables of ``refined``."""

_MAX_SQL_BYTES: Final = 262_144  # Athena's own limit for one statement
_INTERRUPT_EVERY_S: Final = 0.05  # an interrupt that falls between two statements is lost, so it is repeated
_GRACE_S: Final = 5.0  # DuckDB heeds an interrupt within a second or two, or it waits for the network
_NAME: Final = re.compile(r"[a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*")
_SHOW_TABLES: Final = re.compile(r"\s*show\s+tables(?:\s+(?:in|from)\s+([\w`\"]+))?\s*;?\s*", re.IGNORECASE)
_DESCRIBE: Final = re.compile(r"\s*(?:describe|desc)\s+([\w.`\"]+)\s*;?\s*", re.IGNORECASE)
_UNNAMED: Final = "_unnamed_"
_NOTHING_DONE: Final = "nothing was read or written"
_SEE_TABLES: Final = 'see the tables with "show tables"'

# Athena functions that our parser knows only by name. Whatever is not listed here is refused: DuckDB has
# functions of the same shape that read settings, variables, sequences and logs.
_FUNCTIONS: Final = frozenset(
    {
        *("arrays_overlap", "array_union", "codepoint", "e", "every", "geometric_mean", "hamming_distance"),
        *("histogram", "infinity", "is_finite", "is_infinite", "json_array_length", "map_agg", "map_concat"),
        *("map_entries", "map_values", "nan", "url_decode", "url_encode", "url_extract_host"),
    }
)
# Those of them, and of the parser's own, that DuckDB lacks or calls otherwise.
_MACROS: Final = (
    "array_union(a, b) AS list_distinct(list_concat(a, b))",
    "arrays_overlap(a, b) AS list_has_any(a, b)",
    "codepoint(c) AS unicode(c)",
    "e() AS exp(1.0::DOUBLE)",
    "every(c) AS bool_and(c)",
    "hamming_distance(a, b) AS hamming(a, b)",
    "infinity() AS 'inf'::DOUBLE",
    "is_finite(x) AS isfinite(x)",
    "is_infinite(x) AS isinf(x)",
    "map_agg(k, v) AS map(list(k), list(v))",
    "nan() AS 'nan'::DOUBLE",
    "url_extract_host(u) AS regexp_extract(u, '^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?([^/:?#]*)', 1)",
    "width_bucket(x, lo, hi, n) AS CAST(greatest(0, least(n + 1, floor((x - lo) / (hi - lo) * n) + 1)) AS BIGINT)",
)


class Engine(Protocol):
    """What answers SQL: `QueryEngine` on this machine, `athena.AthenaEngine` at AWS; alike in meaning and types."""

    def query(self, sql: str, parameters: Sequence[Parameter] = ()) -> pl.DataFrame:
        """Answer one statement with a whole frame, or raise; each ``?`` takes the value whose turn it is."""
        ...

    def bill(self) -> str | None:
        """What the calling thread's last query read and cost, in one line; None where nothing is paid for."""
        ...

    def close(self) -> None:
        """Let go of what is held; the next query opens it anew."""
        ...


class Closing(ABC):
    """A context manager that is closed at the end of its block."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Let go of what is held."""


class QueryEngine(Closing):
    """Answers Athena SQL over Delta tables; a context manager, and safe to use from several threads.

    Args:
        tables: ``"refined.asset_daily"`` to the table's address, a directory or ``s3://bucket/prefix``.
        views: ``"refined.currency"`` to a SELECT, in Athena SQL, over tables and other views.
        require_whole: asked for each table before it is opened; it raises where a file of the table is not what the
            log says, which DuckDB does not look at.
        storage_options: deltalake's keys, ``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID`` and so on. They reach
            DuckDB as a secret that no query can read, and no message names them.
        memory_limit: what all queries together may hold, as DuckDB writes it; nothing spills to disk.
        threads: processor threads for all queries together.
        timeout_s: seconds that one query may take, its opening of tables included.
        max_rows: a longer answer is an error, never a shortened answer; None for no limit.
        prefix: what stands before a zone's name in the name of its database at Athena.

    Raises:
        UsageError: a name that is not ``zone.table``, or that is both a table and a view.
    """

    def __init__(
        self,
        tables: Mapping[str, str],
        views: Mapping[str, str] = {},
        *,
        require_whole: Callable[[str], None] = lambda _: None,
        storage_options: Mapping[str, str] = {},
        memory_limit: str = "2GB",
        threads: int = 2,
        timeout_s: float = 60.0,
        max_rows: int | None = None,
        prefix: str = DATABASE_PREFIX,
    ) -> None:
        for name in (*tables, *views):
            if not _NAME.fullmatch(name) or (name in tables and name in views):
                raise UsageError(
                    f"{name!r} cannot be the name of a table or view",
                    where="query engine",
                    safe=_NOTHING_DONE,
                    hint='names look like "refined.asset_daily" and are used once',
                )
        self._tables = {name: _address(uri) for name, uri in tables.items()}
        self._views = dict(views)
        self._require_whole = require_whole
        self._options = dict(storage_options)
        self._memory_limit = memory_limit
        self._threads = threads
        self._timeout_s = timeout_s
        self._max_rows = max_rows
        self._prefix = prefix
        self._database: DuckDBPyConnection | None = None
        self._opening = threading.Lock()

    def close(self) -> None:
        """Let go of DuckDB's memory and threads; the next query would open it anew."""
        with self._opening:
            if self._database is not None:
                self._database.close()
                self._database = None

    def query(self, sql: str, parameters: Sequence[Parameter] = ()) -> pl.DataFrame:
        """Answer one SELECT (or ``SHOW TABLES``, ``DESCRIBE table``) with a whole frame, or raise.

        Each ``?`` takes the value whose turn it is. Decimals come back exact, timestamps as
        ``Datetime("us", "UTC")``, intervals as text, sums of integers as Int64. Columns without a name are called
        ``_col0``, ``_col1`` as Athena does.

        Raises:
            UsageError: not one SELECT, an unknown table, column or function, an answer too big, bad values.
            TransientError: it took longer than ``timeout_s``, or the store did not answer.
            NeedsYouError: the store refuses our key, or there is none, or the bucket is in another region.
            DataError: a file of a table is gone or damaged.
        """
        sql = bound(sql, [literal(value) for value in parameters])
        if (database := listed_database(sql)) is not None:
            return shown([*self._tables, *self._views], database, self._prefix)
        if described := described_name(sql):
            name = self._resolve(*described)
            return self._run(lambda session: _described(session.columns(name)))
        tree = parse(sql)
        self._settle_tables(tree)
        _settle_names(tree)
        return self._run(lambda session: self._fetch(session.connection, session.translate(tree)))

    def bill(self) -> None:
        """Nothing is paid for."""

    def _resolve(self, zone: str, table: str) -> str:
        """The full name that ``zone.table``, ``crypto_zone.table`` or a bare ``table`` stands for."""
        return resolve([*self._tables, *self._views], zone, table, self._prefix)

    def _settle_tables(self, tree: exp.Expr) -> None:
        """Write every table of the statement as ``zone.table``; refuse the unknown before anything is opened."""
        from sqlglot import exp

        for table in outer_tables(tree):
            name = self._resolve(table.db.lower(), table.name.lower())
            zone, bare = name.split(".")
            alias = table.args.get("alias") or exp.TableAlias(this=exp.to_identifier(table.name.lower()))
            table.set("alias", alias)
            table.set("catalog", None)
            table.set("db", exp.to_identifier(zone))
            table.set("this", exp.to_identifier(bare))

    def _fetch(self, connection: DuckDBPyConnection, sql: str) -> pl.DataFrame:
        answer = connection.sql(sql)
        names = [f"_col{i}" if name.startswith(_UNNAMED) else name for i, name in enumerate(answer.columns)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise _refuse(f"the answer has several columns named {', '.join(twice)}", "give each its own name with AS")
        # As text, not as relation.project() and .limit(): those bind again while they hold Python's lock, and a
        # slow store would then freeze the whole process. One row more than allowed tells a full answer from a cut.
        limit = "" if self._max_rows is None else f" LIMIT {self._max_rows + 1}"
        answer = connection.sql(f"SELECT {_presentable(answer, names)} FROM ({sql}){limit}")  # noqa: S608
        # Through the Arrow C stream: DuckDB's own .pl() would need pyarrow, which nothing else of ours does.
        frame = pl.DataFrame(answer)
        if self._max_rows is not None and frame.height > self._max_rows:
            raise _too_big(f"the answer has more than {self._max_rows} rows")
        return frame

    def _run(self, work: Callable[[_Session], pl.DataFrame]) -> pl.DataFrame:
        """Do one query's work on a connection of its own, in time; its errors become ours.

        The work has a thread of its own because a store that accepts and never answers holds it beyond the
        reach of an interrupt, for minutes: such a thread is left to end by itself, and the caller goes on.
        """
        import duckdb

        outcome: Future[pl.DataFrame] = Future()
        try:
            connection = self._open().cursor()
        except duckdb.Error as error:
            raise _explained(str(error), self._secrets()) from None

        def body() -> None:
            try:
                outcome.set_result(work(_Session(self, connection)))
            except BaseException as error:  # noqa: BLE001 - handed to the caller, who raises it
                outcome.set_exception(error)

        threading.Thread(target=body, name="sql", daemon=True).start()
        is_late = not wait([outcome], self._timeout_s).done
        try:
            for _ in range(round(_GRACE_S / _INTERRUPT_EVERY_S) if is_late else 0):
                connection.interrupt()
                if wait([outcome], _INTERRUPT_EVERY_S).done:
                    break
            if not outcome.done():
                raise self._late()
            return outcome.result()
        except (duckdb.Error, pl.exceptions.PolarsError) as error:
            if is_late:
                raise self._late() from None
            # The foreign text may hold addresses; what is passed on is chosen, and the chain is cut.
            raise _explained(str(error), self._secrets()) from None
        finally:
            if outcome.done():
                connection.close()
            else:
                connection.interrupt()

    def _late(self) -> TransientError:
        return TransientError(
            f"the query took longer than {self._timeout_s:g} s and was stopped",
            where="sql",
            safe="no table was changed",
            hint="ask for less, for instance with a condition on date, or allow more time",
        )

    def _secrets(self) -> list[str]:
        keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        return [self._options[key] for key in keys if self._options.get(key)]

    def _open(self) -> DuckDBPyConnection:
        with self._opening:
            if self._database is None:
                self._database = self._locked_database()
            return self._database

    def _locked_database(self) -> DuckDBPyConnection:
        import duckdb

        database = duckdb.connect(
            config={
                "threads": self._threads,
                "memory_limit": self._memory_limit,
                "temp_directory": "",
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "allow_community_extensions": False,
                "allow_persistent_secrets": False,  # somebody's own secrets in the home directory stay theirs
                "python_enable_replacements": False,  # FROM frame must not find a Python variable
            }
        )
        on_s3 = any(_is_s3(uri) for uri in self._tables.values())
        for extension in ("delta", "httpfs") if on_s3 else ("delta",):
            database.load_extension(str(_extension(extension)))
        for macro in _MACROS:
            database.execute(f"CREATE MACRO {macro}")
        if on_s3 and self._secrets():
            database.execute(_secret(self._options))
        directories = ", ".join(_quoted(uri.rstrip("/") + "/") for uri in self._tables.values())
        database.execute("SET GLOBAL TimeZone = 'UTC'")
        database.execute(f"SET GLOBAL allowed_directories = [{directories}]")
        database.execute("SET GLOBAL enable_external_access = false")
        database.execute("SET GLOBAL lock_configuration = true")
        return database

    def _check_credentials(self, name: str) -> None:
        if _is_s3(self._tables[name]) and not self._secrets():
            raise NeedsYouError(
                "its table is on S3 and there is no key to read it with",
                where=name,
                safe=_NOTHING_DONE,
                hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ask Athena itself",
            )


class _Session:
    """One query's connection and the tables it has opened, as temporary views named ``zone.table``."""

    def __init__(self, engine: QueryEngine, connection: DuckDBPyConnection) -> None:
        self.connection = connection
        self._engine = engine
        self._columns: dict[str, dict[str, exp.DataType]] = {}
        self._expanding: list[str] = []

    def columns(self, name: str) -> dict[str, exp.DataType]:
        """Open a table or view, once, and say its columns with their types."""
        import duckdb
        from sqlglot import exp

        if name in self._columns:
            return self._columns[name]
        if name in self._engine._views:
            select = self._view(name)
        else:
            self._engine._check_credentials(name)
            self._engine._require_whole(name)
            select = f"SELECT * FROM delta_scan({_quoted(self._engine._tables[name])})"  # noqa: S608 - an address of ours, quoted
        try:
            self.connection.execute(f"CREATE TEMP VIEW {_view_name(name)} AS {select}")
        except duckdb.IOException as error:
            raise _unreadable(name, str(error)) from None
        rows = self.connection.execute(f"DESCRIBE {_view_name(name)}").fetchall()
        self._columns[name] = {str(row[0]).lower(): exp.DataType.build(str(row[1]), dialect="duckdb") for row in rows}
        return self._columns[name]

    def _view(self, name: str) -> str:
        if name in self._expanding:
            circle = " -> ".join([*self._expanding, name])
            raise _refuse(f"view {name} leads back to itself ({circle})", "mend the view")
        self._expanding.append(name)
        tree = parse(self._engine._views[name])
        self._engine._settle_tables(tree)
        select = self.translate(tree)
        self._expanding.pop()
        return select

    def translate(self, tree: exp.Expr) -> str:
        """DuckDB's SQL for a statement whose tables are settled; opens those tables."""
        from sqlglot import ErrorLevel, exp
        from sqlglot.errors import SqlglotError
        from sqlglot.optimizer.annotate_types import annotate_types
        from sqlglot.optimizer.qualify import qualify
        from sqlglot.schema import MappingSchema

        schema: dict[str, dict[str, dict[str, exp.DataType]]] = {}
        for table in tree.find_all(exp.Table):
            if table.db:
                schema.setdefault(table.db, {})[table.name] = self.columns(f"{table.db}.{table.name}")
        _settle_literals(tree)
        try:
            known: Any = MappingSchema(dict(schema), dialect="trino")
            # In Athena a column's alias is known to ORDER BY only.
            qualified = qualify(tree, schema=known, dialect="trino", expand_alias_refs=False)
            typed = annotate_types(qualified, schema=known, dialect="trino")
            _settle_dates(typed)
            _settle_meanings(typed)
            for table in list(typed.find_all(exp.Table)):
                if table.db:
                    table.set("this", exp.to_identifier(f"{table.db}.{table.name}", quoted=True))
                    table.set("db", exp.to_identifier("main"))
                    table.set("catalog", exp.to_identifier("temp"))
            return typed.sql("duckdb", unsupported_level=ErrorLevel.RAISE)
        except SqlglotError as error:
            raise _untranslatable(str(error), schema) from None
        except RecursionError:
            raise _refuse("the statement is nested too deeply", "split it with WITH") from None


def resolve(known: Sequence[str], zone: str, table: str, prefix: str = DATABASE_PREFIX) -> str:
    """The full name, of those known, that ``zone.table``, ``crypto_zone.table`` or a bare ``table`` stands for.

    Args:
        prefix: taken off a zone as ``crypto_`` is.

    Raises:
        UsageError: it stands for none, or for several.
    """
    if zone:
        for spoken in (zone, zone.removeprefix(DATABASE_PREFIX), zone.removeprefix(prefix)):
            if (name := f"{spoken}.{table}") in known:
                return name
    found = [] if zone else sorted(name for name in known if name.split(".")[1] == table)
    if len(found) == 1:
        return found[0]
    asked = f"{zone}.{table}" if zone else table
    if found:
        raise _refuse(f"table {asked} is in several zones", f"write {' or '.join(found)}")
    by_table = {name.split(".")[1]: name for name in known}
    near = dict.fromkeys(difflib.get_close_matches(asked, known, n=3, cutoff=0.6))
    near |= dict.fromkeys(by_table[match] for match in difflib.get_close_matches(table, by_table, n=3))
    hint = f"did you mean {' or '.join(list(near)[:3])}?" if near else f"FROM takes tables only; {_SEE_TABLES}"
    raise _refuse(f"there is no table {asked!r}", hint)


def listed_database(sql: str) -> str | None:
    """The zone or database that a ``SHOW TABLES`` names, or nothing for all; None for another statement."""
    listed = _SHOW_TABLES.fullmatch(sql)
    return (listed.group(1) or "").strip('`"').lower() if listed else None


def described_name(sql: str) -> tuple[str, str] | None:
    """Zone (or nothing) and table that a ``DESCRIBE`` names; None for another statement."""
    described = _DESCRIBE.fullmatch(sql)
    if described is None:
        return None
    zone, _, table = described.group(1).lower().translate({ord("`"): None, ord('"'): None}).rpartition(".")
    return zone, table


def shown(known: Sequence[str], zone: str, prefix: str = DATABASE_PREFIX) -> pl.DataFrame:
    """The answer to ``SHOW TABLES``: the names known, all of them or those of one zone or database."""
    zones = {f"{spoken}." for spoken in (zone, zone.removeprefix(DATABASE_PREFIX), zone.removeprefix(prefix))}
    names = sorted(name for name in known if not zone or name.startswith(tuple(zones)))
    return pl.DataFrame({"table": names}, schema={"table": pl.String})


def tables_in(sql: str) -> set[str]:
    """The tables one SELECT names, as ``zone.table`` or bare as written; CTEs are not tables. Opens nothing.

    Raises:
        UsageError: the text is not one SELECT, or uses what `QueryEngine` refuses.
    """
    found = set()
    for table in outer_tables(parse(sql)):
        zone = table.db.lower().removeprefix(DATABASE_PREFIX)
        found.add(f"{zone}.{table.name.lower()}" if zone else table.name.lower())
    return found


# judging a statement


def parse(sql: str, *, engine: Literal["duckdb", "athena"] = "duckdb") -> exp.Expr:
    """The statement as a tree. Raises UsageError where it is not one SELECT, or uses what the engine refuses.

    For both it is Athena's SQL. Only the local engine has a list of functions that it knows in other words, and only
    Athena is handed the places of parameters.
    """
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import ParseError, SqlglotError

    if len(sql.encode()) > _MAX_SQL_BYTES:
        raise _refuse(f"the statement is longer than Athena's {_MAX_SQL_BYTES} bytes", "shorten it")
    try:
        tokens = sqlglot.tokenize(sql, read="trino")
        while tokens and tokens[-1].text == ";":
            tokens.pop()
        if not tokens:
            raise _refuse("the statement is empty", "write one SELECT")
        if any(token.text == ";" and token.token_type.name == "SEMICOLON" for token in tokens):
            raise _refuse("several statements at once are refused", "send one SELECT at a time")
        # Judged before parsing: the parser takes what it does not know for an opaque command, and says so aloud.
        first = tokens[0].text.upper()
        if first not in {"SELECT", "WITH", "("}:
            raise _refuse(f"{first} is refused", "only one SELECT (or SHOW TABLES, DESCRIBE table) is answered")
        tree = sqlglot.parse_one(sql.strip().rstrip(";"), read="trino")
    except ParseError as error:
        first_error = error.errors[0] if error.errors else {}
        at = f" at line {first_error['line']}, column {first_error['col']}" if first_error.get("line") else ""
        near = f" near {first_error['highlight']!r}" if first_error.get("highlight") else ""
        raise _refuse(f"the SQL cannot be read{at}{near}", "mend the syntax; it is Athena's dialect") from None
    except SqlglotError:
        raise _refuse("the SQL cannot be read: a quote or comment is left open", "close it") from None
    except RecursionError:
        raise _refuse("the statement is nested too deeply", "split it with WITH") from None
    if not isinstance(tree, (exp.Select, exp.SetOperation, exp.Subquery)):
        raise _refuse("only one SELECT is answered", "write SELECT, WITH or UNION")
    for node in tree.walk():
        _judge(node, is_local=engine == "duckdb")
    require_athena(tokens, tree)
    return tree


def _judge(node: exp.Expr, *, is_local: bool) -> None:
    """Raise UsageError for a node of a statement that may not stand there."""
    from sqlglot import exp

    if isinstance(node, (exp.DML, exp.DDL, exp.Command, exp.Into, exp.Lock)):
        raise _refuse(f"{node.key.upper()} is refused", "the lake is read only here; keep to SELECT")
    is_place = isinstance(node, exp.Placeholder) and not node.this and not is_local
    if isinstance(node, (exp.Placeholder, exp.Parameter, exp.SessionParameter)) and not is_place:
        raise _refuse("named parameters are refused", "write ? and give the values in their order")
    if isinstance(node, (exp.From, exp.Join)):
        source = node.this
        inner = source.this if isinstance(source, exp.Lateral) else source
        if not isinstance(inner, (exp.Table, exp.Subquery, exp.Unnest, exp.Values)):
            raise _refuse(f"FROM {inner.sql('trino')[:60]} is refused", f"FROM takes tables only; {_SEE_TABLES}")
    if isinstance(node, exp.Table):
        _judge_table(node)
    if isinstance(node, (exp.ReadCSV, exp.ReadParquet)):
        raise _refuse(f"function {node.sql_name().lower()} is refused", "files cannot be read; SELECT from a table")
    if is_local and isinstance(node, exp.Anonymous) and node.name.lower() not in _FUNCTIONS:
        raise unknown_function(node.name.lower())


def _judge_table(table: exp.Table) -> None:
    from sqlglot import exp

    if not isinstance(table.this, exp.Identifier):
        called = table.this.name if isinstance(table.this, exp.Anonymous) else table.this.key
        raise _refuse(
            f"table function {called.lower()} is refused in FROM",
            f"FROM takes tables, subqueries, VALUES and UNNEST(...); {_SEE_TABLES}",
        )
    if table.catalog and table.catalog.lower() != "awsdatacatalog":
        raise _refuse(f"catalog {table.catalog!r} is unknown", 'write "zone.table"')
    if table.args.get("version") or table.args.get("when"):
        raise _refuse(
            "time travel is refused, as in Athena on Delta tables", "ask with a condition on available_at instead"
        )


def outer_tables(tree: exp.Expr) -> list[exp.Table]:
    """The statement's tables that are not names of its own WITH."""
    from sqlglot import exp

    return [table for table in tree.find_all(exp.Table) if table.db or not _names_a_cte(table)]


def _names_a_cte(table: exp.Table) -> bool:
    """Whether a bare name is one of the WITH names that DuckDB, too, would take it for.

    To be strict here is a matter of safety: what passes as a CTE and is none would be looked up among DuckDB's
    own tables. A CTE sees those before it; itself only on the right of its UNION in a recursive WITH.
    """
    from sqlglot import exp

    path: list[exp.Expr] = []
    node: exp.Expr | None = table
    while node is not None:
        with_ = node.args.get("with_")
        if isinstance(with_, exp.With):
            for cte in with_.expressions:
                is_own = any(step is cte for step in path)
                if is_own and not (with_.args.get("recursive") and _is_right_of_union(cte.this, path)):
                    break
                if cte.alias.lower() == table.name.lower():
                    return True
                if is_own:
                    break
        path.append(node)
        node = node.parent
    return False


def _is_right_of_union(body: exp.Expr, path: list[exp.Expr]) -> bool:
    from sqlglot import exp

    return isinstance(body, exp.SetOperation) and any(step is body.expression for step in path)


# Athena's meaning in DuckDB's words


def _settle_names(tree: exp.Expr) -> None:
    """Mark the answer's nameless columns, which Athena calls ``_col0`` by their place in the answer."""
    from sqlglot import exp

    query = tree
    while not isinstance(query, exp.Select):
        query = query.this
    for i, column in enumerate(query.expressions):
        if not isinstance(column, (exp.Alias, exp.Column, exp.Star)):
            column.replace(exp.alias_(column.copy(), f"{_UNNAMED}{i}"))


def _settle_literals(tree: exp.Expr) -> None:
    """Types that DuckDB reads otherwise: ``TIMESTAMP '...'``, ``timestamp(3)``, ``DECIMAL '...'``, ``decimal``.

    A timestamp literal without a zone is a UTC instant. A timestamp's precision is another type to DuckDB
    (TIMESTAMP_S, TIMESTAMP_MS), which cuts the value and does not compare with the lake's TIMESTAMPTZ.
    A decimal literal has the digits that are written; DuckDB would take DECIMAL(18,3).
    """
    from sqlglot import exp

    kinds = exp.DataType.Type
    for cast in tree.find_all(exp.Cast):
        kind, literal = cast.to.this, cast.this if isinstance(cast.this, exp.Literal) else None
        if kind in {kinds.TIMESTAMP, kinds.TIMESTAMPTZ}:
            settled = exp.DataType.build(kinds.TIMESTAMPTZ if literal else kind)
        elif kind == kinds.DECIMAL and not cast.to.expressions:
            scale = len(literal.name.strip().partition(".")[2]) if literal else 0
            settled = exp.DataType.build(f"DECIMAL(38, {min(scale, 38)})")
        else:
            continue
        cast.set("to", settled)
        cast.type = settled


def _settle_meanings(tree: exp.Expr) -> None:
    """Functions that DuckDB has under the same name with another meaning.

    ``max_by`` and ``min_by`` of a row whose value is null are null; DuckDB's take the next row. ``date_diff`` counts
    whole units between two times; DuckDB's counts the midnights, full hours and so on that lie between them.
    """
    from sqlglot import exp

    for by in [node for node in tree.find_all(exp.ArgMax, exp.ArgMin) if node.args.get("count") is None]:
        name = "arg_max_null" if isinstance(by, exp.ArgMax) else "arg_min_null"
        by.replace(exp.Anonymous(this=name, expressions=[by.this.copy(), by.expression.copy()]))
    for passed in list(tree.find_all(exp.DateDiff, exp.TimestampDiff)):
        unit = exp.Literal.string(passed.text("unit").lower() or "day")
        ends = [passed.expression.copy(), passed.this.copy()]
        if not all(end.is_type(exp.DataType.Type.DATE) for end in ends):
            ends = [exp.cast(end, exp.DataType.Type.TIMESTAMPTZ) for end in ends]
        passed.replace(exp.Anonymous(this="date_sub", expressions=[unit, *ends]))


def _settle_dates(tree: exp.Expr) -> None:
    """``date_trunc`` and ``date_add`` of a date are dates in Athena, timestamps in DuckDB."""
    from sqlglot import exp

    moved = (exp.DateAdd, exp.DateSub, exp.DateTrunc, exp.TimestampTrunc)

    def is_date(node: exp.Expr) -> bool:
        if isinstance(node, moved):
            return is_date(node.this)
        return bool(node.is_type(exp.DataType.Type.DATE))

    for node in [node for node in tree.find_all(*moved) if is_date(node.this)]:
        inner = node.copy()
        node.replace(exp.cast(inner, exp.DataType.Type.DATE))


def _described(columns: Mapping[str, exp.DataType]) -> pl.DataFrame:
    types = [kind.sql("trino").lower() for kind in columns.values()]
    return pl.DataFrame({"column": list(columns), "type": types}, schema={"column": pl.String, "type": pl.String})


def _presentable(answer: DuckDBPyRelation, names: list[str]) -> str:
    """The projection that gives every column its name, and a type that a frame can hold."""
    shown = []
    for column, name, kind in zip(answer.columns, names, map(str, answer.types), strict=True):
        value = _identifier(column)
        if kind == "HUGEINT":  # DuckDB widens sum(bigint); Athena does not
            value = f"CAST({value} AS BIGINT)"
        elif kind in {"TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"}:
            value = f"CAST({value} AS TIMESTAMPTZ)"  # the session's zone is UTC
        elif kind in {"INTERVAL", "BIT"}:
            value = f"CAST({value} AS VARCHAR)"
        elif "INTERVAL" in kind:
            raise _refuse(f"column {name} holds intervals within {kind}", "cast them to varchar")
        shown.append(f"{value} AS {_identifier(name)}")
    return ", ".join(shown)


# DuckDB


def _extension(name: str) -> Path:
    """The extension's file inside its wheel; loaded from there, so that nothing is downloaded or laid out."""
    import duckdb

    spec = find_spec(f"duckdb_extension_{name}")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
        if file.is_file():
            return file
    raise NeedsYouError(
        f"DuckDB {duckdb.__version__} finds no {name} extension of its version",
        where="query engine",
        safe=_NOTHING_DONE,
        hint=f"install duckdb-extension-{name}=={duckdb.__version__}",
    )


def _address(uri: str) -> str:
    """An address that DuckDB's list of allowed directories compares as text: absolute, no trailing slash."""
    if _is_s3(uri):
        return "s3://" + uri.split("://", 1)[1].rstrip("/")
    return str(Path(unquote(urlsplit(uri).path) if uri.startswith("file://") else uri).absolute())


def _is_s3(uri: str) -> bool:
    return uri.startswith(("s3://", "s3a://"))


def _secret(options: Mapping[str, str]) -> str:
    facts = {
        "KEY_ID": options.get("AWS_ACCESS_KEY_ID", ""),
        "SECRET": options.get("AWS_SECRET_ACCESS_KEY", ""),
        "SESSION_TOKEN": options.get("AWS_SESSION_TOKEN", ""),
        "REGION": options.get("AWS_REGION", "us-east-1"),
    }
    text = "".join(f", {key} {_quoted(value)}" for key, value in facts.items() if value)
    if endpoint := options.get("AWS_ENDPOINT_URL"):
        address = urlsplit(endpoint)
        # Servers on loopback answer paths, not one host name per bucket.
        text += f", ENDPOINT {_quoted(address.netloc)}, URL_STYLE 'path'"
        text += f", USE_SSL {'false' if address.scheme == 'http' else 'true'}"
    return f"CREATE SECRET lake (TYPE s3{text})"


def _view_name(name: str) -> str:
    return f"temp.main.{_identifier(name)}"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def reach(connection: DuckDBPyConnection, addresses: Sequence[str], options: Mapping[str, str]) -> None:
    """Let a connection of ours read files at the addresses, in a bucket with the keys among deltalake's options."""
    if any(_is_s3(address) for address in addresses):
        connection.load_extension(str(_extension("httpfs")))
        connection.execute(_secret(options))


# errors


def _refuse(what: str, hint: str) -> UsageError:
    return UsageError(what, where="sql", safe=_NOTHING_DONE, hint=hint)


def _too_big(what: str) -> UsageError:
    return UsageError(
        what, where="sql", safe="nothing was returned", hint="ask for less: a condition on date, LIMIT, fewer columns"
    )


def _untranslatable(text: str, schema: Mapping[str, Mapping[str, Mapping[str, object]]]) -> UsageError:
    first = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()[0]
    unknown = re.search(r"[Cc]olumn '?\"?([^'\"]+?)\"?'? could not be resolved", first)
    unknown = unknown or re.search(r"Unknown column: (\S+)", first)
    if unknown is None:
        return _refuse(f"it has no local translation ({first[:200]})", "write it another way, or ask Athena itself")
    column = unknown.group(1).split(".")[-1]
    known = sorted({name for tables in schema.values() for columns in tables.values() for name in columns})
    near = difflib.get_close_matches(column.lower(), known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"columns here are {', '.join(known[:20]) or 'none'}"
    return _refuse(f"there is no column {column!r}", hint)


def _unreadable(name: str, text: str) -> CryptoAssetsError:
    """Why a table cannot be opened, in our words: the store's own hold addresses and request ids."""
    if re.search(r"InvalidTableLocation|No files in log segment|FileNotFound|MissingVersion", text):
        return UsageError(
            "it has no data yet", where=name, safe=_NOTHING_DONE, hint="materialize it first, then ask again"
        )
    if re.search(r"AuthorizationHeaderMalformed|PermanentRedirect|redirect without LOCATION|HTTP 301", text):
        return NeedsYouError(
            "the bucket is in another region", where=name, safe=_NOTHING_DONE, hint="set AWS_REGION to the bucket's"
        )
    if re.search(r"\b40[13]\b|Forbidden|AccessDenied|Unauthenticated|InvalidAccessKeyId|SignatureDoesNot", text):
        return NeedsYouError(
            "the store refuses our key", where=name, safe=_NOTHING_DONE, hint="check the key and what it may read"
        )
    return TransientError(
        "the store did not give the table", where=name, safe="no table was changed", hint="try again in a moment"
    )


def _explained(text: str, secrets: list[str]) -> CryptoAssetsError:
    """One of our errors for what DuckDB said, told apart by the kind it writes in front."""
    text = text.removeprefix("got external error: ")
    kind, _, rest = text.partition(" Error: ")
    if kind == "Out of Memory":
        return _too_big("the query needs more memory than it may have")
    if re.search(r"No magic bytes|too small to be a Parquet", text):
        return DataError(
            "a data file is damaged", where="sql", safe=_NOTHING_DONE, hint="run crypto-assets doctor --deep"
        )
    if kind in {"IO", "HTTP"}:
        return _unreadable("sql", text)
    if kind in {"Permission", "Invalid Configuration"}:
        return _refuse("it reaches for a file, a setting or an extension", "SELECT from the lake's tables only")
    fact = (rest or text).splitlines()[0][:200] if text.strip() else "unknown error"
    for secret in secrets:
        fact = fact.replace(secret, "***")
    if kind in {"Conversion", "Out of Range"}:
        return _refuse(f"a value does not fit its type ({fact})", "use try_cast, or cast to double or decimal")
    if kind == "Catalog" and (function := re.search(r"Function with name (\S+)", fact)):
        return _refuse(f"function {function.group(1)} is not known here", "write it another way, or ask Athena")
    return _refuse(f"the query cannot be answered ({fact})", "mend the statement")
