"""Every raw table's second reading, by table."""

from __future__ import annotations

from collections.abc import Mapping

from crypto_assets.checks.readings import coincap
from crypto_assets.checks.readings.reading import Reading
from crypto_assets.tables import raw

READINGS: Mapping[type[raw.RawAnswers], Reading] = {**coincap.READINGS}

__all__ = ["READINGS", "Reading"]
