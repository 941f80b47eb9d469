"""A provider's record ends in exactly one place, and no digit of it is lost on the way."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import dataframely as dy
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from crypto_assets.errors import DataError
from crypto_assets.tables.conform import POINTERS, Records, Settled, conform, settle
from crypto_assets.tables.contract import (
    MONEY,
    UTC_TIME,
    Contract,
    Table,
    Write,
    Zone,
    clock,
    count,
    day,
    flag,
    key,
    money,
    number,
    polars_schema,
    text,
)
from crypto_assets.tables.quality import Quarantine
from crypto_assets.tables.trusted import Fact, FxRates
from crypto_assets.tables.window import Window


class Quotes(Fact):
    """Prices with every kind of column that a provider's text is cast to."""

    table = Table(
        zone=Zone.TRUSTED,
        name="quotes",
        group="g",
        cadence="never",
        write=Write.REPLACE,
        sort_by=("asset_id", "observed_at"),
        clock="observed_at",
    )

    asset_id = key("Id.")
    price_usd = money("Price.", high=10**9)
    supply = money("Supply.", unit="units", nullable=True)
    change_pct = money("Change.", unit="%", low=-100, nullable=True, rounded=True)
    rank = count("Rank.", low=1, nullable=True)
    n_trades = count("Trades.", nullable=True, wide=True)
    is_live = flag("Live.", nullable=True)
    updated_at = clock("Updated.", nullable=True)


class Bars(Contract):
    """A computed table."""

    table = Table(
        zone=Zone.REFINED, name="bars", group="g", cadence="never", write=Write.REPLACE, sort_by=("asset_id",)
    )

    asset_id = key("Id.")
    date = day(primary_key=True)
    low_usd = money("Low.")
    high_usd = money("High.")
    mean_usd = number("Mean.", unit="USD", low=0)
    note = text("Note.", nullable=True)

    @dy.rule()
    def low_is_not_above_high(cls) -> pl.Expr:  # noqa: N805
        return pl.col("low_usd") <= pl.col("high_usd")


DAY = dt.date(2024, 3, 29)
WINDOW = Window.of_day(DAY)
ANSWERED = dt.datetime(2024, 3, 29, 12, tzinfo=dt.UTC)
ARRIVED = ANSWERED + dt.timedelta(seconds=2)
NO_TIME = "date|nullability,observed_at|nullability"
MS = int(ANSWERED.timestamp() * 1000)
SENT_COLUMNS = (
    "observed_at",
    "asset_id",
    "price_usd",
    "supply",
    "change_pct",
    "rank",
    "n_trades",
    "is_live",
    "updated_at",
)


def sent(*records: Mapping[str, Any]) -> Records:
    """Records as a parser gives them: text columns, and pointers into raw."""
    plain = {
        **dict.fromkeys(SENT_COLUMNS),
        "pull_id": "p",
        "page": 0,
        "answered_at": ANSWERED,
        "ingested_at": ARRIVED,
        "provider": "coincap",
        "observed_at": str(MS),
        "asset_id": "bitcoin",
        "price_usd": "1",
    }
    rows = [{**plain, "row": i, "position": i, **record} for i, record in enumerate(records)]
    schema = {**POINTERS, "provider": pl.String(), **dict.fromkeys(SENT_COLUMNS, pl.String())}
    texts = [repr(record).encode() for record in records]
    return Records(pl.DataFrame(rows, schema=schema), texts)


def settled(*records: Mapping[str, Any]) -> Settled:
    return settle(Quotes, sent(*records), WINDOW)


def stored(column: str, sent_text: str | None) -> Any:
    """What is stored of one text in one column, which must not be refused."""
    result = settled({column: sent_text})
    assert result.rejected["reasons"].to_list() == []
    return result.rows[column].item()


def reasons(**columns: Any) -> str:
    """Why one record is refused, which it must be."""
    result = settled(columns)
    assert len(result.rows) == 0
    return str(result.rejected["reasons"].item())


