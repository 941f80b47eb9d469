"""Alpha Vantage in the sandbox: one path, one function a call, status 200 whatever happens.

Belongs here: its functions, envelopes, key styles and errors. Prices are the market's. A key beginning with
``premium`` may ask for everything and without end; ``demo`` gets the reminder to claim a key; every other one, and
none, is a free key of 25 calls a day. Before 2024 by the market's time answers have the old keys, as the provider's
had.

Faults are told in the provider's words: ``rate_limited_minute`` is its Note, a used-up quota its Information with the
key in it, ``not_found`` and ``empty_list`` are empty envelopes. What no provider words (``html``, ``server_error``) is
as everywhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache, partial
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from crypto_assets.sandbox.catalogue import CURRENCIES
from crypto_assets.sandbox.market import Market
from crypto_assets.sandbox.noise import uniform
from crypto_assets.sandbox.replies import broken_off, json_reply
from crypto_assets.sandbox.state import SandboxState

NAME = "alpha_vantage"
CALLS_PER_DAY = 25
NEW_KEYS_SINCE = datetime(2024, 1, 1, tzinfo=UTC)
# The provider's cap while it had one; what the free series holds today is not known.
MOST_POINTS = 1000
SPACINGS = {f"{minutes}min": timedelta(minutes=minutes) for minutes in (1, 5, 15, 30, 60)}
COMPACT = 100
_DAY = timedelta(days=1)
_FIRST_DAY = datetime(2018, 1, 1, tzinfo=UTC)
# Samples that make a candle, besides its close, which is where the next one opens.
_SAMPLES = 4

DEMO = (
    "The **demo** API key is for demo purposes only. Please claim your free API key at"
    " (https://www.alphavantage.co/support/#api-key) to explore our full API offerings. It takes fewer than 20 seconds."
)
PREMIUM = (
    "Thank you for using Alpha Vantage! This is a premium endpoint. You may subscribe to any of the premium plans at"
    " https://www.alphavantage.co/premium/ to instantly unlock all premium endpoints"
)
NOTE = (
    "Thank you for using Alpha Vantage! Our standard API call frequency is 5 calls per minute and 500 calls per day."
    " Please visit https://www.alphavantage.co/premium/ if you would like to target a higher API call frequency."
)
QUOTA = (
    "We have detected your API key as {} and our standard API rate limit is 25 requests per day. Please subscribe to"
    " any of the premium plans at https://www.alphavantage.co/premium/ to instantly remove all daily rate limits."
)


class Thing(NamedTuple):
    """What a code stands for: an asset or a currency of the market."""

    id: str
    name: str


class Candle(NamedTuple):
    """Prices in the market's currency; ``usd`` the same in USD."""

    opened: datetime
    prices: tuple[float, float, float, float]
    usd: tuple[float, float, float, float]
    volume: float


class Exchange:
    """What the provider knows of a pair: the rate now and the candles of its past, made of the market's prices."""

    def __init__(self, market: Market) -> None:
        self._market = market
        # A day that is over never changes; two pairs of a thousand days are asked for again and again.
        self.day = lru_cache(maxsize=20_000)(self._day)

    def thing(self, code: str, at: datetime) -> Thing | None:
        """The currency or the largest asset with this code; None where there is none."""
        for currency in CURRENCIES:
            if currency.symbol == code:
                return Thing(currency.id, currency.id.replace("-", " ").title())
        rows = (row for row in self._market.assets(at) if row["symbol"] == code)
        return next((Thing(row["id"], row["name"]) for row in rows), None)

    def rate(self, base: str, quote: str, at: datetime) -> float:
        """The price of one in the other."""
        return (self._market.price(base, at) or 0.0) / (self._market.price(quote, at) or 1.0)

    def candle(self, base: str, quote: str, opened: datetime, ends: datetime) -> Candle:
        """The candle of [opened, ends)."""
        step = (ends - opened) / _SAMPLES
        moments = [opened + step * n for n in range(_SAMPLES)] + [ends]
        prices = [self.rate(base, quote, at) for at in moments]
        usd = [self.rate(base, "united-states-dollar", at) for at in moments]
        volume = (ends - opened) / _DAY * 2000 * (0.5 + uniform(self._market.seed, NAME, base, quote, opened))
        return Candle(opened, _ohlc(prices), _ohlc(usd), volume)

    def _day(self, base: str, quote: str, opened: datetime) -> Candle:
        return self.candle(base, quote, opened, opened + _DAY)

    def days(self, base: str, quote: str, now: datetime) -> list[Candle]:
        """Every day's candle, the day in progress last."""
        today = now.replace(hour=0, minute=0, second=0, microsecond=0)
        first = max(_FIRST_DAY, today - (MOST_POINTS - 1) * _DAY)
        over = [self.day(base, quote, first + n * _DAY) for n in range((today - first).days)]
        return [*over, *([self.candle(base, quote, today, now)] if now > today else [])]


