"""The lake: Delta tables in a directory or a bucket, written by one commit protocol. Only this module asks Delta.

The protocol, and what it rests on (measured with deltalake 1.6):

1. The dtypes of a frame equal the contract's before every write; Delta itself takes 1.7 into an integer column as 1.
2. An append carries an application transaction ``(app, version)`` made of the data. Delta records it but refuses
   nothing, so before each try, and after every error, the table is reloaded and asked: at or above ours means done.
   An answer that was lost on the way is not a failure, and a blind retry would be a duplicate.
3. A replace overwrites by a predicate on partition and window, made of literals by one quoting function. It first
   compares: a window that already holds the rows is left alone, so repeating work makes no commit.
4. A merge is for small dimensions: source unique and without null keys, unstreamed so that it prunes.
5. Every commit says who made it and what it holds: run, code version, contract fingerprint, rows, and, but for a
   stream's, sha256 and which rows of the table these are (window, values, by day), so that ``inspection.py`` can prove
   them later.
6. Before reading, the files that the log names are there and of the size it says: a short file makes Polars panic.
   A bucket is listed once for it.

Correctness never depends on one writer: pools only keep two writers from wasting each other's work.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import polars as pl
from deltalake import (
    ColumnProperties,
    CommitProperties,
    DeltaTable,
    PostCommitHookProperties,
    Schema,
    Transaction,
    WriterProperties,
    write_deltalake,
)
from deltalake._internal import DeltaFileSystemHandler
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from crypto_assets import __version__
from crypto_assets.errors import CryptoAssetsError, DataError, TransientError
from crypto_assets.resources import layout
from crypto_assets.resources.clock import Clock, SystemClock
from crypto_assets.resources.failpoints import failpoint
from crypto_assets.resources.predicates import in_sql, inside, is_closed, literal, may_hold
from crypto_assets.resources.store_errors import advice, needs_a_person, store_errors, typed
from crypto_assets.tables.conform import sort
from crypto_assets.tables.contract import (
    Contract,
    Write,
    delta_schema_json,
    description,
    fingerprint,
    polars_schema,
    primary_key,
    skipping_columns,
)
from crypto_assets.tables.window import Window

if TYPE_CHECKING:
    from crypto_assets.resources.catalog import Catalog

log = logging.getLogger(__name__)

# Delta's own retries cost milliseconds each and end where 8 busy writers still need more than the default 15.
_COMMIT_RETRIES = 100
# Ours start over from a fresh snapshot; six with jitter outlast a burst of conflicts and a blink of the store.
_TRIES = 6
# A reader may hold a snapshot this long: Trino caches file lists for half an hour, and a backfill may run for days.
_VACUUM_HOURS = 168
# A stalled request is cut off and asked again. The libraries' defaults are half a minute and never; the largest request
# is one part of an upload (5 MB) or a few columns of a file, which a line of 8 Mbit/s carries in this time.
_REQUEST_TIMEOUT = "10s"
PROBE = "_probe"
# A commit that makes a checkpoint would remove expired entries of the log, and fail after it landed where its writer
# may add and never delete. Maintenance removes them.
_AFTER_COMMIT = PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False)
# A stream's log grows by twenty thousand entries a day, and a commit to a directory looks at each file in it. In one, a
# checkpoint takes those away that are older; in a bucket, where they cost nobody anything, maintenance does.
_STREAM_LOG = {"delta.logRetentionDuration": "interval 15 minutes"}
_AFTER_STREAM_COMMIT = PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=True)


@dataclass(frozen=True)
class Commit:
    """What a write did. ``is_new`` is False where the table already held the rows; ``version`` is the table's then."""

    table: str
    version: int
    n_rows: int
    is_new: bool


@dataclass(frozen=True)
class TableState:
    """A table as its log describes it."""

    table: str
    uri: str
    version: int
    n_rows: int
    n_files: int
    n_bytes: int
    modified_at: datetime | None


@dataclass(frozen=True)
class LiveFile:
    """A file of a table, as the log describes it: path below the table, and by column values of its partition,
    bounds and numbers of nulls. A column without bounds, or a null in the partition, is not in there.
    """

    path: str
    size: int
    n_rows: int | None
    partition: Mapping[str, Any]
    low: Mapping[str, Any]
    high: Mapping[str, Any]
    null_count: Mapping[str, int]


@dataclass(frozen=True)
class Snapshot:
    """A table known by its address alone: columns with their Delta types, partition columns, live files."""

    version: int
    columns: Mapping[str, str]
    partition_by: tuple[str, ...]
    files: tuple[LiveFile, ...]


@dataclass(frozen=True)
class Note:
    """What a commit says of the rows that it left: those of ``window`` (all without one) with the values in ``where``.

    ``sha256`` is theirs in the contract's order; ``by_day`` splits it where they are of several days.
    """

    version: int
    window: Window | None
    where: Mapping[str, list[str]]
    sha256: str
    by_day: Mapping[date, str]


