"""Good answers to spoil, and the whole way from a provider's answer to the tables, without Dagster.

A test changes one thing in a good answer and looks at what every table holds then. How answers break below JSON is in
``hostile.py``.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from crypto_assets.assets.lake_asset import settle_window
from crypto_assets.assets.raw.pulls import land
from crypto_assets.providers import coincap
from crypto_assets.providers.coincap import CoinCap, Plan
from crypto_assets.resources.budget import Budget
from crypto_assets.resources.clock import Clock, FixedClock
from crypto_assets.resources.http import Client
from crypto_assets.resources.lake import Lake
from crypto_assets.tables import quality, raw, trusted
from crypto_assets.tables.conform import Records
from crypto_assets.tables.contract import Contract
from crypto_assets.tables.window import Window
from tests.faults.hostile import Hostile, hostile

NOON = datetime(2026, 10, 1, 12, tzinfo=UTC)
DAY = Window.of_day(NOON.date())
KEY = "CANARY-Key-9f3a7c51d2e84b06"
# One more than a round number: the provider need not be asked for a second page.
N_ASSETS = 41
PARSERS: Mapping[type[Contract], Callable[[pl.DataFrame], Records]] = {
    trusted.AssetSnapshots: coincap.parse_assets,
    trusted.FxRates: coincap.parse_rates,
    trusted.AssetHistory: coincap.parse_history,
}
PULLS = {raw.RawCoincapAssets: CoinCap.assets, raw.RawCoincapRates: CoinCap.rates}


def asset(number: int, **changes: Any) -> dict[str, Any]:
    """A good record of /assets; a text between two ``@`` stands in the JSON as it is, without quotes."""
    return {
        "id": f"asset-{number}",
        "rank": str(number),
        "symbol": f"A{number}",
        "name": f"Asset {number}",
        "priceUsd": "2.5",
        "supply": "1000",
        "marketCapUsd": "2500",
        "maxSupply": None,
        "volumeUsd24Hr": "10",
        "changePercent24Hr": "0.1",
        "vwap24Hr": "2.5",
        "explorer": None,
        "tokens": {},
        **changes,
    }


def assets(n: int = N_ASSETS, **changes: Any) -> list[dict[str, Any]]:
    """The good records of a market; the changes hit its seventh asset."""
    return [asset(i, **(changes if i == 7 else {})) for i in range(1, n + 1)]


def ms(moment: datetime) -> int:
    """Epoch milliseconds, as CoinCap tells time."""
    return round(moment.timestamp() * 1000)


def body(records: Iterable[Any], at: datetime = NOON) -> bytes:
    """The records in CoinCap's envelope."""
    told = json.dumps({"data": list(records), "timestamp": ms(at)})
    return re.sub(r'"@(.*?)@"', r"\1", told).encode()


GOOD = body(assets())
RATES = body([{"id": "euro", "symbol": "EUR", "currencySymbol": "€", "type": "fiat", "rateUsd": "1.08"}])


@dataclass
class Line:
    """A hostile provider, a client that asks it, and a lake."""

    server: Hostile
    coincap: CoinCap
    lake: Lake
    clock: FixedClock

    def pull(self, contract: type[raw.RawAnswers] = raw.RawCoincapAssets) -> pl.DataFrame:
        """One live pull; returns the rows that were new, and raises what the asset would fail with."""
        return land(self.lake, contract, [PULLS[contract](self.coincap)])

    def history(self, first: date, last: date, warn: Callable[[str], object] | None = None) -> pl.DataFrame:
        """Bitcoin's history of the days."""
        pulls = self.coincap.history("bitcoin", Window.of_days(first, last))
        return land(self.lake, raw.RawCoincapHistory, pulls, warn)

    def settle(self, contract: type[Contract] = trusted.AssetSnapshots, window: Window = DAY) -> pl.DataFrame:
        """What the table holds of the window after it was computed."""
        settle_window(self.lake, contract, {trusted.RAW_OF[contract][0]: PARSERS[contract]}, window)
        return self.lake.read(contract, window)

    def refused(self) -> dict[str, str]:
        """The reasons by the id that each quarantined record gives (the record itself where it has none)."""
        found: dict[str, str] = {}
        for reasons, record in self.lake.read(quality.Quarantine).select("reasons", "record").rows():
            named = re.search(r'"id": ?"([^"]*)"', record)
            found[named[1] if named else record] = reasons
        return found

    def evidence(self) -> tuple[set[str], list[bytes]]:
        """The outcomes and bodies that raw holds of pulls that broke off."""
        held = self.lake.read(raw.RawCoincapAssets).filter(pl.col("n_pages").is_null())
        return set(held["outcome"]), held["body"].to_list()

    def forward(self, **span: float) -> None:
        self.clock.set(self.clock.now() + timedelta(**span))


@contextmanager
def line(home: Path, *scripts: Any, time: Clock | None = None, **changes: Any) -> Iterator[Line]:
    """A line to a server with these scripts; ``time`` and ``changes`` replace the client's clock and patience."""
    clock = FixedClock(NOON)
    with hostile(*scripts) as server:
        source = replace(coincap.source(server.url, key=KEY, plan=Plan(1000, 1_000_000)), **changes)
        budget = Budget(home / "state.sqlite", source.name, source.limits, time or clock)
        jitter = random.Random(7)
        client = Client(source, budget=budget, clock=time or clock, random=jitter, allow_loopback=True)
        with closing(client):
            yield Line(server, CoinCap(client, source), Lake(str(home / "lake"), clock=clock), clock)
