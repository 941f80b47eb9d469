"""How provider records are made to fit a contract: exact casts, the contract's rules, one row per key.

A record ends in exactly one of three places: a typed row, a duplicate counted on a row, or a rejected record with its
reasons. Nothing is dropped, so ``n_records = len(rows) + sum(n_duplicates) + len(rejected)`` by construction here and
by a check on the tables (``checks/reconciliation.py``). What records mean is the providers' business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from crypto_assets.errors import DataError
from crypto_assets.tables.contract import (
    MONEY,
    PERIODS,
    UTC_TIME,
    Contract,
    Field,
    fields,
    moment,
    polars_schema,
    primary_key,
)
from crypto_assets.tables.quality import Quarantine, RevisionLedger
from crypto_assets.tables.window import Window

# Where a record stands in raw. `row` numbers the records of one parse, to find the text of a rejected one;
# `answered_at` is the time a record belongs to where its own time is unusable.
POINTERS: Mapping[Any, Any] = {
    "row": pl.Int64(),
    "pull_id": pl.String(),
    "page": pl.Int32(),
    "position": pl.Int32(),
    "answered_at": UTC_TIME,
    "ingested_at": UTC_TIME,
}
_SCALE = 18
# A poison record or two lies alone in quarantine; more than this share of an answer is not bad luck but a parser or a
# contract that no longer fits the provider, and the whole pull would be a hole with a few survivors.
MOST_REFUSED = 0.05
# Below so many records a single bad one is already more than the share.
FEWEST_JUDGED = 20
PULL_REFUSED = "pull_refused"
_LAST_MS = (2**63 - 1) // 1000


@dataclass(frozen=True)
class Records:
    """Records of one endpoint, one frame row each.

    Attributes:
        frame: the ``POINTERS`` columns and the contract's columns as text, exactly as sent (null where absent);
            a column may already have its final dtype.
        texts: the JSON text of each record, indexed by ``row``.
        drifted: pulls whose records all lack a field that must be there, and what to make of it, by ``pull_id``.
        has_whole_pulls: whether the records of a pull stand or fall together. A stream's do not: its messages have
            nothing to do with each other, and a window cuts its blocks.
    """

    frame: pl.DataFrame
    texts: Sequence[bytes | memoryview]
    drifted: Mapping[str, str] = field(default_factory=dict)
    has_whole_pulls: bool = True


@dataclass(frozen=True)
class Settled:
    """Where the records ended: ``rows`` fit the contract, ``rejected`` fit ``quality.quarantine``.

    ``revisions`` (of ``quality.revision_ledger``) say where valid records of one key state different values.
    A pull of which more than ``MOST_REFUSED`` does not fit, or that drifted, is rejected whole (``pull_refused``).
    """

    rows: pl.DataFrame
    rejected: pl.DataFrame
    revisions: pl.DataFrame


def settle(contract: type[Contract], sources: Records | Sequence[Records], window: Window) -> Settled:
    """Cast, validate and deduplicate the window's records. Any order of the input gives the same frames.

    A cast that would lose something rejects the record with ``cast:<column>`` (not a value of the type) or
    ``precision:<column>`` (more fractional digits than are stored); a broken rule rejects it with the rule's name.
    Of several valid records with one key the newest arrival stays, or, where the contract says so, the first one that
    states what is stated now (null says nothing); ``n_duplicates`` counts the others.
    """
    each = [sources] if isinstance(sources, Records) else list(sources)
    judged = [_judged(contract, records, window) for records in each]
    is_good = pl.col("reasons").list.len() == 0
    keys = list(primary_key(contract))
    arrival = [*keys, "ingested_at", "pull_id", "page", "position"]
    good = (
        pl.concat(frame.filter(is_good).drop("row", "answered_at", "belongs_at", "reasons") for frame in judged)
        .sort(arrival)
        .with_columns(n_duplicates=(pl.len().over(keys) - 1).cast(pl.Int32))
    )
    rows = _kept(contract, good).select(contract.column_names())
    rejected = [
        _quarantined(contract, frame.filter(~is_good), records.texts)
        for frame, records in zip(judged, each, strict=True)
    ]
    revisions = _revisions(contract, good.filter(pl.col("n_duplicates") > 0))
    return Settled(sort(contract, rows), sort(Quarantine, pl.concat(rejected)), revisions)


# What says where a record comes from, and not what it states.
_ORIGIN = ("provider", "ingested_at", "pull_id", "n_duplicates", "date", *PERIODS)


def _stated(contract: type[Contract]) -> list[str]:
    """The columns that say what a record states of its key."""
    return [name for name in contract.column_names() if name not in (*primary_key(contract), *_ORIGIN)]


def _kept(contract: type[Contract], good: pl.DataFrame) -> pl.DataFrame:
    """One record of each key, of valid records in the order of keys and arrivals."""
    keys = list(primary_key(contract))
    if not contract.table.is_known_since_first:
        return good.unique(keys, keep="last", maintain_order=True)
    # Nearly all trades come once.
    is_repeated = pl.col("n_duplicates") > 0
    newest = {f"newest:{name}": pl.col(name).drop_nulls().last().over(keys) for name in _stated(contract)}
    repeated = good.filter(is_repeated).with_columns(**newest)
    agrees = [pl.col(name).is_null() | (pl.col(name) == pl.col(f"newest:{name}")) for name in _stated(contract)]
    first = repeated.filter(pl.all_horizontal(agrees)).unique(keys, keep="first", maintain_order=True)
    said = first.with_columns(pl.col(f"newest:{name}").alias(name) for name in _stated(contract)).drop(list(newest))
    return pl.concat([good.filter(~is_repeated), said])


def _revisions(contract: type[Contract], repeated: pl.DataFrame) -> pl.DataFrame:
    """Each change of a stated value between two arrivals of one key; null says nothing, and changes nothing.

    ``repeated`` are the valid records of keys that several records have, in the order of keys and arrivals.
    """
    keys, stated = list(primary_key(contract)), _stated(contract)
    found = [pl.DataFrame(schema=polars_schema(RevisionLedger))]
    for name in stated if len(repeated) else []:
        before = {"old": name, "old_available_at": "ingested_at", "old_pull_id": "pull_id"}
        told = repeated.filter(pl.col(name).is_not_null()).with_columns(
            new=pl.col(name), **{ours: pl.col(theirs).shift(1).over(keys) for ours, theirs in before.items()}
        )
        changed = told.filter(pl.col("old").is_not_null() & (pl.col("new") != pl.col("old")))
        if changed.is_empty():
            continue
        is_number = changed.schema["new"].is_numeric()
        ratio = pl.col("new").cast(pl.Float64) / pl.col("old").cast(pl.Float64) - 1 if is_number else None
        text_of = [_plain(pl.col(key), changed.schema[key]) for key in keys]
        found.append(
            changed.select(
                table_name=pl.lit(contract.table.full_name),
                row_key=pl.concat_str(text_of, separator="|"),
                column_name=pl.lit(name),
                observed_at=pl.col(moment(contract)),
                old_value=pl.col("old").cast(pl.String),
                new_value=pl.col("new").cast(pl.String),
                old_available_at="old_available_at",
                new_available_at="ingested_at",
                old_pull_id="old_pull_id",
                new_pull_id="pull_id",
                relative_change=(pl.lit(None, pl.Float64) if ratio is None else pl.when(ratio.is_finite()).then(ratio)),
                date="date",
            )
        )
    ledger = pl.concat(found)
    # Two records of one answer may differ as well: of one arrival the last change stands.
    return sort(RevisionLedger, ledger.unique(list(primary_key(RevisionLedger)), keep="last", maintain_order=True))


def _plain(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    return column.dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ") if dtype == UTC_TIME else column.cast(pl.String)


def _judged(contract: type[Contract], records: Records, window: Window) -> pl.DataFrame:
    """The window's records of one source, typed, each with the reasons against it and the time that it belongs to."""
    sent = records.frame
    when = moment(contract)
    typed_fields = [f for f in fields(contract) if f.name in sent.columns]
    cast = sent.with_columns(
        *[_cast(f, sent.schema[f.name]) for f in typed_fields],
        *[_loss(f, sent.schema[f.name]).alias(f"loss:{f.name}") for f in typed_fields],
    )
    day = pl.col(when).dt.date()
    derived = {"n_duplicates": pl.lit(0, pl.Int32), "date": day}
    derived |= {name: day.dt.truncate(every) for name, every in PERIODS.items()}
    cast = cast.with_columns(**{name: e for name, e in derived.items() if name in contract.column_names()})
    _require_columns(contract, cast)

    reasons = [pl.col(f"loss:{f.name}") for f in typed_fields] + [
        pl.when(~rule.expr.fill_null(value=True)).then(pl.lit(name))
        for name, rule in contract._validation_rules(with_cast=False).items()
        if name != "primary_key"
    ]
    judged = cast.with_columns(reasons=pl.concat_list(reasons).list.drop_nulls())
    of_time = [f"cast:{when}", f"{when}|nullability", "not_from_the_future", "not_before_bitcoin"]
    has_bad_time = pl.col("reasons").list.set_intersection(of_time).list.len() > 0
    # Over the whole pull, before the window is looked at: a window must never change what becomes of a record.
    is_bad = pl.col("reasons").list.len() > 0
    is_refused = (pl.len() >= FEWEST_JUDGED) & (is_bad.mean() > MOST_REFUSED)
    is_drifted = pl.col("pull_id").is_in(list(records.drifted))
    judged = judged.with_columns(belongs_at=pl.when(has_bad_time).then("answered_at").otherwise(when))
    if records.has_whole_pulls:
        judged = judged.with_columns(
            reasons=pl.when(is_refused.over("pull_id") | is_drifted)
            .then(pl.concat_list("reasons", pl.lit(PULL_REFUSED)))
            .otherwise("reasons")
        )
    inside = pl.col("belongs_at").is_between(pl.lit(window.start), pl.lit(window.end), closed="left")
    return judged.filter(inside).select(*dict.fromkeys([*contract.column_names(), *POINTERS, "belongs_at", "reasons"]))


