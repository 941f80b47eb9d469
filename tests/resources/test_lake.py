"""The lake: whatever happens on the way, a write lands whole, once, and only where it was meant to."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable, QueryBuilder, write_deltalake
from deltalake.exceptions import CommitFailedError
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from crypto_assets import __version__
from crypto_assets.errors import DataError, NeedsYouError, TransientError
from crypto_assets.resources import lake as lake_module
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.inspection import files_of
from crypto_assets.resources.lake import Commit, Lake, content_hash, delete
from crypto_assets.resources.predicates import literal
from crypto_assets.resources.query import QueryEngine
from crypto_assets.tables import ALL_TABLES, Contract
from crypto_assets.tables.contract import comment, description, fields, fingerprint, polars_schema, skipping_columns
from crypto_assets.tables.quality import GapLedger, Quarantine
from crypto_assets.tables.raw import RawCoincapHistory, RawCoincapRates
from crypto_assets.tables.refined import DimExchange
from crypto_assets.tables.trusted import AssetHistory, FxRates
from crypto_assets.tables.window import Window

RowsOf = Callable[..., pl.DataFrame]
DAY = dt.date(2024, 1, 1)
NEXT = dt.date(2024, 1, 2)
WHOLE_DAY = Window.of_day(DAY)


def at(hour: int, day: int = 1, *, ms: int = 0) -> dt.datetime:
    return dt.datetime(2024, 1, day, hour, tzinfo=dt.UTC) + dt.timedelta(milliseconds=ms)


def hour(h: int, day: int = 1) -> Window:
    return Window(at(h, day), at(h, day) + dt.timedelta(hours=1))


@pytest.fixture
def rates(rows_of: RowsOf) -> RowsOf:
    """Rates of currencies at one time, each ``(id, USD)``."""

    def build(observed_at: dt.datetime, *pairs: tuple[str, str]) -> pl.DataFrame:
        return rows_of(
            FxRates, *({"observed_at": observed_at, "currency_id": c, "rate_usd": Decimal(usd)} for c, usd in pairs)
        )

    return build


@pytest.fixture
def exchanges(rows_of: RowsOf) -> RowsOf:
    """Versions of exchanges, each ``(id, name)``."""

    def build(*pairs: tuple[str | None, str | None]) -> pl.DataFrame:
        return rows_of(
            DimExchange,
            *(
                {"exchange_id": e, "name": name, "valid_from": at(0), "first_seen_on": DAY, "last_seen_on": DAY}
                for e, name in pairs
            ),
        )

    return build


@pytest.fixture(params=["directory", pytest.param("bucket", marks=pytest.mark.s3)])
def any_lake(request: pytest.FixtureRequest) -> Lake:
    fixture = "lake" if request.param == "directory" else "s3_lake"
    return request.getfixturevalue(fixture)  # type: ignore[no-any-return]


def again(lake: Lake) -> Lake:
    """The same lake as another process opens it."""
    return Lake(lake.root, storage_options=lake.storage_options, run_id="run-2", clock=FixedClock(at(12)))


def delta(lake: Lake, contract: type[Contract]) -> DeltaTable:
    return DeltaTable(lake.uri(contract), storage_options=lake.storage_options or None)


def failing(monkeypatch: pytest.MonkeyPatch, *errors: Exception, lands: bool) -> list[str]:
    """Let the next writes end in these errors, after or before they land; returns what was called."""
    calls: list[str] = []

    def write(table: Any, frame: Any, **options: Any) -> None:
        calls.append(options["mode"])
        error = errors[len(calls) - 1] if len(calls) <= len(errors) else None
        if lands or error is None:
            write_deltalake(table, frame, **options)
        if error is not None:
            raise error

    monkeypatch.setattr(lake_module, "write_deltalake", write)
    return calls


# ---- reading ----


def test_a_table_that_was_never_written_is_empty(lake: Lake) -> None:
    assert lake.read(FxRates).schema == polars_schema(FxRates)
    assert len(lake.scan(FxRates, WHOLE_DAY).collect()) == 0
    assert lake.days(FxRates) == []
    assert lake.state(FxRates) is None
    assert lake.landed(RawCoincapRates, "app") is None
    assert lake.maintain(FxRates, NEXT) == {"compacted": 0, "vacuumed": 0}


def test_what_was_written_is_read_in_the_contracts_order(any_lake: Lake, rates: RowsOf) -> None:
    frame = rates(at(5), ("euro", "1.079"), ("bitcoin", "70422.524121632830600712"))
    commit = any_lake.replace(FxRates, frame, WHOLE_DAY)

    assert commit == Commit("trusted.fx_rates", 1, 2, is_new=True)
    assert_frame_equal(again(any_lake).read(FxRates), frame[[1, 0]])


@pytest.mark.parametrize("contract", ALL_TABLES, ids=lambda c: c.table.full_name)
def test_every_table_is_stored_as_its_contract_says(lake: Lake, contract: type[Contract], rows_of: RowsOf) -> None:
    frame = rows_of(contract, {name: DAY for name, dtype in polars_schema(contract).items() if dtype == pl.Date()})
    match contract.table.write.value:
        case "append":
            lake.append(contract, frame, app="a", version=1)
        case "replace":
            lake.replace(contract, frame, WHOLE_DAY)
        case "merge":
            lake.merge(contract, frame)

    assert_frame_equal(again(lake).read(contract), frame)
    assert delta(lake, contract).metadata().partition_columns == list(contract.table.partition_by)


def test_days_and_state_say_what_a_table_holds(any_lake: Lake, rates: RowsOf) -> None:
    frame = pl.concat([rates(at(5), ("euro", "1")), rates(at(5, 2), ("euro", "2"))])
    any_lake.replace(FxRates, frame, Window.of_days(DAY, NEXT))
    state = any_lake.state(FxRates)

    assert any_lake.days(FxRates) == [DAY, NEXT]
    assert state is not None
    assert (state.table, state.uri, state.version) == ("trusted.fx_rates", any_lake.uri(FxRates), 1)
    assert (state.n_rows, state.n_files) == (2, 2)
    assert state.n_bytes > 0
    assert state.modified_at is not None
    assert abs(state.modified_at - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=5)


def test_a_window_finer_than_a_day_is_read_by_the_clock(lake: Lake, rates: RowsOf) -> None:
    times = [at(5), at(5, ms=3_599_999), at(6)]
    lake.replace(FxRates, pl.concat([rates(t, ("euro", "1")) for t in times]), WHOLE_DAY)

    assert lake.read(FxRates, hour(5))["observed_at"].to_list() == times[:2]


def test_an_answer_that_covers_a_span_is_read_by_every_window_it_overlaps(lake: Lake, rows_of: RowsOf) -> None:
    spans = {"january": (at(0, 1), at(0, 31)), "live": (at(5, 3), at(5, 3)), "edge": (at(0, 4), at(0, 5))}
    frame = rows_of(
        RawCoincapHistory,
        *({"pull_id": n, "window_start_at": a, "window_end_at": b, "date": a.date()} for n, (a, b) in spans.items()),
    )
    lake.append(RawCoincapHistory, frame, app="a", version=1)

    def held(window: Window) -> set[str]:
        return set(lake.read(RawCoincapHistory, window)["pull_id"])

    assert held(Window.of_day(dt.date(2024, 1, 3))) == {"january", "live"}
    assert held(Window.of_day(dt.date(2024, 1, 4))) == {"january", "edge"}
    assert held(Window.of_day(dt.date(2024, 1, 5))) == {"january"}
    assert held(hour(5, 3)) == {"january", "live"}
    assert held(hour(4, 3)) == {"january"}
    assert held(Window.of_day(dt.date(2023, 12, 31))) == set()


# ---- replace ----


def test_replacing_with_the_same_rows_makes_no_version(any_lake: Lake, rates: RowsOf) -> None:
    frame = rates(at(5), ("euro", "1"), ("yen", "2"))
    first = any_lake.replace(FxRates, frame, WHOLE_DAY)
    second = again(any_lake).replace(FxRates, frame[[1, 0]], WHOLE_DAY)

    assert (first.is_new, second.is_new) == (True, False)
    assert first.version == second.version == delta(any_lake, FxRates).version()


def test_replacing_an_hour_leaves_the_other_hours_and_days(any_lake: Lake, rates: RowsOf) -> None:
    before = [rates(at(4), ("euro", "1")), rates(at(5), ("euro", "2"), ("yen", "3")), rates(at(5, 2), ("euro", "4"))]
    any_lake.replace(FxRates, pl.concat(before), Window.of_days(DAY, NEXT))
    any_lake.replace(FxRates, rates(at(5, ms=1), ("won", "9")), hour(5))

    assert any_lake.read(FxRates).sort("observed_at").select("currency_id", "rate_usd").rows() == [
        ("euro", Decimal(1)),
        ("won", Decimal(9)),
        ("euro", Decimal(4)),
    ]


def test_an_empty_frame_empties_the_window_only(any_lake: Lake, rates: RowsOf) -> None:
    any_lake.replace(FxRates, pl.concat([rates(at(h), ("euro", str(h))) for h in (4, 5, 6)]), WHOLE_DAY)
    any_lake.replace(FxRates, rates(at(5)), hour(5))

    assert any_lake.read(FxRates)["observed_at"].to_list() == [at(4), at(6)]
    assert not any_lake.replace(FxRates, rates(at(5)), hour(5)).is_new


def test_an_empty_frame_for_an_empty_table_writes_no_row(lake: Lake, rates: RowsOf) -> None:
    assert not lake.replace(FxRates, rates(at(5)), WHOLE_DAY).is_new
    assert len(lake.read(FxRates)) == 0


@pytest.mark.parametrize("outside", [at(4, ms=3_599_999), at(6), at(5, 2)], ids=["before", "end", "next day"])
def test_rows_outside_the_window_are_refused_and_nothing_is_written(
    lake: Lake, rates: RowsOf, outside: dt.datetime
) -> None:
    lake.replace(FxRates, rates(at(5), ("euro", "1")), hour(5))
    frame = pl.concat([rates(at(5), ("yen", "2")), rates(outside, ("won", "3"))])

    with pytest.raises(DataError, match=r"1 of 2 rows lie outside 2024-01-01T05:00Z\.\.2024-01-01T06:00Z; nothing was"):
        lake.replace(FxRates, frame, hour(5))
    assert lake.read(FxRates)["currency_id"].to_list() == ["euro"]
    assert delta(lake, FxRates).version() == 1


def test_a_row_without_a_day_or_a_time_lies_outside_every_window(lake: Lake, rates: RowsOf) -> None:
    good = rates(at(5), ("euro", "1"))

    for column in ("date", "observed_at"):
        bad = good.with_columns(pl.lit(None).cast(good.schema[column]).alias(column))
        with pytest.raises(DataError, match="1 of 2 rows lie outside"):
            lake.replace(FxRates, pl.concat([good, bad]), WHOLE_DAY)
    assert lake.state(FxRates) is None


def test_a_table_without_a_clock_is_replaced_by_whole_days(lake: Lake, rows_of: RowsOf) -> None:
    def prices(*usd: int, day: int = 1) -> pl.DataFrame:
        points = [{"observed_at": at(0, day), "asset_id": f"a{i}", "price_usd": Decimal(i)} for i in usd]
        return rows_of(AssetHistory, *points)

    lake.replace(AssetHistory, pl.concat([prices(1, 2), prices(1, day=2)]), Window.of_days(DAY, NEXT))
    lake.replace(AssetHistory, prices(3), WHOLE_DAY)

    assert lake.read(AssetHistory).select("date", "asset_id").rows() == [(DAY, "a3"), (NEXT, "a1")]


HOSTILE_NAME = "it's; DROP TABLE x --' OR '1'='1"


def test_a_window_can_be_narrowed_by_a_value_and_quotes_in_it_cannot_widen_it(lake: Lake, rows_of: RowsOf) -> None:
    def refused(table_name: str, reason: str) -> pl.DataFrame:
        return rows_of(Quarantine, {"table_name": table_name, "reasons": reason, "observed_at": at(5)})

    for name in ("trusted.fx_rates", HOSTILE_NAME):
        lake.replace(Quarantine, refused(name, "old"), WHOLE_DAY, where={"table_name": name})
    lake.replace(Quarantine, refused(HOSTILE_NAME, "new"), WHOLE_DAY, where={"table_name": HOSTILE_NAME})

    assert set(lake.read(Quarantine).select("table_name", "reasons").rows()) == {
        ("trusted.fx_rates", "old"),
        (HOSTILE_NAME, "new"),
    }
    with pytest.raises(DataError, match="1 of 1 rows lie outside"):
        lake.replace(Quarantine, refused("trusted.fx_rates", "new"), WHOLE_DAY, where={"table_name": HOSTILE_NAME})


@given(st.text())
def test_a_text_literal_ends_where_its_text_ends(text: str) -> None:
    told = literal(text)

    assert (told[0], told[-1]) == ("'", "'")
    assert told[1:-1].replace("''", "") == text.replace("'", "").replace("''", "")
    assert told[1:-1].replace("''", "'") == text
    assert "'" not in told[1:-1].replace("''", "")


def test_a_time_literal_is_utc_to_the_microsecond() -> None:
    assert literal(at(5, ms=7)) == "'2024-01-01T05:00:00.007000Z'"
    assert literal(DAY) == "'2024-01-01'"


# ---- what a frame must be ----


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda f: f.with_columns(n_duplicates=pl.lit(1.7)), "n_duplicates is Float64, not Int32"),
        (lambda f: f.with_columns(pl.col("rate_usd").cast(pl.Float64)), r"rate_usd is Float64, not Decimal"),
        (lambda f: f.with_columns(pl.col("observed_at").dt.replace_time_zone(None)), "observed_at is Datetime"),
        (lambda f: f.with_columns(extra=1), "extra is not in the contract"),
        (lambda f: f.drop("symbol"), "symbol is missing, not String"),
        (lambda f: f.select(reversed(f.columns)), "columns are in another order"),
    ],
    ids=["float in int", "float in decimal", "naive", "extra", "missing", "order"],
)
def test_a_frame_of_another_shape_is_refused_by_column(
    lake: Lake, rates: RowsOf, change: Callable[[pl.DataFrame], pl.DataFrame], what: str
) -> None:
    with pytest.raises(DataError, match=rf"trusted.fx_rates: {what}.*nothing was written"):
        lake.replace(FxRates, change(rates(at(5), ("euro", "1"))), WHOLE_DAY)
    assert lake.state(FxRates) is None


def test_a_table_is_written_in_its_own_way_only(lake: Lake, rates: RowsOf, exchanges: RowsOf) -> None:
    with pytest.raises(ValueError, match=r"trusted.fx_rates is written by replace, not by append"):
        lake.append(FxRates, rates(at(5)), app="a", version=1)
    with pytest.raises(ValueError, match=r"refined.dim_exchange is written by merge, not by replace"):
        lake.replace(DimExchange, exchanges(), WHOLE_DAY)
    with pytest.raises(ValueError, match=r"trusted.fx_rates is written by replace, not by merge"):
        lake.merge(FxRates, rates(at(5)))


# ---- append ----


@pytest.fixture
def answers(rows_of: RowsOf) -> RowsOf:
    def build(*pull_ids: str) -> pl.DataFrame:
        return rows_of(RawCoincapRates, *({"pull_id": p, "date": DAY} for p in pull_ids))

    return build


def test_an_append_lands_once_whoever_repeats_it(any_lake: Lake, answers: RowsOf) -> None:
    first = any_lake.append(RawCoincapRates, answers("p1"), app="coincap/rates", version=7)
    repeated = again(any_lake).append(RawCoincapRates, answers("p1"), app="coincap/rates", version=7)
    older = again(any_lake).append(RawCoincapRates, answers("p0"), app="coincap/rates", version=6)
    newer = again(any_lake).append(RawCoincapRates, answers("p2"), app="coincap/rates", version=8)
    other = again(any_lake).append(RawCoincapRates, answers("p3"), app="coincap/assets", version=1)

    assert [c.is_new for c in (first, repeated, older, newer, other)] == [True, False, False, True, True]
    assert (repeated.n_rows, repeated.version) == (0, first.version)
    assert sorted(any_lake.read(RawCoincapRates)["pull_id"]) == ["p1", "p2", "p3"]
    assert any_lake.landed(RawCoincapRates, "coincap/rates") == 8


def test_an_append_is_remembered_beyond_a_checkpoint_and_a_compaction(lake: Lake, answers: RowsOf) -> None:
    for i in range(1, 25):
        lake.append(RawCoincapRates, answers(f"p{i}"), app="a", version=i)
    assert lake.maintain(RawCoincapRates, NEXT)["compacted"] == 24

    assert not again(lake).append(RawCoincapRates, answers("p24"), app="a", version=24).is_new
    assert len(again(lake).read(RawCoincapRates)) == 24


@pytest.mark.parametrize("error", [OSError("connection reset"), CommitFailedError("lost")], ids=["store", "commit"])
def test_a_lost_commit_answer_is_written_once(
    any_lake: Lake, answers: RowsOf, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    calls = failing(monkeypatch, error, lands=True)
    commit = any_lake.append(RawCoincapRates, answers("p1"), app="a", version=1)

    assert calls == ["append"]
    assert not commit.is_new
    assert len(again(any_lake).read(RawCoincapRates)) == 1


def test_a_replace_whose_answer_was_lost_is_written_once(
    lake: Lake, rates: RowsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = failing(monkeypatch, OSError("connection reset"), lands=True)
    commit = lake.replace(FxRates, rates(at(5), ("euro", "1")), WHOLE_DAY)

    assert (calls, commit.version) == (["overwrite"], 1)
    assert len(again(lake).read(FxRates)) == 1


def test_a_conflict_is_tried_again_from_a_fresh_snapshot(
    lake: Lake, answers: RowsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = failing(monkeypatch, CommitFailedError("conflict"), CommitFailedError("conflict"), lands=False)
    commit = lake.append(RawCoincapRates, answers("p1"), app="a", version=1)

    assert (len(calls), commit.is_new) == (3, True)
    assert len(again(lake).read(RawCoincapRates)) == 1


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (CommitFailedError("x"), "raw.coincap_rates: other writers kept winning; the table holds whole commits only"),
        (OSError("Generic S3 error"), "raw.coincap_rates: the store failed: Generic S3 error; the table holds"),
    ],
    ids=["conflict", "store"],
)
def test_a_store_that_stays_down_is_given_up_after_six_tries(
    lake: Lake, answers: RowsOf, monkeypatch: pytest.MonkeyPatch, error: Exception, what: str
) -> None:
    calls = failing(monkeypatch, *[error] * 9, lands=False)

    with pytest.raises(TransientError, match=what):
        lake.append(RawCoincapRates, answers("p1"), app="a", version=1)
    assert len(calls) == 6
    assert len(again(lake).read(RawCoincapRates)) == 0


@pytest.mark.parametrize(
    ("message", "what"),
    [
        ("AccessDenied", "the store denies access"),
        ("The AWS Access Key Id: InvalidAccessKeyId", "the store does not know the access key"),
        ("No space left on device (os error 28)", "the disk is full"),
        ("Permission denied (os error 13)", "the directory is not writable"),
    ],
)
def test_what_only_a_person_can_mend_is_not_tried_again(
    lake: Lake, answers: RowsOf, monkeypatch: pytest.MonkeyPatch, message: str, what: str
) -> None:
    calls = failing(monkeypatch, *[OSError(message)] * 9, lands=False)

    with pytest.raises(NeedsYouError, match=what):
        lake.append(RawCoincapRates, answers("p1"), app="a", version=1)
    assert len(calls) == 1


WRITER = """
import sys, datetime as dt
import polars as pl
from crypto_assets.resources.lake import Lake
from crypto_assets.tables.raw import RawCoincapRates

