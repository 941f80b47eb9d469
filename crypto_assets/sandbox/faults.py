"""Faults on demand: what providers really do to their clients, switched on per endpoint.

Belongs here: the kinds of faults, when each strikes, and how it spoils records or a body. Sending the spoiled
answer is ``app.py``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Literal

import msgspec

from crypto_assets.sandbox.source import Row

Kind = Literal[
    "rate_limited_minute",  # 429 that may be asked again after Retry-After
    "quota_429",  # 429 that may not: the month is used up
    "quota_403",
    "not_found",
    "server_error",
    "html",  # 200 with a web page
    "truncated",  # JSON cut in the middle, Content-Length says so
    "short_body",  # Content-Length promises more than comes, then the connection ends
    "stall",  # nothing for some seconds, then the answer
    "huge_digits",  # 30 digits before the point in one record
    "negative_price",
    "absurd_price",  # a billion times too high
    "null_id",
    "duplicate_rows",
    "out_of_order",
    "new_field",
    "missing_field",  # the price arrives under another name
    "not_a_record",  # a bare number among the records
    "empty_list",
    "geo_block",  # 451: the venue does not serve this country
    "throttled",  # 429 in plain text
    "ban",  # 418 after too many refused calls; Retry-After says how long
    "checksum_mismatch",  # the archive's checksum is of another file
    "restated",  # the archive's file changes, and its checksum with it
    "missing_day",  # the archive has no such file
    "other_unit",  # the archive's times are microseconds where milliseconds were due, and the other way round
    "unauthorized",  # 401
    "unavailable",  # 503
    # A websocket's connection, `service.ws`: counted by the handshake. `seconds` is when, after its beginning; one that
    # is open when the fault is switched on is met too, and counts from then.
    "drop",  # a clean close
    "abort",  # the end without a close
    "freeze",  # half-open: it says nothing, hears nothing and answers no ping
    "silence",  # it answers pings and says nothing; what happened meanwhile is never sent
    "slow_start",  # it hears and says nothing for so long
    "replay",  # the last `size` messages from before the subscription are sent (again)
    # A symbol, `service.symbols`: counted by the subscription, `subject` is the symbol.
    "refused_symbol",
    # A websocket's messages, `service.frames`: counted by the message, `subject` is its symbol.
    "sent_twice",
    "sent_late",  # after the one that follows it
    "error_frame",  # the provider's error goes before it
    "plain_text",  # a line that is no JSON goes before it
    "bad_json",  # its first half goes before it
    "unknown_type",  # a message of a kind that nobody knows goes before it
    "huge_frame",  # a message of `size` bytes goes before it, 3 MiB where nothing is said
    "bomb",  # a message that was packed without agreement, `size` bytes unpacked, goes before it
    "echoed_address",  # an error that repeats the address, key included, goes before it
    "in_pieces",  # it is sent as three frames
    "price_update",  # a trade without an amount goes with it (Finnhub)
]
# CoinCap's endpoints (assets, history, ...), another provider's as `service.endpoint`, or `*` for every one.
Endpoint = Annotated[str, msgspec.Meta(pattern=r"^(\*|[a-z_]+(\.[a-z0-9_]+)?)$")]

MINUTE_LIMIT = {"error": "Too many requests: per minute limit exceeded"}
QUOTA_429 = {"error": "Too many requests: monthly credit limit exceeded"}
QUOTA_403 = {"error": "Forbidden: Monthly usage limit exceeded"}
PAGE = b"<!DOCTYPE html><html><head><title>Just a moment...</title></head><body>Checking your browser</body></html>"


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One fault: it skips the first ``after`` answers of its endpoint, then hits ``times`` (None: all others).

    ``offset`` narrows it to the page that starts there, ``subject`` to answers about what has this in its name (a
    venue's symbol, an archive's file); ``seconds`` is how long a ``stall`` lasts, ``size`` how much of it there is.
    Records of both versions are hit alike.
    """

    kind: Kind
    endpoint: Endpoint
    times: int | None = None
    after: int = 0
    offset: int | None = None
    seconds: float = 5.0
    subject: str | None = None
    size: int | None = None