def routes(market: Market, state: SandboxState) -> Sequence[Route]:
    """The one path."""
    exchange, spent = Exchange(market), Counter[tuple[str, date]]()

    async def query(request: Request) -> Response:
        asked = request.query_params
        function = asked.get("function", "")
        refusal, struck = await state.met(f"{NAME}.{function.lower()}" if function.isidentifier() else NAME)
        kinds = {fault.kind for fault in struck}
        if refusal is not None and kinds & {"html", "server_error"}:
            return refusal
        key = asked.get("apikey", "")
        answer = _told(kinds, key) or _refused(function, key, spent, state.clock().astimezone(UTC).date())
        if answer is not None:
            return json_reply(200, answer)
        answer = _FUNCTIONS[function](exchange, asked, state.now())
        if kinds & {"not_found", "empty_list"}:
            answer = _emptied(answer)
        is_csv = asked.get("datatype") == "csv" and _series_name(answer) is not None
        return broken_off(_csv(answer) if is_csv else json_reply(200, answer), struck)

    return [Route("/query", query, methods=["GET"])]


def _told(kinds: Set[str], key: str) -> dict[str, object] | None:
    """A fault in the provider's words."""
    if "rate_limited_minute" in kinds:
        return {"Note": NOTE}
    return {"Information": QUOTA.format(key)} if kinds & {"quota_429", "quota_403"} else None


def _refused(function: str, key: str, spent: Counter[tuple[str, date]], today: date) -> dict[str, object] | None:
    """The error that the call gets before anybody looks at what it asks for, or None and one call spent."""
    if key == "demo":
        return {"Information": DEMO}
    if function not in _FUNCTIONS:
        return {"Error Message": f"This API function ({function}) does not exist."}
    if not key.startswith("premium"):
        if spent[key, today] >= CALLS_PER_DAY:
            return {"Information": QUOTA.format(key)}
        spent[key, today] += 1
        if function == "CRYPTO_INTRADAY":
            return {"Information": PREMIUM}
    return None


def _emptied(answer: Mapping[str, object]) -> dict[str, object]:
    return {name: value if name == "Meta Data" else {} for name, value in answer.items()}


def _rate(exchange: Exchange, asked: Mapping[str, str], now: datetime) -> dict[str, object]:
    codes = asked.get("from_currency", "").upper(), asked.get("to_currency", "").upper()
    base, quote = (exchange.thing(code, now) for code in codes)
    if base is None or quote is None:
        return {"Realtime Currency Exchange Rate": {}}
    rate = exchange.rate(base.id, quote.id, now)
    return {
        "Realtime Currency Exchange Rate": {
            "1. From_Currency Code": codes[0],
            "2. From_Currency Name": base.name,
            "3. To_Currency Code": codes[1],
            "4. To_Currency Name": quote.name,
            "5. Exchange Rate": _digits(rate),
            "6. Last Refreshed": f"{now:%Y-%m-%d %H:%M:%S}",
            "7. Time Zone": "UTC",
            "8. Bid Price": _digits(rate * (1 - 1e-4)),
            "9. Ask Price": _digits(rate * (1 + 1e-4)),
        }
    }


def _series(exchange: Exchange, asked: Mapping[str, str], now: datetime, spacing: str) -> dict[str, object]:
    """Days, or weeks from Monday and months made of them; a bucket is stamped with its last day, or today."""
    codes = asked.get("symbol", "").upper(), asked.get("market", "").upper()
    base, quote = (exchange.thing(code, now) for code in codes)
    is_old = now < NEW_KEYS_SINCE
    newest = f"{now:%Y-%m-%d} (end of day)" if is_old else f"{now:%Y-%m-%d} 00:00:00"
    meta = _meta(f"{spacing} Prices and Volumes for Digital Currency", codes, (base, quote), newest)
    if base is None or quote is None:
        return {"Meta Data": meta}
    buckets: dict[date, list[Candle]] = {}
    for day in exchange.days(base.id, quote.id, now):
        opens = _opening(day.opened.date(), spacing)
        # Nothing is told of a bucket whose beginning lies before the series'.
        if buckets or opens == day.opened.date():
            buckets.setdefault(opens, []).append(day)
    points = {
        str(days[-1].opened.date()): _point(_rolled(days), codes[1] if is_old else None) for days in buckets.values()
    }
    return {"Meta Data": meta, f"Time Series (Digital Currency {spacing})": dict(reversed(points.items()))}