# ---- casts ----


@pytest.mark.parametrize(
    "price",
    [
        "70422.5241216328306007",
        "87711.199999999997089617",
        "0.000000000000000001",
        "1.000000000000000000000000",
        "999999999.999999999999999999",
        "1e-7",
        "1E-18",
        "6.5e+3",
        "1.23456789012345678e2",
        "0",
    ],
)
def test_a_price_is_stored_digit_by_digit(price: str) -> None:
    assert stored("price_usd", price) == Decimal(price)


def test_a_supply_may_fill_all_20_integer_and_18_fractional_digits() -> None:
    widest = "99999999999999999999.999999999999999999"

    assert stored("supply", widest) == Decimal(widest)


@pytest.mark.parametrize("price", ["1.1234567890123456789", "0.0000000000000000001", "1e-19", "1.5e-18", "1e-400"])
def test_a_price_finer_than_is_stored_is_refused_and_not_rounded(price: str) -> None:
    assert reasons(price_usd=price) == "precision:price_usd"


@pytest.mark.parametrize(
    ("change", "rounded"),
    [
        ("21.379485735166293542000000000000000000", "21.379485735166293542"),
        ("0.0013413661271628439817000000000000000000", "0.001341366127162844"),
        ("-2.4410536133077088", "-2.4410536133077088"),
        ("-0.0000000000000000014", "-0.000000000000000001"),
        ("1e-30", "0"),
    ],
)
def test_a_statistic_declared_as_rounded_is_rounded_to_18_digits(change: str, rounded: str) -> None:
    assert stored("change_pct", change) == Decimal(rounded)


@pytest.mark.parametrize(
    "price",
    [
        "123456789012345678901234567890",
        "",
        " 1",
        "1 ",
        "NaN",
        "inf",
        "Infinity",
        "1,234.5",
        "1_000",
        "0x10",
        "1e",
        "--1",
        "１",
    ],
)
@pytest.mark.fault(
    row=15,
    fault="NaN, infinity, null, text where a number was due",
    promise="the record is quarantined with its reason",
)
def test_a_text_that_is_no_storable_number_is_refused_and_not_nulled(price: str) -> None:
    assert reasons(price_usd=price) == "cast:price_usd,price_usd|nullability"


def test_a_text_that_is_no_number_is_refused_in_a_nullable_column_too() -> None:
    assert reasons(supply="n/a") == "cast:supply"
    assert reasons(supply="123456789012345678901234567890") == "cast:supply"


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"price_usd": None}, "price_usd|nullability"),
        ({"price_usd": "-0.01"}, "price_usd|min"),
        ({"price_usd": "1000000000.000000000000000001"}, "price_usd|max"),
        ({"change_pct": "-100.1"}, "change_pct|min"),
        ({"asset_id": ""}, "asset_id|min_length"),
        ({"asset_id": None}, "asset_id|nullability"),
        ({"rank": "0"}, "rank|min"),
        ({"rank": "1.5"}, "cast:rank"),
        ({"rank": "3000000000"}, "cast:rank"),
        ({"n_trades": "9223372036854775808"}, "cast:n_trades"),
        ({"is_live": "yes"}, "cast:is_live"),
        ({"price_usd": "-1", "rank": "x", "supply": "-1"}, "cast:rank,price_usd|min,supply|min"),
    ],
    ids=str,
)
def test_a_refused_record_says_every_reason(columns: Mapping[str, Any], why: str) -> None:
    assert reasons(**columns) == why


@pytest.mark.parametrize(
    ("column", "sent_text", "value"),
    [
        ("rank", "2147483647", 2**31 - 1),
        ("n_trades", "9223372036854775807", 2**63 - 1),
        ("is_live", "true", True),
        ("is_live", "false", False),
        ("is_live", None, None),
        ("supply", None, None),
        ("updated_at", None, None),
        ("updated_at", str(MS), ANSWERED),
    ],
)
def test_other_columns_hold_what_their_text_says(column: str, sent_text: str | None, value: Any) -> None:
    assert stored(column, sent_text) == value


