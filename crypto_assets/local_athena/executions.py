"""Queries and their states: QUEUED, RUNNING, then SUCCEEDED, FAILED or CANCELLED, and the result files in S3.

A query is QUEUED until one of the engine's processes is free. Its files are written before it is SUCCEEDED, so that
who sees the state may read them. A stopped query is CANCELLED at once, and its process ends. What finished is kept
until ``_KEPT`` newer ones came.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlsplit

from crypto_assets.local_athena import ddl
from crypto_assets.local_athena.answering import LimitReachedError, Question
from crypto_assets.local_athena.catalog import Catalog
from crypto_assets.local_athena.errors import SYSTEM, QueryError, RequestError
from crypto_assets.local_athena.results import Answer
from crypto_assets.local_athena.statements import Kind
from crypto_assets.local_athena.worker import Worker, Workers

FINAL: Final = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})
_KEPT: Final = 1000
_HELD_EVERY_S: Final = 0.02


@dataclass
class Faults:
    """What tests ask for.

    Attributes:
        active_query_quota: queued and running queries; one more is refused (Athena's quota; 20 by default there).
        refuse_next: this many StartQueryExecution calls are refused as too many, then they are taken again.
        hold_s: seconds that a query rests in RUNNING before it reads anything.
    """

    active_query_quota: int = 20
    refuse_next: int = 0
    hold_s: float = 0.0


@dataclass
class Execution:
    """One query: what was asked, where it stands, what it gave.

    Attributes:
        query, bound: the statement as it was asked, and with its parameters.
        output: where its files go, without their names.
        limit: bytes that it may read, or None.
        doomed: why it must fail, where that was known when it was taken.
    """

    id: str
    query: str
    bound: str
    parameters: list[str] | None
    kind: Kind
    catalog_name: str | None
    database: str | None
    workgroup: str
    output: str
    limit: int | None
    reuse_minutes: int | None
    region: str
    doomed: QueryError | None = None
    submitted: float = field(default_factory=time.time)
    state: str = "QUEUED"
    started: float | None = None
    finished: float | None = None
    failure: QueryError | None = None
    reason: str | None = None
    answer: Answer | None = None
    is_reused: bool = False
    bytes_scanned: int = 0
    worker: Worker | None = None

    @property
    def file(self) -> str:
        return f"{self.output.rstrip('/')}/{self.id}.{'csv' if self.kind.is_select else 'txt'}"


class Executions:
    """All queries of this server.

    Args:
        workers: the engine's processes.
        catalog_of: a region's Glue.
        store: an S3 client, for result files.
    """

    def __init__(self, workers: Workers, catalog_of: Any, store: Any) -> None:
        self._workers = workers
        self._catalog_of = catalog_of
        self._store = store
        self._pool = ThreadPoolExecutor(len(workers.all), thread_name_prefix="query")
        self._lock = threading.Lock()
        self._all: dict[str, Execution] = {}
        self._tokens: dict[str, tuple[tuple[str, ...], str]] = {}
        self.faults = Faults()

    def start(self, new: Execution, token: str | None) -> str:
        """Take a query, and say its id; the id of the former one where the token says that it was asked before.

        Raises:
            RequestError: too many are active, or the token was another query's.
        """
        facts = (new.query, new.database or "", new.output)
        with self._lock:
            if token is not None and token in self._tokens:
                known, former = self._tokens[token]
                if known != facts:
                    raise RequestError.invalid("Idempotent parameters do not match", "IDEMPOTENT_PARAMETER_MISMATCH")
                return former
            n_active = sum(each.state not in FINAL for each in self._all.values())
            if self.faults.refuse_next > 0 or n_active >= self.faults.active_query_quota:
                self.faults.refuse_next = max(0, self.faults.refuse_next - 1)
                raise RequestError(
                    "You have exceeded the limit for the number of queries you can run concurrently. Please reduce the "
                    "number of concurrent queries submitted by this account. Contact customer support to request a "
                    "concurrent query limit increase.",
                    kind="TooManyRequestsException",
                    Reason="CONCURRENT_QUERY_LIMIT_EXCEEDED",
                )
            self._all[new.id] = new
            if token is not None:
                self._tokens[token] = facts, new.id
            self._forget()
        self._pool.submit(self._run, new)
        return new.id

    def get(self, query_id: str) -> Execution:
        with self._lock:
            found = self._all.get(query_id)
        if found is None:
            raise RequestError.invalid(f"QueryExecution {query_id} was not found", "QUERY_EXECUTION_NOT_FOUND")
        return found

    def of(self, workgroup: str) -> list[str]:
        """The ids of a workgroup's queries, the newest first."""
        with self._lock:
            return [each.id for each in reversed(self._all.values()) if each.workgroup == workgroup]

    def stop(self, query_id: str) -> None:
        """Cancel a query; one that has ended stays as it is."""
        execution = self.get(query_id)
        with self._lock:
            if execution.state in FINAL:
                return
            self._end(execution, "CANCELLED", reason="Query cancelled by user")
            # Before the lock is let go: by then the process may be another query's.
            if execution.worker is not None:
                execution.worker.stop()

    def close(self) -> None:
        for query_id in list(self._all):
            self.stop(query_id)
        self._pool.shutdown()
        self._workers.stop()

    def _run(self, execution: Execution) -> None:
        worker = self._workers.take()
        try:
            with self._lock:
                if execution.state != "QUEUED":
                    return
                execution.state, execution.started, execution.worker = "RUNNING", time.time(), worker
            self._rest(execution)
            answer = self._answered(execution, worker)
            self._write(execution, answer)
            with self._lock:
                if execution.state not in FINAL:
                    execution.answer, execution.bytes_scanned = answer, answer.bytes_scanned
                    self._end(execution, "SUCCEEDED")
        except LimitReachedError:
            with self._lock:
                execution.bytes_scanned = execution.limit or 0
                self._end(execution, "CANCELLED", reason="Bytes scanned limit was exceeded")
        except QueryError as error:
            with self._lock:
                self._end(execution, "FAILED", reason=error.reason, failure=error)
        except RequestError as error:
            with self._lock:
                self._end(execution, "FAILED", reason=error.message, failure=QueryError(error.message))
        except Exception as error:  # noqa: BLE001 - a query must not stay RUNNING; the text may hold an address
            failure = QueryError(f"GENERIC_INTERNAL_ERROR: {type(error).__name__}", category=SYSTEM)
            with self._lock:
                self._end(execution, "FAILED", reason=failure.reason, failure=failure)
        finally:
            with self._lock:
                execution.worker = None
            self._workers.give(worker)

    def _rest(self, execution: Execution) -> None:
        until = time.monotonic() + self.faults.hold_s
        while time.monotonic() < until and execution.state not in FINAL:
            time.sleep(_HELD_EVERY_S)

    def _answered(self, execution: Execution, worker: Worker) -> Answer:
        catalog: Catalog = self._catalog_of(execution.region)
        database = execution.database or "default"
        if execution.doomed is not None:
            raise execution.doomed
        if not execution.kind.is_select:
            return ddl.answered(execution.bound, database, catalog, lambda table: worker.ask("columns", table))
        former = self._former(execution)
        if former is not None:
            execution.is_reused = True
            return replace(former, bytes_scanned=0, planning_ms=0)
        settled = catalog.settled(execution.bound, database)
        question = Question(execution.bound, settled.sql, settled.tables, settled.views, execution.limit)
        answer: Answer = worker.ask("answer", question)
        return answer

    def _former(self, execution: Execution) -> Answer | None:
        """The answer of the same query that is young enough to be given again."""
        if execution.reuse_minutes is None:
            return None
        since = time.time() - execution.reuse_minutes * 60
        same = (execution.bound, execution.catalog_name, execution.database, execution.workgroup)
        with self._lock:
            for each in reversed(self._all.values()):
                is_young = each.state == "SUCCEEDED" and not each.is_reused and (each.finished or 0) >= since
                if is_young and (each.bound, each.catalog_name, each.database, each.workgroup) == same:
                    return each.answer
        return None

    def _write(self, execution: Execution, answer: Answer) -> None:
        address = urlsplit(execution.file)
        kind = "application" if execution.kind.is_select else "binary"
        files = {address.path.lstrip("/"): (answer.file(), f"{kind}/octet-stream")}
        if answer.columns:
            files[f"{address.path.lstrip('/')}.metadata"] = answer.metadata(execution.id), "application/octet-stream"
        from botocore.exceptions import BotoCoreError, ClientError

        for key, (content, content_type) in files.items():
            try:
                self._store.put_object(Bucket=address.netloc, Key=key, Body=content, ContentType=content_type)
            except (BotoCoreError, ClientError) as error:
                raise QueryError(
                    f"PERMISSION_DENIED: the result could not be written to {execution.file} ({type(error).__name__})",
                    category=SYSTEM,
                    is_retryable=True,
                ) from None

    def _end(
        self, execution: Execution, state: str, *, reason: str | None = None, failure: QueryError | None = None
    ) -> None:
        if execution.state not in FINAL:
            execution.state, execution.reason, execution.failure = state, reason, failure
            execution.finished = time.time()

    def _forget(self) -> None:
        done = [each.id for each in self._all.values() if each.state in FINAL]
        for query_id in done[: max(0, len(self._all) - _KEPT)]:
            del self._all[query_id]
        self._tokens = {token: told for token, told in self._tokens.items() if told[1] in self._all}


def new_id() -> str:
    return str(uuid.uuid4())


def faults_from(told: Mapping[str, Any]) -> Faults:
    """Faults from JSON; what is not named is as it is without faults."""
    plain = Faults()
    return Faults(
        active_query_quota=int(told.get("active_query_quota", plain.active_query_quota)),
        refuse_next=int(told.get("refuse_next", plain.refuse_next)),
        hold_s=float(told.get("hold_s", plain.hold_s)),
    )
