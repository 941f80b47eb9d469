"""Who reads which channel of a broker that does not share them out itself: one small object beside the lake.

Each consumer says every few seconds that it is there, and takes its fair share of the channels: those that nobody
holds, and where it has fewer than others one of theirs. Every change is conditional on what was read (``lease.Slot``).

This is politeness, as the lease of schedules is: of two that read the same channel one lands, and the other finds the
positions moved (``consumer.py``). A store without conditional writes, or a clock that is wrong, costs work done twice.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from crypto_assets.errors import NeedsYouError, TransientError
from crypto_assets.providers.feed import UNREADABLE
from crypto_assets.resources.clock import Clock
from crypto_assets.resources.lease import Slot

log = logging.getLogger(__name__)

# Who is silent for so long is gone, and others read its channels. A commit may take a while.
SILENT_AFTER = timedelta(seconds=30)
BEAT_EVERY_S = 5.0
# Who loses this many races tries again at the next beat.
_TRIES = 8


class _Member(msgspec.Struct):
    until: datetime
    channels: list[str]


class Group:
    """This consumer's place among the others of its lake and stream.

    Args:
        slot: where the object lies.
        us: our name in it, another one for each process.
        clock: the time of day.
        silent_after: how long others wait for us.
        beat_every_s: how often we say that we are there.
    """

    def __init__(
        self,
        slot: Slot,
        us: str,
        clock: Clock,
        *,
        silent_after: timedelta = SILENT_AFTER,
        beat_every_s: float = BEAT_EVERY_S,
    ) -> None:
        self._slot = slot
        self._us = us
        self._clock = clock
        self._silent_after = silent_after
        self.beat_every_s = beat_every_s
        self._said = ""

    def share(self, channels: Sequence[str]) -> frozenset[str]:
        """The channels that are ours until the next beat; all where the store refuses or has no conditional writes.

        Raises:
            TransientError: the store is out of reach, or others kept changing the object.
        """
        for _ in range(_TRIES):
            try:
                found = self._slot.read()
                now = self._clock.now()
                members = _living(found[0] if found else b"{}", now)
                ours = _share(members, self._us, channels)
                members[self._us] = _Member(now + self._silent_after, sorted(ours))
                if self._slot.swap(msgspec.json.encode(members), found[1] if found else None):
                    return ours
            except NeedsYouError as error:
                if str(error) != self._said:
                    log.warning("%s; each consumer reads all channels, which lands each block once, too", error)
                self._said = str(error)
                return frozenset(channels)
        raise TransientError(
            "other consumers kept changing who reads what",
            where="the lake's consumers",
            safe="no table was touched",
            hint="it is tried again",
        )

    def leave(self) -> None:
        """Leave our channels to the others, at once."""
        for _ in range(_TRIES):
            found = self._slot.read()
            members = _living(found[0] if found else b"{}", self._clock.now())
            if members.pop(self._us, None) is None:
                return
            if self._slot.swap(msgspec.json.encode(members), found[1] if found else None):
                return


def _living(body: bytes, now: datetime) -> dict[str, _Member]:
    try:
        members = msgspec.json.decode(body, type=dict[str, _Member])
    except UNREADABLE:
        return {}
    # Without a time zone it was not written by us, and cannot be compared.
    return {name: m for name, m in members.items() if m.until.tzinfo is not None and m.until > now}


def _share(members: dict[str, _Member], us: str, channels: Sequence[str]) -> frozenset[str]:
    """Ours of the channels; takes from others' entries what they have to give up."""
    wanted = set(channels)
    ours = set(members[us].channels) & wanted if us in members else set()
    others = [member for name, member in members.items() if name != us]
    for member in others:
        # Two may believe that they hold one after a clock was wrong: it stays with the one that is read first.
        member.channels = [channel for channel in member.channels if channel in wanted - ours]
        wanted -= set(member.channels)
    free = sorted(wanted - ours)
    least, is_uneven = divmod(len(channels), len(others) + 1)
    while free and len(ours) < least + bool(is_uneven):
        ours.add(free.pop(0))
    while len(ours) < least:
        richest = max(others, key=lambda member: len(member.channels))
        if len(richest.channels) <= len(ours) + 1:
            break
        ours.add(richest.channels.pop())
    return frozenset(ours)
