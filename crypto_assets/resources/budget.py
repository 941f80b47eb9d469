"""What may still be asked of a provider: calls and credits, counted in one SQLite file for all processes.

Belongs here: limits, what was spent, quota blocks. Does not: the exchange itself (``http.py``) and the plans'
numbers (``providers/``, one file each). Every process that speaks with a provider hands in the same limits.

pyrate-limiter's ``SQLiteBucket`` was tried and does not fit: four processes saw 7 acquisitions inside a 5-per-2-s
window (it reads, then inserts, with no write transaction around both), its time is ``time_ns`` and cannot be
handed in, and an item has one weight that cannot be corrected after the answer, where a call here costs one call
and a number of credits that is only known from the payload.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from crypto_assets.errors import NeedsYouError
from crypto_assets.resources.clock import Clock

SHORT_S = 60  # up to a minute is worth waiting for inside a step; a day or a month is a person's decision
MONTH_S = 31 * 86_400  # 31 rolling days are at least as long as any calendar month, so none can exceed the plan

_BUSY_S = 30.0  # a write lasts milliseconds; whoever waits this long has found a stuck disk, not a queue
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = 1_000_000  # moments are stored as integer microseconds since 1970 in UTC
_SCHEMA = (
    # AUTOINCREMENT: the receipt of a forgotten call must never be another call's.
    "CREATE TABLE IF NOT EXISTS spent (id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " provider TEXT NOT NULL, at INTEGER NOT NULL, calls INTEGER NOT NULL, credits INTEGER NOT NULL)",
    "CREATE INDEX IF NOT EXISTS spent_by_time ON spent (provider, at)",
    "CREATE TABLE IF NOT EXISTS blocked (provider TEXT PRIMARY KEY, until INTEGER NOT NULL)",
)


class BudgetExhausted(NeedsYouError):  # noqa: N818 (it says what happened)
    """A day's or month's window is full, or the provider closed the door: asking again now cannot succeed.

    Attributes:
        frees_at: when the refused amount fits again, aware UTC; None when it never will (more than the limit).
    """

    frees_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Limit:
    """At most ``amount`` calls or credits in any ``seconds``, a sliding window, not a calendar one."""

    amount: int
    seconds: int
    unit: Literal["calls", "credits"]

    def __post_init__(self) -> None:
        if self.amount < 1 or self.seconds < 1:
            raise ValueError("a limit allows at least 1 in at least 1 second")

    def __str__(self) -> str:
        days, seconds = divmod(self.seconds, 86_400)
        span = f"{days} days" if days and not seconds else f"{self.seconds} seconds"
        return f"{self.amount} {self.unit} per {span}"


class Budget:
    """The spending of one provider, shared by every process that opens the same file, and kept over restarts.

    What is counted is the moment a call was allowed; the provider counts the moment it arrives. Limits at the
    edge of a plan should therefore leave a call of room.
    """

    def __init__(self, path: Path, provider: str, limits: Sequence[Limit], clock: Clock) -> None:
        self.path = path
        self.provider = provider
        self.limits = tuple(limits)
        self._clock = clock
        self._last: int | None = None
        self._horizon = max((limit.seconds for limit in self.limits), default=0) * _SECOND
        create_state(path, _SCHEMA)

    def take(self, calls: int = 1, credits: int = 0) -> int:  # noqa: A002 (the field's word)
        """Book a call before it is made, waiting while a window of up to a minute is full.

        Returns a receipt for ``settle``. Raises ``BudgetExhausted`` at once, without waiting, when a longer
        window is full, the provider is blocked for more than a minute, or the amount is more than a limit.
        """
        if calls < 0 or credits < 0:
            raise ValueError("calls and credits cannot be negative")
        while True:
            with transaction(self.path) as db:
                # The clock is read under the lock: moments in the file never lie ahead of their reader.
                now = self._now()
                self._forget(db, now)
                wait = self._wait(db, now, {"calls": calls, "credits": credits})
                if wait <= 0:
                    row = db.execute(
                        "INSERT INTO spent (provider, at, calls, credits) VALUES (?, ?, ?, ?) RETURNING id",
                        (self.provider, now, calls, credits),
                    ).fetchone()
                    self._last = int(row[0])
                    return self._last
            self._clock.sleep(wait / _SECOND)

    def settle(self, credits: int, receipt: int | None = None) -> None:  # noqa: A002
        """Book what a call really cost in place of its estimate; spent is spent, also past a limit.

        ``receipt`` is what ``take`` returned; without it the last ``take`` of this object is meant.
        """
        if credits < 0:
            raise ValueError("credits cannot be negative")
        row = self._last if receipt is None else receipt
        if row is None:
            raise ValueError("nothing was taken, so nothing can be settled")
        with transaction(self.path) as db:
            db.execute("UPDATE spent SET credits = ? WHERE id = ? AND provider = ?", (credits, row, self.provider))

    def spent(self, limit: Limit) -> int:
        """How many of ``limit.unit`` were spent in the last ``limit.seconds``."""
        with transaction(self.path) as db:
            return self._spent(db, limit, self._now())

    def remaining(self) -> dict[Limit, int]:
        """What each limit still allows now; never negative, and zero everywhere while the provider is blocked."""
        with transaction(self.path) as db:
            now = self._now()
            if self._blocked_until(db) > now:
                return dict.fromkeys(self.limits, 0)
            return {limit: max(0, limit.amount - self._spent(db, limit, now)) for limit in self.limits}

    def affords(self, calls: int, credits: int) -> bool:  # noqa: A002
        """Whether a plan of this size fits the windows longer than a minute; the shorter ones only take time."""
        with transaction(self.path) as db:
            now = self._now()
            if self._blocked_until(db) > now + SHORT_S * _SECOND:
                return False
            return all(
                self._spent(db, limit, now) + (calls if limit.unit == "calls" else credits) <= limit.amount
                for limit in self.limits
                if limit.seconds > SHORT_S
            )

    def fits_at(self, calls: int, credits: int) -> datetime | None:  # noqa: A002
        """When a plan of this size will fit the windows longer than a minute; None for more than a window ever holds.

        What is spent until then, by this plan or others, makes it later.
        """
        with transaction(self.path) as db:
            now = self._now()
            moments = [now, self._blocked_until(db)]
            for limit in self.limits:
                amount = calls if limit.unit == "calls" else credits
                if limit.seconds <= SHORT_S:
                    continue
                if amount > limit.amount:
                    return None
                moments.append(self._fits_at(db, limit, amount, now))
        return _EPOCH + timedelta(microseconds=max(moments))

    def block_until(self, moment: datetime) -> None:
        """No call of this provider before ``moment`` (aware), in any process. The last word wins: now lifts it."""
        with transaction(self.path) as db:
            db.execute(
                "INSERT INTO blocked (provider, until) VALUES (?, ?)"
                " ON CONFLICT (provider) DO UPDATE SET until = excluded.until",
                (self.provider, _microseconds(moment)),
            )

    def _now(self) -> int:
        return _microseconds(self._clock.now())

    def _forget(self, db: sqlite3.Connection, now: int) -> None:
        db.execute("DELETE FROM spent WHERE provider = ? AND at <= ?", (self.provider, now - self._horizon))
        # After the machine's clock was set back, moments from "the future" would make everybody wait for it.
        db.execute("UPDATE spent SET at = ? WHERE provider = ? AND at > ?", (now, self.provider, now))

    def _wait(self, db: sqlite3.Connection, now: int, cost: Mapping[str, int]) -> int:
        """Microseconds until the amount fits; raises when that is not a matter of waiting."""
        waits = [0]
        until = self._blocked_until(db)
        if until > now + SHORT_S * _SECOND:
            raise self._exhausted("the provider's quota is used up", until)
        waits.append(until - now)
        # The long windows are asked first, so that nobody waits for a minute to be refused for a month.
        for limit in sorted(self.limits, key=lambda each: each.seconds, reverse=True):
            amount = cost[limit.unit]
            frees = self._fits_at(db, limit, amount, now)
            if frees > now and limit.seconds > SHORT_S:
                raise self._exhausted(f"{amount} more {limit.unit} do not fit into {limit}", frees)
            waits.append(frees - now)
        return max(waits)

    def _fits_at(self, db: sqlite3.Connection, limit: Limit, amount: int, now: int) -> int:
        if amount > limit.amount:
            raise self._exhausted(f"one call of {amount} {limit.unit} is more than {limit} will ever allow", None)
        over = self._spent(db, limit, now) + amount - limit.amount
        if amount == 0 or over <= 0:
            return now
        rows = db.execute(
            f"SELECT at, {limit.unit} FROM spent WHERE provider = ? AND at > ? ORDER BY at",  # noqa: S608 (a Literal)
            (self.provider, now - limit.seconds * _SECOND),
        )
        for at, units in rows:
            over -= units
            if over <= 0:
                return int(at) + limit.seconds * _SECOND
        raise AssertionError("a window cannot be fuller than its rows")

    def _spent(self, db: sqlite3.Connection, limit: Limit, now: int) -> int:
        (units,) = db.execute(
            f"SELECT coalesce(sum({limit.unit}), 0) FROM spent WHERE provider = ? AND at > ?",  # noqa: S608 (a Literal)
            (self.provider, now - limit.seconds * _SECOND),
        ).fetchone()
        return int(units)

    def _blocked_until(self, db: sqlite3.Connection) -> int:
        row = db.execute("SELECT until FROM blocked WHERE provider = ?", (self.provider,)).fetchone()
        return int(row[0]) if row else 0

    def _exhausted(self, what: str, frees: int | None) -> BudgetExhausted:
        frees_at = None if frees is None else _EPOCH + timedelta(microseconds=frees)
        when = "" if frees_at is None else f"; it frees at {frees_at:%Y-%m-%d %H:%M:%S} UTC"
        error = BudgetExhausted(
            what + when,
            where=f"{self.provider} budget",
            safe="no call was made",
            hint="wait until then, ask for less, or raise the limit if your plan allows more",
        )
        error.frees_at = frees_at
        return error


def n_booked(path: Path) -> int:
    """How many calls were ever booked in the file, by anybody: two looks tell how many were made between them."""
    if not path.exists():
        return 0
    with transaction(path) as db:
        row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'spent'").fetchone()
    return int(row[0]) if row else 0


def create_state(path: Path, schema: Sequence[str]) -> None:
    """Make the shared SQLite file and the tables in ``schema``.

    With a rollback journal, not WAL: where runs are tasks on many machines the file lies on NFS (EFS), which has locks
    and no shared memory. Every access is one short write-locked transaction, so that WAL would spare nobody a wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
    try:
        # Changing the mode does not wait for locks. Who is refused has met the process that is changing it; any
        # other trouble comes back from the statements that follow, which do wait.
        with suppress(sqlite3.OperationalError):
            db.execute("PRAGMA journal_mode = DELETE")
    finally:
        db.close()
    with transaction(path) as db:
        for statement in schema:
            db.execute(statement)


@contextmanager
def transaction(path: Path) -> Iterator[sqlite3.Connection]:
    """One immediate (write-locked) transaction, rolled back on an exception.

    A connection for each: it survives forks and threads, and next to a network call it costs nothing.
    """
    db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
    try:
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")
    finally:
        db.close()


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)
