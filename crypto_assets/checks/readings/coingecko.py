"""CoinGecko's answers, read a second time."""

from __future__ import annotations

from collections.abc import Mapping

from crypto_assets.checks.readings.reading import Reading, at_the_answer, by_fields, json_records
from crypto_assets.providers import coingecko
from crypto_assets.tables import raw
from crypto_assets.tables.contract import Contract

READINGS: Mapping[type[Contract], Reading] = {
    raw.RawCoingeckoMarkets: Reading(
        json_records,
        at_the_answer,
        coingecko.ASSET_FIELDS,
        ("provider_asset_id",),
        by_fields("id"),
        coingecko.KNOWN_FIELDS,
    ),
    raw.RawCoingeckoExchanges: Reading(
        json_records,
        at_the_answer,
        coingecko.EXCHANGE_FIELDS,
        ("exchange_id",),
        by_fields("id"),
        coingecko.KNOWN_FIELDS,
    ),
}