def sort(contract: type[Contract], frame: pl.DataFrame) -> pl.DataFrame:
    """The contract's row order, completed by its key so that equal content means equal frames."""
    order = [*contract.table.partition_by, *contract.table.sort_by, *primary_key(contract)]
    return frame.sort(list(dict.fromkeys(order)))


def conform(contract: type[Contract], frame: pl.DataFrame) -> pl.DataFrame:
    """A computed frame in the contract's column order and row order, refused where it breaks the contract.

    Raises:
        DataError: a column is missing or has another dtype, or rows break a rule; nothing has been written.
    """
    expected = polars_schema(contract)
    wrong = [
        f"{name} is {frame.schema.get(name, 'missing')}, not {dtype}"
        for name, dtype in expected.items()
        if frame.schema.get(name) != dtype
    ]
    if wrong:
        raise DataError(
            "; ".join(wrong),
            where=contract.table.full_name,
            safe="nothing was written",
            hint="mend the function that computes the table, or its contract",
        )
    rows, failure = contract.filter(frame.select(expected.names()))
    if len(failure):
        broken = ", ".join(f"{name} ({n} rows)" for name, n in sorted(failure.counts().items()))
        raise DataError(
            f"rows break the contract: {broken}; first: {failure.invalid().row(0, named=True)}",
            where=contract.table.full_name,
            safe="nothing was written",
            hint="look at the upstream rows, or mend the function that computes the table",
        )
    return sort(contract, pl.DataFrame(rows))


