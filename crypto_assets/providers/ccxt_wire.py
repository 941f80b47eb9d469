"""ccxt as a dictionary: it says what to ask of a venue and what the answer means, and never touches the network.

Belongs here: how a class of ccxt is loaded without the hundred others, and how it is made to hand its requests out and
to take answers in. Which venues there are and what is done with their answers is in ``exchanges.py``.

Source: ccxt 4.5.90. What is leaned on is pinned in ``tests/providers/test_exchanges.py``.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from functools import cache
from typing import Any

from crypto_assets.errors import UsageError

# What reading an answer of another shape than was due ends in.
_NOT_READABLE = (AttributeError, TypeError, LookupError, ValueError, ArithmeticError, RecursionError)
# Of seconds since 1970: these come after the year 30 million.
_MOST_DIGITS = 15
# What a market is, as far as asking for it and reading its answers goes.
_SPOT = {
    "type": "spot",
    "spot": True,
    "active": True,
    "contract": False,
    "margin": False,
    "swap": False,
    "future": False,
    "option": False,
    "linear": None,
    "inverse": None,
}


class Digits(str):
    """A JSON number that is not whole, as the text that was sent, told apart from JSON text."""

    __slots__ = ()


def decoded(body: bytes, number: type[str] = str) -> Any:
    """The JSON of a body; numbers that are not whole keep their text, as ``number``: no digit is lost to a float.

    Raises ValueError or RecursionError.
    """
    return json.loads(body.decode(), parse_float=number, parse_constant=_refused)


def encoded(value: Any) -> str:
    """The JSON text of what ``decoded`` gave with ``Digits``, as it was sent but for the blanks."""
    if isinstance(value, Digits):
        return str(value)
    if isinstance(value, list):
        return f"[{','.join(map(encoded, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{encoded(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


class Wire:
    """Mixed into an exchange of ccxt: ``wire`` takes an address and gives the body; numbers stay text.

    Candles and trades come as pairs of a record as it was sent and what ccxt makes of it (None where it cannot), all of
    them, in the order that they were sent: nothing is sorted, cut, or computed.
    """

    number = str
    wire: Callable[[str], bytes]
    # What a number that is not whole is decoded as; ccxt reads plain text only, ``Digits`` are for a record's own text.
    digits: type[str] = str
    parse_ohlcv: Callable[[Any, Any], Any]
    parse_trade: Callable[[Any, Any], Any]

    def fetch(self, url: str, method: str = "GET", headers: Any = None, body: Any = None) -> Any:
        """What every request of ccxt goes through."""
        del headers
        if method != "GET" or body:
            raise ValueError("only questions are asked here")
        return self.answered(decoded(self.wire(url), self.digits))

    def answered(self, told: Any) -> Any:
        """The decoded answer, where a venue needs a word more. Raises ValueError for what cannot be one."""
        if not isinstance(told, list | dict):
            raise ValueError("no answer has this shape")
        return told

    def parse_ohlcvs(self, ohlcvs: Any, market: Any = None, *_: Any, **__: Any) -> list[tuple[Any, Any]]:
        return [(sent, _read(self.parse_ohlcv, sent, market)) for sent in _listed(ohlcvs)]

    def parse_trades(self, trades: Any, market: Any = None, *_: Any, **__: Any) -> list[tuple[Any, Any]]:
        return [(sent, _read(self.parse_trade, sent, market)) for sent in _listed(trades)]

    @staticmethod
    def safe_timestamp(told: Any, key: Any, default: Any = None) -> Any:
        """Milliseconds of seconds, exactly: ccxt multiplies floats, and is a millisecond off now and then."""
        try:
            seconds = Decimal(str(told[key]))
            # Beyond this no whole number is made of it: the text of a few bytes may mean gigabytes of digits.
            return int(seconds * 1000) if seconds.adjusted() < _MOST_DIGITS else default
        except (LookupError, TypeError, ValueError, ArithmeticError):
            return default

    def safe_trade(self, trade: Any, market: Any = None) -> Any:
        del market
        return trade

    def safe_ticker(self, ticker: Any, market: Any = None) -> Any:
        del market
        return ticker


class _Plain(Wire):
    """A venue that answers with bare lists."""

    def to_array(self, told: Any) -> list[Any]:
        # ccxt takes a mapping for a list of its values, and an error that it does not know for a list of nothing.
        return _listed(told)


class _Kraken(Wire):
    def answered(self, told: Any) -> Any:
        """Kraken keys its answer by its own name of the pair (XXBTZUSD), whatever name it was asked by (XBTUSD)."""
        result = told.get("result") if isinstance(told, dict) else None
        if not isinstance(result, dict):
            raise ValueError("the answer has no result")
        markets = getattr(self, "markets_by_id", None) or {}
        keys = [key for key in result if key != "last"]
        if len(markets) == 1 and len(keys) == 1:
            result[next(iter(markets))] = result.pop(keys[0])
        return told


_WIRES: Mapping[str, type[Wire]] = {"binance": _Plain, "coinbaseexchange": _Plain, "kraken": _Kraken}


def _listed(told: Any) -> list[Any]:
    if not isinstance(told, list):
        raise ValueError("no list where one was due")
    return told


def _read(parse: Callable[[Any, Any], Any], sent: Any, market: Any) -> Any:
    try:
        return parse(sent, market)
    except unreadable():
        return None


@cache
def unreadable() -> tuple[type[Exception], ...]:
    """What ccxt raises for an answer that it cannot read."""
    return (*_NOT_READABLE, base_errors().BaseError)


def base_errors() -> Any:
    """ccxt's own errors, as a module."""
    with _alone():
        from ccxt.base import errors

    return errors