root, app, frame = sys.argv[1], sys.argv[2], pl.read_ipc(sys.argv[3])
lake = Lake(root)
for version in range(10):
    row = frame.with_columns(pull_id=pl.lit(f"{app}-{version}"))
    assert lake.append(RawCoincapRates, row, app=app, version=version).is_new
"""


def test_four_processes_that_append_at_once_lose_nothing(lake: Lake, answers: RowsOf, tmp_path: Path) -> None:
    answers("x").write_ipc(tmp_path / "row.arrow")
    command = [sys.executable, "-c", WRITER, lake.root]
    writers = [subprocess.Popen([*command, f"app{i}", str(tmp_path / "row.arrow")]) for i in range(4)]

    assert [writer.wait(60) for writer in writers] == [0] * 4
    held = lake.read(RawCoincapRates)["pull_id"].to_list()
    assert sorted(held) == sorted(f"app{i}-{v}" for i in range(4) for v in range(10))
    assert [lake.landed(RawCoincapRates, f"app{i}") for i in range(4)] == [9] * 4


# ---- merge ----


def test_a_merge_inserts_updates_and_deletes_by_key(any_lake: Lake, exchanges: RowsOf) -> None:
    any_lake.merge(DimExchange, exchanges(("binance", "Binance"), ("kraken", "Kraken"), ("mtgox", "Mt. Gox")))
    commit = any_lake.merge(DimExchange, exchanges(("binance", "Binance"), ("kraken", "KRAKEN"), ("okx", "OKX")))

    assert commit == Commit("refined.dim_exchange", 2, 3, is_new=True)
    assert again(any_lake).read(DimExchange).select("exchange_id", "name").rows() == [
        ("binance", "Binance"),
        ("kraken", "KRAKEN"),
        ("okx", "OKX"),
    ]


def test_a_merge_that_changes_nothing_makes_no_version(any_lake: Lake, exchanges: RowsOf) -> None:
    frame = exchanges(("binance", "Binance"), ("kraken", "Kraken"))
    first = any_lake.merge(DimExchange, frame)
    second = again(any_lake).merge(DimExchange, frame[[1, 0]])

    assert (second.is_new, second.version) == (False, first.version)


def test_a_merge_without_deletion_keeps_the_rows_that_the_frame_lacks(lake: Lake, exchanges: RowsOf) -> None:
    lake.merge(DimExchange, exchanges(("binance", "Binance"), ("kraken", "Kraken")))
    commit = lake.merge(DimExchange, exchanges(("kraken", "KRAKEN")), delete_missing=False)
    repeated = lake.merge(DimExchange, exchanges(("kraken", "KRAKEN")), delete_missing=False)

    assert (commit.n_rows, repeated.is_new) == (2, False)
    assert lake.read(DimExchange)["name"].to_list() == ["Binance", "KRAKEN"]


def test_a_merge_tells_a_null_from_a_value(lake: Lake, rows_of: RowsOf) -> None:
    gap = {"table_name": "t", "date": DAY, "state": "open"}
    lake.merge(GapLedger, rows_of(GapLedger, gap))
    lake.merge(GapLedger, rows_of(GapLedger, {**gap, "closed_at": at(5)}))
    assert lake.read(GapLedger)["closed_at"].to_list() == [at(5)]

    lake.merge(GapLedger, rows_of(GapLedger, gap))
    assert lake.read(GapLedger)["closed_at"].to_list() == [None]


def test_an_empty_merge_empties_the_table(lake: Lake, exchanges: RowsOf) -> None:
    lake.merge(DimExchange, exchanges(("binance", "Binance")))
    lake.merge(DimExchange, exchanges())

    assert len(lake.read(DimExchange)) == 0


@pytest.mark.parametrize("keys", [("binance", "binance"), ("binance", None)], ids=["doubled", "null"])
def test_doubled_or_null_keys_are_refused(lake: Lake, exchanges: RowsOf, keys: tuple[str | None, ...]) -> None:
    lake.merge(DimExchange, exchanges(("kraken", "Kraken")))

    with pytest.raises(DataError, match=r"doubled or null keys \(exchange_id, valid_from\); nothing was written"):
        lake.merge(DimExchange, exchanges(*((k, "x") for k in keys)))
    assert lake.read(DimExchange)["exchange_id"].to_list() == ["kraken"]


# ---- every reader finds every value ----

# Of 16 to 38 significant digits, up to 20 of them before the point and 18 behind it.
DIGITS = "12345678912345678912345678912345678912"
DECIMALS = [
    Decimal(f"{DIGITS[: n - n // 2 + max(n // 2 - 18, 0)]}.{DIGITS[-min(n // 2, 18) :]}") for n in range(16, 39)
]


def test_every_decimal_is_found_again_by_equality_in_every_reader(lake: Lake, rates: RowsOf) -> None:
    for h, value in enumerate(DECIMALS):
        lake.replace(FxRates, rates(at(h), ("euro", str(value))), hour(h))
    state = lake.state(FxRates)
    assert state is not None
    assert (state.n_files, len(set(DECIMALS))) == (23, 23)
    table = delta(lake, FxRates)
    data_fusion = QueryBuilder().register("fx", table)

    with QueryEngine({"trusted.fx_rates": lake.uri(FxRates)}) as duck_db:
        for value in DECIMALS:
            text = f"{value:.18f}"
            by_polars = lake.scan(FxRates).filter(pl.col("rate_usd") == value).collect()
            found = data_fusion.execute(f"SELECT rate_usd FROM fx WHERE rate_usd = CAST('{text}' AS DECIMAL(38, 18))")
            by_delta = pl.DataFrame(found.read_all())
            by_duck = duck_db.query(f"SELECT rate_usd FROM trusted.fx_rates WHERE rate_usd = DECIMAL '{text}'")

            assert [f["rate_usd"].to_list() for f in (by_polars, by_delta, by_duck)] == [[value]] * 3


def test_a_compaction_keeps_decimals_findable(lake: Lake, rates: RowsOf) -> None:
    for h, value in enumerate(DECIMALS[:6]):
        lake.replace(FxRates, rates(at(h), ("euro", str(value))), hour(h))
    assert lake.maintain(FxRates, NEXT)["compacted"] == 6

    for value in DECIMALS[:6]:
        assert lake.scan(FxRates).filter(pl.col("rate_usd") == value).collect()["rate_usd"].to_list() == [value]
    adds = pl.DataFrame(delta(lake, FxRates).get_add_actions(flatten=True))
    assert {c for c in adds.columns if c.startswith("min.")} == {f"min.{c}" for c in skipping_columns(FxRates)}


# ---- what the log says ----


def test_a_table_needs_no_more_than_reader_1_and_writer_2(lake: Lake, rates: RowsOf) -> None:
    lake.replace(FxRates, rates(at(5), ("euro", "1")), WHOLE_DAY)
    protocol = delta(lake, FxRates).protocol()

    assert (protocol.min_reader_version, protocol.min_writer_version) == (1, 2)
    assert not protocol.reader_features
    assert not protocol.writer_features


def test_the_log_describes_the_table_and_its_columns(lake: Lake, rates: RowsOf) -> None:
    lake.replace(FxRates, rates(at(5), ("euro", "1")), WHOLE_DAY)
    table = delta(lake, FxRates)

    assert (table.metadata().name, table.metadata().description) == ("trusted.fx_rates", description(FxRates))
    assert {f.name: f.metadata["comment"] for f in table.schema().fields} == {
        f.name: comment(f) for f in fields(FxRates)
    }
    assert table.metadata().configuration == {
        "delta.dataSkippingStatsColumns": "provider,observed_at,ingested_at,currency_id",
        "delta.checkpointInterval": "20",
    }


def test_a_commit_says_who_made_it_and_what_it_holds(lake: Lake, rates: RowsOf) -> None:
    frame = rates(at(5), ("euro", "1"), ("yen", "2"))
    lake.replace(FxRates, frame, WHOLE_DAY)
    told = delta(lake, FxRates).history(1)[0]

    assert {k.removeprefix("crypto_assets."): v for k, v in told.items() if k.startswith("crypto_assets.")} == {
        "run_id": "run-1",
        "code_version": __version__,
        "contract": fingerprint(FxRates),
        "rows": "2",
        "sha256": content_hash(frame),
        "window": "2024-01-01T00:00:00+00:00/2024-01-02T00:00:00+00:00",
        "where": "{}",
    }


def test_a_content_hash_changes_with_a_digit_a_null_and_the_order(rates: RowsOf, answers: RowsOf) -> None:
    frame = rates(at(5), ("euro", "1"), ("yen", "2"))
    others = [
        frame[[1, 0]],
        frame.with_columns(rate_usd=pl.col("rate_usd") + Decimal("0.000000000000000001")),
        frame.with_columns(currency_symbol=pl.lit("")),
        frame[:1],
    ]

    assert content_hash(frame) == content_hash(frame.clone())
    assert len({content_hash(f) for f in (frame, *others)}) == 5
    assert content_hash(answers("p")) != content_hash(answers("p").with_columns(body=pl.lit(b"\xff")))


# ---- maintenance ----


def test_maintenance_compacts_closed_days_and_changes_no_row(lake: Lake, rates: RowsOf) -> None:
    for day in (1, 2):
        for h in range(4):
            lake.replace(FxRates, rates(at(h, day), ("euro", f"{h}.5"), ("yen", "2")), hour(h, day))
    before, state = lake.read(FxRates), lake.state(FxRates)
    done = lake.maintain(FxRates, closed_before=NEXT)
    after = lake.state(FxRates)

    assert (state.n_files, after.n_files) == (8, 5)  # type: ignore[union-attr]
    assert done == {"compacted": 4, "vacuumed": 0}
    assert_frame_equal(again(lake).read(FxRates), before)
    assert lake.maintain(FxRates, closed_before=NEXT)["compacted"] == 0
    assert list(Path(lake.uri(FxRates)).glob("_delta_log/*.checkpoint.parquet"))


def test_only_maintenance_removes_expired_entries_of_the_log(lake: Lake, answers: RowsOf) -> None:
    log = Path(lake.uri(RawCoincapRates)) / "_delta_log"
    for i in range(1, 25):
        lake.append(RawCoincapRates, answers(f"p{i}"), app="a", version=i)
        for entry in log.glob("*.json"):
            os.utime(entry, (0, 0))
    assert list(log.glob("*.checkpoint.parquet"))
    assert len(list(log.glob("*.json"))) == 25

    lake.maintain(RawCoincapRates, NEXT)
    assert not (log / f"{0:020}.json").exists()
    assert len(again(lake).read(RawCoincapRates)) == 24
    assert not again(lake).append(RawCoincapRates, answers("p24"), app="a", version=24).is_new


def test_maintenance_compacts_small_tables_and_partitions_with_quotes_in_their_names(
    lake: Lake, exchanges: RowsOf, rows_of: RowsOf
) -> None:
    lake.merge(DimExchange, exchanges(("a", "A")))
    lake.merge(DimExchange, exchanges(("b", "B")), delete_missing=False)
    for h in range(3):
        row = rows_of(Quarantine, {"table_name": HOSTILE_NAME, "pull_id": f"p{h}", "observed_at": at(h)})
        lake.replace(Quarantine, row, hour(h), where={"table_name": HOSTILE_NAME})
    dims, refused = lake.read(DimExchange), lake.read(Quarantine)

    assert lake.maintain(DimExchange, NEXT)["compacted"] == 2
    assert lake.maintain(Quarantine, NEXT)["compacted"] == 3
    assert_frame_equal(lake.read(DimExchange), dims)
    assert_frame_equal(lake.read(Quarantine), refused)


@pytest.mark.s3
def test_maintenance_changes_no_row_in_a_bucket(s3_lake: Lake, rates: RowsOf) -> None:
    for h in range(3):
        s3_lake.replace(FxRates, rates(at(h), ("euro", f"{h}.5")), hour(h))
    before = s3_lake.read(FxRates)

    assert s3_lake.maintain(FxRates, NEXT)["compacted"] == 3
    assert_frame_equal(again(s3_lake).read(FxRates), before)


# ---- what is in the way ----


@pytest.mark.parametrize("is_open", [False, True], ids=["fresh", "already open"])
def test_columns_that_a_foreign_writer_changed_are_refused_by_name(lake: Lake, rates: RowsOf, is_open: bool) -> None:
    lake.replace(FxRates, rates(at(5), ("euro", "1")), WHOLE_DAY)
    foreign = rates(at(5), ("euro", "1")).with_columns(colour=pl.lit("red"))
    write_deltalake(lake.uri(FxRates), foreign, mode="append", schema_mode="merge")
    reader = lake if is_open else again(lake)

    for use in (
        lambda: reader.scan(FxRates),
        lambda: reader.read(FxRates),
        lambda: reader.replace(FxRates, rates(at(5), ("euro", "2")), WHOLE_DAY),
    ):
        with pytest.raises(DataError, match=r"the table's columns are not the contract's: colour; "):
            use()
    assert delta(lake, FxRates).version() == 2


def test_rows_that_another_process_wrote_are_seen(lake: Lake, rates: RowsOf) -> None:
    lake.replace(FxRates, rates(at(5), ("euro", "1")), WHOLE_DAY)
    again(lake).replace(FxRates, rates(at(6), ("yen", "2")), hour(6))

    assert lake.read(FxRates)["currency_id"].to_list() == ["euro", "yen"]


@pytest.mark.s3
def test_a_bucket_that_does_not_exist_is_named_in_one_line(s3_options: dict[str, str], rates: RowsOf) -> None:
    nowhere = Lake("s3://no-such-bucket/lake", storage_options=s3_options, clock=FixedClock(at(12)))

    for use in (
        lambda: nowhere.read(FxRates),
        lambda: nowhere.state(FxRates),
        lambda: nowhere.replace(FxRates, rates(at(5), ("euro", "1")), WHOLE_DAY),
    ):
        with pytest.raises(NeedsYouError) as caught:
            use()
        assert str(caught.value).startswith("trusted.fx_rates: the bucket does not exist (s3://no-such-bucket/lake); ")
        assert caught.value.hint == "create it, or correct CRYPTO_ASSETS_LAKE_URI"
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("below", ["", "/deeper"])
def test_a_lake_cannot_be_where_a_file_is(tmp_path: Path, rates: RowsOf, below: str) -> None:
    (tmp_path / "lake").write_text("not a directory")
    lake = Lake(f"{tmp_path}/lake{below}", clock=FixedClock(at(12)))

    with pytest.raises(NeedsYouError, match="a part of the path is a file") as caught:
        lake.replace(FxRates, rates(at(5), ("euro", "1")), WHOLE_DAY)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "lake").read_text() == "not a directory"


def test_a_broken_log_is_one_line(lake: Lake, rates: RowsOf) -> None:
    lake.replace(FxRates, rates(at(5), ("euro", "1")), WHOLE_DAY)
    for entry in Path(lake.uri(FxRates)).glob("_delta_log/*.json"):
        entry.write_text("{ no json\n")

    with pytest.raises(
        DataError, match=r"^trusted.fx_rates: log entry 0{20}.json is garbage from line 1; .*; nothing was read in part"
    ):
        again(lake).read(FxRates)


def test_a_lake_is_deleted_with_nothing_beside_it(any_lake: Lake, rates: RowsOf) -> None:
    beside = Lake(any_lake.root + "-beside", storage_options=any_lake.storage_options)
    for each in (any_lake, beside):
        each.replace(FxRates, rates(at(5), ("euro", "1")), WHOLE_DAY)
    delete(any_lake)

    assert files_of(any_lake).names() == set()
    assert len(again(beside).read(FxRates)) == 1
    with pytest.raises(ValueError, match="whole bucket is not deleted"):
        delete(Lake("s3://lake/"))
