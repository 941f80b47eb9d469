"""From raw to refined: repetition, order, ticks, partial failure, and endpoints that only know the present."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from crypto_assets.assets.raw.pulls import land
from crypto_assets.checks.asset_checks import checks_for, run_checks
from crypto_assets.sandbox import Fault
from crypto_assets.tables import quality, raw, refined, trusted
from crypto_assets.tables.window import Window
from tests.chain import DERIVED, LIVE, Chain, at, chain, failures, same

FIRST, LAST = date(2026, 10, 1), date(2026, 10, 3)
TRUSTED_FACTS = tuple(trusted.RAW_OF)


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Chain]:
    """Three days with two rounds of live pulls each."""
    with chain(tmp_path) as c:
        for day in (1, 2, 3):
            for hour in (9, 21):
                c.pull(at(day, hour))
        c.set_now(at(4, 1))
        yield c


def test_every_materialization_twice_gives_equal_tables_and_no_new_version(filled: Chain) -> None:
    assert filled.run(FIRST, LAST).success
    content, versions = filled.content(), filled.versions()
    assert content["trusted.asset_snapshots"].height == 3 * 2 * 50
    assert content["refined.market_overview"].height == 6
    assert filled.run(FIRST, LAST).success
    assert same(content, filled.content()) == []
    assert filled.versions() == versions


def test_partitions_in_any_order_give_the_same_tables(filled: Chain, tmp_path: Path) -> None:
    for day in (date(2026, 10, 3), date(2026, 10, 1), date(2026, 10, 2)):
        assert filled.run(day).success
    one_by_one = filled.content()
    with chain(tmp_path / "other") as other:
        for contract in LIVE:
            answers = filled.lake.read(contract)
            other.lake.append(contract, answers, app="copy", version=1)
        other.set_now(at(4, 1))
        assert other.run(FIRST, LAST).success
        assert same(one_by_one, other.content()) == []


def test_a_day_refreshed_tick_by_tick_equals_the_day_computed_at_once(tmp_path: Path) -> None:
    with chain(tmp_path) as c:
        # Two ticks in one hour, a later hour, and a tick that finds nothing new.
        for hour, minute in ((8, 0), (8, 5), (11, 30), (23, 55)):
            c.pull(at(1, hour, minute))
            assert c.run(FIRST, tick=True).success
        assert c.run(FIRST, tick=True).success
        by_ticks, versions = c.content(), c.versions()
        assert by_ticks["refined.asset_hourly"].height == 3 * 50
        assert c.run(FIRST).success
        assert same(by_ticks, c.content()) == []
        # Tables of venues, of which nothing was pulled, are made empty by the day and not at all by a tick.
        assert {name: version for name, version in c.versions().items() if name in versions} == versions


def test_a_tick_replaces_only_the_hours_that_are_new(tmp_path: Path) -> None:
    with chain(tmp_path) as c:
        c.pull(at(1, 8))
        assert c.run(FIRST, tick=True).success
        before = c.lake.read(trusted.AssetSnapshots)
        c.pull(at(1, 9))
        assert c.run(FIRST, tick=True).success
        after = c.lake.read(trusted.AssetSnapshots)
        assert after.filter(pl.col("observed_at") < at(1, 9)).equals(before)
        assert after.height == 2 * 50
        c.pull(at(1, 12))
        assert c.run(FIRST, tick=True).success
        assert c.lake.notes(trusted.AssetSnapshots)[0].window == Window(at(1, 12), at(1, 13))


@pytest.mark.fault(
    row=19, fault="a renamed field", promise="an error naming old and likely new name; nothing committed"
)
def test_one_bad_day_of_a_range_fails_alone_and_is_named(tmp_path: Path) -> None:
    with chain(tmp_path) as c:
        for day in (1, 2, 3):
            c.sandbox.set_faults([Fault("missing_field", "assets")] if day == 2 else [])
            c.pull(at(day, 12))
        c.set_now(at(4, 1))
        assert c.run(FIRST, LAST).success
        days = sorted(c.lake.read(trusted.AssetSnapshots)["date"].unique())
        assert days == [date(2026, 10, 1), date(2026, 10, 3)]
        assert sorted(c.lake.read(refined.AssetHourly)["date"].unique()) == days
        assert c.lake.read(trusted.ExchangeSnapshots)["date"].n_unique() == 3
        verdicts = c.lake.read(quality.CheckResults).filter(pl.col("check_name") == "materialized")
        told = {row["table_name"]: row["observed"] for row in verdicts.to_dicts()}
        assert (
            "the field priceUsd is missing from all 50 records; the new name may be price"
            in told["trusted.asset_snapshots"]
        )
        assert "upstream trusted.asset_snapshots failed" in told["refined.asset_hourly"]
        assert set(verdicts["date"]) == {date(2026, 10, 2)}


def test_a_drifted_pull_among_good_ones_costs_the_day_nothing_but_itself(tmp_path: Path) -> None:
    with chain(tmp_path) as c:
        for hour, minute, faults in ((8, 0, []), (9, 0, [Fault("missing_field", "assets")]), (9, 5, []), (10, 0, [])):
            c.sandbox.set_faults(faults)
            c.pull(at(1, hour, minute))
            assert c.run(FIRST, tick=True).success
        by_ticks = c.content()
        rows = by_ticks["trusted.asset_snapshots"]
        assert sorted(rows["observed_at"].unique()) == [at(1, 8), at(1, 9, 5), at(1, 10)]
        refused = c.lake.read(quality.Quarantine)
        assert refused.height == 50
        assert all("pull_refused" in reasons for reasons in refused["reasons"])
        assert by_ticks["refined.latest_assets"]["observed_at"].unique().to_list() == [at(1, 10)]
        assert c.run(FIRST).success
        assert same(by_ticks, c.content()) == []


def test_an_answer_that_landed_late_is_taken_up_by_the_next_tick(tmp_path: Path) -> None:
    with chain(tmp_path) as c:
        c.set_now(at(1, 10))
        late = c.coincap.assets()
        c.pull(at(1, 10, 5))
        assert c.run(FIRST, tick=True).success
        land(c.lake, raw.RawCoincapAssets, [late])
        assert c.run(FIRST, tick=True).success
        rows = c.lake.read(trusted.AssetSnapshots)
        assert sorted(rows["observed_at"].unique()) == [at(1, 10), at(1, 10, 5)]
        assert c.lake.read(refined.AssetHourly)["n_obs"].unique().to_list() == [2]


def test_a_round_stamped_before_midnight_is_in_the_day_once_it_is_closed(tmp_path: Path) -> None:
    with chain(tmp_path) as c:
        c.pull(at(1, 23, 55))
        assert c.run(FIRST, tick=True).success
        # Asked after midnight, answered with the provider's time of two seconds before.
        c.sandbox.set_now(at(1, 23, 59))
        c.clock.set(at(2, 0, 0))
        assert c.run(date(2026, 10, 2), select=[*LIVE, *DERIVED], tick=True).success
        assert c.lake.read(trusted.AssetSnapshots).height == 50
        c.set_now(at(2, 0, 5))
        assert c.run(FIRST, select=[*LIVE, *DERIVED]).success
        assert c.lake.read(trusted.AssetSnapshots).height == 2 * 50


def test_a_stopped_day_is_left_out_of_what_reads_all_days(filled: Chain) -> None:
    assert filled.run(FIRST, LAST).success
    name = trusted.AssetSnapshots.table.full_name
    stopped = filled.lake.read(quality.CheckResults, Window.of_day(LAST)).filter(table_name=name)
    stopped = stopped.with_columns(passed=pl.lit(value=False), is_blocking=pl.lit(value=True))
    filled.lake.replace(quality.CheckResults, stopped, Window.of_day(LAST), where={"table_name": name})
    assert filled.run(FIRST, select=[refined.LatestAssets]).success
    assert filled.lake.read(refined.LatestAssets)["observed_at"].unique().to_list() == [at(2, 21)]


def test_history_of_a_failing_endpoint_is_asked_once_per_asset(tmp_path: Path) -> None:
    with chain(tmp_path) as c:
        c.set_now(at(4, 1))
        c.sandbox.set_faults([Fault("html", "history")])
        result = c.run(FIRST, LAST, select=[raw.RawCoincapHistory])
        assert "all 3 days failed" in failures(result)["raw.coincap_history"]
        assert sorted(c.lake.read(raw.RawCoincapHistory)["subject"]) == ["bitcoin", "ethereum"]


def test_a_mended_day_clears_its_verdict_and_flows_on(tmp_path: Path) -> None:
    with chain(tmp_path) as c:
        c.sandbox.set_faults([Fault("missing_field", "assets")])
        c.pull(at(1, 12))
        result = c.run(FIRST)
        assert not result.success
        assert "priceUsd is missing" in failures(result)["trusted.asset_snapshots"]
        c.sandbox.set_faults([])
        # The broken answer stays in raw for ever; a day is only computable once it is out of the way.
        assert not c.lake.read(raw.RawCoincapAssets).is_empty()


def test_a_failing_blocking_check_stops_what_is_downstream(filled: Chain) -> None:
    assert filled.run(FIRST, LAST).success
    # A row that no answer holds: what a foreign writer or a broken parser would leave.
    day = filled.lake.read(trusted.AssetSnapshots).filter(pl.col("date") == FIRST)
    foreign = day.head(1).with_columns(asset_id=pl.lit("made-up"), provider_asset_id=pl.lit("made-up"))
    filled.lake.replace(trusted.AssetSnapshots, pl.concat([day, foreign]), Window.of_day(FIRST))
    result = filled.run(FIRST, select=[refined.AssetHourly])
    assert result.success  # the verdict of before still stands
    run_checks(
        trusted.AssetSnapshots,
        [FIRST],
        checks=checks_for(trusted.AssetSnapshots),
        lake=filled.lake,
        clock=filled.clock,
        data_docs=Path(filled.lake.root) / "docs",
    )
    result = filled.run(FIRST, select=[refined.AssetHourly])
    assert not result.success
    message = failures(result)["refined.asset_hourly"]
    assert "upstream trusted.asset_snapshots failed reconciled: raw 100 is not trusted 101" in message


def test_a_live_endpoint_asked_for_a_held_past_day_adds_nothing(filled: Chain) -> None:
    before = filled.lake.read(raw.RawCoincapAssets)
    assert filled.run(FIRST, select=[raw.RawCoincapAssets]).success
    assert filled.lake.read(raw.RawCoincapAssets).equals(before)


def test_a_live_endpoint_asked_for_a_lost_day_fails_and_the_gap_is_on_the_ledger(filled: Chain) -> None:
    lost = date(2026, 9, 30)
    for _ in range(2):
        result = filled.run(lost, select=[raw.RawCoincapAssets])
        assert not result.success
        assert "nothing was pulled on 2026-09-30" in failures(result)["raw.coincap_assets"]
    gaps = filled.lake.read(quality.GapLedger)
    assert gaps.select("table_name", "date", "state").rows() == [("raw.coincap_assets", lost, "unrecoverable")]
    assert filled.lake.read(raw.RawCoincapAssets).filter(pl.col("date") == lost).is_empty()


def test_a_run_of_today_pulls_and_stamps_with_the_providers_time(tmp_path: Path) -> None:
    with chain(tmp_path) as c:
        c.set_now(at(1, 12))
        assert c.run(FIRST, select=[*LIVE, *DERIVED]).success
        rows = c.lake.read(trusted.AssetSnapshots)
        assert rows["observed_at"].unique().to_list() == [at(1, 12)]
        assert rows.height == 50


def test_history_is_pulled_once_and_lands_day_by_day(tmp_path: Path) -> None:
    with chain(tmp_path) as c:
        c.set_now(at(4, 1))
        config = {"ops": {"raw__coincap_history": {"config": {"subjects": ["bitcoin", "no-such-coin", "ethereum"]}}}}
        for _ in range(2):
            result = c.run(FIRST, LAST, select=[raw.RawCoincapHistory, trusted.AssetHistory], config=config)
            assert result.success
        held = c.lake.read(raw.RawCoincapHistory)
        assert sorted(held.filter(pl.col("outcome") == "ok")["subject"]) == ["bitcoin", "ethereum"]
        assert held.filter(pl.col("subject") == "no-such-coin")["outcome"].unique().to_list() == ["not_found"]
        points = c.lake.read(trusted.AssetHistory)
        assert points.group_by("asset_id").len().sort("asset_id").rows() == [("bitcoin", 3), ("ethereum", 3)]


FAULTS = [
    ("rate_limited_minute", "rate_limited"),
    ("quota_429", "quota_exhausted"),
    ("server_error", "unavailable"),
    ("html", "malformed"),
    ("truncated", "malformed"),
]


@pytest.mark.parametrize(("kind", "outcome"), FAULTS)
def test_a_bad_answer_fails_its_table_keeps_the_evidence_and_spares_the_others(
    tmp_path: Path, kind: str, outcome: str
) -> None:
    with chain(tmp_path) as c:
        c.set_now(at(1, 12))
        # v2 knows no quota: its 429 is always the minute limit.
        outcome = "rate_limited" if kind == "quota_429" else outcome
        c.sandbox.set_faults([Fault(kind, "assets")])
        result = c.run(FIRST, select=[*LIVE, *TRUSTED_FACTS])
        message = failures(result)["raw.coincap_assets"]
        assert f"ended {outcome}" in message
        assert "raw holds what came as evidence" in message
        assert "\n" not in message.split("Failure: ")[-1].strip()
        evidence = c.lake.read(raw.RawCoincapAssets)
        assert set(evidence["outcome"]) == {outcome}
        assert evidence["n_pages"].null_count() == len(evidence)
        assert c.lake.read(trusted.AssetSnapshots).is_empty()
        assert not c.lake.read(trusted.FxRates).is_empty()


def test_a_used_up_quota_stops_every_endpoint_of_the_provider_at_once(tmp_path: Path) -> None:
    with chain(tmp_path) as c:
        c.set_now(at(1, 12))
        c.sandbox.set_faults([Fault("quota_403", "assets")])
        told = failures(c.run(FIRST, select=[raw.RawCoincapAssets, raw.RawCoincapRates]))
        assert "ended quota_exhausted" in told["raw.coincap_assets"]
        assert c.sandbox.calls()["calls"].get("rates", 0) == 0
        assert "raw.coincap_rates" in told


@pytest.mark.fault(
    row=24, fault="pages fail, shift, fall short or loop", promise="an incomplete window is not published"
)
def test_page_three_of_five_failing_publishes_nothing_and_the_next_round_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crypto_assets.providers.coincap.PAGE", 10)
    with chain(tmp_path) as c:
        c.sandbox.set_faults([Fault("server_error", "assets", offset=20)])
        c.set_now(at(1, 12))
        assert "on page 3" in failures(c.run(FIRST, select=[raw.RawCoincapAssets]))["raw.coincap_assets"]
        assert c.lake.read(raw.RawCoincapAssets)["page"].max() == 2
        assert c.run(FIRST, select=[trusted.AssetSnapshots]).success
        assert c.lake.read(trusted.AssetSnapshots).is_empty()
        c.sandbox.set_faults([])
        c.set_now(at(1, 12, 10))
        assert c.run(FIRST, select=[raw.RawCoincapAssets, trusted.AssetSnapshots]).success
        assert c.lake.read(trusted.AssetSnapshots).height == 50


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("huge_digits", "cast:price_usd"),
        ("negative_price", "price_usd|min"),
        ("absurd_price", "price_agrees_with_cap"),
        ("null_id", "asset_id|nullability"),
        ("not_a_record", "asset_id|nullability"),
    ],
)
def test_a_bad_record_is_quarantined_with_its_reason_and_the_rest_lands(tmp_path: Path, kind: str, reason: str) -> None:
    with chain(tmp_path) as c:
        c.sandbox.set_faults([Fault(kind, "assets")])
        c.pull(at(1, 12), [raw.RawCoincapAssets])
        assert c.run(FIRST, select=[trusted.AssetSnapshots]).success
        refused = c.lake.read(quality.Quarantine)
        assert refused.height == 1
        assert reason in refused["reasons"].item().split(",")
        n_raw = 51 if kind == "not_a_record" else 50
        assert c.lake.read(trusted.AssetSnapshots).height == n_raw - 1


@pytest.mark.parametrize("kind", ["duplicate_rows", "out_of_order"])
@pytest.mark.fault(
    row=21, fault="duplicates in a page, across pages and runs", promise="one row a key; the others are counted"
)
def test_doubled_and_disordered_rows_make_the_same_table(tmp_path: Path, kind: str) -> None:
    with chain(tmp_path) as c:
        c.pull(at(1, 12), [raw.RawCoincapAssets])
        assert c.run(FIRST, select=[trusted.AssetSnapshots]).success
        clean = c.lake.read(trusted.AssetSnapshots)
    with chain(tmp_path / "faulty") as c:
        c.sandbox.set_faults([Fault(kind, "assets")])
        c.pull(at(1, 12), [raw.RawCoincapAssets])
        assert c.run(FIRST, select=[trusted.AssetSnapshots]).success
        rows = c.lake.read(trusted.AssetSnapshots)
        assert rows.drop("pull_id", "n_duplicates").equals(clean.drop("pull_id", "n_duplicates"))
        assert (rows["n_duplicates"].sum() > 0) == (kind == "duplicate_rows")


@pytest.mark.fault(row=18, fault="a new field", promise="kept in raw, warned of; trusted unchanged")
def test_a_new_field_is_warned_of_and_kept_in_raw(tmp_path: Path) -> None:
    with chain(tmp_path) as c:
        c.sandbox.set_faults([Fault("new_field", "assets")])
        c.set_now(at(1, 12))
        assert c.run(FIRST, select=[raw.RawCoincapAssets, trusted.AssetSnapshots]).success
        verdict = c.lake.read(quality.CheckResults).filter(
            (pl.col("table_name") == "raw.coincap_assets") & (pl.col("check_name") == "known_fields")
        )
        assert verdict["passed"].to_list() == [False]
        assert verdict["is_blocking"].to_list() == [False]
        assert verdict["observed"].item().startswith("new fields: ")
        assert c.lake.read(trusted.AssetSnapshots).height == 50
