"""Whether a table's files are what its log says, and its rows what their commits said: sizes, hashes, the log itself.

Belongs here: looking at files below Delta, naming what is wrong with them, and the little that may be mended without
judgement (a checkpoint or a hint that the log makes superfluous, files that no version ever named). Does not: reading
and writing tables, and the check before every read, which are the lake's (``lake.py``); how findings are shown is
``commands/doctor.py``.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import polars as pl

from crypto_assets.errors import CryptoAssetsError, DataError, NeedsYouError
from crypto_assets.resources import aws
from crypto_assets.resources.lake import Lake, Note, content_hash
from crypto_assets.resources.predicates import inside
from crypto_assets.resources.store_errors import advice, store_errors
from crypto_assets.tables import raw, stream
from crypto_assets.tables.contract import Contract, Write, Zone, polars_schema
from crypto_assets.tables.window import Window

# A write may be under way: what is younger is left alone. As long as the lake keeps what readers may still hold.
GRACE = timedelta(days=7)
# A request without an answer is given up, and asked again, as the lake's own are.
_REQUEST_S = 10
_ATTEMPTS = 5
# The most that S3 removes at once.
_KEYS_PER_REQUEST = 1000
_LOG = "_delta_log/"
_HINT = "_delta_log/_last_checkpoint"
_ENTRY = re.compile(r"^_delta_log/(\d{20})\.json$")
_CHECKPOINT = re.compile(r"^_delta_log/(\d{20})\.checkpoint(?:\..+)?\.parquet$")
_DAY = re.compile(r"(?:^|/)date=(\d{4}-\d{2}-\d{2})/")
_FEATURE = re.compile(r"[Ff]eature '?([A-Za-z0-9_.-]+)'? is not supported")


@dataclass(frozen=True)
class Stored:
    """A file as the store shows it."""

    size: int
    modified_at: datetime


@dataclass(frozen=True)
class Upload:
    """A multipart upload that was begun and neither completed nor aborted."""

    path: str
    upload_id: str
    began_at: datetime


class Files(Protocol):
    """The files of one table, or of a whole lake, by their paths below it. What the store refuses is an OSError."""

    def all(self) -> dict[str, Stored]: ...
    def names(self, below: str = "") -> set[str]: ...
    def sizes(self, paths: Collection[str]) -> dict[str, int]: ...
    def read(self, path: str) -> bytes: ...
    def write(self, path: str, body: bytes) -> None: ...
    def remove(self, *paths: str) -> None: ...
    def uploads(self) -> list[Upload]: ...
    def abort(self, upload: Upload) -> None: ...


class Directory:
    """Files below a directory, which may not be there."""

    def __init__(self, root: str) -> None:
        self._root = Path(root)

    def all(self) -> dict[str, Stored]:
        found = {}
        for path in sorted(self._root.rglob("*")):
            if path.is_file():
                stat = path.stat()
                found[path.relative_to(self._root).as_posix()] = Stored(
                    stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC)
                )
        return found

    def names(self, below: str = "") -> set[str]:
        """What lies directly in the folder: files and folders."""
        folder = self._root / below
        return {path.name for path in folder.iterdir()} if folder.is_dir() else set()

    def sizes(self, paths: Collection[str]) -> dict[str, int]:
        """The sizes of those of the files that are there."""
        sizes = {path: _size_of(f"{self._root}/{path}") for path in paths}
        return {path: size for path, size in sizes.items() if size is not None}

    def read(self, path: str) -> bytes:
        return (self._root / path).read_bytes()

    def write(self, path: str, body: bytes) -> None:
        (self._root / path).parent.mkdir(parents=True, exist_ok=True)
        (self._root / path).write_bytes(body)

    def remove(self, *paths: str) -> None:
        for path in paths:
            (self._root / path).unlink()

    def uploads(self) -> list[Upload]:
        return []

    def abort(self, upload: Upload) -> None:
        raise ValueError("a directory knows no uploads")


class Bucket:
    """Objects below a prefix of a bucket."""

    def __init__(self, uri: str, client: Any) -> None:
        parts = urlsplit(uri)
        self._bucket, self._client = parts.netloc, client
        self._prefix = f"{path}/" if (path := parts.path.strip("/")) else ""

    def all(self) -> dict[str, Stored]:
        return {
            item["Key"].removeprefix(self._prefix): Stored(item["Size"], item["LastModified"].astimezone(UTC))
            for page in self._pages("list_objects_v2", Prefix=self._prefix)
            for item in page.get("Contents", [])
        }

    def names(self, below: str = "") -> set[str]:
        """What lies directly in what would be the folder: objects, and what would be folders."""
        prefix = f"{self._prefix}{below}/" if below else self._prefix
        found = set()
        for page in self._pages("list_objects_v2", Prefix=prefix, Delimiter="/"):
            found |= {item["Key"] for item in page.get("Contents", [])}
            found |= {item["Prefix"].rstrip("/") for item in page.get("CommonPrefixes", [])}
        return {name.removeprefix(prefix) for name in found}

    def sizes(self, paths: Collection[str]) -> dict[str, int]:
        """The sizes of those of the objects that are there.

        By listing what lies between the first and the last of them: a thousand objects are one request, where asking
        for each would be a thousand.
        """
        if not paths:
            return {}
        first, last = self._prefix + min(paths), self._prefix + max(paths)
        found: dict[str, int] = {}
        # All that begins with a key but its last letter comes after that beginning.
        shared = os.path.commonprefix([first, last])  # noqa: RUF071 - a key's beginning, not a folder
        for page in self._pages("list_objects_v2", Prefix=shared, StartAfter=first[:-1]):
            held = page.get("Contents", [])
            found |= {item["Key"].removeprefix(self._prefix): item["Size"] for item in held}
            if held and held[-1]["Key"] >= last:
                break
        return {path: found[path] for path in paths if path in found}

    def read(self, path: str) -> bytes:
        with _store_errors():
            body: bytes = self._client.get_object(Bucket=self._bucket, Key=self._prefix + path)["Body"].read()
            return body

    def write(self, path: str, body: bytes) -> None:
        with _store_errors():
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + path, Body=body)

    def remove(self, *paths: str) -> None:
        keys = [{"Key": self._prefix + path} for path in paths]
        for i in range(0, len(keys), _KEYS_PER_REQUEST):
            some = {"Objects": keys[i : i + _KEYS_PER_REQUEST], "Quiet": True}
            with _store_errors():
                refused = self._client.delete_objects(Bucket=self._bucket, Delete=some).get("Errors", [])
            if refused:
                raise OSError(f"{len(refused)} objects were not removed, the first for {refused[0].get('Code')}")

    def uploads(self) -> list[Upload]:
        return [
            Upload(item["Key"].removeprefix(self._prefix), item["UploadId"], item["Initiated"].astimezone(UTC))
            for page in self._pages("list_multipart_uploads", Prefix=self._prefix)
            for item in page.get("Uploads", [])
        ]

    def abort(self, upload: Upload) -> None:
        key = self._prefix + upload.path
        with _store_errors():
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload.upload_id)

    def _pages(self, operation: str, **told: str) -> Iterator[Mapping[str, Any]]:
        with _store_errors():
            yield from self._client.get_paginator(operation).paginate(Bucket=self._bucket, **told)


@contextmanager
def _store_errors() -> Iterator[None]:
    """What boto3 raises as the OSError that a directory would raise: in both, the lake knows what it means."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise OSError(str(error)) from error
    except RuntimeError as error:
        # botocore's word for a source that gives keys which have ended.
        raise OSError(f"ExpiredToken: {error}") from error


