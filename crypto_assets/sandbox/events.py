"""What happened at the venues, by configuration: outages, listings, holes in what is served, and restated files.

Belongs here: the facts, as tests and the demo set them (``Sandbox.set_events``). What they do to the trades is in
``tape.py``; what they do to answers and files is in the venues' modules. All times are aware.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

Place = Literal["rest", "daily", "monthly", "stream"]


class Outage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A venue was down in [start, end): no trades, no candles, and calls made then are refused.

    With a ``market_id`` only that market was halted, and the venue answers.
    """

    venue: str
    start: datetime
    end: datetime
    market_id: str | None = None


class Listing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A market trades in [start, end) instead of the catalogue's times; None leaves that side as it is."""

    market_id: str
    start: datetime | None = None
    end: datetime | None = None


class Hole(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows that a venue has but does not serve in some places, until it mends them (None: never).

    ``rest`` is the venue's interface, ``daily`` and ``monthly`` are the archive's files, ``stream`` is its websocket.
    The trades in the hole are true all the while. An archive file without any row is a 404.
    """

    market_id: str
    start: datetime
    end: datetime
    places: tuple[Place, ...] = ("rest", "daily", "monthly")
    healed_at: datetime | None = None


class Restatement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The archive's files on [start, end) lacked a sixteenth of the trades until ``at``."""

    market_id: str
    start: datetime
    end: datetime
    at: datetime


class Events(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that happened, besides what the catalogue of markets says."""

    outages: tuple[Outage, ...] = ()
    listings: tuple[Listing, ...] = ()
    holes: tuple[Hole, ...] = ()
    restatements: tuple[Restatement, ...] = ()