class PositionMoved(TransientError):  # noqa: N818 (it says what happened)
    """Another writer has moved an app's version that was expected to stand still."""


class Lake:
    """All tables under one root.

    Args:
        uri: a directory, or ``s3://bucket/prefix``.
        storage_options: deltalake's ``AWS_*`` keys; empty for a directory. Without an access key, one is found where
            the AWS SDKs look: a profile, ``credential_process``, the container's or the machine's role. A request to a
            store ends after ``timeout``, ten seconds unless it says otherwise.
        run_id: named in every commit.
        clock, rng: time and jitter of retries.
        catalog: where tables are registered after a commit, once for each schema; None for nowhere.

    Credentials with an end are asked for anew before it, by a lake that lives on, too. Those without one are read when
    a lake is made: the next run has them.

    Attributes:
        session, client: boto3's, for credentials and for what is below Delta; made when they are first needed.
    """

    def __init__(
        self,
        uri: str,
        *,
        storage_options: Mapping[str, str] | None = None,
        run_id: str = "",
        clock: Clock | None = None,
        rng: random.Random | None = None,
        catalog: Catalog | None = None,
    ) -> None:
        self.root = uri.rstrip("/")
        self.storage_options = dict(storage_options or {})
        self.catalog = catalog
        self._registered: set[tuple[str, str]] = set()
        self._run_id = run_id
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not secrets
        self._handles: dict[str, DeltaTable] = {}
        # Between a writer's look and its commit no other thread moves its handle on: a conflict would go unseen.
        self._still = threading.RLock()
        self._pins: dict[str, DeltaTable] = {}
        self._files: dict[str, tuple[int, pl.DataFrame]] = {}
        self._told: dict[str, str] = {}
        self.session: Any = None
        self.client: Any = None

    @property
    def options(self) -> dict[str, str] | None:
        """What libraries are told of the store, with the credentials of this moment; None for a directory.

        Raises:
            OSError: the credentials cannot be had.
        """
        if "://" not in self.root:
            return None
        told = {"timeout": _REQUEST_TIMEOUT, **self.storage_options}
        if "AWS_ACCESS_KEY_ID" not in told:
            from crypto_assets.resources import inspection

            told = inspection.credentials(self) | told
        if told != self._told:
            # A table keeps the credentials that it was opened with.
            self._told = told
            self._handles.clear()
        return told

    # ---- reading ----

    def uri(self, contract: type[Contract]) -> str:
        return "/".join((self.root, *contract.table.path))

    def scan(self, contract: type[Contract], window: Window | None = None, *, pinned: bool = False) -> pl.LazyFrame:
        """The table's rows, lazily; those of the window only, where one is given.

        A window finer than a day selects by the table's clock where it has one, else by its whole days. Rows of a
        table with a span are those that overlap the window. A table that was never written is empty. ``pinned`` reads
        a table that was pinned as it stood then.

        Raises:
            DataError: the table's columns are not the contract's (a foreign writer, or a newer contract), its log is
                broken, or a data file of the window is gone or was cut short.
            NeedsYouError, TransientError: the store refuses or is out of reach.
        """
        with self._border(contract, "nothing was read in part"):
            table = self._pins.get(self.uri(contract)) if pinned else None
            table = table or self._load(contract)
            if table is None:
                return pl.LazyFrame(schema=polars_schema(contract))
            self._require_files(contract, table, window)
            rows = pl.scan_delta(table, storage_options=self.options)
            return rows if window is None else rows.filter(inside(contract, window))

    def pin(self, contract: type[Contract]) -> None:
        """Keep the table as it stands, for ``scan``: what a stream adds meanwhile is not of this run."""
        with self._border(contract, "nothing was read in part"):
            try:
                self._pins[self.uri(contract)] = DeltaTable(self.uri(contract), storage_options=self.options)
            except TableNotFoundError:
                self._pins.pop(self.uri(contract), None)

    def is_pinned(self, contract: type[Contract]) -> bool:
        """Whether ``scan`` knows the table as it stood when it was pinned."""
        return self.uri(contract) in self._pins

    def read(self, contract: type[Contract], window: Window | None = None) -> pl.DataFrame:
        """Like ``scan``, collected and in the contract's row order."""
        with self._border(contract, "nothing was read in part"):
            return sort(contract, self.scan(contract, window).collect())

    def require_whole(self, contract: type[Contract]) -> None:
        """Refuse a table of which a file is gone or was cut short, for readers that do not look. Raises as ``scan``."""
        with self._border(contract, "nothing was read in part"):
            table = self._load(contract)
            if table is not None:
                self._require_files(contract, table, None)

    def days(self, contract: type[Contract]) -> list[date]:
        """The days (partitions) that hold rows, oldest first."""
        with self._border(contract, "nothing was read in part"):
            table = self._load(contract)
            if table is None:
                return []
            if contract.table.period:
                held = pl.scan_delta(table, storage_options=self.options).select(pl.col("date").unique())
                return sorted(held.collect()["date"])
            return sorted({date.fromisoformat(p["date"]) for p in table.partitions() if p.get("date")})

    def state(self, contract: type[Contract]) -> TableState | None:
        """The table's version, rows, files and bytes, or None where it was never written."""
        with self._border(contract, "nothing was read in part"):
            table = self._load(contract)
            if table is None:
                return None
            adds = pl.DataFrame(table.get_add_actions(flatten=True))
            # An empty newest entry has no history.
            newest = table.history(1)
            modified = newest[0].get("timestamp") if newest else None
            return TableState(
                table=contract.table.full_name,
                uri=self.uri(contract),
                version=table.version(),
                n_rows=int(adds["num_records"].sum()) if len(adds) else 0,
                n_files=len(adds),
                n_bytes=int(adds["size_bytes"].sum()) if len(adds) else 0,
                modified_at=None if modified is None else _from_ms(modified),
            )

    def schema(self, contract: type[Contract]) -> dict[str, str] | None:
        """The table's columns in order with their Delta types, as its log says; None where it was never written."""
        with self._border(contract, "nothing was read in part"):
            table = self._load(contract)
            return None if table is None else {f.name: json.loads(f.type.to_json()) for f in table.schema().fields}

    def live(self, contract: type[Contract]) -> pl.DataFrame:
        """The files that make up the table now: path (below the table), size, n_rows, day (null without one)."""
        with self._border(contract, "nothing was read in part"):
            table = self._load(contract)
            return _files(table).select("path", "size", "n_rows", "day") if table is not None else _NO_FILES

    def n_rows_begun(self, contract: type[Contract], before: datetime) -> dict[date, int]:
        """How many rows, by day, the files hold that hold some of before a moment; from the log, nothing is read."""
        with self._border(contract, "nothing was read in part"):
            table = self._load(contract)
            files = _NO_FILES if table is None else _files(table)
        low = f"min.{contract.table.clock}"
        if low in files.columns:
            files = files.filter((pl.col(low) < pl.lit(before)).fill_null(value=True))
        return dict(files.drop_nulls("day").group_by("day").agg(pl.col("n_rows").sum()).iter_rows())

    def notes(self, contract: type[Contract]) -> list[Note]:
        """What the commits that the log still holds say of their rows, the newest first."""
        with self._border(contract, "nothing was read in part"):
            table = self._load(contract)
            told = [] if table is None else table.history()
            return [_note(entry) for entry in told if "crypto_assets.where" in entry]

    def partition(self, contract: type[Contract], day: date | None) -> pl.DataFrame:
        """The rows of one day's partition (of a table without days: all), in the contract's row order."""
        with self._border(contract, "nothing was read in part"):
            if day is None:
                return self.read(contract)
            table = self._load(contract)
            if table is None:
                return pl.DataFrame(schema=polars_schema(contract))
            return sort(contract, self._of_day(table, day).collect())

    def n_readable(self, contract: type[Contract], day: date | None) -> int:
        """How many rows one day's partition holds, each read whole; unlike ``partition``, in little memory."""
        with self._border(contract, "nothing was read in part"):
            table = self._load(contract)
            if table is None:
                return 0
            return sum(len(batch) for batch in self._of_day(table, day).collect_batches())

    def _of_day(self, table: DeltaTable, day: date | None) -> pl.LazyFrame:
        rows = pl.scan_delta(table, storage_options=self.options)
        return rows if day is None else rows.filter(pl.col("date") == pl.lit(day))

    def probe(self) -> None:
        """Write a small file under the root; in a bucket it stays, since only maintenance may delete there.

        Raises:
            NeedsYouError: the bucket does not exist, or the root cannot be written.
            TransientError: the store is out of reach.
        """
        try:
            is_directory = "://" not in self.root
            if is_directory:
                Path(self.root).mkdir(parents=True, exist_ok=True)
            files = DeltaFileSystemHandler(self.root, self.options)
            stream: Any = files.open_output_stream(PROBE)
            stream.write(b"probe")
            stream.close()
            if is_directory:
                files.delete_file(PROBE)
        except (DeltaError, OSError, ValueError) as error:
            raise _typed(error, "the lake", "nothing was changed", self.root) from error

    # ---- writing ----

    def append(self, contract: type[Contract], frame: pl.DataFrame, *, app: str, version: int) -> Commit:
        """Append the frame once, whatever happens: ``(app, version)`` names the data, and grows with it.

        Returns without writing where the table already holds this version of the app, or a later one.
        """
        _require(contract, Write.APPEND)
        _require_dtypes(contract, frame)

        def is_done(table: DeltaTable) -> bool:
            landed = table.transaction_version(app)
            return landed is not None and landed >= version

        # A key's first column (a pull's id) names the rows for good: compaction moves them to other files.
        first_key = primary_key(contract)[0]
        where = {first_key: sorted({str(value) for value in frame[first_key].unique()})}
        rows = sort(contract, frame)

        def properties() -> CommitProperties:
            return self._properties(contract, rows, transactions=[Transaction(app, version)], where=where)

        return self._append(
            contract, rows, properties, _written(layout.of_table(layout.n_rows_of_fullest(contract, frame))), is_done
        )

    def advance(
        self,
        contract: type[Contract],
        frame: pl.DataFrame,
        *,
        expected: Mapping[str, int | None],
        after: Mapping[str, int],
    ) -> Commit:
        """Append the frame and move several apps' versions at once, from what they are ``expected`` to be.

        Where the table says ``after`` of all of them the commit has landed before, and nothing is written. The frame
        may be empty: then only the versions move.

        It is for streams, whose commits come every few seconds: rows stay in their order, and the commit says how many
        they are, not their hash: each batch was checked by its blocks' checksums, and its file is soon compacted into
        another.

        Raises:
            PositionMoved: the table says something else; another writer has come in between.
        """
        _require(contract, Write.APPEND)
        _require_dtypes(contract, frame)

        def is_done(table: DeltaTable) -> bool:
            found = {app: table.transaction_version(app) for app in after}
            if found != after and found != dict(expected):
                raise PositionMoved(
                    "another writer has moved the position",
                    where=contract.table.full_name,
                    safe="nothing was written, and nothing is lost",
                    hint="go on from where the table says",
                )
            return found == after

        told = {**self._told_of(contract), "crypto_assets.rows": str(len(frame))}
        transactions = [Transaction(app, version) for app, version in after.items()]

        def properties() -> CommitProperties:
            return CommitProperties(told, _COMMIT_RETRIES, transactions)

        return self._append(contract, frame, properties, _written(layout.of_stream(contract)), is_done, log=_STREAM_LOG)

    def landed(self, contract: type[Contract], app: str) -> int | None:
        """The newest version of the app that the table holds."""
        with self._border(contract, "nothing was read in part"):
            table = self._load(contract)
            return None if table is None else table.transaction_version(app)

    def replace(
        self, contract: type[Contract], frame: pl.DataFrame, window: Window, *, where: Mapping[str, str] | None = None
    ) -> Commit:
        """Make the window hold exactly the frame's rows. An empty frame empties the window.

        ``where`` narrows the window to rows with these column values. Raises DataError where a row of the frame lies
        outside: nothing has been written then.
        """
        _require(contract, Write.REPLACE)
        _require_dtypes(contract, frame)
        selection = inside(contract, window)
        predicate = in_sql(contract, window)
        for column, value in (where or {}).items():
            selection &= pl.col(column) == value
            predicate += f" AND {column} = {literal(value)}"
        n_outside = frame.select((~selection.fill_null(value=False)).sum()).item()
        if n_outside:
            raise DataError(
                f"{n_outside} of {len(frame)} rows lie outside {window}",
                where=contract.table.full_name,
                safe="nothing was written",
                hint="a function must only return rows of the window it was asked for",
            )
        frame = sort(contract, frame)

        def attempt() -> Commit:
            table = self._ensure(contract)
            held = self._held(contract, table, window, selection)
            if held is not None and held.equals(frame):
                return Commit(contract.table.full_name, table.version(), len(frame), is_new=False)
            failpoint("before_commit")
            write_deltalake(
                table,
                frame,
                mode="overwrite",
                predicate=predicate,
                commit_properties=self._properties(
                    contract, frame, window=window, where={column: [value] for column, value in (where or {}).items()}
                ),
                post_commithook_properties=_AFTER_COMMIT,
                writer_properties=_written(layout.of_table(layout.n_rows_of_fullest(contract, frame))),
            )
            failpoint("after_commit")
            return Commit(contract.table.full_name, table.version(), len(frame), is_new=True)

        return self._until_done(contract, attempt)

    def merge(self, contract: type[Contract], frame: pl.DataFrame, *, delete_missing: bool = True) -> Commit:
        """Make the table hold the frame's rows by key: insert new ones, update those that differ.

        ``delete_missing`` also deletes rows whose key the frame lacks. A merge that changes nothing makes no commit.
        """
        _require(contract, Write.MERGE)
        _require_dtypes(contract, frame)
        keys = primary_key(contract)
        if frame.select(pl.struct(keys).is_duplicated().any()).item() or any(frame[k].null_count() for k in keys):
            raise DataError(
                f"rows to merge have doubled or null keys ({', '.join(keys)})",
                where=contract.table.full_name,
                safe="nothing was written",
                hint="mend the function that computes the table",
            )
        frame = sort(contract, frame)
        on = " AND ".join(f"t.{k} = s.{k}" for k in keys)
        differs = " OR ".join(f"(t.{c} IS DISTINCT FROM s.{c})" for c in frame.columns if c not in keys)

        def attempt() -> Commit:
            table = self._ensure(contract)
            held = self._held(contract, table, None, pl.lit(value=True))
            if held is None and delete_missing:
                # Its files are damaged, and nothing of them is needed.
                write_deltalake(
                    table,
                    frame,
                    mode="overwrite",
                    commit_properties=self._properties(contract, frame),
                    post_commithook_properties=_AFTER_COMMIT,
                    writer_properties=_written(layout.of_table(layout.n_rows_of_fullest(contract, frame))),
                )
                return Commit(contract.table.full_name, table.version(), len(frame), is_new=True)
            held = self.read(contract) if held is None else held
            expected = frame if delete_missing else sort(contract, held.join(frame, keys, "anti").vstack(frame))
            if held.equals(expected):
                return Commit(contract.table.full_name, table.version(), len(held), is_new=False)
            merger = (
                table.merge(
                    frame,
                    predicate=on,
                    source_alias="s",
                    target_alias="t",
                    streamed_exec=False,
                    commit_properties=self._properties(contract, expected),
                    post_commithook_properties=_AFTER_COMMIT,
                    writer_properties=_written(layout.of_table(layout.n_rows_of_fullest(contract, frame))),
                )
                .when_matched_update_all(predicate=differs)
                .when_not_matched_insert_all()
            )
            failpoint("before_commit")
            (merger.when_not_matched_by_source_delete() if delete_missing else merger).execute()
            failpoint("after_commit")
            return Commit(contract.table.full_name, table.version(), len(expected), is_new=True)

        return self._until_done(contract, attempt)

    def maintain(self, contract: type[Contract], closed_before: date) -> dict[str, int]:
        """Compact partitions of days before ``closed_before``, remove files no snapshot of the last week needs,
        write a checkpoint and remove entries of the log that are older than the table keeps: a month, a stream's an
        hour. No row changes.
        """
        with self._border(contract, "no row was changed"):
            table = self._load(contract)
            if table is None:
                return {"compacted": 0, "vacuumed": 0}
            compacted = 0
            if contract.table.partition_by:
                for partition, n_rows in layout.crowded_partitions(*_partitioned(table)):
                    if is_closed(contract, partition, closed_before):
                        filters: Any = [(column, "=", value) for column, value in partition.items()]
                        done = table.optimize.compact(filters, writer_properties=_written(layout.of_table(n_rows)))
                        compacted += done["numFilesRemoved"]
            elif len(table.file_uris()) > 1:
                n_rows = int(_files(table)["n_rows"].sum())
                compacted = table.optimize.compact(writer_properties=_written(layout.of_table(n_rows)))[
                    "numFilesRemoved"
                ]
            # A vacuum by a stale handle would delete files that were committed after it was opened.
            table.update_incremental()
            vacuumed = table.vacuum(retention_hours=_VACUUM_HOURS, dry_run=False)
            table.create_checkpoint()
            table.cleanup_metadata()
            return {"compacted": compacted, "vacuumed": len(vacuumed)}

    def compact(self, contract: type[Contract]) -> int:
        """Make few files of the many small ones that a stream leaves in its newest partitions; how many went into them.

        Appends go on meanwhile. No row changes, and what it replaces stays in the store until maintenance removes it.
        Where another compaction has come first nothing happens.
        """
        _require(contract, Write.APPEND)
        with self._border(contract, "no row was changed"):
            try:
                # A handle of its own: the writer's is in use.
                table = DeltaTable(self.uri(contract), storage_options=self.options)
            except TableNotFoundError:
                return 0
            n_files = 0
            for partition, n_bytes in layout.littered_partitions(*_partitioned(table)):
                filters: Any = [(column, "=", value) for column, value in partition.items()]
                try:
                    done = table.optimize.compact(
                        filters,
                        target_size=layout.FULL_BYTES if n_bytes >= layout.FULL_BYTES else layout.COMPACTED_BYTES,
                        # The other core is the writer's.
                        max_concurrent_tasks=1,
                        writer_properties=_written(layout.of_stream(contract)),
                        commit_properties=CommitProperties(max_commit_retries=_COMMIT_RETRIES),
                        post_commithook_properties=_AFTER_COMMIT,
                    )
                except CommitFailedError as error:
                    log.info("%s: left to another compaction: %s", contract.table.full_name, type(error).__name__)
                    break
                n_files += done["numFilesRemoved"]
            return n_files

    # ---- inside ----

    def _append(
        self,
        contract: type[Contract],
        rows: pl.DataFrame,
        properties: Callable[[], CommitProperties],
        writer: WriterProperties,
        is_done: Callable[[DeltaTable], bool],
        *,
        log: Mapping[str, str] | None = None,
    ) -> Commit:
        """Append the rows in one commit, unless the table says that it is done. ``log``: settings of a stream's."""
        after = _AFTER_STREAM_COMMIT if log and "://" not in self.root else _AFTER_COMMIT

        def attempt() -> Commit:
            table = self._ensure(contract, log)
            if is_done(table):
                return Commit(contract.table.full_name, table.version(), 0, is_new=False)
            failpoint("before_commit")
            write_deltalake(
                table,
                rows,
                mode="append",
                commit_properties=properties(),
                post_commithook_properties=after,
                writer_properties=writer,
            )
            failpoint("after_commit")
            return Commit(contract.table.full_name, table.version(), len(rows), is_new=True)

        return self._until_done(contract, attempt)

    def _held(
        self, contract: type[Contract], table: DeltaTable, window: Window | None, selection: pl.Expr
    ) -> pl.DataFrame | None:
        """The rows that a write is about to replace; None where their files are damaged and not one is needed.

        Rows of whole days, or of a whole table, are replaced without reading their files. Finer windows share files
        with rows that stay, so there the damage is an error.
        """
        try:
            self._require_files(contract, table, window)
            rows = pl.scan_delta(table, storage_options=self.options).filter(selection).collect()
            return sort(contract, rows.select(polars_schema(contract).names()))
        except (DataError, pl.exceptions.PolarsError, pl.exceptions.PanicException, FileNotFoundError):
            if window is not None and window != Window.of_days(window.days[0], window.days[-1]):
                raise
            log.warning("%s: damaged files of %s are replaced unread", contract.table.full_name, window or "the table")
            return None

    def _require_files(self, contract: type[Contract], table: DeltaTable, window: Window | None) -> None:
        """Refuse the window where a file that the log names is gone or not of its size.

        It costs microseconds a file in a directory, and in a bucket one request for a thousand files that lie together.
        """
        from crypto_assets.resources import inspection

        uri = self.uri(contract)
        known = self._files.get(uri)
        if known is None or known[0] != table.version():
            known = self._files[uri] = (table.version(), _files(table))
        files = known[1] if window is None else known[1].filter(may_hold(contract, window))
        sizes = inspection.files_of(self, contract).sizes(files["path"].to_list())
        wrong = []
        for path, size, n_rows, day in files.select("path", "size", "n_rows", "day").iter_rows():
            found = sizes.get(path)
            if found != size:
                wrong.append((path, day, f"{'is gone' if found is None else f'has {found} bytes, not {size}'}", n_rows))
        if wrong:
            path, _, told, _ = wrong[0]
            others = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise DataError(
                f"data file {path} {told}{others}; {sum(n or 0 for *_, n in wrong)} rows cannot be read",
                where=contract.table.full_name,
                safe="nothing was read in part",
                hint=advice(contract, [day for _, day, *_ in wrong if day is not None], "file", self.uri(contract)),
            )

    def _load(self, contract: type[Contract]) -> DeltaTable | None:
        """The table at its newest version, or None."""
        uri = self.uri(contract)
        with self._still:
            options = self.options
            handle = self._handles.get(uri)
            if handle is not None:
                handle.update_incremental()
            else:
                try:
                    handle = DeltaTable(uri, storage_options=options)
                except TableNotFoundError:
                    return None
            self._require_shape(contract, handle)
            self._handles[uri] = handle
            return handle

    def _require_shape(self, contract: type[Contract], table: DeltaTable) -> None:
        what = _foreign_shape(contract, table)
        if what is not None:
            from crypto_assets.resources import inspection

            raise inspection.foreign_error(contract, self, what)

    def _ensure(self, contract: type[Contract], log: Mapping[str, str] | None = None) -> DeltaTable:
        """The table at its newest version, made from its contract where there is none."""
        table = self._load(contract)
        if table is not None:
            return table
        DeltaTable.create(
            self.uri(contract),
            schema=Schema.from_json(delta_schema_json(contract)),
            mode="ignore",
            partition_by=list(contract.table.partition_by),
            name=contract.table.full_name,
            description=description(contract),
            configuration={
                # Bounds of Decimals would be doubles, by which readers skip files that do hold the value.
                "delta.dataSkippingStatsColumns": ",".join(skipping_columns(contract)),
                "delta.checkpointInterval": "20",
                **(log or {}),
            },
            storage_options=self.options,
        )
        table = self._load(contract)
        if table is None:
            raise TableNotFoundError(self.uri(contract))
        return table

    def _properties(
        self,
        contract: type[Contract],
        frame: pl.DataFrame,
        *,
        transactions: list[Transaction] | None = None,
        window: Window | None = None,
        where: Mapping[str, list[str]] | None = None,
    ) -> CommitProperties:
        """What the commit says of itself; the frame is what the window, or the whole table, holds after it."""
        told = {
            **self._told_of(contract),
            "crypto_assets.rows": str(len(frame)),
            "crypto_assets.sha256": content_hash(frame),
            "crypto_assets.where": json.dumps(where or {}),
        }
        if window is not None:
            told["crypto_assets.window"] = f"{window.start.isoformat()}/{window.end.isoformat()}"
        if "date" in contract.table.partition_by and (window is None or len(window.days) > 1):
            days = frame.partition_by("date", as_dict=True, maintain_order=True)
            told["crypto_assets.days"] = json.dumps({str(day): content_hash(rows) for (day,), rows in days.items()})
        return CommitProperties(
            custom_metadata=told,
            max_commit_retries=_COMMIT_RETRIES,
            app_transactions=transactions,
        )

    def _told_of(self, contract: type[Contract]) -> dict[str, str]:
        return {
            "crypto_assets.run_id": self._run_id,
            "crypto_assets.code_version": __version__,
            "crypto_assets.contract": fingerprint(contract),
        }

    def _until_done(self, contract: type[Contract], attempt: Callable[[], Commit]) -> Commit:
        """Run the attempt until it succeeds, then see that the table is registered.

        Each attempt first looks whether an earlier one landed after all.
        """
        commit = self._tried(contract, attempt)
        self._register(contract)
        return commit

    def _tried(self, contract: type[Contract], attempt: Callable[[], Commit]) -> Commit:
        with self._border(contract, "the table holds whole commits only"):
            for n_tries in range(1, _TRIES):
                try:
                    with self._still:
                        return attempt()
                except (CommitFailedError, OSError) as error:
                    if needs_a_person(error):
                        raise
                    log.info("try %d on %s failed: %s", n_tries, contract.table.full_name, type(error).__name__)
                    self._handles.pop(self.uri(contract), None)
                    self._clock.sleep(self._rng.uniform(0, 0.05 * 2**n_tries))
            with self._still:
                return attempt()

    def _register(self, contract: type[Contract]) -> None:
        """Tell the catalog of the table, once for its schema: a table of another one than its contract's is refused.

        Also where nothing new was written: that is how the next run mends a catalog that failed.
        """
        told = contract.table.full_name, fingerprint(contract)
        if self.catalog is None or told in self._registered:
            return
        try:
            self.catalog.sync(contract, self.uri(contract), self.schema(contract) or {})
        except CryptoAssetsError as error:
            raise type(error)(
                f"its rows have landed, but the catalog could not be told: {error.what}",
                where=contract.table.full_name,
                safe="the table holds the whole commit, and writing the same again makes no second one",
                hint=f"{error.hint}; the next commit registers the table, or crypto-assets catalog sync",
            ) from error
        self._registered.add(told)

    @contextmanager
    def _border(self, contract: type[Contract], safe: str) -> Iterator[None]:
        """Foreign errors leave the lake as ours, in one line; a panic of a Rust library is an error like others."""
        where = contract.table.full_name
        try:
            yield
        except CryptoAssetsError:
            raise
        except DeltaError as error:
            raise self._fault(contract, error, safe) or _typed(error, where, safe, self.root) from error
        except (OSError, pl.exceptions.PolarsError, ValueError) as error:
            raise _typed(error, where, safe, self.root) from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":
                raise
            raise _typed(error, where, safe, self.root) from None

    def _fault(self, contract: type[Contract], error: DeltaError, safe: str) -> CryptoAssetsError | None:
        """The error by the name of what is wrong with the log, where that is why Delta failed."""
        from crypto_assets.resources import inspection

        if isinstance(error, CommitFailedError) or needs_a_person(error):
            return None
        try:
            return inspection.log_error(contract, self, str(error), safe)
        except (CryptoAssetsError, OSError):
            # A second failure on the way to a better name: the first one is what happened.
            return None


