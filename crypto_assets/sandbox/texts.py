"""How the venues of the sandbox print their integers: columns of exact decimals, and clocks.

Belongs here: integer to text. CoinCap's way is in ``digits.py``.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from crypto_assets.sandbox.tape import Ints, moment

PRINTED = 8
"""Decimals that Binance prints, whatever the market's steps."""


def texts(column: Ints, places: int, printed: int | None = PRINTED) -> list[str]:
    """Units of 10**-places with ``printed`` decimals (None: as many as places); cut off where those are fewer."""
    shown = places if printed is None else printed
    if not places or shown < places:
        return [text(units, places, printed) for units in column.tolist()]
    # Half of what a month's file costs is this line.
    zeros = "0" * (shown - places)
    whole, rest = np.divmod(column, 10**places)
    return [f"{units}.{part:0{places}d}{zeros}" for units, part in zip(whole.tolist(), rest.tolist(), strict=True)]


def text(units: int, places: int, printed: int | None = PRINTED) -> str:
    """As ``texts``, of one number that is not negative."""
    shown = places if printed is None else printed
    units = units * 10 ** (shown - places) if shown >= places else units // 10 ** (places - shown)
    return f"{units // 10**shown}.{units % 10**shown:0{shown}d}" if shown else str(units)


def signed(units: int, places: int, printed: int | None = PRINTED) -> str:
    """As ``text``, with a minus where it is due."""
    return f"-{text(-units, places, printed)}" if units < 0 else text(units, places, printed)


def numbers(column: Ints, places: int) -> list[int | float]:
    """Units of 10**-places as JSON numbers: whole ones without a point, the others by their shortest text."""
    unit = 10**places
    return [units // unit if units % unit == 0 else float(text(units, places, None)) for units in column.tolist()]


def iso_us(us: int) -> str:
    """Microseconds since 1970 as ``2024-03-01T00:00:00.123456Z``."""
    return f"{moment(us):%Y-%m-%dT%H:%M:%S.%fZ}"


def flags(column: Iterable[bool]) -> list[str]:
    """Python's ``True`` and ``False``, as Binance's files have them."""
    return [str(bool(value)) for value in column]
