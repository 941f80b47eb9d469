"""What every feed does with its messages: read them together, make rows of ``raw.trades`` and ``raw.stream_prices``.

A provider file says what its messages look like; how they become columns without losing a digit is here, once. The
messages of a block are read as one JSON array, which costs less than reading them one by one; only where one of them
is broken they are read singly, to find it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Annotated, Any, TypeVar, overload

import msgspec
import polars as pl

from crypto_assets.providers.feed import UNREADABLE, Decoded, Messages
from crypto_assets.tables.conform import Records
from crypto_assets.tables.contract import UTC_TIME, polars_schema
from crypto_assets.tables.stream import RawStreamPrices, RawTrades
from crypto_assets.tables.trusted import CLOCK_SKEW, GENESIS

_T = TypeVar("_T")
# Whose microseconds fit a column; a message with another time is none of its feed.
_MOST_MS = (2**63 - 1) // 1000
Milliseconds = Annotated[int, msgspec.Meta(ge=-_MOST_MS, le=_MOST_MS)]
"""A provider's time in milliseconds since 1970."""
_NO_TRADES = pl.DataFrame(schema=polars_schema(RawTrades))
_NO_PRICES = pl.DataFrame(schema=polars_schema(RawStreamPrices))
_TEXTS = ("trade_id", "taker_side", "conditions")


def read(
    messages: Messages, shape: type[_T], rest_of: Callable[[bytes], _T | None] = lambda _: None
) -> tuple[list[_T], list[int], dict[int, str]]:
    """The messages as ``shape``, the place of each in the block, and those that cannot be read, with the reason.

    ``rest_of``: what can be read of a message that as a whole cannot; it counts as unreadable all the same.
    """
    try:
        every = msgspec.json.Decoder(list[shape]).decode(b"[" + b",".join(messages.frames) + b"]")  # type: ignore[valid-type]
        # A message that is two, or half of one, would shift all that follow.
        if len(every) == len(messages.frames):
            return every, list(range(len(every))), {}
    except UNREADABLE:
        pass
    decoder = msgspec.json.Decoder(shape)
    good: list[_T] = []
    places: list[int] = []
    bad: dict[int, str] = {}
    for place, frame in enumerate(messages.frames):
        told: _T | None
        try:
            told = decoder.decode(frame)
        except UNREADABLE as error:
            bad[place] = f"unreadable: {str(error).splitlines()[0][:120]}"
            told = rest_of(frame)
        if told is not None:
            good.append(told)
            places.append(place)
    return good, places, bad


def arrivals(messages: Messages, places: Sequence[int], counts: Sequence[int]) -> pl.DataFrame:
    """``message`` and ``received_us`` of each row, where the messages at ``places`` hold so many rows each."""
    # Lists are quicker than expressions for a few thousand messages of one or two trades.
    message = pl.Series(
        "message", [place for place, n in zip(places, counts, strict=True) for _ in range(n)], dtype=pl.Int32
    )
    received = pl.Series("received_us", messages.received_us, dtype=pl.Int64)
    return pl.DataFrame([message, received.gather(message)])


def few(n: int) -> int | None:
    """A number of trades, where it can be one."""
    return n if 0 < n < 2**31 else None


def trades(messages: Messages, arrived: pl.DataFrame, columns: Mapping[str, Any]) -> pl.DataFrame:
    """Rows of ``raw.trades``.

    Args:
        messages: the block.
        arrived: as ``arrivals`` makes them, a row for each trade.
        columns: ``symbol``, ``price``, ``quantity`` (text, or doubles, which become their shortest text),
            ``traded_us``, and whichever of ``trade_id``, ``n_trades``, ``taker_side``, ``conditions`` there are.
    """
    if arrived.is_empty():
        return _NO_TRADES
    rows = pl.DataFrame([*arrived.get_columns(), *_series(columns)])
    equal = ["message", "symbol", "traded_us", "price", "quantity", *({"trade_id"} & columns.keys())]
    texts = ("price", "quantity", *_TEXTS)
    kinds = {**dict.fromkeys(texts, pl.String()), "n_trades": pl.Int32()}
    rows = rows.with_columns(
        **{name: pl.col(name).cast(kind) if name in columns else pl.lit(None, kind) for name, kind in kinds.items()},
        ingested_at=_moment("received_us"),
        repeat=_repeats(rows, equal),
    )
    return _finished(RawTrades, messages, rows, traded_at=_stated("traded_us"))


def prices(messages: Messages, arrived: pl.DataFrame, columns: Mapping[str, Any]) -> pl.DataFrame:
    """Rows of ``raw.stream_prices``: ``symbol``, ``price``, and ``quoted_us`` where the provider says a time."""
    if arrived.is_empty():
        return _NO_PRICES
    rows = pl.DataFrame([*arrived.get_columns(), *_series(columns)])
    rows = rows.with_columns(pl.col("price").cast(pl.String), ingested_at=_moment("received_us"))
    quoted = _stated("quoted_us") if "quoted_us" in columns else pl.col("ingested_at")
    return _finished(RawStreamPrices, messages, rows, quoted_at=quoted)


def _series(columns: Mapping[str, Any]) -> list[pl.Series]:
    """The columns with the type of their first value, which is that of all: finding out takes longer than copying."""
    kinds: Mapping[type, pl.DataType] = {str: pl.String(), float: pl.Float64(), int: pl.Int64()}
    return [pl.Series(name, values, dtype=kinds.get(type(values[0]))) for name, values in columns.items()]