def delete(lake: Lake) -> None:
    """Remove a whole lake (the demo's own): its directory, or what is below its prefix in a bucket.

    Raises:
        ValueError: the lake is a whole bucket, which may hold more than the lake.
    """
    if "://" not in lake.root:
        shutil.rmtree(lake.root, ignore_errors=True)
        return
    from crypto_assets.resources import inspection

    if not urlsplit(lake.root).path.strip("/"):
        raise ValueError("a whole bucket is not deleted from here")
    with store_errors("the lake", "a part of it may be left", lake.root):
        files = inspection.files_of(lake)
        files.remove(*files.all())


def snapshot(uri: str, storage_options: Mapping[str, str] = {}) -> Snapshot:
    """The newest version of the table at an address, whoever wrote it.

    Raises:
        DataError: there is no table, or its log is broken.
        NeedsYouError, TransientError: the store refuses or is out of reach.
    """
    try:
        table = DeltaTable(
            uri, storage_options={"timeout": _REQUEST_TIMEOUT, **storage_options} if "://" in uri else None
        )
        adds = pl.DataFrame(table.get_add_actions(flatten=True)).to_dicts()
        return Snapshot(
            version=table.version(),
            columns={f.name: str(getattr(f.type, "type", f.type.to_json())) for f in table.schema().fields},
            partition_by=tuple(table.metadata().partition_columns),
            files=tuple(_live_file(add) for add in adds),
        )
    except (DeltaError, OSError, ValueError) as error:
        raise _typed(error, uri.rsplit("/", 1)[-1], "nothing was read", uri) from error


