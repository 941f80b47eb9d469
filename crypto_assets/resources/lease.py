"""Which installation runs a lake's schedules: one small object beside the tables, ``_lease/schedules.json``.

Belongs here: taking, renewing and reading the lease, and who this installation is. Does not: what a tick does without
it (``automation/schedules.py``).

The lease is politeness. It spares a provider's credits, and two laptops the same work on the same tables; no table's
content depends on it. A clock that is wrong, a state directory that was copied to another machine or a store without
conditional writes may give a lake two holders: both write the same facts once (``lake.py``). That is also why nobody
carries the counter into a commit: it only tells people, and tests, how often the lease changed hands.

A holder renews it at each tick. Whoever finds that it has expired takes it over. Every change is conditional on what
was read: by ``If-None-Match`` and ``If-Match`` in a bucket, under a file lock in a directory.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, NoReturn, Protocol
from urllib.parse import urlsplit

import msgspec

from crypto_assets.errors import NeedsYouError, TransientError
from crypto_assets.resources import aws
from crypto_assets.resources.clock import Clock

log = logging.getLogger(__name__)

# Below the lake's root, beside the zones.
FOLDER = "_lease"
_FILE = "schedules.json"
# A lease is 200 bytes; what is larger is none, and is not read to its end.
_MAX_BYTES = 16_384
# Who loses this many races has met neighbours that change the object faster than a store answers.
_TRIES = 5
# The longest lease is of daily ticks. A later end was written by a wrong clock, and would stop schedules for as long.
_LONGEST = timedelta(days=4)
# A tick is given up by Dagster after a minute: two requests of two tries each must end before.
_CONNECT_S, _READ_S, _STORE_TRIES = 3, 5, 2
_WHERE = "the lease of the lake's schedules"
_SAFE = "no table was touched"

_Id = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{8,32}$")]
_Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class LeaseUnsupported(NeedsYouError):  # noqa: N818 (it says what happened)
    """The store knows no conditional writes: there is no lease, and schedules run without one."""


@dataclass(frozen=True)
class Holder:
    """An installation: the id in its state directory, by which it knows itself, and a host that people know."""

    id: _Id
    host: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]

    def __str__(self) -> str:
        return f"{self.host} (installation {self.id})"


@dataclass(frozen=True)
class Lease:
    """Who runs the schedules, from when until when at the latest; ``counter`` grows each time the holder changes."""

    holder: Holder
    since: _Moment
    expires_at: _Moment
    counter: Annotated[int, msgspec.Meta(ge=1)]

    def is_live(self, now: datetime) -> bool:
        return now < self.expires_at

    def __str__(self) -> str:
        since, until = (f"{moment:%Y-%m-%d %H:%M:%S} UTC" for moment in (self.since, self.expires_at))
        return f"{self.holder} has run this lake's schedules since {since} and holds them until {until}"


class Unreadable(ValueError):  # noqa: N818 (it says what happened)
    """What lies in the lease's place is not a lease."""


class Slot(Protocol):
    """The place of one small object that is only ever replaced by who knows what it holds."""

    def read(self) -> tuple[bytes, str] | None:
        """The content and the token that names this state of it; None where there is nothing."""
        ...

    def swap(self, body: bytes, token: str | None) -> bool:
        """Replace the state that the token names (None: nothing); False where there is another one by now."""
        ...


Options = Mapping[str, str] | None
"""A lake's, with its credentials."""


def slot_of(root: str, options: Options | Callable[[], Options], name: str = _FILE) -> Slot:
    """Where a lease of the lake under this root is kept, by default its schedules'.

    ``options`` are the lake's. Who keeps the slot gives a function that says those of the moment: credentials end.
    """
    if "://" in root:
        return ObjectSlot(f"{root}/{FOLDER}/{name}", options)
    return FileSlot(Path(root) / FOLDER / name)


def hold(slot: Slot, us: Holder, clock: Clock, length: timedelta) -> Lease:
    """The lease that is in force: ours, taken or renewed for ``length`` from now, or another installation's.

    What cannot be read as a lease is replaced like one that has expired.

    Raises:
        TransientError: the store is out of reach, or others kept changing the lease.
        NeedsYouError: the store refuses; ``LeaseUnsupported`` where it has no conditional writes.
    """
    for _ in range(_TRIES):
        found, now = slot.read(), clock.now()
        held = None if found is None else _decoded_or_none(found[0], now)
        is_ours = held is not None and held.holder.id == us.id
        if held is not None and not is_ours and held.is_live(now):
            return held
        since = held.since if held is not None and is_ours else now
        counter = 1 if held is None else held.counter + (not is_ours)
        ours = Lease(us, since, now + length, counter)
        # An answer that was lost on its way is a lost race, and the next look finds our own lease.
        if slot.swap(msgspec.json.encode(ours), None if found is None else found[1]):
            return ours
    raise TransientError(
        "other installations kept changing it", where=_WHERE, safe=_SAFE, hint="the next tick asks again"
    )


def look(slot: Slot) -> Lease | None:
    """The lease as it lies there, expired or not; None where there never was one.

    Raises:
        Unreadable: it is not a lease; the next tick replaces it.
        NeedsYouError, TransientError: as in ``hold``.
    """
    found = slot.read()
    return None if found is None else _decoded(found[0])


def refusal(held: Lease) -> str:
    """What another installation is told, in one line: who, since when, until when, and what to do."""
    return (
        f"{held}, later if it renews; schedules here start nothing until then, runs by hand are free: "
        "stop the daemon there or here, or name another lake in CRYPTO_ASSETS_LAKE_URI"
    )


