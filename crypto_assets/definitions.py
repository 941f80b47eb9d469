"""The one place where everything is put together; read this first.

``build_definitions(settings)`` lists what there is: raw assets by provider (absent where they cannot run), trusted and
refined assets, checks, jobs, the schedule, the sensors and the resources. No I/O and no heavy import happens here.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import dagster as dg

# Partitioned checks and single-run backfills are marked preview and beta; tests/test_upstream.py pins what we rely on.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

from crypto_assets.assets.handles import handles  # noqa: E402
from crypto_assets.assets.quality import operations  # noqa: E402
from crypto_assets.assets.raw import coincap  # noqa: E402
from crypto_assets.assets.refined import dimensions, market  # noqa: E402
from crypto_assets.assets.trusted import facts  # noqa: E402
from crypto_assets.automation import jobs, schedules, sensors  # noqa: E402
from crypto_assets.checks.asset_checks import checks_of  # noqa: E402
from crypto_assets.resources.settings import Settings  # noqa: E402


def build_definitions(settings: Settings, resources: Mapping[str, object] | None = None) -> dg.Definitions:
    """All definitions for these settings; ``resources`` replace the usual ones (tests, the demo)."""
    has_coincap = settings.coincap_absence is None
    raw = dg.load_assets_from_modules([coincap]) if has_coincap else []
    derived = dg.load_assets_from_modules([facts, market, dimensions, operations])
    return dg.Definitions(
        assets=[*raw, *derived],
        asset_checks=checks_of([*raw, *derived], settings.state_dir.resolve() / "data_docs"),
        jobs=[jobs.refresh, jobs.maintenance],
        schedules=[*(schedules.live(settings) if has_coincap else []), schedules.maintenance],
        sensors=[sensors.automation, sensors.run_failure],
        resources={**handles(settings), **(resources or {})},
        executor=dg.in_process_executor,
    )


defs = build_definitions(Settings())