def exchange(name: str, wire: Callable[[str], bytes]) -> Any:
    """ccxt's exchange of that name, on the wire. Raises UsageError for a name that ccxt does not know."""
    made = _class_of(name)(
        # Our budget waits, ccxt does not; and only spot markets are listed: Binance has others on other hosts.
        {"enableRateLimit": False, "options": {"fetchMarkets": {"types": ["spot"]}} if name == "binance" else {}}
    )
    # Currencies are no part of a listing, and cost calls, some of them with a key.
    made.has["fetchCurrencies"] = False
    made.wire = wire
    return made


def stub(name: str, base: str, quote: str) -> dict[str, Any]:
    """A market of which nothing but its name is known."""
    return {
        **_SPOT,
        "id": name,
        "symbol": f"{base}/{quote}",
        "base": base,
        "quote": quote,
        "baseId": base,
        "quoteId": quote,
        "precision": {},
        "limits": {},
    }


def fetch_candles(
    symbol: str,
    interval: str = "1m",
    since: int | None = None,
    n: int | None = None,
    params: Mapping[str, Any] | None = None,
    *,
    asked: Any,
) -> Any:
    """Candles as ``Wire`` gives them; ``since`` in milliseconds."""
    return asked.fetch_ohlcv(symbol, interval, since, n, dict(params or {}))


def fetch_trades(
    symbol: str,
    since: int | None = None,
    n: int | None = None,
    params: Mapping[str, Any] | None = None,
    *,
    asked: Any,
) -> Any:
    """Trades as ``Wire`` gives them; ``since`` in milliseconds."""
    return asked.fetch_trades(symbol, since, n, dict(params or {}))


def fetch_ticker(symbol: str, *, asked: Any) -> Any:
    """A ticker as ccxt has it."""
    return asked.fetch_ticker(symbol)


def refusal(told_by: Any, status: int, headers: Mapping[str, str], body: bytes) -> str | None:
    """The name of ccxt's error for an answer, such as BadSymbol, its closest kin first; None where it sees none."""
    text = body.decode(errors="replace")
    try:
        told: Any = decoded(body)
    except (ValueError, RecursionError):
        told = None
    if not text:
        return None
    try:
        told_by.handle_errors(status, "", "", "GET", dict(headers), text, told, {}, None)
    except base_errors().BaseError as error:
        return next(kin.__name__ for kin in type(error).__mro__ if kin.__name__ in KINDS)
    except _NOT_READABLE:
        return "ExchangeError"
    return None


# Those of ccxt's errors that say different things to us; every other one is kin to one of them.
KINDS: Sequence[str] = (
    "BadSymbol",
    "RateLimitExceeded",
    "DDoSProtection",
    "OnMaintenance",
    "ExchangeNotAvailable",
    "NetworkError",
    "AuthenticationError",
    "ExchangeError",
    "BaseError",
)


@cache
def _class_of(name: str) -> type[Any]:
    known = None
    if name.isidentifier() and importlib.util.find_spec("ccxt") is not None:
        with _alone():
            try:
                # The name was checked: it is one word, and nothing but ccxt's own modules is looked through.
                known = getattr(importlib.import_module(f"ccxt.{name}"), name, None)
            except ImportError:
                known = None
    if not isinstance(known, type) or not hasattr(known, "describe"):
        raise UsageError(
            f"{name[:40]!r} is no venue that ccxt knows",
            where="exchanges",
            safe="no call was made",
            hint="markets are venue:BASE/QUOTE, e.g. kraken:BTC/USD; ccxt's documentation lists the venues",
        )
    made: type[Any] = type(name, (_WIRES.get(name, Wire), known), {})
    return made


@contextmanager
def _alone() -> Iterator[None]:
    """Import modules of ccxt without its package, which loads every exchange: 0.3 s against 1.9 s for three of them."""
    if "ccxt" in sys.modules:
        yield
        return
    found = importlib.util.find_spec("ccxt")
    package = types.ModuleType("ccxt")
    package.__path__ = list(found.submodule_search_locations or ()) if found else []
    sys.modules["ccxt"] = package
    try:
        yield
    finally:
        # Who imports the whole package later gets the whole package.
        if sys.modules.get("ccxt") is package:
            del sys.modules["ccxt"]
