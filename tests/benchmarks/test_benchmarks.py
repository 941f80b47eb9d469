"""A benchmark counts the time of right results only, and says nothing where the machine was too loud."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from benchmarks import __main__ as suite
from benchmarks import bytes_read, pair, report
from benchmarks.case import Case, Variant
from benchmarks.cases.common import expected_rows, prepared
from benchmarks.checks import all_differences, differences
from benchmarks.data import ROOT, Size, answers
from benchmarks.pair import Run, Status
from crypto_assets.tables.contract import polars_schema
from crypto_assets.tables.refined import AssetDaily
from crypto_assets.tables.trusted import AssetSnapshots

TINY = Size("tiny", 6, 10)
GOAL = report.Goal("c", "ours", "theirs", "cpu", 0.5, "because")


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.cases.common.answers", lambda size: answers(size, cache))
        return expected_rows(prepared(TINY), AssetSnapshots)


def run_of(variant: str, cpu_s: float, *, status: Status = Status.OK) -> Run:
    return Run("c", variant, "S", 1, status, cpu_s=cpu_s, wall_s=cpu_s)


def judged(ours: list[float], theirs: list[float]) -> report.Verdict:
    return report.judge(GOAL, [*(run_of("ours", s) for s in ours), *(run_of("theirs", s) for s in theirs)])


# ---- correctness before time ----


def test_the_right_rows_in_any_order_and_integer_width_are_the_same_work(right: pl.DataFrame) -> None:
    other = right.sample(fraction=1, shuffle=True, seed=3).with_columns(pl.col("rank", "n_duplicates").cast(pl.Int64))

    assert differences(AssetSnapshots, right, other.select(sorted(other.columns))) == []


def test_the_data_hold_rows_whose_key_repeats(right: pl.DataFrame) -> None:
    assert len(right) == 60
    assert right["n_duplicates"].sum() == 20


def test_a_lost_row_a_doubled_key_and_a_last_digit_are_each_named(right: pl.DataFrame) -> None:
    a_digit = pl.lit("0.000000000000000001").cast(pl.Decimal(38, 18))
    more = right.with_columns(
        pl.when(pl.int_range(pl.len()) == 0).then(pl.col("price_usd") + a_digit).otherwise("price_usd")
    )
    price = right["price_usd"].sum()
    lost = right.tail(-1)

    assert differences(AssetSnapshots, right, lost)[:2] == ["59 rows, not 60", "59 keys, not 60"]
    assert differences(AssetSnapshots, right, pl.concat([right, right.head(1)]))[0] == "61 rows, not 60"
    assert differences(AssetSnapshots, right, more) == [
        f"the sum of price_usd is {price + Decimal(1).scaleb(-18)}, not {price}"
    ]


def test_values_swapped_between_rows_are_seen_though_every_sum_agrees(right: pl.DataFrame) -> None:
    swapped = right.with_columns(pl.col("price_usd").reverse(), pl.col("symbol").reverse())

    assert {line.split()[0] for line in differences(AssetSnapshots, right, swapped)} == {"price_usd", "symbol"}


def test_doubles_in_place_of_decimals_are_not_the_same_work(right: pl.DataFrame) -> None:
    doubles = right.with_columns(pl.col("price_usd").cast(pl.Float64))

    assert differences(AssetSnapshots, right, doubles) == ["1 columns of Float64 and not exact, e.g. price_usd"]


def test_a_table_or_a_column_that_was_not_made_is_named(right: pl.DataFrame) -> None:
    days = pl.DataFrame(schema=polars_schema(AssetDaily))

    assert all_differences({AssetDaily: days}, {}) == ["asset_daily: was not made"]
    assert differences(AssetSnapshots, right, right.drop("rank")) == ["no column rank"]


def test_a_wrong_variant_is_reported_and_its_time_does_not_count(tmp_path: Path) -> None:
    expected = pl.DataFrame({"a": [1]})
    case = Case(
        name="c",
        title="t",
        variants=(Variant("wrong", "json:loads"),),
        prepare=lambda size: tmp_path,
        expected=lambda data, variant: {AssetDaily: expected},
        read=lambda out, variant: {},
    )
    answer = json.dumps({"wall_s": 0.1, "cpu_s": 0.1, "peak_mb": 1.0, "disk_mb": 0.0})
    finished = pair.subprocess.CompletedProcess([], 0, stdout=answer, stderr="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair, "CACHE", tmp_path)
        patch.setattr(pair.subprocess, "run", lambda *args, **more: finished)
        (run,) = pair.run_case(case, TINY, 1)

    assert (run.status, run.detail) == (Status.NOT_THE_SAME_WORK, "asset_daily: was not made")
    assert pair.spreads([run], "cpu_s") is None


def test_a_peer_that_is_not_installed_and_work_that_fails_are_never_a_pass(tmp_path: Path) -> None:
    def once(variant: Variant) -> Run:
        return pair.run_once(replace(suite.CASES[0], variants=(variant,)), variant, TINY, tmp_path, 1)

    absent = once(Variant("x", "x:y", peer="no-such-peer"))
    failed = once(Variant("x", "no_such_module:y"))

    assert absent.status is Status.NOT_INSTALLED
    assert (failed.status, failed.detail) == (Status.FAILED, "ModuleNotFoundError: No module named 'no_such_module'")


# ---- judging ----


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ([1.0, 1.0], [2.0, 2.2], "met"),
        ([1.5, 1.5], [2.0, 2.0], "NOT met"),
        ([1.0, 1.0], [2.0, 3.1], "not judged: theirs itself swings by 1.55"),
        ([1.0], [2.0], "not judged: one round shows no noise"),
        ([], [2.0, 2.0], "not judged: ours is not run"),
    ],
)
def test_a_goal_is_judged_by_a_quiet_base_only(ours: list[float], theirs: list[float], said: str) -> None:
    assert judged(ours, theirs).said == said


@pytest.mark.parametrize("status", [s for s in Status if s is not Status.OK])
def test_a_goal_against_what_did_not_do_the_work_is_not_judged(status: Status) -> None:
    runs = [run_of("ours", 1.0), run_of("ours", 1.0), run_of("theirs", 9.0), run_of("theirs", 9.0, status=status)]

    assert report.judge(GOAL, runs).said == f"not judged: theirs is {status}"


def test_every_goal_names_a_case_and_variants_that_exist() -> None:
    variants = {case.name: {variant.name for variant in case.variants} for case in suite.CASES}
    variants[bytes_read.NAME] = bytes_read.VARIANTS

    assert report.goals()
    for goal in report.goals():
        assert {goal.variant, goal.against} <= variants[goal.case]
        assert goal.metric in (("bytes",) if goal.case == bytes_read.NAME else ("cpu", "wall", "disk"))
        assert goal.reason


def test_every_peer_of_a_variant_says_what_it_needs() -> None:
    peers = {variant.peer for case in suite.CASES for variant in case.variants if variant.peer}

    for peer in peers:
        assert "==" in (ROOT / "benchmarks" / "peers" / peer / "requirements.txt").read_text()


# ---- the command ----


@pytest.mark.e2e
def test_a_quick_run_of_one_case_checks_and_reports_every_variant(tmp_path: Path) -> None:
    assert suite.main(["--quick", "--only", "json_day", "--rounds", "1", "--out", str(tmp_path)]) == 0

    runs = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    status = {run["variant"]: run["status"] for run in runs}
    assert set(status) == {variant.name for variant in suite.CASES[0].variants}
    assert status["ours"] == status["json_decimal"] == "ok"
    assert status["polars_json"] == "not the same work"
    assert {status["duckdb"], status["pandas"]} <= {"ok", "not the same work", "not installed"}
    text = (tmp_path / "report.md").read_text()
    assert "## json_day (S)" in text
    assert "not judged" in text
    assert str(Path.home()) not in text


def test_a_case_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert suite.main(["--only", "nonsense"]) == 1
    assert "json_day, upsert, day_end_to_end, candle_ingest" in capsys.readouterr().out
