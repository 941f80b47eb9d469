"""The one place where everything is put together; read this first.

``build_definitions(settings)`` lists what there is: raw assets by provider (absent where they cannot run), trusted and
refined assets, checks, jobs, the schedule, the sensors and the resources. No I/O and no heavy import happens here.
"""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from crypto_assets.assets.handles import absence, handles
from crypto_assets.assets.lake_asset import linked
from crypto_assets.assets.quality import gaps, operations
from crypto_assets.assets.raw import alpha_vantage, binance_archive, coincap, coingecko, exchanges, mempool, stream
from crypto_assets.assets.refined import dimensions, market, venues
from crypto_assets.assets.trusted import facts
from crypto_assets.automation import jobs, repair, restatements, schedules, sensors, streams
from crypto_assets.checks.asset_checks import checks_of
from crypto_assets.checks.streams import speaking
from crypto_assets.resources.catalog import catalog_of
from crypto_assets.resources.settings import Settings

# The raw assets of each provider.
RAW = {
    "alpha_vantage": alpha_vantage,
    "binance_archive": binance_archive,
    "coincap": coincap,
    "coingecko": coingecko,
    "exchanges": exchanges,
    "mempool": mempool,
}


def build_definitions(settings: Settings, resources: Mapping[str, object] | None = None) -> dg.Definitions:
    """All definitions for these settings; ``resources`` replace the usual ones (tests, the demo)."""
    present = [name for name in RAW if absence(name, settings) is None]
    raw = dg.load_assets_from_modules([RAW[name] for name in present])
    derived = dg.load_assets_from_modules([facts, market, dimensions, venues, operations, gaps])
    return dg.Definitions(
        assets=linked([*raw, *stream.SPECS, *derived], catalog_of(settings.catalog, settings.catalog_prefix)),
        asset_checks=[*checks_of([*raw, *derived], settings.state_dir.resolve() / "data_docs"), speaking],
        jobs=[
            jobs.refresh,
            jobs.maintenance(settings),
            jobs.disaster_drill(settings),
            *([restatements.restatements] if "binance_archive" in present else []),
        ],
        schedules=[
            *schedules.live(settings),
            *schedules.daily_history(settings),
            *schedules.restatements(settings),
            schedules.maintenance(settings),
        ],
        sensors=[sensors.automation, sensors.run_failure, repair.gap_repair(settings), streams.closed_hours(settings)],
        resources={**handles(settings), **(resources or {})},
        executor=dg.in_process_executor,
    )


defs = build_definitions(Settings())