def _finished(contract: Any, messages: Messages, rows: pl.DataFrame, **moment: pl.Expr) -> pl.DataFrame:
    """The contract's columns, ``moment`` being the one of them that decides the day. Each call of Polars costs as much
    as hundreds of rows, so there are few.
    """
    (at,) = moment.values()
    made: dict[str, pl.Expr | pl.Series] = {
        **_places(messages, rows["message"]),
        "provider": pl.lit(messages.feed),
        "subject": pl.col("symbol").replace_strict(dict(messages.markets), default=None, return_dtype=pl.String),
        "date": at.dt.date(),
        **moment,
    }
    return rows.select(**{name: made.get(name, pl.col(name)) for name in polars_schema(contract)})


def _places(messages: Messages, message: pl.Series) -> dict[str, pl.Expr | pl.Series]:
    """``pull_id`` and ``page`` of each row: its block, and its place there."""
    if len(messages.blocks) < 2:
        pull_id = messages.blocks[0][0] if messages.blocks else messages.pull_id
        return {"pull_id": pl.lit(pull_id), "page": pl.int_range(pl.len(), dtype=pl.Int32)}
    names = pl.Series([name for name, _ in messages.blocks])
    sizes = pl.Series([n for _, n in messages.blocks], dtype=pl.UInt32)
    block = pl.int_range(len(names), dtype=pl.UInt32, eager=True)
    of_message = pl.select(pl.lit(block).repeat_by(sizes).explode()).to_series().drop_nulls()
    of_row = of_message.gather(message)
    lengths = of_row.rle().struct.field("len")
    page = pl.select(pl.int_ranges(0, lengths, dtype=pl.Int32).explode()).to_series()
    return {"pull_id": names.gather(of_row), "page": page}


def _moment(microseconds: str) -> pl.Expr:
    return pl.col(microseconds).cast(UTC_TIME).dt.truncate("1ms")


def _stated(microseconds: str) -> pl.Expr:
    """The provider's time where it can be one, else our own: a time in the year 56,000 is no partition."""
    stated = _moment(microseconds)
    can_be = stated.is_between(pl.lit(GENESIS), pl.col("ingested_at") + CLOCK_SKEW)
    return pl.when(can_be).then(stated).otherwise(pl.col("ingested_at"))


def _repeats(rows: pl.DataFrame, equal: list[str]) -> pl.Expr:
    """How many equal trades stand before each in its message; nearly always none, which is cheaper to find out.

    By a hash of each row: two different rows with one hash only cost the longer way.
    """
    hashes = [pl.col(name).hash(seed) for seed, name in enumerate(equal)]
    if rows.select(reduce(operator.xor, hashes)).to_series().n_unique() == len(rows):
        return pl.lit(0, pl.Int32)
    return (pl.int_range(pl.len(), dtype=pl.Int32)).over(equal)


def decoded(trades: pl.DataFrame | None, prices: pl.DataFrame | None, bad: Mapping[int, str]) -> Decoded:
    """Both tables' rows; None stands for none."""
    return Decoded(_NO_TRADES if trades is None else trades, _NO_PRICES if prices is None else prices, bad)


def of_single_trades(
    messages: Messages, places: Sequence[int], columns: Mapping[str, Any], bad: Mapping[int, str]
) -> Decoded:
    """Rows of messages that hold one trade each; ``columns`` as of ``trades``, a value a message."""
    return decoded(trades(messages, arrivals(messages, places, [1] * len(places)), columns), None, bad)


# Whose times are finer than a millisecond, as the same provider's REST interface has them.
_FINE = ("coinbase_stream",)


def parse_trades(raw: pl.DataFrame) -> Records:
    """Records for ``trusted.trades`` from rows of ``raw.trades``.

    A trade without an id is named by what it says and by how many equal ones stood before it in its message: sent
    again, it is the same trade; two equal ones in one message are two.
    """
    named = pl.format("{}-{}-{}-{}", "traded_us", "price", "quantity", "repeat")
    frame = raw.select(
        "pull_id",
        "page",
        "ingested_at",
        "provider",
        "price",
        "quantity",
        "taker_side",
        row=pl.int_range(pl.len()),
        position=pl.lit(0, pl.Int32),
        answered_at=pl.col("traded_at"),
        venue=pl.col("subject").str.split(":").list.first(),
        market_id="subject",
        trade_id=pl.coalesce("trade_id", named),
        # Of a time that cannot be, nothing: the record is refused.
        traded_at=pl.when(pl.col("traded_at") == _moment("traded_us")).then("traded_at"),
        traded_us=pl.when(pl.col("provider").is_in(_FINE)).then("traded_us"),
        n_trades=pl.col("n_trades").fill_null(1),
    )
    return Records(frame, _Sent(raw), has_whole_pulls=False)


class _Sent(Sequence[bytes]):
    """What was sent of each trade, as JSON."""

    _SHOWN = ("symbol", "trade_id", "price", "quantity", "traded_us", "taker_side", "conditions")

    def __init__(self, raw: pl.DataFrame) -> None:
        self._raw = raw.select(self._SHOWN)

    def __len__(self) -> int:
        return len(self._raw)

    @overload
    def __getitem__(self, row: int) -> bytes: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[bytes]: ...
    def __getitem__(self, row: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        return msgspec.json.encode(self._raw.row(row, named=True))
