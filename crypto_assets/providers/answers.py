"""What every provider does with answers: land them as raw rows, and read records out of raw rows again.

A provider file says which endpoints there are and what their fields mean; how JSON becomes text columns without losing
a digit is here, once.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import polars as pl

from crypto_assets.errors import DataError
from crypto_assets.resources.http import Answer, Outcome, Verdict
from crypto_assets.tables.conform import POINTERS, Records
from crypto_assets.tables.contract import UTC_TIME, polars_schema
from crypto_assets.tables.raw import RawAnswers
from crypto_assets.tables.trusted import CLOCK_SKEW, GENESIS

# An absent field's value; no JSON value is empty.
_ABSENT = msgspec.Raw(b"")
# What no JSON text holds (msgspec refuses it), and so may stand between two of them.
_NUL = b"\0"
# How the detail of a refusal begins that is about one endpoint and the plan, not about the key.
PREMIUM = "premium"


@dataclass(frozen=True)
class Pull:
    """The answers of one logical request, page by page.

    Attributes:
        provider, endpoint, subject: what was asked; ``subject`` where the endpoint serves one thing at a time.
        answers: one a page, the last one possibly bad.
        is_complete: whether the pages were read to the end; only then do the rows count.
        observed_at: the provider's clock at the first page, or ours.
        window: the time that the answer covers, ``(observed_at, observed_at)`` for a live endpoint.
        credits: what each answer costs.
    """

    provider: str
    endpoint: str
    subject: str | None
    answers: tuple[Answer, ...]
    is_complete: bool
    observed_at: datetime
    window: tuple[datetime, datetime]
    credits: tuple[int, ...]

    @property
    def pull_id(self) -> str:
        """Thirty-two hex digits, equal for equal answers to equal requests at one provider time."""
        told = [self.provider, self.endpoint, self.observed_at.isoformat()]
        told += [part for a in self.answers for part in (a.request, a.outcome, hashlib.sha256(a.body).hexdigest())]
        return hashlib.sha256("\n".join(told).encode()).hexdigest()[:32]

    @property
    def ending(self) -> Answer:
        """The answer that decides how the pull ended."""
        return self.answers[-1]

    @property
    def is_hopeless(self) -> bool:
        """Whether one thing of several cannot be had: it is unknown, or outside the plan. The others go on without."""
        ending = self.ending
        is_premium = ending.outcome is Outcome.DENIED and ending.detail.startswith(PREMIUM)
        return self.subject is not None and (is_premium or ending.outcome is Outcome.NOT_FOUND)


@dataclass(frozen=True)
class Cost:
    """What pulling something takes: calls, credits by the provider's price list, and bytes, all estimates."""

    calls: int = 0
    credits: int = 0
    n_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.calls + other.calls, self.credits + other.credits, self.n_bytes + other.n_bytes)


def raw_rows(pulls: Iterable[Pull]) -> pl.DataFrame:
    """The pulls as rows of a raw table (any of ``tables.raw``), times truncated to the millisecond."""
    rows = [
        {
            "pull_id": pull.pull_id,
            "page": page,
            "provider": pull.provider,
            "endpoint": pull.endpoint,
            "subject": pull.subject,
            "request": answer.request,
            "status": answer.status,
            "outcome": str(answer.outcome),
            "detail": answer.detail or None,
            "n_pages": len(pull.answers) if pull.is_complete else None,
            "window_start_at": pull.window[0],
            "window_end_at": pull.window[1],
            "observed_at": pull.observed_at,
            "ingested_at": answer.received_at,
            "credits": price,
            "n_bytes": len(answer.body),
            "sha256": hashlib.sha256(answer.body).hexdigest(),
            "body": answer.body,
            "date": pull.window[0].date(),
        }
        for pull in pulls
        for page, (answer, price) in enumerate(zip(pull.answers, pull.credits, strict=True))
    ]
    frame = pl.DataFrame(rows, schema=polars_schema(RawAnswers))
    return frame.with_columns(pl.col(UTC_TIME).dt.truncate("1ms"))