def _live_file(add: Mapping[str, Any]) -> LiveFile:
    def told(prefix: str) -> dict[str, Any]:
        return {
            name.removeprefix(prefix): each
            for name, each in add.items()
            if name.startswith(prefix) and each is not None
        }

    return LiveFile(
        path=unquote(add["path"]),
        size=add["size_bytes"],
        n_rows=add["num_records"],
        partition=told("partition."),
        low=told("min."),
        high=told("max."),
        null_count=told("null_count."),
    )


def content_hash(frame: pl.DataFrame) -> str:
    """SHA-256 of the rows as text, in the frame's order: the same for equal rows on any machine and engine."""
    printable = frame.with_columns(pl.col(pl.Binary).bin.encode("hex"))
    return hashlib.sha256(printable.write_csv(quote_style="non_numeric").encode()).hexdigest()


def _from_ms(milliseconds: int) -> datetime:
    return datetime.fromisoformat("1970-01-01T00:00:00+00:00") + timedelta(milliseconds=milliseconds)


_NO_FILES = pl.DataFrame(schema={"path": pl.String, "size": pl.Int64, "n_rows": pl.Int64, "day": pl.Date})


def _files(table: DeltaTable) -> pl.DataFrame:
    """The table's files with their sizes, days and the bounds that the log knows."""
    adds = pl.DataFrame(table.get_add_actions(flatten=True))
    day = pl.col("partition.date") if "partition.date" in adds.columns else pl.lit(None)
    return adds.with_columns(
        pl.col("path").map_elements(unquote, return_dtype=pl.String),
        size=pl.col("size_bytes"),
        n_rows=pl.col("num_records"),
        day=day.cast(pl.Date),
    )


