"""What the sandbox remembers between answers: its time, its faults, the calls that were made and what streams sent."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from crypto_assets.sandbox.events import Events
from crypto_assets.sandbox.faults import Fault, FaultSwitch
from crypto_assets.sandbox.ledger import Ledger
from crypto_assets.sandbox.replies import refusal

if TYPE_CHECKING:
    from crypto_assets.sandbox.streams import Stream

Clock = Callable[[], datetime]

_BYTES_PER_CREDIT = 2500
_MINUTE = timedelta(minutes=1)


class SandboxState:
    """What the app remembers: the market's time, the faults, the calls and the streams. Used by one event loop.

    ``clock`` is real time: limits and credits follow it, however the market's time passes. ``keys`` are those that
    CoinCap and Finnhub accept; None accepts any.
    """

    def __init__(self, clock: Clock, keys: frozenset[str] | None = None) -> None:
        self.clock = clock
        self.keys = keys
        # The market's time, the real time when it was so, and the market's seconds in a real one; None: real time.
        self._told: tuple[datetime, datetime, float] | None = None
        # A change of speed from another thread must not turn a time back that was just read.
        self._telling = Lock()
        self.faults = FaultSwitch([])
        self.events = Events()
        # Calls, or weight of calls, a minute by service, where a test wants another number than the service's own.
        self.limits: dict[str, int] = {}
        # Seconds between what streams say by themselves (pings, heartbeats), where a test wants others than their own.
        self.pulses: dict[str, float] = {}
        self.streams: dict[str, Stream] = {}
        self.forget_calls()

    @property
    def speed(self) -> float:
        """How many of the market's seconds pass in a real one: 0 while it is frozen."""
        return 1.0 if self._told is None else self._told[2]

    def now(self) -> datetime:
        """The market's time in UTC: the clock's, a frozen one, or one that passes at its own speed."""
        with self._telling:
            return self._now()

    def _now(self) -> datetime:
        if self._told is None:
            return self.clock().astimezone(UTC)
        at, since, speed = self._told
        return at + (self.clock().astimezone(UTC) - since) * speed if speed else at

    def set_now(self, now: datetime | None, speed: float = 0.0) -> None:
        """Freeze the market's time, or let it pass from there at ``speed`` seconds a second; None: real time.

        Raises ``ValueError`` for a time without a zone, or a speed that is negative.
        """
        if now is not None and now.tzinfo is None:
            raise ValueError("the market's time needs a time zone")
        _check_speed(speed)
        with self._telling:
            self._told = None if now is None else (now.astimezone(UTC), self.clock().astimezone(UTC), speed)

    def set_speed(self, speed: float) -> None:
        """Let the market's time go on from where it is at another speed, 0 to freeze it. Raises as ``set_now``."""
        _check_speed(speed)
        with self._telling:
            self._told = (self._now(), self.clock().astimezone(UTC), speed)

    def set_faults(self, faults: list[Fault]) -> None:
        """Replace all faults; their counts begin at zero."""
        self.faults = FaultSwitch(faults)

    def forget_calls(self) -> None:
        """Begin anew: counts, used credits, the minute's window, and what streams sent."""
        self.ledger = Ledger()
        self._counts: Counter[str] = Counter()
        self._credits = 0
        self._month: tuple[int, int] | None = None
        self._used: Counter[str] = Counter()
        self._recent: dict[str, deque[datetime]] = {}
        self._metered: dict[str, tuple[datetime, int]] = {}

    def calls(self) -> dict[str, Any]:
        """``{"calls": {endpoint: count}, "credits": used}``: every call, refused ones too, over all keys."""
        return {"calls": dict(sorted(self._counts.items())), "credits": self._credits}

    def count(self, endpoint: str) -> None:
        """Note that a call arrived."""
        self._counts[endpoint] += 1

    async def met(self, endpoint: str, subject: str = "") -> tuple[Response | None, list[Fault]]:
        """Count a call of another provider's endpoint; the refusal of a fault that leaves no room for data, and all.

        ``subject`` is what the call is about, in the provider's words. A stall has been slept through when this
        returns.
        """
        self.count(endpoint)
        struck = self.faults.strike(endpoint, 0, subject)
        for fault in struck:
            if fault.kind == "stall":
                await asyncio.sleep(fault.seconds)
        return refusal(struck), struck

    def wait_seconds(self, key: str, per_minute: int) -> int:
        """0 and one call of the last minute's allowance taken, or the whole seconds until one is free."""
        now = self.clock()
        recent = self._recent.setdefault(key, deque())
        while recent and recent[0] <= now - _MINUTE:
            recent.popleft()
        if len(recent) >= per_minute:
            return max(1, math.ceil((recent[0] + _MINUTE - now).total_seconds()))
        recent.append(now)
        return 0

    def metered(self, service: str, weight: int) -> tuple[int, int]:
        """The weight used in this minute of the clock with this call's, and the whole seconds until the next minute."""
        now = self.clock().astimezone(UTC)
        minute = now.replace(second=0, microsecond=0)
        since, used = self._metered.get(service, (minute, 0))
        used = weight + (used if since == minute else 0)
        self._metered[service] = (minute, used)
        return used, math.ceil((minute + _MINUTE - now).total_seconds())

    def used(self, key: str) -> int:
        """Credits that the key used in this calendar month (UTC)."""
        now = self.clock().astimezone(UTC)
        if self._month != (now.year, now.month):
            self._month = (now.year, now.month)
            self._used.clear()
        return self._used[key]

    def charge(self, key: str, n_bytes: int) -> None:
        """1 credit for the call and 1 per 2,500 bytes begun."""
        spent = 1 + math.ceil(n_bytes / _BYTES_PER_CREDIT)
        self._credits += spent
        self._used[key] += spent


def _check_speed(speed: float) -> None:
    if not 0 <= speed < math.inf:
        raise ValueError("the market's time passes at some speed, and not backwards")