# ---- times ----


def test_an_epoch_of_zero_means_never() -> None:
    assert stored("updated_at", "0") is None


@pytest.mark.parametrize(
    ("observed", "why"),
    [
        ("1711713600000000", "not_from_the_future"),
        ("1711713600", "not_before_bitcoin"),
        ("-1", "not_before_bitcoin"),
        ("0", NO_TIME),
        (None, NO_TIME),
        ("yesterday", f"cast:observed_at,{NO_TIME}"),
        ("1711713600000.5", f"cast:observed_at,{NO_TIME}"),
    ],
    ids=["year 56000", "1970", "1969", "never", "absent", "words", "fraction"],
)
def test_a_record_without_a_usable_time_belongs_to_the_time_of_its_answer(observed: str | None, why: str) -> None:
    rejected = settled({"observed_at": observed}).rejected

    assert rejected["reasons"].item() == why
    assert rejected["observed_at"].item() == ANSWERED
    assert rejected["date"].item() == DAY


@pytest.mark.parametrize("observed", ["9223372036854775807", "18448455796798216", str((2**64 + MS * 1000) // 1000)])
def test_a_time_that_would_wrap_around_into_the_present_is_refused(observed: str) -> None:
    assert reasons(observed_at=observed) == f"cast:observed_at,{NO_TIME}"


def test_a_provider_clock_may_run_five_minutes_ahead_of_ours() -> None:
    ahead = int(ARRIVED.timestamp() * 1000) + 300_000

    assert stored("observed_at", str(ahead)) == ARRIVED + dt.timedelta(minutes=5)
    assert reasons(observed_at=str(ahead + 1)) == "not_from_the_future"


def test_records_of_another_window_are_neither_stored_nor_refused_here() -> None:
    yesterday = str(MS - 86_400_000)
    result = settled({"observed_at": yesterday}, {"observed_at": yesterday, "price_usd": "-1"}, {})

    assert result.rows["observed_at"].to_list() == [ANSWERED]
    assert len(result.rejected) == 0


def test_a_window_holds_its_start_and_not_its_end() -> None:
    window = Window(ANSWERED, ANSWERED + dt.timedelta(hours=1))
    late = {"ingested_at": ANSWERED + dt.timedelta(hours=2)}
    times = [MS - 1, MS, MS + 3_599_999, MS + 3_600_000]
    result = settle(Quotes, sent(*({"observed_at": str(t), **late} for t in times)), window)

    assert result.rows["observed_at"].dt.epoch("ms").to_list() == times[1:3]


# ---- duplicates ----


def test_of_records_with_one_key_the_newest_arrival_stays_and_the_others_are_counted() -> None:
    early, late = {"ingested_at": ARRIVED}, {"ingested_at": ARRIVED + dt.timedelta(seconds=1)}
    rows = settled({"price_usd": "3", **late}, {"price_usd": "1", **early}, {"price_usd": "2", **early}).rows

    assert rows["price_usd"].to_list() == [Decimal(3)]
    assert rows["n_duplicates"].to_list() == [2]
    assert rows["ingested_at"].to_list() == [late["ingested_at"]]


class Deals(Quotes):
    """Facts of which it matters since when they were known."""

    table = replace(Quotes.table, is_known_since_first=True)


@pytest.mark.parametrize(
    ("told", "since", "supply"),
    [
        ([("1", None), ("1", None), ("1", None)], 0, None),
        # Null says nothing: what was said once is neither taken back nor new.
        ([("1", None), ("1", "5"), ("1", None)], 0, "5"),
        ([("1", "5"), ("2", "5"), ("2", None)], 1, "5"),
        ([("1", "5"), ("1", "6"), ("1", "6")], 1, "6"),
        ([("1", None), ("1", None), ("3", None)], 2, None),
    ],
)
def test_a_row_may_be_known_since_the_first_that_states_what_is_stated_now(
    told: list[tuple[str, str | None]], since: int, supply: str | None
) -> None:
    arrivals = [ARRIVED + dt.timedelta(seconds=n) for n in range(3)]
    records = [
        {"price_usd": price, "supply": stated, "ingested_at": at, "pull_id": f"p{n}"}
        for n, ((price, stated), at) in enumerate(zip(told, arrivals, strict=True))
    ]
    for order in (records, records[::-1]):
        rows = settle(Deals, sent(*order), WINDOW).rows
        assert rows.select("price_usd", "supply", "ingested_at", "pull_id", "n_duplicates").rows() == [
            (Decimal(told[-1][0]), supply and Decimal(supply), arrivals[since], f"p{since}", 2)
        ]


def test_of_records_of_one_arrival_the_last_position_stays() -> None:
    rows = settled({"price_usd": "1"}, {"price_usd": "2"}).rows

    assert rows.select("price_usd", "n_duplicates").rows() == [(Decimal(2), 1)]


def test_a_refused_record_is_no_duplicate_and_hides_no_good_one() -> None:
    result = settled({"price_usd": "1"}, {"price_usd": "-1", "ingested_at": ARRIVED + dt.timedelta(seconds=1)})

    assert result.rows.select("price_usd", "n_duplicates").rows() == [(Decimal(1), 0)]
    assert result.rejected["reasons"].to_list() == ["price_usd|min"]


# ---- the quarantine ----


def test_a_refused_record_is_kept_with_its_text_and_a_pointer_to_raw() -> None:
    records = sent({"price_usd": "x"}, {}, {"price_usd": "y", "page": 3, "position": 9})
    rejected = settle(Quotes, Records(records.frame, [b'{"a": 1}', b"{}", b'{"caf\xe9": 2}']), WINDOW).rejected

    assert rejected.schema == polars_schema(Quarantine)
    assert rejected.select("table_name", "pull_id", "page", "position", "record").rows() == [
        ("trusted.quotes", "p", 0, 0, '{"a": 1}'),
        ("trusted.quotes", "p", 3, 9, '{"caf\ufffd": 2}'),
    ]
    assert Quarantine.is_valid(rejected)


def test_no_records_are_two_empty_frames_of_the_right_shape() -> None:
    result = settled()

    assert result.rows.schema == polars_schema(Quotes)
    assert result.rejected.schema == polars_schema(Quarantine)
    assert (len(result.rows), len(result.rejected)) == (0, 0)


def test_a_parser_that_gives_no_column_is_named() -> None:
    records = sent({})

    with pytest.raises(
        DataError, match=r"trusted.quotes: the parser gives no column rank, is_live; nothing was written"
    ):
        settle(Quotes, Records(records.frame.drop("rank", "is_live"), records.texts), WINDOW)


# ---- properties ----

HOSTILE = st.one_of(
    st.none(),
    st.text(max_size=12),
    st.text("0123456789.eE+-", max_size=30),
    st.decimals(allow_nan=True, allow_infinity=True).map(str),
    st.integers().map(str),
    st.sampled_from(["", " ", "null", "NaN", "1,5", str(MS), "9" * 30, "1e-19", "true", "\x00", "١٢٣", "'; --"]),
)
RECORD = st.fixed_dictionaries(
    {},
    optional={
        "asset_id": st.sampled_from(["bitcoin", "ethereum"]) | HOSTILE,
        "observed_at": st.integers(MS - 60_000, MS + 400_000).map(str) | HOSTILE,
        "ingested_at": st.sampled_from([ARRIVED, ARRIVED + dt.timedelta(minutes=1)]),
        **dict.fromkeys(SENT_COLUMNS[2:], HOSTILE),
    },
)


def belongs_to_the_window(record: Mapping[str, Any]) -> bool:
    """Good times lie inside; all others fall back to the answer's, which does too: unless they are another day's."""
    ms = record.get("observed_at") or str(MS)
    return not ms.lstrip("+-").isdecimal() or abs(int(ms) - MS) < 500_000 or int(ms) < 1_231_006_505_000 or int(ms) > MS


@given(st.lists(RECORD.filter(belongs_to_the_window), max_size=12))
def test_every_record_ends_as_a_row_a_duplicate_or_a_refusal(records: Sequence[Mapping[str, Any]]) -> None:
    result = settled(*records)

    assert len(records) == len(result.rows) + result.rows["n_duplicates"].sum() + len(result.rejected)
    assert Quotes.is_valid(result.rows)
    assert result.rejected["reasons"].str.len_chars().min() != 0


@given(st.lists(RECORD, max_size=8), st.randoms(use_true_random=False))
def test_any_order_of_the_records_gives_equal_frames(records: Sequence[Mapping[str, Any]], rng: Any) -> None:
    told = sent(*records)
    order = rng.sample(range(len(records)), len(records))
    shuffled = told.frame[order] if order else told.frame

    first, second = settle(Quotes, told, WINDOW), settle(Quotes, Records(shuffled, told.texts), WINDOW)
    assert_frame_equal(first.rows, second.rows)
    assert_frame_equal(first.rejected, second.rejected)


@given(st.text("0123456789", max_size=22), st.text("0123456789", max_size=22), st.none() | st.integers(-25, 25))
@pytest.mark.fault(row=17, fault="30 digits, 1e-18, huge supplies", promise="exact or refused, never rounded")
def test_a_price_is_stored_exactly_or_refused(whole: str, fraction: str, exponent: int | None) -> None:
    price = whole + (f".{fraction}" if fraction else "") + (f"e{exponent}" if exponent is not None else "")
    result = settled({"price_usd": price})

    if len(result.rows):
        assert result.rows["price_usd"].item() == Decimal(price)
    else:
        assert result.rejected["reasons"].item()


@given(st.decimals(0, 10**9, places=18, allow_nan=False))
def test_every_price_of_18_digits_is_stored(price: Decimal) -> None:
    assert stored("price_usd", f"{price:f}") == price


# ---- computed frames ----

BARS = pl.DataFrame(
    {
        "asset_id": ["bitcoin", "ada"],
        "date": [DAY, DAY],
        "low_usd": [Decimal(1), Decimal(2)],
        "high_usd": [Decimal(3), Decimal(2)],
        "mean_usd": [2.0, 2.0],
        "note": [None, "x"],
    },
    schema=polars_schema(Bars),
)


def test_a_computed_frame_is_brought_into_the_contracts_order_of_columns_and_rows() -> None:
    fitted = conform(Bars, BARS.select(reversed(BARS.columns)).with_columns(extra=1))

    assert_frame_equal(fitted, BARS[[1, 0]])


@pytest.mark.parametrize(
    ("frame", "what"),
    [
        (BARS.with_columns(pl.col("mean_usd").cast(pl.Float32)), "mean_usd is Float32, not Float64"),
        (
            BARS.with_columns(pl.col("low_usd").cast(pl.Decimal(38, 10))),
            r"low_usd is Decimal\(.*scale=10\), not Decimal\(.*scale=18\)",
        ),
        (BARS.drop("note"), "note is missing, not String"),
    ],
    ids=["float", "scale", "missing"],
)
def test_a_computed_frame_of_other_types_is_refused_by_column(frame: pl.DataFrame, what: str) -> None:
    with pytest.raises(DataError, match=rf"refined\.bars: {what}; nothing was written"):
        conform(Bars, frame)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"low_usd": pl.lit(Decimal(9), MONEY)}, r"low_is_not_above_high \(2 rows\)"),
        ({"mean_usd": pl.lit(float("nan"))}, r"mean_usd\|nan \(2 rows\)"),
        ({"mean_usd": pl.lit(float("inf"))}, r"mean_usd\|inf \(2 rows\)"),
        ({"asset_id": pl.lit("same")}, r"primary_key \(2 rows\)"),
        ({"high_usd": pl.lit(None, MONEY)}, r"high_usd\|nullability \(2 rows\)"),
    ],
    ids=["rule", "nan", "infinite", "key", "null"],
)
def test_a_computed_frame_that_breaks_a_rule_is_refused_by_the_rules_name(
    change: Mapping[str, pl.Expr], rule: str
) -> None:
    with pytest.raises(DataError, match=f"rows break the contract: .*{rule}") as caught:
        conform(Bars, BARS.with_columns(**change))

    assert "first: {'asset_id'" in caught.value.what


