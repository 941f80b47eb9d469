"""Which spot markets the sandbox's venues list, with what each needs to be traded: steps, activity, listing times.

Belongs here: unchanging facts, as ``catalogue.py`` has them of assets. Trades are in ``tape.py``, what the venues call
these markets in their own modules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

from crypto_assets.sandbox.market import Market
from crypto_assets.sandbox.noise import digest

OPENED = datetime(2018, 1, 1, tzinfo=UTC)
"""No market traded before."""

# Printed prices and values have eight decimals at most, so that a value is exact: steps share them.
_PLACES = 8


@dataclass(frozen=True, slots=True)
class SpotMarket:
    """A market of a venue. Prices are counted in ticks of 10**-price_places, amounts in steps of 10**-amount_places.

    A trade's value is ticks times steps, in units of 10**-(price_places + amount_places), which never exceeds 8.
    """

    market_id: str
    venue: str
    base: str
    quote: str
    base_id: str
    quote_id: str
    price_places: int
    amount_places: int
    trades_per_minute: float
    typical_steps: int
    roughness: float
    listed_at: datetime
    delisted_at: datetime | None
    key: int

    @property
    def value_places(self) -> int:
        """Decimals of a trade's value."""
        return self.price_places + self.amount_places


_IDS = {
    "BTC": "bitcoin",
    "ETH": "ethereum",
    "USDT": "tether",
    "BNB": "binance-coin",
    "SOL": "solana",
    "USDC": "usd-coin",
    "XRP": "xrp",
    "DOGE": "dogecoin",
    "ADA": "cardano",
    "TRX": "tron",
    "AVAX": "avalanche",
    "SHIB": "shiba-inu",
    "LINK": "chainlink",
    "DOT": "polkadot",
    "BCH": "bitcoin-cash",
    "LTC": "litecoin",
    "UNI": "uniswap",
    "NEAR": "near-protocol",
    "DAI": "multi-collateral-dai",
    "XLM": "stellar",
    "FIL": "filecoin",
    "STX": "stacks",
    "USD": "united-states-dollar",
    "EUR": "euro",
}
_STEADY = ("USDT", "USDC", "DAI")

# Symbols by venue with the mean number of aggregate trades a minute: the last ones have minutes without any.
_LISTED: dict[str, dict[str, float]] = {
    "binance": {
        "BTC/USDT": 8.0,
        "ETH/USDT": 6.0,
        "BNB/USDT": 4.0,
        "SOL/USDT": 5.0,
        "XRP/USDT": 4.0,
        "DOGE/USDT": 4.0,
        "ADA/USDT": 3.0,
        "TRX/USDT": 3.0,
        "AVAX/USDT": 3.0,
        "SHIB/USDT": 3.0,
        "LINK/USDT": 3.0,
        "DOT/USDT": 3.0,
        "BCH/USDT": 3.0,
        "LTC/USDT": 3.0,
        "UNI/USDT": 3.0,
        "NEAR/USDT": 2.5,
        "XLM/USDT": 2.5,
        "FIL/USDT": 2.5,
        "USDC/USDT": 3.0,
        "ETH/BTC": 3.0,
        "BNB/BTC": 2.0,
        "SOL/BTC": 2.0,
        "BTC/USDC": 4.0,
        "ETH/USDC": 3.0,
        "BTC/EUR": 3.0,
        "STX/USDT": 1.0,
        "DAI/USDT": 0.7,
    },
    "kraken": {
        "BTC/USD": 4.0,
        "ETH/USD": 3.0,
        "SOL/USD": 2.0,
        "XRP/USD": 2.0,
        "DOGE/USD": 2.0,
        "ADA/USD": 1.5,
        "LTC/USD": 1.5,
        "BCH/USD": 1.0,
        "DOT/USD": 1.0,
        "LINK/USD": 1.0,
        "XLM/USD": 0.7,
        "BTC/EUR": 2.5,
        "ETH/EUR": 2.0,
        "ETH/BTC": 1.5,
        "USDT/USD": 2.0,
        "USDC/USD": 1.0,
    },
    "coinbase": {
        "BTC/USD": 6.0,
        "ETH/USD": 5.0,
        "SOL/USD": 4.0,
        "XRP/USD": 3.0,
        "DOGE/USD": 3.0,
        "ADA/USD": 2.0,
        "AVAX/USD": 2.0,
        "LINK/USD": 2.0,
        "DOT/USD": 2.0,
        "LTC/USD": 2.0,
        "BCH/USD": 1.5,
        "UNI/USD": 1.0,
        "SHIB/USD": 1.5,
        "XLM/USD": 0.7,
        "BTC/EUR": 1.5,
        "ETH/BTC": 1.5,
        "USDT/USD": 2.0,
    },
}
# First trades of coins that are younger than the market, about when they were in truth, at 08:00 UTC.
_YOUNGER = {
    "ADA": (2018, 4, 17),
    "XRP": (2018, 5, 4),
    "XLM": (2018, 5, 31),
    "TRX": (2018, 6, 11),
    "USDC": (2018, 12, 15),
    "LINK": (2019, 1, 16),
    "DOGE": (2019, 7, 5),
    "STX": (2019, 10, 25),
    "DAI": (2020, 7, 31),
    "SOL": (2020, 8, 11),
    "DOT": (2020, 8, 18),
    "UNI": (2020, 9, 17),
    "AVAX": (2020, 9, 22),
    "NEAR": (2020, 10, 14),
    "FIL": (2020, 10, 15),
    "SHIB": (2021, 5, 10),
}
_DELISTED = {"binance:DAI/USDT": datetime(2024, 8, 6, 3, tzinfo=UTC)}
_TYPICAL_USD = 350.0


def spot_markets(market: Market) -> dict[str, SpotMarket]:
    """Every spot market whose assets the market has, by market id, in the venue's order."""
    found = {}
    for venue, symbols in _LISTED.items():
        for symbol, rate in symbols.items():
            spot = _spot_market(market, venue, symbol, rate * market.activity)
            if spot is not None:
                found[spot.market_id] = spot
    return found


def _spot_market(market: Market, venue: str, symbol: str, rate: float) -> SpotMarket | None:
    base, quote = symbol.split("/")
    usd, per_quote = (market.base_price(_IDS[name]) for name in (base, quote))
    if usd is None or per_quote is None:
        return None
    # Five significant digits of price, and steps of about ten cents.
    price_places = min(_PLACES, max(2, 4 - math.floor(math.log10(usd / per_quote))))
    amount_places = min(_PLACES - price_places, max(0, math.floor(math.log10(usd)) + 1), 5)
    market_id = f"{venue}:{symbol}"
    listed_at = max((datetime(*_YOUNGER[s], 8, tzinfo=UTC) for s in (base, quote) if s in _YOUNGER), default=OPENED)
    return SpotMarket(
        market_id=market_id,
        venue=venue,
        base=base,
        quote=quote,
        base_id=_IDS[base],
        quote_id=_IDS[quote],
        price_places=price_places,
        amount_places=amount_places,
        trades_per_minute=rate,
        typical_steps=max(1, round(_TYPICAL_USD / usd * 10**amount_places)),
        roughness=0.1 if base in _STEADY else 1.0,
        listed_at=listed_at,
        delisted_at=_DELISTED.get(market_id),
        key=digest(market.seed, "tape", market_id),
    )