def _size_of(path: str) -> int | None:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - a third of the time of a Path's, for every file of a scan
    except FileNotFoundError:
        return None


def files_of(lake: Lake, contract: type[Contract] | None = None) -> Files:
    """The table's files, or all of the lake's, wherever it is. Raises NeedsYouError for a bucket without boto3."""
    uri = lake.root if contract is None else lake.uri(contract)
    if "://" not in uri:
        return Directory(uri)
    if lake.client is None:
        lake.client = _client(lake)
    return Bucket(uri, lake.client)


def credentials(lake: Lake) -> dict[str, str]:
    """The keys of this moment, as options, from where the AWS SDKs look for them; none where there are none.

    All libraries are told the same: left alone, each would look in other places. boto3 asks the source anew some
    minutes before its keys end.
    """
    with _store_errors():
        session = _session(lake)
        found = session.get_credentials()
        if found is None:
            return {}
        keys = found.get_frozen_credentials()
    told = {
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        "AWS_SESSION_TOKEN": keys.token,
        "AWS_REGION": session.region_name,
    }
    return {name: value for name, value in told.items() if value}


def _session(lake: Lake) -> Any:
    if lake.session is None:
        try:
            import boto3
        except ImportError:
            raise NeedsYouError(
                "boto3 is not installed",
                where=lake.root,
                safe="nothing was changed",
                hint="install boto3: a bucket's objects are looked at with it",
            ) from None
        # A session of its own: boto3's default one is not made for threads.
        lake.session = boto3.session.Session()
    return lake.session