def test_a_time_finer_than_a_millisecond_is_refused() -> None:
    rate = pl.DataFrame(
        {
            "provider": ["coincap"],
            "observed_at": [ANSWERED + dt.timedelta(microseconds=1)],
            "ingested_at": [ARRIVED],
            "pull_id": ["p"],
            "n_duplicates": [0],
            "date": [DAY],
            "currency_id": ["euro"],
            "symbol": ["EUR"],
            "currency_symbol": ["€"],
            "currency_kind": ["fiat"],
            "rate_usd": [Decimal("1.08")],
        },
        schema=polars_schema(FxRates),
    )

    assert len(conform(FxRates, rate.with_columns(pl.col(UTC_TIME).dt.truncate("1ms")))) == 1
    with pytest.raises(DataError, match=r"observed_at\|resolution"):
        conform(FxRates, rate)


# ---- revisions ----

LATER = ARRIVED + dt.timedelta(hours=1)
LAST = ARRIVED + dt.timedelta(hours=2)


def test_a_value_stated_differently_later_is_a_revision_and_the_newest_stays() -> None:
    result = settled(
        {"price_usd": "1.5", "rank": "3", "pull_id": "first"},
        {"price_usd": "3", "rank": "3", "pull_id": "second", "ingested_at": LATER},
    )
    assert result.rows["price_usd"].item() == 3
    (told,) = result.revisions.to_dicts()
    assert (told["table_name"], told["row_key"]) == ("trusted.quotes", "coincap|2024-03-29T12:00:00.000Z|bitcoin")
    assert (told["column_name"], told["old_value"], told["new_value"]) == (
        "price_usd",
        "1.500000000000000000",
        "3.000000000000000000",
    )
    assert (told["old_pull_id"], told["new_pull_id"]) == ("first", "second")
    assert (told["old_available_at"], told["new_available_at"]) == (ARRIVED, LATER)
    assert (told["relative_change"], told["date"], told["observed_at"]) == (1.0, DAY, ANSWERED)


