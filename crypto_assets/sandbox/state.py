"""What the sandbox remembers between answers: its time, its faults, and the calls that were made."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.responses import Response

from crypto_assets.sandbox.events import Events
from crypto_assets.sandbox.faults import Fault, FaultSwitch
from crypto_assets.sandbox.replies import refusal

Clock = Callable[[], datetime]

_BYTES_PER_CREDIT = 2500
_MINUTE = timedelta(minutes=1)


class SandboxState:
    """What the app remembers: the frozen market time, the faults, and the calls. Used by one event loop.

    ``clock`` is real time: limits and credits follow it even while the market's time is frozen.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._frozen: datetime | None = None
        self.faults = FaultSwitch([])
        self.events = Events()
        # Calls, or weight of calls, a minute by service, where a test wants another number than the service's own.
        self.limits: dict[str, int] = {}
        self.forget_calls()

    def now(self) -> datetime:
        """The market's time: the frozen one, else the clock's, in UTC."""
        return self._frozen or self.clock().astimezone(UTC)

    def set_now(self, now: datetime | None) -> None:
        """Freeze the market's time (aware datetimes only, ``ValueError`` otherwise); None lets it run."""
        if now is not None and now.tzinfo is None:
            raise ValueError("the market's time needs a time zone")
        self._frozen = None if now is None else now.astimezone(UTC)

    def set_faults(self, faults: list[Fault]) -> None:
        """Replace all faults; their counts begin at zero."""
        self.faults = FaultSwitch(faults)

    def forget_calls(self) -> None:
        """Begin anew: counts, used credits and the minute's window."""
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
