"""Verdicts by day, kept in ``quality.check_results`` and as Data Docs, and what a failing one stops in Dagster."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from crypto_assets.assets.lake_asset import MATERIALIZED, blocking_failures
from crypto_assets.checks import asset_checks, suites
from crypto_assets.checks.asset_checks import checks_for, run_checks
from crypto_assets.checks.verdicts import Case, Verdict
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.lake import Lake
from crypto_assets.tables import quality, raw, refined, trusted
from crypto_assets.tables.contract import Contract
from crypto_assets.tables.window import DAY, Window
from tests.chain import Chain, at, chain
from tests.checks.cases import FIRST, LATER, SECOND, THIRD, history, land, noon, point, settled
from tests.conftest import RowsOf

N_DAYS = 40
DAYS = [FIRST + DAY * i for i in range(N_DAYS)]
ALL = Window.of_days(DAYS[0], DAYS[-1])
BAD = DAYS[20]


@pytest.fixture
def filled(lake: Lake) -> Lake:
    """Forty days of history."""
    arrived = {"ingested_at": LATER + timedelta(days=30), "observed_at": LATER + timedelta(days=30)}
    land(lake, raw.RawCoincapHistory, history([point(day) for day in DAYS], DAYS[0], DAYS[-1], **arrived))
    assert len(settled(lake, trusted.AssetHistory, ALL)) == N_DAYS
    return lake


def judge_days(
    lake: Lake, docs: Path, *days: date, contract: type[Contract] = trusted.AssetHistory
) -> dict[date, dict[str, list[Verdict]]]:
    clock = FixedClock(LATER + timedelta(days=30))
    return run_checks(contract, days, checks=checks_for(contract), lake=lake, clock=clock, data_docs=docs)


def lose(lake: Lake, day: date) -> None:
    """Lose the day's rows, as a foreign hand would."""
    lake.replace(trusted.AssetHistory, lake.read(trusted.AssetHistory).clear(), Window.of_day(day))


def results(lake: Lake, **equal: object) -> pl.DataFrame:
    return lake.read(quality.CheckResults).filter(**equal)