def _client(lake: Lake) -> Any:
    """A client with the lake's own options, which may leave the keys to it."""
    session = _session(lake)
    from botocore.config import Config

    options = lake.storage_options
    config = Config(
        connect_timeout=_REQUEST_S,
        read_timeout=_REQUEST_S,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        # As deltalake asks: other servers than AWS answer paths, not one host name per bucket.
        s3={"addressing_style": "path" if options.get("AWS_ENDPOINT_URL") else "auto"},
    )
    return aws.s3_client(session, options, config)


@dataclass(frozen=True)
class LogFault:
    """Something wrong in a table's log: the file, and what is wrong with it.

    ``is_superfluous``: the table can be read once the file is removed, because the log says all that it said.
    ``is_fatal``: readers refuse the table, or should.
    """

    path: str
    what: str
    is_superfluous: bool = False
    is_fatal: bool = True


def log_faults(files: Files, stored: Mapping[str, Stored]) -> list[LogFault]:
    """What is wrong with the log, the reason why readers fail first."""
    versions = {int(match[1]): path for path in stored if (match := _ENTRY.match(path))}
    checkpoints = {path: int(match[1]) for path in stored if (match := _CHECKPOINT.match(path))}
    corrupt = [path for path in checkpoints if not _is_readable(files.read(path))]
    good = [version for path, version in checkpoints.items() if path not in corrupt]
    broken = list(_broken_entries(files, versions, max(good, default=-1)))
    is_whole = bool(versions) and not any(fault.is_fatal for fault in broken)
    found = [
        LogFault(path, f"checkpoint {_name(path)} is corrupt", is_superfluous=is_whole)
        for path in sorted(corrupt, reverse=True)
    ]
    named = _named_by_hint(files, stored)
    if named is not None and named not in checkpoints.values():
        what = f"_last_checkpoint names version {named}, of which there is no checkpoint"
        found.append(LogFault(_HINT, what, is_superfluous=is_whole))
    elif found and named is not None and named not in good:
        found.append(LogFault(_HINT, f"_last_checkpoint names the corrupt checkpoint {named}", is_superfluous=is_whole))
    return [*found, *broken] if is_whole else [*broken, *found]


def log_error(contract: type[Contract], lake: Lake, message: str, safe: str) -> CryptoAssetsError | None:
    """Why Delta could not read or write the table, by name and with the advice that works; None where the log is well.

    ``message`` is Delta's own: only it knows of features.
    """
    files = files_of(lake, contract)
    stored = files.all()
    remedy = _rebuild_advice(contract, lake, stored)
    name = contract.table.full_name
    if feature := _FEATURE.search(message):
        what = f"the table asks for the Delta feature {feature[1]}, which is not known here"
        hint = f"a newer or foreign writer turned it on: read it with that, or {remedy}"
        return DataError(what, where=name, safe=safe, hint=hint)
    faults = [fault for fault in log_faults(files, stored) if fault.is_fatal]
    if not faults:
        return None
    if all(fault.is_superfluous for fault in faults):
        remedy = "the log itself is whole: crypto-assets doctor --fix removes what misleads readers"
    return DataError("; ".join(fault.what for fault in faults[:3]), where=name, safe=safe, hint=remedy)


def foreign_error(contract: type[Contract], lake: Lake, what: str) -> DataError:
    """The refusal of a table that has another shape than its contract."""
    remedy = _rebuild_advice(contract, lake, files_of(lake, contract).all())
    return DataError(
        what,
        where=contract.table.full_name,
        safe="the table is unchanged",
        hint=f"a foreign writer changed it, or the contract is newer: {remedy}",
    )


def _rebuild_advice(contract: type[Contract], lake: Lake, stored: Mapping[str, Stored]) -> str:
    """What to do with a table whose log is of no use: the days are those of its folders, else those of raw."""
    days = days_of(stored)
    if not days and contract.table.zone is not Zone.RAW:
        days = sorted({day for source in (*raw.TABLES, *stream.TABLES) for day in lake.days(source)})
    return advice(contract, days, "log", lake.uri(contract))


def mend(files: Files) -> list[str]:
    """Remove hints and checkpoints that mislead readers of a log that is whole; returns what was removed and why."""
    done = []
    for fault in log_faults(files, files.all()):
        if fault.is_superfluous:
            files.remove(fault.path)
            done.append(f"removed {_name(fault.path)}: {fault.what}")
    return done


def days_of(stored: Mapping[str, Stored]) -> list[date]:
    """The days of the table's partitions, by their paths: all that is known without a log."""
    return sorted({date.fromisoformat(match[1]) for path in stored if (match := _DAY.search(path))})


