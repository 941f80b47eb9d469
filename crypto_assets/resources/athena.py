"""SQL answered by Amazon Athena, with the meaning, the types and the errors of the local engine.

What belongs here: naming our tables as Glue does, sending a statement, waiting for it or stopping it, and saying what
it cost and what went wrong in one line. What does not: judging a statement (``query.py``), Athena's words
(``dialect.py``), its types (``athena_answers.py``), registering tables (``catalog.py``).

A statement is sent as it was written but for the names of tables: ``refined.x``, ``x`` and ``crypto_refined.x`` become
``<prefix>refined.x``. Its parameters go beside it where Athena takes them, which is in conditions, else within it. Only
where it answers with arrays, maps or rows is it written anew, with those cast to JSON: Athena's own text of them
(``[a, b]``) cannot be read back without doubt.

What is asked of the endpoint (AWS, or a local one named by AWS_ENDPOINT_URL or AWS_ENDPOINT_URL_ATHENA):

* ``StartQueryExecution`` with ExecutionParameters, WorkGroup, ResultConfiguration.OutputLocation where one is set and
  ResultReuseConfiguration where reuse is; an ``InvalidRequestException`` for what it does not take.
* ``GetQueryExecution``: State, StateChangeReason, AthenaError (ErrorCategory, Retryable), Statistics
  (DataScannedInBytes, TotalExecutionTimeInMillis, ResultReuseInformation), ResultConfiguration.OutputLocation.
* ``GetQueryResults`` for the first page, whose first row is the header; ColumnInfo with Name, Type, Precision, Scale.
* An answer longer than a page is read from the CSV at OutputLocation, every value in quotes, a null empty without; or
  by further pages where Athena keeps the results itself and there is no OutputLocation.
* ``StopQueryExecution``, after which the state becomes CANCELLED; ``GetWorkGroup``; Glue's ``GetTables``.

Source: https://docs.aws.amazon.com/athena/latest/APIReference/Welcome.html
"""

from __future__ import annotations

import difflib
import io
import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

import polars as pl

from crypto_assets.errors import CryptoAssetsError, DataError, NeedsYouError, TransientError, UsageError
from crypto_assets.resources.athena_answers import Column, as_text, heading, nested_in, typed, without_decimals
from crypto_assets.resources.aws import client_config, code_of, explained, message_of
from crypto_assets.resources.dialect import FUNCTIONS, Parameter, bound, literal
from crypto_assets.resources.query import (
    DATABASE_PREFIX,
    Closing,
    described_name,
    listed_database,
    outer_tables,
    parse,
    resolve,
    shown,
)

if TYPE_CHECKING:
    from pyathena.connection import Connection
    from pyathena.cursor import Cursor
    from pyathena.model import AthenaCalculationExecutionStatus, AthenaQueryExecution
    from sqlglot import exp

USD_PER_TB: Final = 5.0
"""What Athena asks for 2^40 bytes scanned in most regions: https://aws.amazon.com/athena/pricing/."""

_MB: Final = 2**20
_MINIMUM_MB: Final = 10  # what the shortest query is billed as
_PAGE: Final = 999  # rows of the first page, which the header begins
_MAX_PARAMETER: Final = 1024  # signs, Athena's own limit
_MAX_CSV_BYTES: Final = 2**30  # what an answer may hold in memory, as text
_STOP_S: Final = 20.0  # Athena stops a query within seconds
_ANSWER_S: Final = 60  # one request of the API
_SAFE: Final = "no table was changed"
_CANCELLED: Final = "CANCELLED"
_TERMINAL: Final = frozenset({"SUCCEEDED", "FAILED", _CANCELLED})