def _note(entry: Mapping[str, Any]) -> Note:
    span, days = entry.get("crypto_assets.window"), json.loads(entry.get("crypto_assets.days", "{}"))
    return Note(
        version=entry["version"],
        window=Window(*(datetime.fromisoformat(moment) for moment in span.split("/"))) if span else None,
        where=json.loads(entry["crypto_assets.where"]),
        sha256=entry["crypto_assets.sha256"],
        by_day={date.fromisoformat(day): sha256 for day, sha256 in days.items()},
    )


def _written(told: layout.Layout) -> WriterProperties:
    """A layout in deltalake's words."""
    plain = ColumnProperties(dictionary_enabled=False, statistics_enabled="CHUNK")
    differences = ColumnProperties(dictionary_enabled=False, encoding="DELTA_BINARY_PACKED", statistics_enabled="CHUNK")
    columns = {**dict.fromkeys(told.plain, plain), **dict.fromkeys(told.differences, differences)}
    return WriterProperties(
        compression="ZSTD",
        compression_level=told.zstd_level,
        max_row_group_size=told.group_rows,
        default_column_properties=None if told.has_pages else ColumnProperties(statistics_enabled="CHUNK"),
        column_properties=columns or None,
    )


def _partitioned(table: DeltaTable) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """The live files and the partition columns, as ``layout`` asks for them."""
    return pl.DataFrame(table.get_add_actions(flatten=True)), tuple(table.metadata().partition_columns)


