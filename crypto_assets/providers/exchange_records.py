"""What spot venues' answers become: records of candles, trades and quotes.

A landed body is read by the same method of ccxt that asked for it. Records of another time than the answer's window are
left out: pages reach over their ends, and the candle that was not over when it was asked for opens there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import polars as pl

from crypto_assets.providers.answers import unreadable_in_raw, usable
from crypto_assets.providers.ccxt_wire import (
    Digits,
    encoded,
    exchange,
    fetch_candles,
    fetch_ticker,
    fetch_trades,
    stub,
    unreadable,
)
from crypto_assets.providers.venues import CANDLES, NAME, TICKER, TRADES, Spot, candles_of, spot_of, venue_of
from crypto_assets.tables.conform import POINTERS, Records
from crypto_assets.tables.contract import UTC_TIME
from crypto_assets.tables.trusted import CLOCK_SKEW, GENESIS

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_GENESIS_MS = round(GENESIS.timestamp() * 1000)


def parse_candles(raw: pl.DataFrame) -> Records:
    """Records for ``trusted.candles``: venue, market and interval are what was asked for."""
    names = ("open", "high", "low", "close", "volume_base")
    further = ("volume_quote", "n_trades", "taker_buy_base", "taker_buy_quote")
    columns = _Columns(("opened_at", *names, *further), usable(raw), _candles_sent)
    for row in columns.answers():
        spot, interval = candles_of(row["subject"])
        places = [venue_of(spot.venue).further.get(name) for name in further]
        columns.begin(row, spot, interval=interval)
        is_counted = _counted(row)
        for position, (sent, made) in enumerate(candles_in(row["subject"], row["body"])):
            at, *numbers = made or [None] * 6
            if is_counted(at):
                columns.add(position, (at, *numbers, *(_at(sent, place) for place in places)))
    return columns.records()


def parse_trades(raw: pl.DataFrame) -> Records:
    """Records for ``trusted.trades``; ``traded_us`` where the venue is finer than a millisecond."""
    columns = _Columns(
        ("traded_at", "traded_us", "trade_id", "price", "quantity", "n_trades", "taker_side"), usable(raw), _trades_sent
    )
    for row in columns.answers():
        spot = spot_of(row["subject"])
        in_us = _IN_US.get(spot.venue)
        columns.begin(row, spot)
        is_counted = _counted(row)
        for position, (sent, made) in enumerate(trades_in(row["subject"], row["body"])):
            us = in_us(sent) if in_us else None
            trade = made or {}
            at = us // 1000 if us is not None else trade.get("timestamp")
            if is_counted(at):
                facts = (trade.get(name) for name in ("id", "price", "amount"))
                columns.add(position, (at, us, *facts, _n_trades(sent), trade.get("side")))
    return columns.records()


def parse_tickers(raw: pl.DataFrame) -> Records:
    """Records for ``trusted.quotes``. Kraken's tickers say no time: the answer's is theirs. No venue says names."""
    columns = _Columns(
        ("observed_at", "exchange_rate", "last_refreshed", "bid_price", "ask_price"), usable(raw), _ticker_sent
    )
    for row in columns.answers():
        spot = spot_of(row["subject"])
        columns.begin(row, spot)
        ticker = ticker_in(row["subject"], row["body"])
        at = ticker["timestamp"] or _ms(row["observed_at"])
        stated = venue_of(spot.venue).stated_at
        words = ticker["info"].get(stated) if stated else None
        told = (ticker["last"], words or row["observed_at"].isoformat(), ticker["bid"], ticker["ask"])
        columns.add(0, (at, *told))
    parsed = columns.records()
    frame = parsed.frame.with_columns(
        from_currency_code="base_symbol",
        from_currency_name=pl.lit(None, pl.String),
        to_currency_code="quote_symbol",
        to_currency_name=pl.lit(None, pl.String),
        time_zone=pl.lit("UTC"),
    )
    return Records(frame, parsed.texts)


def _candles_sent(subject: str, body: bytes, digits: type[str]) -> Sequence[Any]:
    return [sent for sent, _ in _replayed(candles_of(subject)[0], body, fetch_candles, CANDLES, digits)]


def _trades_sent(subject: str, body: bytes, digits: type[str]) -> Sequence[Any]:
    return [sent for sent, _ in _replayed(spot_of(subject), body, fetch_trades, TRADES, digits)]


def _ticker_sent(subject: str, body: bytes, digits: type[str]) -> Sequence[Any]:
    return [_replayed(spot_of(subject), body, fetch_ticker, TICKER, digits)["info"]]


def candles_in(subject: str, body: bytes) -> Sequence[tuple[Any, Any]]:
    """The candles of a landed body: each as it was sent, and as ccxt has it (ms, open, high, low, close, volume)."""
    read: Sequence[tuple[Any, Any]] = _replayed(candles_of(subject)[0], body, fetch_candles, CANDLES)
    return read


def trades_in(subject: str, body: bytes) -> Sequence[tuple[Any, Any]]:
    """The trades of a landed body: each as it was sent, and as ccxt has it."""
    read: Sequence[tuple[Any, Any]] = _replayed(spot_of(subject), body, fetch_trades, TRADES)
    return read


def ticker_in(subject: str, body: bytes) -> Mapping[str, Any]:
    """The ticker of a landed body, as ccxt has it."""
    read: Mapping[str, Any] = _replayed(spot_of(subject), body, fetch_ticker, TICKER)
    return read


class _Columns:
    """Records of many answers, column by column."""

    def __init__(self, names: Sequence[str], rows: pl.DataFrame, sent: Callable[..., Sequence[Any]]) -> None:
        """``rows`` are the answers; ``sent`` reads the records of one once more, as they were sent."""
        self._names = names
        self._raw = rows
        self._sent = sent
        self._answers: list[Mapping[str, Any]] = []
        self._places: list[tuple[int, int]] = []
        self._rows: list[tuple[Any, ...]] = []

    def answers(self) -> Iterator[Mapping[str, Any]]:
        """The answers one by one, so that one body at a time is copied."""
        for n in range(len(self._raw)):
            yield self._raw.row(n, named=True)

    def begin(self, row: Mapping[str, Any], spot: Spot, **more: Any) -> None:
        """What follows is from this answer, about this market."""
        told = {name: row[name] for name in ("pull_id", "page", "provider", "ingested_at")}
        market = {"venue": spot.venue, "market_id": str(spot), "base_symbol": spot.base, "quote_symbol": spot.quote}
        self._answers.append({**told, **market, **more, "answered_at": row["window_start_at"]})

    def add(self, position: int, values: tuple[Any, ...]) -> None:
        """What the record at that position in the answer says."""
        self._places.append((len(self._answers) - 1, position))
        self._rows.append(tuple(map(_text, values)))

    def records(self) -> Records:
        values = pl.DataFrame(self._rows, schema=dict.fromkeys(self._names, pl.String), orient="row")
        places = pl.DataFrame(self._places, schema={"answer": pl.Int64, "position": pl.Int32}, orient="row")
        market = dict.fromkeys(
            ("provider", "venue", "market_id", "base_symbol", "quote_symbol", "interval"), pl.String()
        )
        times = dict.fromkeys(("answered_at", "ingested_at"), UTC_TIME)
        schema = {"pull_id": pl.String(), "page": pl.Int32(), **market, **times}
        answers = pl.DataFrame(self._answers, schema=schema, orient="row")
        frame = pl.concat([answers[places["answer"]], places.drop("answer"), values], how="horizontal")
        return Records(frame.with_row_index("row").cast(POINTERS), _Texts(self._raw, self._sent, self._places))


class _Texts(Sequence[bytes]):
    """The JSON texts of records, read again when one is asked for: only refused ones are, and few answers hold any."""

    def __init__(
        self, raw: pl.DataFrame, sent: Callable[..., Sequence[Any]], places: Sequence[tuple[int, int]]
    ) -> None:
        self._raw = raw
        self._sent = sent
        self._places = places
        self._open: tuple[int, Sequence[Any]] = (-1, ())

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, row: Any) -> Any:
        answer, position = self._places[row]
        if answer != self._open[0]:
            told = self._raw.row(answer, named=True)
            self._open = (answer, self._sent(told["subject"], told["body"], Digits))
        return encoded(self._open[1][position]).encode(errors="replace")


def _replayed(spot: Spot, body: bytes, method: Callable[..., Any], endpoint: str, digits: type[str] = str) -> Any:
    """What ccxt makes of a landed body, by the method that asked for it."""
    venue = venue_of(spot.venue)
    named = venue.named or (lambda base, quote: base + quote)
    read = _reader(venue.exchange)
    read.wire, read.digits = lambda _: body, digits
    if list(read.markets or ()) != [spot.symbol]:
        read.set_markets([stub(named(spot.base, spot.quote), spot.base, spot.quote)])
    try:
        return method(spot.symbol, asked=read)
    except unreadable() as error:
        raise unreadable_in_raw(type(error).__name__, f"{NAME} {endpoint}") from None


@cache
def _reader(name: str) -> Any:
    return exchange(name, lambda _: b"")


def _counted(row: Mapping[str, Any]) -> Callable[[Any], bool]:
    """Whether a record of this time counts: it is of the answer's window, or its time cannot be, and it is refused.

    A good time outside the window is another pull's: pages reach over their ends, and the candle that was not over when
    it was asked for opens there.
    """
    opens, closes = _ms(row["window_start_at"]), _ms(row["window_end_at"])
    newest = _ms(row["ingested_at"] + CLOCK_SKEW)

    def is_counted(at: Any) -> bool:
        return not isinstance(at, int) or opens <= at < closes or not _GENESIS_MS <= at <= newest

    return is_counted


def _at(sent: Any, place: int | None) -> Any:
    return sent[place] if place is not None and isinstance(sent, list) and place < len(sent) else None


def _n_trades(sent: Any) -> Any:
    """Trades of an aggregate, by the first and last id of it; 1 of anything else."""
    first, last = (sent.get("f"), sent.get("l")) if isinstance(sent, dict) else (None, None)
    return last - first + 1 if isinstance(first, int) and isinstance(last, int) else 1


def _kraken_us(sent: Any) -> int | None:
    """Microseconds of Kraken's seconds with up to nine decimals, exactly."""
    told = sent[2] if isinstance(sent, list) and len(sent) > 2 else None
    found = re.fullmatch(r"(\d{1,12})(?:\.(\d+))?", str(told))
    return None if found is None else int(found[1]) * 10**6 + int((found[2] or "")[:6].ljust(6, "0"))


def _coinbase_us(sent: Any) -> int | None:
    told = sent.get("time") if isinstance(sent, dict) else None
    try:
        moment = datetime.fromisoformat(str(told))
    except ValueError:
        return None
    return None if moment.tzinfo is None else (moment - _EPOCH) // timedelta(microseconds=1)


_IN_US: Mapping[str, Callable[[Any], int | None]] = {"kraken": _kraken_us, "coinbase": _coinbase_us}


def _text(value: Any) -> str | None:
    """A value as text that Polars takes; halves of surrogate pairs, which JSON may smuggle in, are replaced."""
    if value is None:
        return None
    told = str(value)
    return told if told.isascii() else told.encode(errors="replace").decode()


def _ms(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)