class Envelope(msgspec.Struct):
    """``{"data": [...] or {...}, "timestamp": ms}``; a bare array is read by ``page_of``."""

    data: msgspec.Raw = msgspec.Raw(b"null")
    timestamp: int | None = None


def page_of(body: bytes) -> tuple[list[msgspec.Raw], int | None]:
    """The records of a JSON answer and its timestamp in ms; one object counts as one record.

    Raises msgspec.DecodeError (ValidationError is one) where the body is not JSON, or neither records nor an envelope.
    """
    try:
        return _page_of(body)
    except RecursionError:
        # How deep is too deep depends on how deep the caller stands; the error must not.
        raise msgspec.ValidationError("the answer is nested too deeply") from None


def _page_of(body: bytes) -> tuple[list[msgspec.Raw], int | None]:
    if body.lstrip()[:1] == b"[":
        return msgspec.json.decode(body, type=list[msgspec.Raw]), None
    envelope = msgspec.json.decode(body, type=Envelope)
    data = bytes(envelope.data)
    if data == b"null":
        raise msgspec.ValidationError("the answer has no data")
    records = msgspec.json.decode(data, type=list[msgspec.Raw]) if data[:1] == b"[" else [envelope.data]
    return records, envelope.timestamp


def classify_page(headers: Mapping[str, str], body: bytes) -> Verdict:
    """What an answer with status 200 means, where the provider's answers are ``page_of``'s."""
    kind = {name.lower(): value for name, value in headers.items()}.get("content-type", "")
    if "json" not in kind:
        return Verdict(Outcome.MALFORMED, f"an answer of type {kind.split(';')[0] or 'none'} where JSON was due")
    try:
        page, _ = page_of(body)
    except msgspec.DecodeError:
        return Verdict(Outcome.MALFORMED, "the answer is not the JSON that was due")
    return Verdict(Outcome.OK if page else Outcome.EMPTY)


def possible(moment: datetime | None, arrived: datetime) -> datetime | None:
    """The moment, or None where no record of an answer that arrived then can be of it: the contracts refuse those."""
    return moment if moment is not None and GENESIS <= moment <= arrived + CLOCK_SKEW else None


def moment_of(ms: Any, arrived: datetime) -> datetime | None:
    """The ``possible`` moment (UTC) of milliseconds since 1970; None for anything else that may have been sent."""
    try:
        return None if ms is None else possible(datetime.fromtimestamp(ms / 1000, UTC), arrived)
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def unreadable_in_raw(told: object, where: str, what: str = "an answer") -> DataError:
    """The error for a body that was good when it landed and cannot be read any more; ``told`` says why."""
    return DataError(
        f"{what} that was good when it landed cannot be read: {told}",
        where=where,
        safe="raw is as it was, and the table keeps what it held",
        hint="run crypto-assets doctor: the body in raw may have been changed",
    )


def field_names(raw: pl.DataFrame) -> set[str]:
    """The field names of every page's first and last record: what drift is seen by."""
    names: set[str] = set()
    for body in raw.filter(outcome="ok")["body"]:
        records, _ = page_of(body)
        for record in (records[0], records[-1]):
            if bytes(record)[:1] == b"{":
                names |= _names(record)
    return names


def _names(record: msgspec.Raw) -> set[str]:
    text = bytes(record).decode(errors="replace")
    return set(msgspec.json.decode(text, type=dict[str, msgspec.Raw]))


def usable(raw: pl.DataFrame) -> pl.DataFrame:
    """The raw rows whose records count: good answers of complete pulls, each pull once, in time order."""
    return (
        raw.filter(pl.col("n_pages").is_not_null() & (pl.col("outcome") == Outcome.OK))
        .unique(["pull_id", "page"])
        .sort("observed_at", "pull_id", "page")
    )