def _require(contract: type[Contract], write: Write) -> None:
    if contract.table.write is not write:
        raise ValueError(f"{contract.table.full_name} is written by {contract.table.write}, not by {write}")


def _require_dtypes(contract: type[Contract], frame: pl.DataFrame) -> None:
    expected = polars_schema(contract)
    if frame.schema != expected:
        wrong = [
            f"{n} is {frame.schema.get(n, 'missing')}, not {t}" for n, t in expected.items() if frame.schema.get(n) != t
        ]
        extra = [f"{n} is not in the contract" for n in frame.columns if n not in expected]
        raise DataError(
            "; ".join(wrong + extra) or f"columns are in another order: {', '.join(frame.columns)}",
            where=contract.table.full_name,
            safe="nothing was written",
            hint="cast where the values are made: Delta would store something else in silence",
        )


def _foreign_shape(contract: type[Contract], table: DeltaTable) -> str | None:
    """How the table's columns or partitions differ from the contract's."""
    ours = {f.name: f.type for f in Schema.from_json(delta_schema_json(contract)).fields}
    theirs = {f.name: f.type for f in table.schema().fields}
    if ours != theirs:
        differing = sorted(n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n))
        return f"the table's columns are not the contract's: {', '.join(differing)}"
    if table.metadata().partition_columns != list(contract.table.partition_by):
        theirs_by = ", ".join(table.metadata().partition_columns) or "nothing"
        return f"the table is partitioned by {theirs_by}, not by {', '.join(contract.table.partition_by) or 'nothing'}"
    return None


def _typed(error: BaseException, where: str, safe: str, root: str) -> CryptoAssetsError:
    return typed(error, where, safe, root, is_conflict=isinstance(error, CommitFailedError))