@dataclass(frozen=True)
class Bill:
    """What one query read and cost.

    Attributes:
        query_id: Athena's, to look it up in the console.
        state: how it ended.
        scanned_bytes: read from the bucket; 0 where a former answer was given again.
        milliseconds: from its arrival to its end, waiting included.
        is_reused: whether Athena gave a former answer.
    """

    query_id: str
    state: str
    scanned_bytes: int
    milliseconds: int
    is_reused: bool = False

    @property
    def billed_bytes(self) -> int:
        """Whole megabytes, 10 at least; a query that failed and an answer given again cost nothing."""
        is_free = self.is_reused or self.state == "FAILED" or (self.state == _CANCELLED and not self.scanned_bytes)
        return 0 if is_free else max(_MINIMUM_MB, -(-self.scanned_bytes // _MB)) * _MB

    @property
    def usd(self) -> float:
        """US dollars at `USD_PER_TB`."""
        return self.billed_bytes / 2**40 * USD_PER_TB

    def told(self) -> str:
        """One line for people."""
        reused = ", a former answer" if self.is_reused else ""
        return (
            f"athena: {self.scanned_bytes / _MB:,.2f} MB scanned, {self.billed_bytes // _MB:,} MB billed, "
            f"${self.usd:.6f}, {self.milliseconds:,} ms{reused} (query {self.query_id})"
        )


class AthenaEngine(Closing):
    """Answers Athena SQL at AWS; a context manager, and safe to use from several threads.

    Args:
        tables: ``"refined.asset_daily"`` to its columns with their Delta types; of a view the columns may be missing.
        prefix: what stands before a zone's name in the name of its Glue database.
        workgroup: whose limits and place for results hold.
        output: ``s3://bucket/prefix/`` for results; None where the workgroup says it.
        region: of the workgroup and the bucket; without one it is taken from ``AWS_REGION`` or the profile.
        reuse_minutes: how old an answer to the same statement may be to be given again, though a table has changed
            since; 0 for never.
        timeout_s: seconds that one query may take, waiting in Athena's queue included.
        max_rows: a longer answer is an error, never a shortened answer; None for no limit.
        poll_s: seconds between two looks at a running query.
    """

    def __init__(
        self,
        tables: Mapping[str, Mapping[str, str]],
        *,
        prefix: str = DATABASE_PREFIX,
        workgroup: str = "crypto_assets",
        output: str | None = None,
        region: str | None = None,
        reuse_minutes: int = 0,
        timeout_s: float = 600.0,
        max_rows: int | None = None,
        poll_s: float = 0.5,
    ) -> None:
        self._tables = {name: dict(columns) for name, columns in tables.items()}
        self._prefix = prefix
        self._workgroup = workgroup
        self._output = output
        self._region = region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        self._reuse_minutes = reuse_minutes
        self._timeout_s = timeout_s
        self._max_rows = max_rows
        self._poll_s = poll_s
        self._of_thread = threading.local()

    def close(self) -> None:
        """Let go of the connections; the next query would open them anew."""
        for name in ("_connection", "_glue"):
            held = self.__dict__.pop(name, None)
            if held is not None:
                held.close()

    @property
    def last(self) -> Bill | None:
        """What the calling thread's last query read and cost, however it ended; None before the first."""
        return getattr(self._of_thread, "bill", None)

    def bill(self) -> str | None:
        """`last` in one line."""
        return self.last.told() if self.last else None

    def query(self, sql: str, parameters: Sequence[Parameter] = ()) -> pl.DataFrame:
        """Answer one SELECT (or ``SHOW TABLES``, ``DESCRIBE table``) with a whole frame, or raise.

        Types are the local engine's: decimals exact, timestamps with and without a zone ``Datetime("us", "UTC")``,
        intervals text, arrays lists, maps maps, rows structs. An array, map or row whose type
        is not known before it is asked (out of a view, of a * or a UNION) comes as Athena's text.

        Raises:
            UsageError: not one SELECT, an unknown table, column or function, an answer too big, bad values, more
                bytes than the workgroup allows.
            TransientError: it took longer than ``timeout_s``, was cancelled, or Athena throttles or is out of reach.
            NeedsYouError: credentials, region, permission, workgroup or place for results are missing.
            DataError: a file of a table is gone or damaged, or its entry in Glue is wrong.
        """
        self._of_thread.bill = None
        literals = [literal(value) for value in parameters]
        bound(sql, literals)
        if (database := listed_database(sql)) is not None:
            return shown(self._registered(database), database, self._prefix)
        if name := described_name(sql):
            return self._described(resolve(list(self._tables), *name, self._prefix))
        text = sql.strip().rstrip(";")
        tree = parse(text, engine="athena")
        names = {id(table): resolve(list(self._tables), table.db.lower(), table.name.lower(), self._prefix)
                 for table in outer_tables(tree)}  # fmt: skip
        nested = nested_in(tree, names, self._tables)
        statement = self._as_json(tree, names, nested) if nested else self._renamed(text, tree, names)
        if not _takes(tree, literals):
            statement, literals = bound(statement, literals), []
        with self._border():
            return self._fetched(self._run(statement, literals, sorted(set(names.values()))), nested)

    def check(self) -> str:
        """Look whether the workgroup can take a query, and say what it allows; runs none.

        Raises:
            NeedsYouError: it is missing or disabled, or nothing says where results go, or that bucket is missing.
        """
        with self._border():
            group = self._connection.client.get_work_group(WorkGroup=self._workgroup)["WorkGroup"]
        settings = group.get("Configuration") or {}
        if group.get("State", "ENABLED") != "ENABLED":
            raise self._needs_you("the workgroup is disabled", "enable it, or set CRYPTO_ASSETS_ATHENA_WORKGROUP")
        is_managed = (settings.get("ManagedQueryResultsConfiguration") or {}).get("Enabled", False)
        own = (settings.get("ResultConfiguration") or {}).get("OutputLocation")
        output = own if own and (settings.get("EnforceWorkGroupConfiguration") or not self._output) else self._output
        if not output and not is_managed:
            raise self._no_output()
        if output:
            place = urlsplit(output)
            with self._border(bucket=place.netloc):
                # Of its own place only: a role need not see the rest of the bucket.
                self._connection.s3_client.list_objects_v2(
                    Bucket=place.netloc, Prefix=place.path.lstrip("/"), MaxKeys=1
                )
        limit = settings.get("BytesScannedCutoffPerQuery")
        told = f"at most {limit / _MB:,.0f} MB a query" if limit else "no limit of bytes a query"
        return f"workgroup {self._workgroup}, results in {output or 'Athena'}, {told}"

    def _name(self, name: str) -> str:
        return f"{self._prefix}{name}"

    def _renamed(self, text: str, tree: exp.Expr, names: Mapping[int, str]) -> str:
        """The statement as it was written, with the tables' names in Glue."""
        spots = [(table.parts, names[id(table)]) for table in outer_tables(tree)]
        spots += [(column.parts[:-1], name) for column, name in self._qualified(tree, names)]
        for parts, name in sorted(spots, key=lambda spot: -int(spot[0][0].meta["start"])):
            first, last = parts[0].meta["start"], parts[-1].meta["end"]
            text = f"{text[:first]}{self._name(name)}{text[last + 1 :]}"
        return text

    def _qualified(self, tree: exp.Expr, names: Mapping[int, str]) -> Iterator[tuple[exp.Column, str]]:
        """The columns that are written with zone and table, ``refined.x.a``, and that table."""
        from sqlglot import exp

        spoken: dict[tuple[str, str], str] = {}
        for full in names.values():
            zone, bare = full.split(".")
            spoken |= {(f"{before}{zone}", bare): full for before in ("", DATABASE_PREFIX, self._prefix)}
        for column in list(tree.find_all(exp.Column)):
            if name := spoken.get((column.db.lower(), column.table.lower())):
                yield column, name

    def _as_json(self, tree: exp.Expr, names: Mapping[int, str], nested: Mapping[str, exp.DataType]) -> str:
        """The statement with its arrays, maps and rows as JSON."""
        from sqlglot import exp

        for column, name in self._qualified(tree, names):
            zone, bare = self._name(name).split(".")
            column.set("catalog", None)
            column.set("db", exp.to_identifier(zone))
            column.set("table", exp.to_identifier(bare))
        for table in outer_tables(tree):
            zone, bare = self._name(names[id(table)]).split(".")
            table.set("catalog", None)
            table.set("db", exp.to_identifier(zone))
            table.set("this", exp.to_identifier(bare))
        for i, column in enumerate(tree.expressions):
            if (name := heading(column, i)) in nested:
                # A number in JSON is a double to some; as text a decimal keeps its digits.
                exact = exp.cast(column.unalias().copy(), without_decimals(nested[name]))
                value = exp.JSONFormat(this=exp.cast(exact, "JSON"))
                column.replace(exp.alias_(value, name, quoted=True))
        return tree.sql("trino")

    @cached_property
    def _connection(self) -> Connection[Cursor]:
        try:
            from pyathena import connect
        except ModuleNotFoundError:
            raise NeedsYouError(
                "pyathena is not installed", where="athena", safe=_SAFE, hint="install crypto-assets[aws]"
            ) from None
        from pyathena.util import RetryConfig

        # It logs a trace of every error that it raises, and at whatever level is on; ours say it in a line.
        told = logging.getLogger("pyathena")
        told.propagate = False
        told.handlers = [logging.NullHandler()]
        try:
            return connect(
                region_name=self._region,
                s3_staging_dir=self._output or "",
                work_group=self._workgroup,
                schema_name=None,
                poll_interval=self._poll_s,
                converter=as_text(),
                # botocore alone tries again: it keeps the request's token, and a lost answer starts no second query.
                retry_config=RetryConfig(attempt=1),
                config=client_config(_ANSWER_S),
            )
        except ValueError as error:
            raise explained(error, "Athena", where="athena", safe=_SAFE, region=self._region) from None

    @cached_property
    def _glue(self) -> Any:
        return self._connection.session.client("glue", region_name=self._region, config=client_config(_ANSWER_S))

    def _run(self, statement: str, literals: Sequence[str], tables: Sequence[str]) -> Cursor:
        """A cursor on the statement's answer."""
        cursor = self._connection.cursor()
        deadline = time.monotonic() + self._timeout_s
        seen: list[AthenaQueryExecution] = []

        def look(execution: AthenaQueryExecution | AthenaCalculationExecutionStatus) -> None:
            seen[:] = [execution]  # type: ignore[list-item]
            if execution.state not in _TERMINAL and time.monotonic() > deadline:
                raise _LateError

        cursor._on_poll = look
        try:
            cursor.execute(
                statement,
                list(literals) or None,
                paramstyle="qmark",
                result_reuse_enable=self._reuse_minutes > 0 or None,
                result_reuse_minutes=self._reuse_minutes or None,
            )
        except _LateError:
            raise self._late(cursor.query_id or "", seen) from None
        except _pyathena_error() as error:
            if error.__cause__ is None and seen:
                columns = {column for table in tables for column in self._tables[table]}
                raise _failure(seen[0], sorted(columns), tables) from None
            raise
        finally:
            if seen:
                self._of_thread.bill = _bill(seen[0])
        return cursor

    def _late(self, query_id: str, seen: list[AthenaQueryExecution]) -> TransientError:
        """Stop the query and see it stopped, or say that it may go on; ``seen`` holds its last look."""
        from pyathena.model import AthenaQueryExecution

        client = self._connection.client
        client.stop_query_execution(QueryExecutionId=query_id)
        deadline = time.monotonic() + _STOP_S
        while True:
            seen[:] = [AthenaQueryExecution(client.get_query_execution(QueryExecutionId=query_id))]
            is_stopped = seen[0].state in _TERMINAL
            if is_stopped or time.monotonic() >= deadline:
                break
            time.sleep(self._poll_s)
        return TransientError(
            f"the query took longer than {self._timeout_s:g} s and was stopped",
            where="sql",
            safe=_SAFE if is_stopped else f"query {query_id} may still be running at Athena",
            hint="ask for less, for instance with a condition on date, or allow more time",
        )

    def _fetched(self, cursor: Cursor, nested: Mapping[str, exp.DataType]) -> pl.DataFrame:
        columns = [Column(*fact[:2], *fact[4:6]) for fact in cursor.description or []]
        names = [column.name for column in columns]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise _refuse(f"the answer has several columns named {', '.join(twice)}", "give each its own name with AS")
        rows = list(islice(cursor, _PAGE))
        if len(rows) == _PAGE and cursor.output_location:
            texts = self._csv(cursor.output_location, names)
        else:
            rows += cursor
            texts = pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")
        if self._max_rows is not None and texts.height > self._max_rows:
            raise _too_big(f"the answer has more than {self._max_rows} rows")
        return pl.DataFrame([typed(texts[column.name], column, nested.get(column.name)) for column in columns])

    def _csv(self, location: str, names: Sequence[str]) -> pl.DataFrame:
        place = urlsplit(location)
        with self._border(bucket=place.netloc):
            answer = self._connection.s3_client.get_object(Bucket=place.netloc, Key=place.path.lstrip("/"))
            with answer["Body"] as body:
                if answer["ContentLength"] > _MAX_CSV_BYTES:
                    raise _too_big(f"the answer is longer than {_MAX_CSV_BYTES // _MB} MB")
                data = body.read()
        return pl.read_csv(io.BytesIO(data), infer_schema=False, new_columns=list(names))

    def _registered(self, database: str) -> list[str]:
        """The names of our tables and views that Glue knows and shows to this role; ``database`` as in `shown`."""
        from botocore.exceptions import ClientError

        wanted = shown(list(self._tables), database, self._prefix)["table"]
        found: list[str] = []
        denied: list[ClientError] = []
        zones = sorted({name.split(".")[0] for name in wanted})
        with self._border("Glue"):
            for zone in zones:
                try:
                    pages = self._glue.get_paginator("get_tables").paginate(DatabaseName=f"{self._prefix}{zone}")
                    held = [f"{zone}.{table['Name']}" for page in pages for table in page["TableList"]]
                    found += [name for name in held if name in self._tables]
                except self._glue.exceptions.EntityNotFoundException:
                    continue
                except ClientError as error:
                    if not code_of(error).startswith("AccessDenied"):
                        raise
                    denied.append(error)
            if zones and len(denied) == len(zones):
                raise denied[0]
        return found

    def _described(self, name: str) -> pl.DataFrame:
        from sqlglot import exp

        zone, bare = name.split(".")
        with self._border("Glue"):
            try:
                table = self._glue.get_table(DatabaseName=f"{self._prefix}{zone}", Name=bare)["Table"]
            except self._glue.exceptions.EntityNotFoundException:
                raise _unregistered(name) from None
        held = {each["Name"]: each["Type"] for each in table["StorageDescriptor"]["Columns"]}
        # A Delta table's timestamp is an instant.
        types = [
            exp.DataType.build("timestamptz" if kind == "timestamp" else kind, dialect="hive").sql("trino").lower()
            for kind in held.values()
        ]
        return pl.DataFrame({"column": list(held), "type": types}, schema={"column": pl.String, "type": pl.String})

    @contextmanager
    def _border(self, service: str = "Athena", *, bucket: str = "") -> Iterator[None]:
        """What boto3 and pyathena raise leaves as ours."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError, _pyathena_error()) as error:
            cause = error if isinstance(error, BotoCoreError | ClientError) else error.__cause__ or error
            raise self._explained(cause, "S3" if bucket else service, bucket) from None

    def _explained(self, error: BaseException, service: str, bucket: str) -> CryptoAssetsError:
        code, message = code_of(error), message_of(error)
        if service == "S3":
            if code in {"404", "NoSuchBucket"}:
                return self._no_bucket(bucket)
            if code == "NoSuchKey":
                hint = "ask again; if it stays so, look at the lifecycle rule of the place for results"
                return TransientError("the answer is gone from its place", where=bucket, safe=_SAFE, hint=hint)
            if code in {"301", "PermanentRedirect", "AuthorizationHeaderMalformed"}:
                return self._needs_you("the bucket for results is in another region", "set AWS_REGION to the bucket's")
        if code == "InvalidRequestException":
            if re.search(r"workgroup.{0,200}(not found|does not exist)", message, re.IGNORECASE):
                hint = "deploy it, or set CRYPTO_ASSETS_ATHENA_WORKGROUP and AWS_REGION to where it is"
                return self._needs_you(f"there is no such workgroup in {self._region}", hint)
            if re.search(r"workgroup.{0,200}disabled", message, re.IGNORECASE):
                return self._needs_you("the workgroup is disabled", "enable it, or take another workgroup")
            if "No output location" in message:
                return self._no_output()
            if re.search(r"output bucket|S3 location provided to save", message):
                return self._no_bucket(urlsplit(self._output or "").netloc)
            return _of_statement(message, [], [])
        return explained(error, service, where=bucket or service.lower(), safe=_SAFE, region=self._region)

    def _needs_you(self, what: str, hint: str) -> NeedsYouError:
        return NeedsYouError(what, where=f"athena workgroup {self._workgroup}", safe=_SAFE, hint=hint)

    def _no_output(self) -> NeedsYouError:
        hint = "give the workgroup a place for results, or set CRYPTO_ASSETS_ATHENA_OUTPUT=s3://bucket/prefix/"
        return self._needs_you("nothing says where results go", hint)

    def _no_bucket(self, bucket: str) -> NeedsYouError:
        hint = "make it in the workgroup's region, or set CRYPTO_ASSETS_ATHENA_OUTPUT to one that is there"
        return self._needs_you(f"the bucket for results {bucket or 'of the workgroup'} cannot be used", hint)


def console_url(region: str, database: str, table: str) -> str:
    """The page of AWS's console that shows the table, with its columns and a way into Athena's editor."""
    host = "console.amazonaws.cn" if region.startswith("cn-") else "console.aws.amazon.com"
    place = f"#/v2/data-catalog/tables/view/{quote(table)}?database={quote(database)}"
    return f"https://{region}.{host}/glue/home?region={region}{place}"


class _LateError(Exception):
    pass


def _pyathena_error() -> type[Exception]:
    from pyathena.error import Error

    return Error


def _takes(tree: exp.Expr, literals: Sequence[str]) -> bool:
    """Whether Athena takes the values beside the statement: it does for conditions only, and no long ones."""
    from sqlglot import exp

    is_condition = all(place.find_ancestor(exp.Where) for place in tree.find_all(exp.Placeholder))
    return is_condition and all(len(text) <= _MAX_PARAMETER for text in literals)


def _bill(execution: AthenaQueryExecution) -> Bill:
    return Bill(
        query_id=execution.query_id or "",
        state=execution.state or "",
        scanned_bytes=execution.data_scanned_in_bytes or 0,
        milliseconds=execution.total_execution_time_in_millis or 0,
        is_reused=bool(execution.reused_previous_result),
    )


def _failure(execution: AthenaQueryExecution, columns: Sequence[str], tables: Sequence[str]) -> CryptoAssetsError:
    """Our error for a query that ended FAILED or CANCELLED."""
    reason = " ".join((execution.state_change_reason or execution.error_message or "").split())
    if re.search(r"bytes scanned limit", reason, re.IGNORECASE):
        return _too_big("the query would read more bytes than the workgroup allows")
    if execution.state == _CANCELLED:
        return TransientError(
            f"query {execution.query_id} was cancelled at Athena",
            where="sql",
            safe=_SAFE,
            hint="somebody stopped it: ask who, or run the same again",
        )
    if execution.retryable or execution.error_category == 1:
        return _for_now(reason)
    return _of_statement(reason, columns, tables)


def _of_statement(reason: str, columns: Sequence[str], tables: Sequence[str]) -> CryptoAssetsError:
    """Our error for what Athena says of a statement or of its tables."""
    where = ", ".join(tables) or "sql"
    if re.search(r"Insufficient Lake Formation|Lake Formation permission", reason):
        hint = "grant this role SELECT and DESCRIBE on the table in Lake Formation"
        return NeedsYouError("Lake Formation denies it", where=where, safe=_SAFE, hint=hint)
    if re.search(r"Insufficient permissions|PERMISSION_DENIED|Access ?Denied|not authorized to perform", reason):
        hint = "allow the role to read the table in Glue and its files in the bucket, or take another role"
        return NeedsYouError("the role may not read it", where=where, safe=_SAFE, hint=hint)
    if re.search(r"exhausted resources|EXCEEDED_\w*MEMORY|INSUFFICIENT_RESOURCES", reason):
        return _too_big("the query needs more memory than Athena gives it")
    if re.search(r"Query timeout|EXCEEDED_TIME_LIMIT", reason):
        return _too_big("the query took longer than Athena allows")
    if re.search(r"SlowDown|reduce your request rate|Throttl|INTERNAL_ERROR|GENERIC_INTERNAL", reason):
        return _for_now(reason)
    if column := re.search(r"COLUMN_NOT_FOUND.*?Column '(?:[^']*\.)?([^'.]+)'", reason):
        near = difflib.get_close_matches(column[1].lower(), columns, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"columns here are {', '.join(columns[:20]) or 'none'}"
        return _refuse(f"there is no column {column[1]!r}", hint)
    if function := re.search(r"FUNCTION_NOT_FOUND.*?[Ff]unction '?([\w.]+)'? not registered", reason):
        near = difflib.get_close_matches(function[1].lower(), sorted(FUNCTIONS - {function[1].lower()}), n=2)
        return _refuse(
            f"Athena has no function {function[1].lower()}",
            f"did you mean {' or '.join(near)}?" if near else "write it another way",
        )
    if re.search(r"TABLE_NOT_FOUND|SCHEMA_NOT_FOUND|EntityNotFound", reason):
        return _unregistered(where)
    if re.search(
        r"NoSuchKey|FileNotFound|HIVE_CANNOT_OPEN_SPLIT|HIVE_BAD_DATA|DELTA_LAKE_BAD_DATA|HIVE_CURSOR", reason
    ):
        what = "a data file is gone or damaged"
        return DataError(what, where=where, safe=_SAFE, hint="run crypto-assets doctor --deep")
    if re.search(r"DELTA_LAKE_INVALID_(SCHEMA|TABLE)|No path property|HIVE_INVALID_METADATA", reason):
        what = "Athena cannot read the table's log, or its entry in Glue"
        return DataError(what, where=where, safe=_SAFE, hint="run crypto-assets catalog sync, then doctor")
    place = re.search(r"line (\d+):(\d+): ", reason)
    fact = re.sub(r"^[A-Z_]+: |line \d+:\d+: |\s*\(Service: .*|arn:\S+|s3://\S+", "", reason)[:200]
    at = f" at line {place[1]}, column {place[2]}" if place else ""
    if re.search(r"SYNTAX_ERROR|MALFORMED_QUERY|mismatched input|extraneous input|no viable alternative", reason):
        return _refuse(f"Athena cannot read the SQL{at} ({fact})", "mend the syntax; it is Athena's dialect")
    if re.search(r"INVALID_CAST|OUT_OF_RANGE|DIVISION_BY_ZERO|INVALID_FUNCTION_ARGUMENT", reason):
        return _refuse(f"a value does not fit its type ({fact})", "use try_cast, or cast to double or decimal")
    return _refuse(f"the query cannot be answered{at} ({fact or 'Athena gives no reason'})", "mend the statement")


def _unregistered(name: str) -> UsageError:
    return UsageError(
        "Athena does not know it, or has no data of it yet",
        where=name,
        safe=_SAFE,
        hint="materialize it, or run crypto-assets catalog sync, then ask again",
    )


def _for_now(reason: str) -> TransientError:
    code = re.match(r"[A-Z_]{4,}", reason)
    what = f"Athena failed{f' with {code[0]}' if code else ''}, and says that trying again may help"
    return TransientError(what, where="sql", safe=_SAFE, hint="run the same again in a moment")


def _refuse(what: str, hint: str) -> UsageError:
    return UsageError(what, where="sql", safe=_SAFE, hint=hint)


def _too_big(what: str) -> UsageError:
    return UsageError(
        what, where="sql", safe="nothing was returned", hint="ask for less: a condition on date, LIMIT, fewer columns"
    )
