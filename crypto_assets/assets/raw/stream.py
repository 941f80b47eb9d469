"""What streams deliver, as external assets: ``crypto-assets stream`` writes these tables, Dagster only looks at them.

A websocket has no end that a run could wait for. What Dagster knows of the tables is observed by the sensor in
``automation/streams.py``, which also starts the runs that carry closed hours on; whether a stream that runs is silent
is the check ``speaking`` in ``checks/streams.py``.
"""

import dagster as dg

from crypto_assets.assets.lake_asset import asset_facts
from crypto_assets.tables import stream
from crypto_assets.tables.contract import Contract


def _spec(contract: type[Contract]) -> dg.AssetSpec:
    facts = asset_facts(contract)
    return dg.AssetSpec(
        key=facts["key"],
        description=facts["description"],
        group_name=facts["group_name"],
        kinds={"delta", "websocket"},
        owners=facts["owners"],
        tags=facts["tags"],
        metadata=facts["metadata"],
        partitions_def=facts["partitions_def"],
    )


SPECS = [_spec(contract) for contract in stream.TABLES]
