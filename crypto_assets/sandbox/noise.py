"""Randomness that is a function: seeded digests and smooth noise over time, the same in every process.

Belongs here: arithmetic on seeds and seconds. What a price is made of is in ``market.py``; who exists is in
``catalogue.py``. Nothing here holds state, and nothing uses ``hash()``, which differs between processes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

DAY = 86_400.0
Numbers = TypeVar("Numbers", float, NDArray[np.float64])
"""A number, or an array of them: what is true of each is worked out for all at once."""

_MASK = (1 << 64) - 1
_HALF = float(1 << 63)
_STRIDE = 0x9E3779B97F4A7C15  # splitmix64's golden-ratio step
_FIRST_FACTOR = 0xBF58476D1CE4E5B9
_SECOND_FACTOR = 0x94D049BB133111EB

# (period in seconds, amplitude): the amplitude goes with the root of the period, as in a random walk, so that
# returns look alike at every horizon from minutes to weeks; at sigma 1 a day's change has a deviation near 1.
OCTAVES = tuple((DAY * days, math.sqrt(days)) for days in (32.0, 8.0, 2.0, 0.5, 0.125, 0.125 / 4, 0.125 / 16))


def digest(*parts: object) -> int:
    """A 64-bit number made of the parts' texts, stable across processes and machines."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def uniform(*parts: object) -> float:
    """A number in [0, 1) made of the parts' texts."""
    return digest(*parts) / 2.0**64


def pick(ids: Iterable[str], share: float, *parts: object) -> frozenset[str]:
    """The given share of ``ids`` (rounded to whole ids), chosen by digest: exact in number, stable in time."""
    ordered = sorted(ids, key=lambda item: digest(*parts, item))
    return frozenset(ordered[: round(share * len(ordered))])


def _lattice(key: int, index: int) -> float:
    """The noise at an integer place, in [-1, 1): splitmix64, as a blake2b per place would cost four times more."""
    return scrambled(key + index * _STRIDE) / _HALF - 1.0


def _lattice_at(key: int, places: NDArray[np.int64]) -> NDArray[np.float64]:
    return scrambled_at(key, places) / _HALF - 1.0


def exp(power: Numbers) -> Numbers:
    """e to the power of a number or of each of an array."""
    if isinstance(power, np.ndarray):
        return np.exp(power)
    return math.exp(power)


def sin(angle: Numbers) -> Numbers:
    """The sine of a number or of each of an array."""
    if isinstance(angle, np.ndarray):
        return np.sin(angle)
    return math.sin(angle)


def scrambled(number: int) -> int:
    """splitmix64's 64 bits of a number, taken modulo 2**64."""
    z = number & _MASK
    z = ((z ^ (z >> 30)) * _FIRST_FACTOR) & _MASK
    z = ((z ^ (z >> 27)) * _SECOND_FACTOR) & _MASK
    return z ^ (z >> 31)


def scrambled_at(key: int, places: NDArray[np.int64]) -> NDArray[np.uint64]:
    """``scrambled(key + place * stride)`` of every place at once; uint64, the same bits as one by one."""
    z = np.uint64(key & _MASK) + places.astype(np.uint64) * np.uint64(_STRIDE)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_FIRST_FACTOR)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_SECOND_FACTOR)
    return z ^ (z >> np.uint64(31))


def value_noise(key: int, at: Numbers) -> Numbers:
    """Smooth noise in [-1, 1] along ``at`` (one independent value per unit, eased in between)."""
    if isinstance(at, np.ndarray):
        places = np.floor(at).astype(np.int64)
        rest, low, high = at - places, _lattice_at(key, places), _lattice_at(key, places + 1)
    else:
        place = math.floor(at)
        rest, low, high = at - place, _lattice(key, place), _lattice(key, place + 1)
    return low + (high - low) * rest * rest * (3.0 - 2.0 * rest)


def walk(key: int, seconds: Numbers) -> Numbers:
    """A random walk's likeness at an epoch second, with unit deviation per day; O(1) at any time."""
    total = 0.0 * seconds
    for period, amplitude in OCTAVES:
        key = (key * 5 + 1) & _MASK  # another key per octave, or the octaves would move together at zero
        total = total + amplitude * value_noise(key, seconds / period)
    return total
