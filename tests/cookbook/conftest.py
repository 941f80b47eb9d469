"""The simulated market's lake, made once, and the engine that answers over it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from crypto_assets.resources.lake import Lake
from crypto_assets.resources.query import QueryEngine
from crypto_assets.tables import BY_NAME
from crypto_assets.tables.views import VIEWS
from tests.market_lake import market_lake


@pytest.fixture(scope="session")
def market(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return market_lake(tmp_path_factory.mktemp("market"))


@pytest.fixture(scope="session")
def engine(market: Lake) -> Iterator[QueryEngine]:
    with QueryEngine({name: market.uri(table) for name, table in BY_NAME.items()}, VIEWS) as opened:
        yield opened