def records(raw: pl.DataFrame, mapping: Mapping[str, str], *, required: Sequence[str], where: str) -> Records:
    """Text columns of the records in raw rows, named by ``mapping`` (our column: the provider's field).

    Strings come unquoted, numbers with the digits that were sent, objects as JSON text, null and absent as null.
    A pull whose records all lack a required field has drifted: the provider changed its contract.

    Raises:
        DataError: a body that was good when it landed cannot be read.
    """
    rows = usable(raw)
    record_type = msgspec.defstruct("Record", [(field, msgspec.Raw, _ABSENT) for field in mapping.values()])
    decoder = msgspec.json.Decoder(record_type)
    texts: list[msgspec.Raw] = []
    sent: dict[str, list[bytes]] = {name: [] for name in mapping}
    lengths: list[int] = []
    drift: dict[str, list[str | None]] = {}
    for pull_id, body in rows.select("pull_id", "body").iter_rows():
        page = _landed_page(body, where)
        parsed = [_decoded(decoder, record, record_type) for record in page]
        drift.setdefault(pull_id, []).append(_drift(page, parsed, required))
        texts += page
        lengths.append(len(page))
        for name, values in zip(mapping, zip(*map(msgspec.structs.astuple, parsed), strict=True), strict=bool(page)):
            # A page's values as one text: one copy, where an object for each value would take most of the time.
            sent[name].append(_NUL.join(values))

    frame = rows.select("pull_id", "page", "provider", "subject", "observed_at", "ingested_at")
    frame = frame.with_columns(position=pl.Series([range(n) for n in lengths], dtype=pl.List(pl.Int32)))
    frame = frame.explode("position", empty_as_null=False) if len(frame) else frame.with_columns(position=pl.lit(0))
    columns = [_text_column(name, pages) for name, pages in sent.items()]
    frame = frame.with_columns(answered_at="observed_at", row=pl.int_range(pl.len())).with_columns(columns)
    drifted = {pull_id: notes[0] for pull_id, notes in drift.items() if notes[0] and all(notes)}
    return Records(frame.cast(POINTERS), texts, drifted)


def _landed_page(body: bytes, where: str) -> list[msgspec.Raw]:
    try:
        return page_of(body)[0]
    except msgspec.DecodeError as error:
        raise unreadable_in_raw(error, where) from None


def _decoded(decoder: msgspec.json.Decoder[Any], record: msgspec.Raw, empty: type[Any]) -> Any:
    try:
        str(record, "utf-8")
        return decoder.decode(record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Not an object, or not text: a record without fields, which the contract will refuse and quarantine.
        return empty()


def _text_column(name: str, pages: Sequence[bytes]) -> pl.Series:
    sent = pl.Series(name, pages, pl.Binary).cast(pl.String).str.split(_NUL.decode()).explode()
    column = pl.col(name)
    text = (
        pl.when(column.is_in(["", "null"]))
        .then(None)
        .when(column.str.starts_with('"') & ~column.str.contains("\\", literal=True))
        .then(column.str.slice(1, column.str.len_chars().cast(pl.Int64) - 2))
        .otherwise(column)
    )
    plain = sent.to_frame().select(text.alias(name)).to_series()
    if not plain.str.starts_with('"').any():
        return plain
    # Escapes are rare (names, mostly): those values alone are read one by one.
    unescape = msgspec.json.Decoder(str).decode
    return pl.Series(name, [unescape(v) if v is not None and v[:1] == '"' else v for v in plain], pl.String)


def _drift(page: Sequence[msgspec.Raw], parsed: Sequence[Any], required: Sequence[str]) -> str | None:
    """Which required field all records of a page lack, and the field that may be its new name; None where none is."""
    for field in required:
        if parsed and all(getattr(record, field) == _ABSENT for record in parsed):
            try:
                sent = sorted(_names(page[0]))
            except msgspec.DecodeError:
                sent = []
            likely = difflib.get_close_matches(field, [n for n in sent if n not in required], n=1, cutoff=0.4)
            told = f"the field {field} is missing from all {len(parsed)} records"
            return told + (f"; the new name may be {likely[0]}" if likely else "")
    return None