def _cast(field: Field, sent: pl.DataType) -> pl.Expr:
    column = pl.col(field.name)
    if sent == field.dtype or sent != pl.String():
        return column
    if field.dtype == pl.Boolean():
        return column.replace_strict({"true": True, "false": False}, default=None, return_dtype=pl.Boolean)
    if field.dtype == UTC_TIME:
        # Milliseconds since the epoch; 0 is the providers' "never".
        sent_ms = column.cast(pl.Int64, strict=False).replace(0, None)
        # Beyond this the cast to microseconds wraps around, to a moment that may look right.
        return pl.from_epoch(pl.when(sent_ms.is_between(-_LAST_MS, _LAST_MS)).then(sent_ms), "ms").cast(UTC_TIME)
    return column.cast(field.dtype, strict=False)


def _loss(field: Field, sent: pl.DataType) -> pl.Expr:
    """The reason code where casting the sent text loses something, else null."""
    nothing = pl.lit(None, pl.String)
    if sent != pl.String() or field.dtype == pl.String():
        return nothing
    column = pl.col(field.name)
    became_null = column.is_not_null() & _cast(field, sent).is_null()
    if field.dtype == UTC_TIME:
        became_null &= column != "0"
    reason: pl.Expr = pl.when(became_null).then(pl.lit(f"cast:{field.name}")).otherwise(nothing)
    if field.dtype == MONEY and not field.is_rounded:
        is_too_fine = reason.is_null() & _has_more_digits(column)
        reason = pl.when(is_too_fine).then(pl.lit(f"precision:{field.name}")).otherwise(reason)
    return reason


def _has_more_digits(number: pl.Expr) -> pl.Expr:
    """Whether a number's text says more fractional digits than are stored; trailing zeros say nothing."""
    # Texts with an exponent are rare: to take one apart costs ten times what looking at the others does.
    scientific = pl.when(number.str.contains("[eE]")).then(number)
    fraction = scientific.str.extract(r"\.(\d*?)0*[eE]").fill_null("").str.len_bytes().cast(pl.Int64)
    exponent = scientific.str.extract(r"[eE]([+-]?\d+)$").cast(pl.Int64, strict=False).fill_null(0)
    plain = number.str.contains(rf"\.[0-9]{{{_SCALE}}}[0-9]*[1-9]")
    return pl.when(scientific.is_not_null()).then(fraction - exponent > _SCALE).otherwise(plain)


def _quarantined(contract: type[Contract], rejected: pl.DataFrame, texts: Sequence[bytes | memoryview]) -> pl.DataFrame:
    text = pl.Series("record", [bytes(texts[row]).decode(errors="replace") for row in rejected["row"]], pl.String)
    frame = rejected.with_columns(
        text,
        table_name=pl.lit(contract.table.full_name),
        reasons=pl.col("reasons").list.sort().list.join(","),
        observed_at=pl.col("belongs_at"),
        date=pl.col("belongs_at").dt.date(),
    )
    return frame.select(polars_schema(Quarantine).names())


def _require_columns(contract: type[Contract], frame: pl.DataFrame) -> None:
    missing = [name for name in contract.column_names() if name not in frame.columns]
    if missing:
        raise DataError(
            f"the parser gives no column {', '.join(missing)}",
            where=contract.table.full_name,
            safe="nothing was written",
            hint="mend the provider's parser",
        )