class FaultSwitch:
    """The faults that are on, and how many answers each has seen; not shared between event loops."""

    def __init__(self, faults: list[Fault]) -> None:
        self._faults = [(fault, [0]) for fault in faults]

    def concerns(self, endpoint: str) -> bool:
        """Whether any of them could ever hit this endpoint."""
        return any(fault.endpoint in ("*", endpoint) for fault, _ in self._faults)

    def strike(
        self, endpoint: str, offset: int, subject: str = "", among: Collection[Kind] | None = None
    ) -> list[Fault]:
        """The faults that hit this answer, in the order they were given; counts the answer.

        ``among`` leaves out those of other kinds, for which it is no answer.
        """
        hits = []
        for fault, seen in self._faults:
            if among is not None and fault.kind not in among:
                continue
            if fault.endpoint not in ("*", endpoint) or fault.offset not in (None, offset):
                continue
            if fault.subject is not None and fault.subject not in subject:
                continue
            seen[0] += 1
            if fault.after < seen[0] and (fault.times is None or seen[0] <= fault.after + fault.times):
                hits.append(fault)
        return hits

    def holding(self, endpoint: str, subject: str) -> list[Fault]:
        """The faults that the next answer of an endpoint about this would meet, without counting one."""
        return [
            fault
            for fault, seen in self._faults
            if fault.endpoint == endpoint
            and (fault.subject is None or fault.subject in subject)
            and fault.after <= seen[0]
            and (fault.times is None or seen[0] < fault.after + fault.times)
        ]


_KEYS: tuple[str, ...] = ("id", "exchangeId", "time", "period")
_PRICES: tuple[str, ...] = ("priceUsd", "rateUsd", "volumeUsd", "priceQuote", "close")


def spoil(kind: Kind, rows: list[Row]) -> list[object]:
    """The records with this fault in them; a new list, the records given are not changed.

    Faults of one record hit the middle one, where a check of the ends would miss it. Kinds that are not
    about records change nothing.
    """
    if kind == "empty_list":
        return []
    if not rows:
        return list(rows)
    middle = len(rows) // 2
    whole: dict[str, Callable[[], list[object]]] = {
        "duplicate_rows": lambda: [*rows, *rows[: max(1, len(rows) // 10)]],
        "out_of_order": lambda: list(reversed(rows)),
        "new_field": lambda: [{**row, "liquidityScore": "0.5000000000000000"} for row in rows],
        "missing_field": lambda: [{_renamed(name): value for name, value in row.items()} for row in rows],
        "not_a_record": lambda: [*rows[:middle], 42, *rows[middle:]],
    }
    if kind in whole:
        return whole[kind]()
    return [*rows[:middle], _spoiled(kind, rows[middle]), *rows[middle + 1 :]]


def spoil_columns(kind: Kind, names: Sequence[str], rows: list[list[object]]) -> list[object]:
    """``spoil`` for records that are written as lists: ``names`` are the columns', known ones or not."""
    spoiled = spoil(kind, [dict(zip(names, row, strict=True)) for row in rows])
    return [list(row.values()) if isinstance(row, dict) else row for row in spoiled]


def spoil_answer(kind: Kind, names: Sequence[str], data: object) -> object:
    """A venue's answer with this fault: records that are objects, or lists of the columns ``names``.

    What is neither is no list of records, or not any more, and stays what it is.
    """
    if not isinstance(data, list):
        return data
    if all(isinstance(row, list) and len(row) == len(names) for row in data):
        return spoil_columns(kind, names, data)
    return spoil(kind, data) if all(isinstance(row, dict) for row in data) else data


def _renamed(name: str) -> str:
    return "price" if name == "priceUsd" else name


def _spoiled(kind: Kind, row: Row) -> Row:
    if kind == "null_id":
        key = next((name for name in _KEYS if name in row), None)
        return row if key is None else {**row, key: None}
    name = next((name for name in _PRICES if row.get(name) is not None), None)
    if name is None:
        return row
    text = str(row[name])
    if kind == "huge_digits":
        return {**row, name: "123456789012345678901234567890" + text[text.find(".") :]}
    if kind == "negative_price":
        return {**row, name: "-" + text}
    if kind == "absurd_price":
        return {**row, name: _shifted(text, 9)}
    return row


def _shifted(text: str, places: int) -> str:
    """The decimal text with its point moved right, exact: the digits stay, zeros fill the end."""
    whole, _, fraction = text.partition(".")
    digits = whole + fraction.ljust(places, "0")[:places]
    return f"{digits.lstrip('0') or '0'}.{fraction[places:].ljust(len(fraction), '0')}"
