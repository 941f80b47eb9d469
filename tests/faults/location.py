"""The code location of test_daemons.py's daemons: the product's schedules over one endpoint's answers and their facts.

Both schedules are the product's own. The clock that they are handed is the machine's, moved by what a file says; where
a meeting place is named, it also makes the first ticks of two daemons wait for each other, so that they do coincide.
"""

import os
import time
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg

from crypto_assets.assets.handles import handles
from crypto_assets.automation import jobs, schedules
from crypto_assets.definitions import build_definitions
from crypto_assets.resources.clock import SystemClock
from crypto_assets.resources.settings import Settings

# Seconds by which these daemons' clock is ahead, in a file.
AHEAD = "TEST_CLOCK_AHEAD"
# A directory where two daemons meet before their first tick goes on.
MEETING = "TEST_MEETING"
FX_RATES = dg.AssetKey(["trusted", "fx_rates"])
# Longer than one daemon may lag behind the other, shorter than Dagster waits for a tick.
_PATIENCE_S = 30.0


class MovedClock(SystemClock):
    def now(self) -> datetime:
        if meeting := os.environ.get(MEETING):
            _meet(Path(meeting))
        ahead = Path(os.environ[AHEAD])
        return super().now() + timedelta(seconds=float(ahead.read_text()) if ahead.exists() else 0)


def _meet(place: Path) -> None:
    place.mkdir(exist_ok=True)
    (place / str(os.getpid())).touch()
    deadline = time.monotonic() + _PATIENCE_S
    while len(list(place.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)


def build(settings: Settings) -> dg.Definitions:
    everything = build_definitions(settings)
    clock = MovedClock()
    assets = [each for each in everything.assets or [] if isinstance(each, dg.AssetsDefinition)]
    return dg.Definitions(
        # A tick asks for every endpoint of now; of what follows, one table is enough.
        assets=[each for each in assets if each.key.path[0] == "raw" or each.key == FX_RATES],
        jobs=[jobs.refresh, jobs.maintenance(settings)],
        schedules=[*schedules.live(settings, clock), schedules.maintenance(settings, clock)],
        resources=handles(settings),
        executor=dg.in_process_executor,
    )


defs = build(Settings())