def _intraday(exchange: Exchange, asked: Mapping[str, str], now: datetime) -> dict[str, object]:
    codes = asked.get("symbol", "").upper(), asked.get("market", "").upper()
    base, quote = (exchange.thing(code, now) for code in codes)
    spacing = asked.get("interval", "")
    if spacing not in SPACINGS:
        return {"Error Message": "Invalid API call. Please retry or visit the documentation for CRYPTO_INTRADAY."}
    step = SPACINGS[spacing]
    newest = now - (now - _FIRST_DAY) % step
    meta = _meta(f"Crypto Intraday ({spacing}) Time Series", codes, (base, quote), f"{newest:%Y-%m-%d %H:%M:%S}")
    zone = meta.pop("7. Time Zone")
    meta |= {"7. Interval": spacing, "8. Output Size": asked.get("outputsize", "compact").title(), "9. Time Zone": zone}
    if base is None or quote is None:
        return {"Meta Data": meta}
    n = MOST_POINTS if asked.get("outputsize") == "full" else COMPACT
    points: dict[str, object] = {}
    for opened in (newest - step * back for back in range(n)):
        candle = exchange.candle(base.id, quote.id, opened, max(min(opened + step, now), opened + timedelta(seconds=1)))
        names = ("1. open", "2. high", "3. low", "4. close")
        point: dict[str, object] = {name: _digits(price, 5) for name, price in zip(names, candle.prices, strict=True)}
        points[f"{opened:%Y-%m-%d %H:%M:%S}"] = {**point, "5. volume": int(candle.volume)}
    return {"Meta Data": meta, f"Time Series Crypto ({spacing})": points}


_FUNCTIONS: Mapping[str, Callable[[Exchange, Mapping[str, str], datetime], dict[str, object]]] = {
    "CURRENCY_EXCHANGE_RATE": _rate,
    "DIGITAL_CURRENCY_DAILY": partial(_series, spacing="Daily"),
    "DIGITAL_CURRENCY_WEEKLY": partial(_series, spacing="Weekly"),
    "DIGITAL_CURRENCY_MONTHLY": partial(_series, spacing="Monthly"),
    "CRYPTO_INTRADAY": _intraday,
}


def _meta(
    told: str, codes: tuple[str, str], things: tuple[Thing | None, Thing | None], newest: str
) -> dict[str, str | None]:
    names = [thing.name if thing else None for thing in things]
    return {
        "1. Information": told,
        "2. Digital Currency Code": codes[0],
        "3. Digital Currency Name": names[0],
        "4. Market Code": codes[1],
        "5. Market Name": names[1],
        "6. Last Refreshed": newest,
        "7. Time Zone": "UTC",
    }


def _point(candle: Candle, market: str | None) -> dict[str, str]:
    """A point with the old keys, which name the market's currency, or with the new ones."""
    names = ("open", "high", "low", "close")
    if market is None:
        prices = {f"{n}. {name}": _digits(candle.prices[n - 1]) for n, name in enumerate(names, 1)}
        return {**prices, "5. volume": _digits(candle.volume)}
    both: dict[str, str] = {}
    for n, name in enumerate(names, 1):
        both[f"{n}a. {name} ({market})"] = _digits(candle.prices[n - 1])
        both[f"{n}b. {name} (USD)"] = _digits(candle.usd[n - 1])
    # Nonsense as it was sent: with USD as the market the cap is the volume.
    cap = candle.volume if market == "USD" else candle.volume * candle.usd[3]
    return {**both, "5. volume": _digits(candle.volume), "6. market cap (USD)": _digits(cap)}


def _opening(day: date, spacing: str) -> date:
    if spacing == "Weekly":
        return day - day.weekday() * _DAY
    return day.replace(day=1) if spacing == "Monthly" else day


def _rolled(days: list[Candle]) -> Candle:
    def over(prices: list[tuple[float, float, float, float]]) -> tuple[float, float, float, float]:
        return prices[0][0], max(p[1] for p in prices), min(p[2] for p in prices), prices[-1][3]

    volume = sum(day.volume for day in days)
    return Candle(days[0].opened, over([d.prices for d in days]), over([d.usd for d in days]), volume)


def _ohlc(prices: list[float]) -> tuple[float, float, float, float]:
    return prices[0], max(prices), min(prices), prices[-1]


def _series_name(answer: Mapping[str, object]) -> str | None:
    return next((name for name in answer if name.startswith("Time Series")), None)


def _csv(answer: Mapping[str, object]) -> Response:
    points = answer[_series_name(answer) or ""]
    lines: list[str] = []
    for stamp, point in points.items() if isinstance(points, dict) else ():
        lines = lines or [",".join(["timestamp", *(name.partition(". ")[2] for name in point)])]
        lines.append(",".join([stamp, *(str(value) for value in point.values())]))
    return Response("\r\n".join([*lines, ""]), 200, media_type="application/x-download")


def _digits(value: float, places: int = 8) -> str:
    return f"{Decimal(value):.{places}f}"
