"""CoinGecko's contract, spoken from the market: the coins of CoinCap's answers under CoinGecko's ids and fields.

Prices, caps and supplies are the market's, printed as CoinGecko prints them: JSON numbers, prices to six digits, whole
dollars where they are large. Staked and wrapped coins have no rank, as their caps are another coin's. One coin's last
update is days old. Limits and bans come by faults: ``rate_limited_minute`` (429 with ``retry-after``), ``throttled``
(429 in plain text), ``ban`` (a web page, 403).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from crypto_assets.sandbox.faults import Fault, spoil
from crypto_assets.sandbox.market import Market
from crypto_assets.sandbox.noise import digest
from crypto_assets.sandbox.replies import broken_off, json_reply
from crypto_assets.sandbox.source import Row, iso, milliseconds
from crypto_assets.sandbox.state import SandboxState

# CoinCap's id: CoinGecko's, where they differ.
_IDS = {
    "avalanche": "avalanche-2",
    "binance-coin": "binancecoin",
    "multi-collateral-dai": "dai",
    "near-protocol": "near",
    "stacks": "blockstack",
    "steth": "staked-ether",
    "xrp": "ripple",
}
_UNRANKED = ("steth", "wrapped-bitcoin")
_STALE = "filecoin"
_STALE_FOR = timedelta(days=3)
_REFRESH_S = 120  # other coins are refreshed within two minutes
_LARGEST_PAGE = 250
_WHOLE_FROM = 10_000  # dollars

_LIMITED = {
    "status": {
        "error_code": 429,
        "error_message": "You've exceeded the Rate Limit. Please visit https://www.coingecko.com/en/api/pricing to"
        " subscribe to our API plans for higher rate limits.",
    }
}
_BAN = (
    "<!DOCTYPE html><html><head><title>Access denied | api.coingecko.com used Cloudflare to restrict access</title>"
    "</head><body><h1>Error 1020</h1><p>Access denied</p></body></html>"
)

_Rows = Callable[[datetime], list[Row]]


def routes(market: Market, state: SandboxState) -> Sequence[Route]:
    """``/coins/markets`` and ``/exchanges``, in pages of up to 250."""

    async def markets(request: Request) -> Response:
        if request.query_params.get("vs_currency") != "usd":
            await state.met("coingecko.markets")
            return json_reply(422, {"error": "Missing parameter vs_currency"})
        return await _answer("coingecko.markets", request, state, lambda at: _coins(market, at))

    async def exchanges(request: Request) -> Response:
        return await _answer("coingecko.exchanges", request, state, lambda at: _exchanges(market, at))

    return [Route("/coins/markets", markets, methods=["GET"]), Route("/exchanges", exchanges, methods=["GET"])]


async def _answer(endpoint: str, request: Request, state: SandboxState, rows: _Rows) -> Response:
    refused, struck = await state.met(endpoint)
    refused = _refusal(struck) or refused
    if refused is not None:
        return refused
    page, per_page = (
        _whole(request.query_params.get(name), default) for name, default in (("page", 1), ("per_page", 100))
    )
    if page is None or per_page is None or not 1 <= per_page <= _LARGEST_PAGE:
        return json_reply(400, {"error": "Invalid parameter"})
    data: list[Any] = rows(state.now())[(page - 1) * per_page : page * per_page]
    for fault in struck:
        data = spoil(fault.kind, data)
    return broken_off(json_reply(200, data), struck)


def _refusal(struck: list[Fault]) -> Response | None:
    kinds = {fault.kind for fault in struck}
    if "ban" in kinds:
        return Response(_BAN, 403, media_type="text/html")
    if "throttled" in kinds:
        return Response("Throttled\n", 429, media_type="text/plain")
    return json_reply(429, _LIMITED, {"retry-after": "119"}) if "rate_limited_minute" in kinds else None


def _whole(text: str | None, default: int) -> int | None:
    if text is None:
        return default
    return int(text) if text.isascii() and text.isdigit() and 0 < len(text) < 7 and int(text) > 0 else None


def _coins(market: Market, at: datetime) -> list[Row]:
    rows, rank = [], 0
    for told in market.assets(at, "v3"):
        is_ranked = told["id"] not in _UNRANKED
        rank += is_ranked
        rows.append(_coin(told, rank if is_ranked else None, at))
    return rows


def _coin(told: Row, rank: int | None, at: datetime) -> Row:
    price, cap, change = (float(told[name]) for name in ("priceUsd", "marketCapUsd", "changePercent24Hr"))
    before = price / (1 + change / 100)
    supply, most = float(told["supply"]), told["maxSupply"]
    since = _STALE_FOR if told["id"] == _STALE else timedelta(seconds=digest("refreshed", told["id"]) % _REFRESH_S)
    return {
        "id": _IDS.get(told["id"], told["id"]),
        "symbol": told["symbol"].lower(),
        "name": told["name"],
        "image": f"https://coins.example/{told['id']}.png",
        "current_price": _printed(price),
        "market_cap": round(cap),
        "market_cap_rank": rank,
        "fully_diluted_valuation": round(price * float(most or supply)),
        "total_volume": round(float(told["volumeUsd24Hr"])),
        "high_24h": _printed(max(price, before)),
        "low_24h": _printed(min(price, before)),
        "price_change_24h": price - before,
        "price_change_percentage_24h": round(change, 5),
        "market_cap_change_24h": cap * change / (100 + change),
        "market_cap_change_percentage_24h": round(change, 5),
        "circulating_supply": supply,
        "total_supply": supply,
        "max_supply": None if most is None else float(most),
        "ath": None,
        "ath_change_percentage": None,
        "ath_date": None,
        "atl": None,
        "atl_change_percentage": None,
        "atl_date": None,
        "roi": None,
        "last_updated": iso(milliseconds(at - since)),
        "market_cap_rank_with_rehypothecated": int(told["rank"]),
    }


def _printed(price: float) -> float | int:
    return round(price) if price >= _WHOLE_FROM else float(f"{price:.6g}")


def _exchanges(market: Market, at: datetime) -> list[Row]:
    bitcoin = market.price("bitcoin", at)
    return [_exchange(told, rank, bitcoin) for rank, told in enumerate(market.exchanges(at, "v3"), 1)]


def _exchange(told: Row, rank: int, bitcoin: float | None) -> Row:
    """One that states no volume has no score either, and nobody knows where it is."""
    volume = told["volumeUsd"]
    is_known = volume is not None
    return {
        "id": told["exchangeId"],
        "name": told["name"],
        "year_established": 2011 + digest("founded", told["exchangeId"]) % 12 if is_known else None,
        "country": "Cayman Islands" if is_known else None,
        "description": "",
        "url": told["exchangeUrl"],
        "image": f"https://exchanges.example/{told['exchangeId']}.png",
        "has_trading_incentive": False,
        "trust_score": max(1, 10 - rank // 4) if is_known else None,
        "trust_score_rank": rank if is_known else None,
        "trade_volume_24h_btc": float(volume) / bitcoin if is_known and bitcoin else None,
    }
