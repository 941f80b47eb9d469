"""The raw zone of streams: one row per trade, price or event of a websocket, appended in small batches.

A collector numbers the blocks of messages that it has on disk; ``pull_id`` names the block and ``page`` the place in
it, so that each delivery of a trade is one row for good. A venue that sends a trade twice delivers it twice: the
trusted table makes one of them.
"""

from __future__ import annotations

from crypto_assets.tables.contract import Contract, Kind, Table, Write, Zone, clock, content, count, day, key, text

_CADENCE = "with the stream, every 5 seconds or 100,000 rows"


def _stream_table(name: str, moment: str, *sort_by: str) -> Table:
    return Table(
        zone=Zone.RAW,
        name=name,
        group="stream",
        cadence=_CADENCE,
        write=Write.APPEND,
        sort_by=(*sort_by, moment, "pull_id", "page"),
        clock=moment,
        batch="day",
    )


class Delivered(Contract):
    """What every row of a stream says of its delivery."""

    pull_id = key("The block that it came in: its collector and the block's number there.")
    page = count("Its place in the block, from 0.", kind=Kind.KEY, primary_key=True)
    provider = text("Provider whose stream it is.")
    ingested_at = clock("Our clock when the message had arrived.")


class RawTrades(Delivered):
    """Trades as websockets delivered them, prices and quantities as the text that was sent; a JSON number is the
    shortest text of its double."""

    table = _stream_table("trades", "traded_at", "symbol")

    subject = text("The market, venue:BASE/QUOTE, where the symbol is one that was subscribed to.", nullable=True)
    symbol = text("The market in the provider's words, e.g. BINANCE:BTCUSDT.")
    trade_id = text("The venue's id of the trade or of the aggregate; null where none is sent.", nullable=True)
    price = text("Price of one unit, as sent.")
    quantity = text("Amount traded, as sent.")
    n_trades = count("Trades in the aggregate; null where the message does not say.", nullable=True)
    taker_side = text("buy or sell, by the taker; null where unknown.", nullable=True)
    conditions = text("Conditions of the trade as sent, a JSON list; null where none are.", nullable=True)
    repeat = count("How many equal trades stand before it in the same message.", kind=Kind.ATTRIBUTE)
    traded_us = count(
        "Venue's time of the trade in microseconds since 1970, as sent.",
        unit="us",
        kind=Kind.CLOCK,
        low=None,
        wide=True,
    )
    traded_at = clock("The same in UTC; ingested_at where it cannot be.")
    date = day("UTC day of traded_at; the partition.")


class RawStreamPrices(Delivered):
    """Prices that are no trades, as websockets delivered them: changed rates of assets, and price updates of markets
    without an amount. Where a disk stands still some may be left out, counted in raw.stream_events; trades never."""

    table = _stream_table("stream_prices", "quoted_at", "symbol")

    subject = text("The market, venue:BASE/QUOTE, or the asset, where it is one that was subscribed to.", nullable=True)
    symbol = text("The market or asset in the provider's words.")
    price = text("The price, as sent; of an asset in USD, of a market in its quote currency.")
    quoted_at = clock("Provider's time of the price, UTC; our clock where none is sent.")
    date = day("UTC day of quoted_at; the partition.")


class RawStreamEvents(Delivered):
    """What happened to a stream's connection, what was missed of it, and the messages that could not be read."""

    table = _stream_table("stream_events", "ends_at", "kind")

    kind = text("opened, lost, hole, refused, error, bad, silent, dropped, full, blocks_lost, counts or stopped.")
    subject = text("The market or asset that it is about; null for all of the connection.", nullable=True)
    starts_at = clock("Start of the time that it is about, UTC; of a moment that moment.")
    ends_at = clock("Its end (exclusive).")
    n = count("How many messages or prices it is about.", kind=Kind.INTERVAL, wide=True)
    detail = text("One line, without secrets; of counts a JSON object.")
    body = content(
        "The data message that could not be read, as received, with secrets redacted; else null.", nullable=True
    )
    date = day("UTC day of ends_at; the partition.")


TABLES: tuple[type[Delivered], ...] = (RawTrades, RawStreamPrices, RawStreamEvents)