def test_a_value_that_changes_and_changes_back_is_two_revisions() -> None:
    times = [("1", ARRIVED), ("2", LATER), ("1", LAST)]
    result = settled(*({"price_usd": price, "ingested_at": arrived} for price, arrived in times))
    assert result.revisions.select("new_value", "new_available_at").rows() == [
        ("2.000000000000000000", LATER),
        ("1.000000000000000000", LAST),
    ]


def test_what_is_repeated_or_left_out_is_no_revision() -> None:
    plain = {"price_usd": "1", "supply": "7", "is_live": "true"}
    result = settled(plain, {**plain, "supply": None, "ingested_at": LATER}, {**plain, "ingested_at": LAST})
    assert result.rows["n_duplicates"].item() == 2
    assert result.revisions.is_empty()


def test_a_refused_record_revises_nothing() -> None:
    result = settled({"price_usd": "1"}, {"price_usd": "-2", "ingested_at": LATER})
    assert len(result.rejected) == 1
    assert result.revisions.is_empty()


def test_revisions_are_the_same_in_any_order_of_records() -> None:
    records = [
        {"price_usd": str(i), "rank": str(i), "ingested_at": ARRIVED + dt.timedelta(hours=i)} for i in range(1, 5)
    ]
    first, second = settled(*records), settled(*reversed(records))
    assert len(first.revisions) == 6
    assert_frame_equal(first.revisions, second.revisions)