def _broken_entries(files: Files, versions: Mapping[int, str], newest_checkpoint: int) -> Iterator[LogFault]:
    """What is wrong with the entries that a reader needs: those after the newest checkpoint."""
    for version in range(newest_checkpoint + 1, max(versions, default=newest_checkpoint) + 1):
        path = versions.get(version)
        if path is None:
            yield LogFault(f"{_LOG}{version:020}.json", f"log entry {version:020}.json is missing")
            continue
        lines = files.read(path).decode(errors="replace").split("\n")
        if not any(line.strip() for line in lines):
            yield LogFault(path, f"log entry {_name(path)} is empty: what it said is lost", is_fatal=False)
        for number, line in enumerate(lines, 1):
            if line.strip() and not _is_action(line):
                yield LogFault(path, f"log entry {_name(path)} is garbage from line {number}")
                break


def _is_action(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _is_readable(checkpoint: bytes) -> bool:
    # Polars panics on a file that ends too early, and prints a trace before anybody can catch it.
    if len(checkpoint) < 12 or not checkpoint.startswith(b"PAR1") or not checkpoint.endswith(b"PAR1"):
        return False
    if int.from_bytes(checkpoint[-8:-4], "little") + 12 > len(checkpoint):
        return False
    try:
        return "add" in pl.read_parquet(io.BytesIO(checkpoint)).columns
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return False


def _named_by_hint(files: Files, stored: Mapping[str, Stored]) -> int | None:
    if _HINT not in stored:
        return None
    try:
        return int(json.loads(files.read(_HINT))["version"])
    except (ValueError, KeyError, TypeError):
        # Readers ignore a hint that they cannot read.
        return None


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def unreferenced(files: Files, stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """Data files that no version in the log names: of writes that broke off, or somebody's.

    Empty where the log is not well: what it has lost may have named them.
    """
    if not any(_ENTRY.match(path) for path in stored) or log_faults(files, stored):
        return {}
    named = set()
    for path in stored:
        if _ENTRY.match(path):
            named |= set(_named(files.read(path).decode()))
        elif _CHECKPOINT.match(path):
            held = pl.read_parquet(io.BytesIO(files.read(path)))
            for action in ("add", "remove"):
                if action in held.columns:
                    named |= set(held[action].struct.field("path").drop_nulls())
    known = {unquote(path) for path in named} | named
    return {
        path: file
        for path, file in stored.items()
        if path.endswith(".parquet") and not path.startswith(_LOG) and path not in known
    }


def _named(entry: str) -> Iterator[str]:
    for line in entry.splitlines():
        if line.strip():
            for action in json.loads(line).values():
                if isinstance(action, dict) and "path" in action:
                    yield action["path"]


@dataclass
class Proof:
    """What was looked at in a table, and what was found wrong."""

    n_files: int = 0
    n_rows: int = 0
    n_proven: int = 0
    n_bodies: int = 0
    errors: list[DataError] = field(default_factory=list)


@dataclass(frozen=True)
class _Unit:
    """Rows that one commit says the hash of: of a day (None: of the whole table), a window in it, some values."""

    version: int
    day: date | None
    window: Window | None
    where: Mapping[str, list[str]]
    sha256: str

    def overlaps(self, other: _Unit) -> bool:
        ours, theirs = self.window, other.window
        if ours and theirs and (ours.start >= theirs.end or theirs.start >= ours.end):
            return False
        return all(
            not set(self.where[name]).isdisjoint(other.where[name]) for name in self.where.keys() & other.where.keys()
        )


def prove(lake: Lake, contract: type[Contract]) -> Proof:
    """Compare every live file's size with the log, and every window's rows with the hash in its newest commit.

    Rows that no commit vouches for by itself (a day of which one hour was replaced later, a log that was cleaned) are
    counted in ``n_rows`` and not in ``n_proven``; ``rebuild --verify`` proves those.
    """
    live = lake.live(contract)
    proof = Proof(n_files=len(live))
    with store_errors(contract.table.full_name, "nothing was changed", lake.root):
        stored = files_of(lake, contract).all() if len(live) else {}
    damaged = _wrong_sizes(lake, contract, live, stored, proof)
    units = _units(contract, lake.notes(contract))
    has_bodies = {"body", "sha256"} <= set(polars_schema(contract).names())
    days: Sequence[date | None] = sorted(set(live["day"].drop_nulls())) or ([None] if len(live) else [])
    # A day that lost all its rows has units and no files.
    days = [*days, *sorted(day for day in units.keys() - set(days) if day is not None)]
    for day in days:
        if day in damaged:
            continue
        try:
            if day not in units and not has_bodies:
                # Nobody vouches for these rows (a stream's): all there is to see is whether they can be read.
                proof.n_rows += lake.n_readable(contract, day)
                continue
            rows = lake.partition(contract, day)
        except DataError as error:
            proof.errors.append(_damage(lake, contract, day, f"{day or 'the table'}: {error.what}"))
            continue
        proof.n_rows += len(rows)
        n_proven, wrong = _proven(contract, rows, units.get(day, []))
        proof.n_proven += n_proven
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            what = f"rows are not those that were committed, by sha256: {wrong[0]}{more}"
            proof.errors.append(_damage(lake, contract, day, what))
        if has_bodies:
            proof.n_bodies += len(rows)
            proof.errors += [_damage(lake, contract, day, what) for what in _forged_bodies(rows)]
    return proof


def _wrong_sizes(
    lake: Lake, contract: type[Contract], live: pl.DataFrame, stored: Mapping[str, Stored], proof: Proof
) -> set[date | None]:
    damaged: dict[date | None, list[str]] = {}
    lost: dict[date | None, int] = {}
    for path, size, n_rows, day in live.iter_rows():
        found = stored.get(path)
        if found is None or found.size != size:
            told = "is gone" if found is None else f"has {found.size} bytes, not {size}"
            damaged.setdefault(day, []).append(f"data file {path} {told}")
            lost[day] = lost.get(day, 0) + (n_rows or 0)
    for day, told_of in damaged.items():
        more = f" and {len(told_of) - 1} more" if len(told_of) > 1 else ""
        what = f"{told_of[0]}{more}; {lost[day]} rows cannot be read"
        proof.errors.append(_damage(lake, contract, day, what))
    return set(damaged)


def _units(contract: type[Contract], notes: Sequence[Note]) -> dict[date | None, list[_Unit]]:
    """What the notes vouch for, by day: of a replaced table only what no newer commit has replaced in part."""
    seen: dict[date | None, list[_Unit]] = {}
    newest: dict[date | None, list[_Unit]] = {}
    for note in notes:
        for unit in _split(contract, note):
            is_newest = contract.table.write is Write.APPEND or not any(
                unit.overlaps(newer) for newer in seen.get(unit.day, [])
            )
            seen.setdefault(unit.day, []).append(unit)
            if is_newest:
                newest.setdefault(unit.day, []).append(unit)
    return newest


def _split(contract: type[Contract], note: Note) -> Iterator[_Unit]:
    if "date" not in contract.table.partition_by:
        yield _Unit(note.version, None, None, note.where, note.sha256)
    elif note.window is None:
        for day, sha256 in note.by_day.items():
            yield _Unit(note.version, day, None, note.where, sha256)
    else:
        of_none = content_hash(pl.DataFrame(schema=polars_schema(contract)))
        for day in note.window.days:
            whole = Window.of_day(day)
            sha256 = note.by_day.get(day, of_none) if len(note.window.days) > 1 else note.sha256
            part = Window(max(whole.start, note.window.start), min(whole.end, note.window.end))
            # A table without a clock is replaced by whole days, whatever the window.
            yield _Unit(note.version, day, part if contract.table.clock else whole, note.where, sha256)


def _proven(contract: type[Contract], rows: pl.DataFrame, units: Sequence[_Unit]) -> tuple[int, list[str]]:
    """How many of a day's rows are those that the commits speak of, and which commits' rows are not."""
    n_proven, wrong = 0, []
    for unit in units:
        selected = rows
        if unit.window is not None:
            selected = selected.filter(inside(contract, unit.window))
        for column, values in unit.where.items():
            selected = selected.filter(pl.col(column).cast(pl.String).is_in(values))
        if content_hash(selected) == unit.sha256:
            n_proven += len(selected)
        else:
            wrong.append(f"{unit.window or unit.day or 'the table'} of version {unit.version}")
    return n_proven, wrong


def _forged_bodies(rows: pl.DataFrame) -> Iterator[str]:
    wrong = [
        pull_id
        for pull_id, body, told in rows.select("pull_id", "body", "sha256").iter_rows()
        if hashlib.sha256(body).hexdigest() != told
    ]
    if wrong:
        yield f"{len(wrong)} bodies do not match their sha256 column, the first of pull {wrong[0]}"


def _damage(lake: Lake, contract: type[Contract], day: date | None, what: str) -> DataError:
    hint = advice(contract, [day] if day else [], "file", lake.uri(contract))
    return DataError(what, where=contract.table.full_name, safe="nothing was changed", hint=hint)