def test_a_good_range_is_judged_at_once(filled: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = count_judgements(monkeypatch)
    told = judge_days(filled, tmp_path, *DAYS)
    assert windows == [ALL]
    assert list(told) == DAYS
    (verdict,) = told[BAD]["reconciled"]
    assert verdict.observed == "raw 40 = trusted 40 + quarantined 0 + duplicates 0, over 40 days"
    kept = results(filled)
    assert kept["passed"].all()
    assert kept["date"].n_unique() == N_DAYS
    n_checks = suites.expectation_count(trusted.AssetHistory) + 2
    assert len(kept) == N_DAYS * n_checks


def count_judgements(monkeypatch: pytest.MonkeyPatch) -> list[Window]:
    windows: list[Window] = []
    judge = asset_checks.judge

    def counted(checks: list[object], case: Case) -> dict[str, list[Verdict]]:
        windows.append(case.window)
        return judge(checks, case)  # type: ignore[arg-type]

    monkeypatch.setattr(asset_checks, "judge", counted)
    return windows


def test_one_bad_day_is_found_in_few_judgements_and_named_alone(
    filled: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(filled, BAD)
    windows = count_judgements(monkeypatch)
    told = judge_days(filled, tmp_path, *DAYS)
    # The whole, eight parts of five days, and the five days of the bad part.
    assert len(windows) == 1 + 8 + 5
    assert [day for day in told if not told[day]["reconciled"][0].passed] == [BAD]
    bad = results(filled, check_name="reconciled", date=BAD).row(0, named=True)
    assert (bad["passed"], bad["is_blocking"], bad["severity"]) == (False, True, "error")
    assert bad["observed"] == "raw 1 is not trusted 0 + quarantined 0 + duplicates 0"
    assert bad["n_failed"] == 1
    assert '"trusted": 0' in bad["failing_rows"]
    assert results(filled, date=BAD, check_name="lossless")["passed"].item()
    neighbour = results(filled, check_name="reconciled", date=BAD + DAY).row(0, named=True)
    assert (neighbour["passed"], neighbour["failing_rows"]) == (True, None)
    assert neighbour["observed"].startswith("raw 1 = trusted 1")


def test_a_range_says_of_each_day_what_the_day_alone_says(filled: Lake, tmp_path: Path) -> None:
    lose(filled, BAD)
    together = judge_days(filled, tmp_path, *DAYS)
    for day in (BAD - DAY, BAD, BAD + DAY):
        alone = judge_days(filled, tmp_path, day)[day]
        assert {n: [v.passed for v in told] for n, told in alone.items()} == {
            n: [v.passed for v in told] for n, told in together[day].items()
        }


def test_days_apart_are_judged_apart(filled: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = count_judgements(monkeypatch)
    told = judge_days(filled, tmp_path, FIRST, THIRD)
    assert windows == [Window.of_day(FIRST), Window.of_day(THIRD)]
    assert told[FIRST]["reconciled"][0].observed == "raw 1 = trusted 1 + quarantined 0 + duplicates 0"


def test_only_the_latest_verdict_is_kept_and_other_days_and_tables_stay(filled: Lake, tmp_path: Path) -> None:
    lose(filled, SECOND)
    judge_days(filled, tmp_path, FIRST, SECOND)
    assert results(filled, check_name="reconciled")["passed"].to_list() == [True, False]
    judge_days(filled, tmp_path, SECOND, contract=trusted.FxRates)
    settled(filled, trusted.AssetHistory, ALL)
    judge_days(filled, tmp_path, SECOND)
    mended = results(filled, table_name="trusted.asset_history", check_name="reconciled")
    assert mended.select("date", "passed").rows() == [(FIRST, True), (SECOND, True)]
    assert results(filled, table_name="trusted.fx_rates")["date"].unique().to_list() == [SECOND]
    version = filled.state(quality.CheckResults)
    judge_days(filled, tmp_path, SECOND)
    assert filled.state(quality.CheckResults) == version


def test_what_an_asset_said_of_its_own_failure_stays(filled: Lake, tmp_path: Path, rows_of: RowsOf) -> None:
    name = "trusted.asset_history"
    own = {"table_name": name, "check_name": MATERIALIZED, "date": SECOND, "passed": False, "observed": "no parser"}
    row = rows_of(quality.CheckResults, own)
    filled.replace(quality.CheckResults, row, Window.of_day(SECOND), where={"table_name": name})
    for _ in range(2):
        judge_days(filled, tmp_path, FIRST, SECOND)
    assert results(filled, check_name=MATERIALIZED).select("date", "observed").rows() == [(SECOND, "no parser")]
    assert results(filled, check_name="reconciled", date=SECOND)["passed"].all()


def test_a_failing_warning_stops_nothing_and_a_failing_error_does(lake: Lake, tmp_path: Path, rows_of: RowsOf) -> None:
    hour = {"asset_id": "new", "open_usd": 1, "high_usd": 1, "low_usd": 1, "close_usd": 1, "source_kind": "history"}
    lake.replace(refined.AssetDaily, rows_of(refined.AssetDaily, {**hour, "date": FIRST}), Window.of_day(FIRST))
    judge_days(lake, tmp_path, FIRST, contract=refined.AssetDaily)
    assert results(lake, passed=False)["check_name"].to_list() == ["foreign_key"]
    assert blocking_failures(lake, [refined.AssetDaily], [FIRST]) == []
    broken = rows_of(refined.AssetDaily, {**hour, "date": FIRST, "high_usd": 0})
    lake.replace(refined.AssetDaily, broken, Window.of_day(FIRST))
    judge_days(lake, tmp_path, FIRST, contract=refined.AssetDaily)
    assert blocking_failures(lake, [refined.AssetDaily], [FIRST, SECOND]) == [
        ("refined.asset_daily", "bars", FIRST, "1 of 1 bars broken")
    ]


def test_a_table_without_days_is_judged_once_and_whole(
    lake: Lake, tmp_path: Path, rows_of: RowsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = {"version": 2, "valid_from": noon(FIRST), "status": "active"}
    lake.merge(refined.DimAsset, rows_of(refined.DimAsset, version))
    windows = count_judgements(monkeypatch)
    judge_days(lake, tmp_path, FIRST, SECOND, THIRD, contract=refined.DimAsset)
    assert len(windows) == 1
    told = results(lake, check_name="versions")
    assert told.select("date", "passed", "observed").rows() == [
        (day, False, "1 of 1 broken") for day in (FIRST, SECOND, THIRD)
    ]


def test_a_page_of_data_docs_is_written_for_what_was_judged(filled: Lake, tmp_path: Path) -> None:
    judge_days(filled, tmp_path, FIRST)
    judge_days(filled, tmp_path, *DAYS)
    folder = tmp_path / "trusted" / "asset_history"
    assert sorted(page.name for page in folder.iterdir()) == [f"{FIRST}.html", f"{FIRST}_{DAYS[-1]}.html"]
    assert "expect" in (folder / f"{FIRST}.html").read_text().lower()


# ---- in Dagster ----

CHAIN = (trusted.AssetSnapshots, refined.AssetHourly)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Two days of one round each."""
    with chain(tmp_path_factory.mktemp("chain"), n_assets=12) as c:
        c.pull(at(1, 12), [raw.RawCoincapAssets])
        c.pull(at(2, 12), [raw.RawCoincapAssets])
        c.set_now(at(4, 1))
        yield c


def test_a_failing_blocking_check_stops_its_day_downstream_and_spares_the_other(market: Chain) -> None:
    first, second = date(2026, 10, 1), date(2026, 10, 2)
    assert market.run(first, second, select=[trusted.AssetSnapshots]).success
    rows = market.lake.read(trusted.AssetSnapshots).filter(pl.col("date") == second)
    foreign = rows.head(1).with_columns(asset_id=pl.lit("made-up"), provider_asset_id=pl.lit("made-up"))
    market.lake.replace(trusted.AssetSnapshots, pl.concat([rows, foreign]), Window.of_day(second))
    docs = Path(market.lake.root) / "docs"
    judge_days(market.lake, docs, first, second, contract=trusted.AssetSnapshots)
    failing = blocking_failures(market.lake, [trusted.AssetSnapshots], [first, second])
    assert {(check, day) for _, check, day, _ in failing} == {("reconciled", second), ("lossless", second)}
    assert market.run(first, second, select=[refined.AssetHourly]).success
    assert market.lake.read(refined.AssetHourly)["date"].unique().to_list() == [first]
    # The table computed again from raw is good again, in the same run as what was held back.
    result = market.run(first, second, select=CHAIN)
    assert result.success
    assert market.lake.read(refined.AssetHourly)["date"].n_unique() == 2
    told = {(e.check_name, e.partition): e.passed for e in result.get_asset_check_evaluations()}
    assert told["reconciled", "2026-10-01"]
    assert told["reconciled", "2026-10-02"]


def test_checks_that_read_a_dimension_come_after_it_and_tell_their_severity(market: Chain) -> None:
    specs = {
        (spec.asset_key.path[-1], spec.name): spec
        for checks in market.definitions.asset_checks or []
        for spec in checks.check_specs
    }
    foreign = specs["asset_daily", "foreign_key"]
    assert [dep.asset_key for dep in foreign.additional_deps] == [dg.AssetKey(["refined", "dim_asset"])]
    assert (foreign.blocking, foreign.metadata["severity"]) == (False, "warning")
    assert specs["asset_snapshots", "reconciled"].blocking
    assert specs["asset_snapshots", "expectations"].blocking
    assert not specs["asset_snapshots", "ranks"].blocking
