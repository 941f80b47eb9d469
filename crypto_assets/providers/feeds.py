"""Every feed, by name."""

from __future__ import annotations

from collections.abc import Mapping

from crypto_assets.providers import binance_stream, coinbase_stream, coincap_stream, finnhub
from crypto_assets.providers.feed import Feed

FEEDS: Mapping[str, Feed] = {
    feed.name: feed for feed in (binance_stream.FEED, coinbase_stream.FEED, coincap_stream.FEED, finnhub.FEED)
}