def this_installation(state_dir: Path) -> Holder:
    """Who we are; the id is made once for a state directory, and stays with it when the host's name changes."""
    slot = FileSlot(state_dir / "installation")
    while True:
        known = known_installation(state_dir)
        if known is not None:
            return Holder(known, _host())
        found = slot.read()
        slot.swap(secrets.token_hex(4).encode(), None if found is None else found[1])


def known_installation(state_dir: Path) -> str | None:
    """The id of this installation, without making one."""
    found = FileSlot(state_dir / "installation").read()
    try:
        return None if found is None else msgspec.convert(found[0].decode().strip(), _Id)
    except ValueError:
        # Emptied by a full disk, or edited: a new id costs one lease's length.
        return None


def _host() -> str:
    return socket.gethostname()[:255] or "unknown"


def _decoded(body: bytes) -> Lease:
    try:
        lease = msgspec.json.decode(body, type=Lease)
    except (ValueError, RecursionError):
        raise Unreadable(f"{FOLDER}/{_FILE} is not a lease") from None
    # It is shown in terminals, and another machine wrote it.
    if not lease.holder.host.isprintable():
        raise Unreadable(f"{FOLDER}/{_FILE} names no host")
    return Lease(lease.holder, lease.since.astimezone(UTC), lease.expires_at.astimezone(UTC), lease.counter)


def _decoded_or_none(body: bytes, now: datetime) -> Lease | None:
    try:
        lease = _decoded(body)
    except Unreadable as error:
        log.warning("%s: it is replaced", error)
        return None
    if lease.expires_at - now > _LONGEST:
        log.warning("%s/%s is held until %s, by a clock that is wrong: it is replaced", FOLDER, _FILE, lease.expires_at)
        return None
    return lease


class FileSlot:
    """A file of a local or shared directory. Writers take turns by a lock that ends with its process."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> tuple[bytes, str] | None:
        with self._typed():
            try:
                with self._path.open("rb") as file:
                    body = file.read(_MAX_BYTES)
            except FileNotFoundError:
                return None
            return body, body.decode("latin-1")

    def swap(self, body: bytes, token: str | None) -> bool:
        with self._typed():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.with_name(f".{self._path.name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                found = self.read()
                if (None if found is None else found[1]) != token:
                    return False
                # Renamed into place: a reader, who takes no lock, sees the one or the other and never a part.
                scratch = self._path.with_name(f".{self._path.name}.new")
                scratch.write_bytes(body)
                scratch.replace(self._path)
                return True

    @contextmanager
    def _typed(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            told = f"{self._path}: {os.strerror(error.errno) if error.errno else type(error).__name__}"
            hint = "make the directory writable, with room on its disk"
            raise NeedsYouError(told, where=_WHERE, safe=_SAFE, hint=hint) from error


_REFUSALS = {
    "NoSuchBucket": "create the bucket, or correct CRYPTO_ASSETS_LAKE_URI",
    "AccessDenied": "check the credentials and their permissions",
    "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "renew the credentials",
}
# Another writer came first: the state is gone or not the one that was read, or is being written this moment.
_LOST = ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey")


class ObjectSlot:
    """An object of a bucket, changed by conditional puts."""

    def __init__(self, uri: str, options: Options | Callable[[], Options]) -> None:
        import boto3

        parts = urlsplit(uri)
        self._uri = uri
        self._place = {"Bucket": parts.netloc, "Key": parts.path.strip("/")}
        # A session of its own: ticks are evaluated in threads, and the default session is not made for them.
        self._session: Any = boto3.session.Session()
        self._options = options

    def _client(self) -> Any:
        """A client for one request: ticks are minutes apart, and no connection is kept open for so long."""
        from botocore.config import Config

        options = (self._options() if callable(self._options) else self._options) or {}
        config = Config(
            connect_timeout=_CONNECT_S,
            read_timeout=_READ_S,
            retries={"mode": "standard", "total_max_attempts": _STORE_TRIES},
        )
        return closing(aws.s3_client(self._session, options, config))

    def read(self) -> tuple[bytes, str] | None:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            with self._client() as client:
                answer = client.get_object(**self._place)
                with answer["Body"] as body:
                    return body.read(_MAX_BYTES), answer["ETag"]
        except (BotoCoreError, ClientError, OSError) as error:
            if _code(error) == "NoSuchKey":
                return None
            self._refuse(error)

    def swap(self, body: bytes, token: str | None) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError

        condition = {"IfNoneMatch": "*"} if token is None else {"IfMatch": token}
        try:
            with self._client() as client:
                client.put_object(**self._place, Body=body, ContentType="application/json", **condition)
        except (BotoCoreError, ClientError, OSError) as error:
            if _code(error) in _LOST:
                return False
            self._refuse(error)
        return True

    def _refuse(self, error: Exception) -> NoReturn:
        code = _code(error)
        if code == "NotImplemented":
            hint = "schedules run without a lease: let only one installation run them"
            raise LeaseUnsupported(
                f"the store has no conditional writes ({self._uri})", where=_WHERE, safe=_SAFE, hint=hint
            ) from error
        if code in _REFUSALS:
            told = f"the store answers {code} ({self._uri})"
            raise NeedsYouError(told, where=_WHERE, safe=_SAFE, hint=_REFUSALS[code]) from error
        if type(error).__name__ in {"NoCredentialsError", "PartialCredentialsError", "NoRegionError"}:
            hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role"
            raise NeedsYouError(f"no credentials for {self._uri}", where=_WHERE, safe=_SAFE, hint=hint) from error
        told = f"the store answers {code}" if code else "the store cannot be reached"
        hint = "check AWS_ENDPOINT_URL and the network; the next tick asks again"
        raise TransientError(f"{told} ({self._uri})", where=_WHERE, safe=_SAFE, hint=hint) from error


def _code(error: Exception) -> str:
    """What the store answered, or nothing where it did not."""
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))
