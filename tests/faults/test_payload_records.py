"""Records that are poisoned, renamed, retyped, repeated, late or restated: rows 15 to 25 and 27, socket to table."""

from __future__ import annotations

import json
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crypto_assets.commands import output
from crypto_assets.errors import DataError, TransientError
from crypto_assets.providers import coincap
from crypto_assets.tables import quality, raw, trusted
from crypto_assets.tables.conform import FEWEST_JUDGED, MOST_REFUSED, PULL_REFUSED
from crypto_assets.tables.window import Window
from tests.faults.hostile import answer, refusal
from tests.faults.payloads import GOOD, N_ASSETS, NOON, asset, assets, body, line, ms

# Enough good records beside the bad ones that none of these is more than a slip.
MANY = 401
NO_PRICE = "cast:price_usd,price_usd|nullability"

# What one record says, and why it is refused; a text between two @ is no JSON string.
POISON: dict[str, tuple[dict[str, Any], str]] = {
    "nan": ({"priceUsd": "NaN"}, "cast:price_usd"),
    "infinity": ({"priceUsd": "Infinity"}, "cast:price_usd"),
    "too-large": ({"priceUsd": "@1e999@"}, "cast:price_usd"),
    "dash": ({"priceUsd": "–"}, "cast:price_usd"),
    "grouped": ({"priceUsd": "1,234.5"}, "cast:price_usd"),
    "absent": ({"priceUsd": None}, "price_usd|nullability"),
    "no-text": ({"priceUsd": ""}, "cast:price_usd"),
    "hex": ({"priceUsd": "0x10"}, "cast:price_usd"),
    "a-list": ({"priceUsd": ["2.5"]}, "cast:price_usd"),
    "true": ({"priceUsd": True}, "cast:price_usd"),
    "below-zero": ({"priceUsd": "-2.5"}, "price_usd|min"),
    "absurd": ({"priceUsd": "2500"}, "price_agrees_with_cap"),
    "dearest": ({"priceUsd": "2e9", "supply": None}, "price_usd|max"),
    "thirty-digits": ({"priceUsd": "123456789012345678901234567890.5"}, "cast:price_usd"),
    "too-fine": ({"priceUsd": "1e-19", "supply": None}, "precision:price_usd"),
    "half-a-rank": ({"rank": "1.5"}, "cast:rank"),
    "last": ({"rank": "0"}, "rank|min"),
}


@pytest.mark.fault(
    row=15,
    fault="NaN, infinity, null, text where a number was due",
    promise="the record is quarantined with its reason",
)
@pytest.mark.fault(
    row=16, fault="negative, absurd or stuck prices", promise="beyond a bound: quarantine; stuck: a warning"
)
def test_each_poisoned_record_is_refused_for_its_own_reason(tmp_path: Path) -> None:
    poisoned = [asset(500 + i, **{"id": name, **says}) for i, (name, (says, _)) in enumerate(POISON.items())]
    with line(tmp_path, answer(body([*assets(MANY), *poisoned]))) as on:
        on.pull()
        rows = on.settle()
        told = on.refused()
    assert rows.height == MANY
    assert set(told) == set(POISON)
    assert {name: why for name, (_, why) in POISON.items() if why not in told[name].split(",")} == {}


@pytest.mark.fault(row=17, fault="30 digits, 1e-18, huge supplies", promise="exact or refused, never rounded")
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(price=st.decimals(Decimal("1e-18"), Decimal("1e9"), places=18), as_number=st.booleans())
def test_a_price_comes_out_of_the_table_as_it_went_into_the_socket(
    tmp_path_factory: pytest.TempPathFactory, price: Decimal, as_number: bool
) -> None:
    text = format(price, "f")
    market = body([*assets(3), asset(7, priceUsd=f"@{text}@" if as_number else text, supply=None)])
    with line(tmp_path_factory.mktemp("digits"), answer(market)) as on:
        on.pull()
        assert on.settle().filter(asset_id="asset-7")["price_usd"].item() == price


@pytest.mark.fault(row=17, fault="30 digits, 1e-18, huge supplies", promise="exact or refused, never rounded")
def test_the_smallest_price_and_the_largest_supply_are_exact(tmp_path: Path) -> None:
    changes = {"priceUsd": "0.000000000000000001", "supply": "99999999999999999999.999999999999999999"}
    with line(tmp_path, answer(body(assets(**changes, marketCapUsd=None)))) as on:
        on.pull()
        row = on.settle().filter(asset_id="asset-7").row(0, named=True)
    assert (row["price_usd"], row["supply"]) == tuple(Decimal(text) for text in changes.values())


@pytest.mark.fault(row=18, fault="a new field", promise="kept in raw, warned of; trusted unchanged")
def test_a_new_field_changes_no_trusted_row(tmp_path: Path) -> None:
    sent = body([{**record, "liquidityScore": "0.5"} for record in assets()])
    with line(tmp_path / "with", answer(sent)) as on:
        on.pull()
        rows = on.settle().drop("pull_id")
        assert on.lake.read(raw.RawCoincapAssets)["body"].item() == sent
    with line(tmp_path / "without", answer(GOOD)) as on:
        on.pull()
        assert on.settle().drop("pull_id").equals(rows)


@pytest.mark.fault(
    row=19, fault="a renamed field", promise="an error naming old and likely new name; nothing committed"
)
def test_a_renamed_field_stops_its_pull_and_leaves_the_rows(tmp_path: Path) -> None:
    renamed = [{("price" if name == "priceUsd" else name): v for name, v in r.items()} for r in assets()]
    with line(tmp_path, answer(GOOD), answer(body(renamed, NOON + timedelta(minutes=5)))) as on:
        on.pull()
        before = on.settle()
        version = on.lake.state(trusted.AssetSnapshots)
        on.forward(minutes=5)
        on.pull()
        assert on.settle().equals(before)
        assert on.lake.state(trusted.AssetSnapshots) == version
        assert len(on.refused()) == N_ASSETS
        assert all(PULL_REFUSED in reasons.split(",") for reasons in on.refused().values())


@pytest.mark.fault(
    row=19, fault="a renamed field", promise="an error naming old and likely new name; nothing committed"
)
def test_a_day_of_nothing_but_renamed_fields_fails_and_names_them(tmp_path: Path) -> None:
    renamed = [{("price" if name == "priceUsd" else name): v for name, v in r.items()} for r in assets()]
    with line(tmp_path, answer(body(renamed))) as on:
        on.pull()
        with pytest.raises(DataError, match="priceUsd is missing from all 41 records; the new name may be price"):
            on.settle()
        assert on.lake.state(trusted.AssetSnapshots) is None
        assert on.lake.state(quality.Quarantine) is None


@pytest.mark.fault(
    row=20, fault="numbers become texts, or texts numbers", promise="both are read; a lossy cast is refused"
)
def test_types_may_change_where_nothing_is_lost(tmp_path: Path) -> None:
    numbers = [asset(i, priceUsd=2.5, rank=i, supply=1000, changePercent24Hr=0.1) for i in range(1, N_ASSETS + 1)]
    with line(tmp_path, answer(GOOD), answer(body([*numbers, asset(50, rank=1.7)], NOON + timedelta(hours=1)))) as on:
        on.pull()
        on.forward(hours=1)
        on.pull()
        rows = on.settle()
        assert on.refused() == {"asset-50": "cast:rank"}
    texts, numbers_ = (rows.filter(pl.col("observed_at") == at) for at in (NOON, NOON + timedelta(hours=1)))
    when = ["observed_at", "ingested_at", "pull_id"]
    assert texts.drop(when).equals(numbers_.drop(when))
    assert texts.height == N_ASSETS


@pytest.mark.fault(
    row=21, fault="duplicates in a page, across pages and runs", promise="one row a key; the others are counted"
)
def test_records_that_repeat_are_one_row_wherever_they_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coincap, "PAGE", 20)
    first, second = assets(20), [asset(20), *[asset(i) for i in range(21, 33)], asset(32)]
    pages = [answer(body(page)) for page in (first, second)]
    with line(tmp_path, *pages, *pages) as on:
        assert len(on.pull()) == 2
        assert len(on.pull()) == 0  # the very same answers again
        rows = on.settle()
        again = on.settle()
    assert rows.equals(again)
    assert rows["asset_id"].n_unique() == rows.height == 32
    doubled = rows.filter(pl.col("n_duplicates") > 0).sort("asset_id")
    assert doubled.select("asset_id", "n_duplicates").rows() == [("asset-20", 1), ("asset-32", 1)]


def _points(*days: int, price: str = "2.5") -> list[dict[str, Any]]:
    return [{"priceUsd": price, "time": ms(NOON.replace(day=day, hour=0))} for day in days]


@pytest.mark.fault(row=22, fault="data out of order, or late", promise="merged into the day that they belong to")
@pytest.mark.fault(row=23, fault="restated values", promise="the last fetch wins; raw keeps every version")
def test_late_disordered_and_restated_points_end_in_their_days(tmp_path: Path) -> None:
    first, last = date(2026, 10, 1), date(2026, 10, 3)
    window = Window.of_days(first, last)
    with line(tmp_path, answer(body(_points(3, 1))), answer(body(_points(2, 1, price="3")))) as on:
        on.clock.set(NOON.replace(day=5))
        on.history(first, last)
        assert on.settle(trusted.AssetHistory, window)["date"].to_list() == [first, last]
        on.forward(days=1)
        on.history(first, last)
        rows = on.settle(trusted.AssetHistory, window)
        assert on.lake.read(raw.RawCoincapHistory).height == 2
    prices = [(row["date"].day, row["price_usd"], row["n_duplicates"]) for row in rows.to_dicts()]
    assert prices == [(1, Decimal(3), 1), (2, Decimal(3), 0), (3, Decimal("2.5"), 0)]


@pytest.mark.fault(row=23, fault="restated values", promise="the last fetch wins; raw keeps every version")
def test_a_snapshot_restated_at_the_same_provider_time_is_the_newer_one(tmp_path: Path) -> None:
    restated = body(assets(priceUsd="2.6"))
    with line(tmp_path, answer(GOOD), answer(restated), answer(GOOD)) as on:
        for _ in range(2):
            on.pull()
            on.forward(minutes=1)
        row = on.settle().filter(asset_id="asset-7").row(0, named=True)
        assert (row["price_usd"], row["n_duplicates"]) == (Decimal("2.6"), 1)
        assert sorted(on.lake.read(raw.RawCoincapAssets)["body"]) == sorted([GOOD, restated])


@pytest.mark.fault(
    row=24, fault="pages fail, shift, fall short or loop", promise="an incomplete window is not published"
)
def test_a_page_that_fails_publishes_nothing_and_the_next_pull_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coincap, "PAGE", 10)
    pages = [answer(body(assets()[i : i + 10], NOON + timedelta(minutes=9))) for i in range(0, N_ASSETS, 10)]
    with line(tmp_path, *pages[:2], refusal(503, "later")) as on:
        with pytest.raises(TransientError, match="on page 3"):
            on.pull()
        assert on.settle().is_empty()
        on.forward(minutes=9)
        on.server.answer(*pages)
        on.pull()
        assert on.settle().height == N_ASSETS


@pytest.mark.fault(
    row=24, fault="pages fail, shift, fall short or loop", promise="an incomplete window is not published"
)
def test_pages_that_never_end_are_no_market(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coincap, "PAGE", 1)
    monkeypatch.setattr(coincap, "MAX_PAGES", 5)
    with line(tmp_path, *[answer(body([asset(i)])) for i in range(1, 9)]) as on:
        with pytest.raises(DataError, match=r"on page 5.*the page limit was reached"):
            on.pull()
        assert on.settle().is_empty()


@pytest.mark.fault(
    row=24, fault="pages fail, shift, fall short or loop", promise="an incomplete window is not published"
)
def test_a_loop_of_pages_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coincap, "PAGE", 10)
    loop = [answer(body(assets(20)[i : i + 10])) for i in (0, 10)]
    with line(tmp_path, *loop, *loop, *loop) as on:
        on.pull()
        assert len(on.server.requests) == 3
        assert on.settle().height == 20
        assert on.settle()["n_duplicates"].sum() == 0


@pytest.mark.fault(
    row=25, fault="a poison record; a poisoned pull", promise="alone in quarantine; above 5 % its pull is refused whole"
)
def test_one_poison_record_of_ten_thousand_lands_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coincap, "PAGE", 20_000)
    with line(tmp_path, answer(body([*assets(9_999), asset(10_001, priceUsd="poison")]))) as on:
        on.pull()
        assert on.settle().height == 9_999
        assert on.refused() == {"asset-10001": NO_PRICE}


@pytest.mark.fault(
    row=25, fault="a poison record; a poisoned pull", promise="alone in quarantine; above 5 % its pull is refused whole"
)
def test_a_pull_with_more_than_one_bad_record_in_twenty_is_refused_whole_and_the_others_stay(tmp_path: Path) -> None:
    bad = [asset(100 + i, priceUsd="poison") for i in range(5)]
    later = NOON + timedelta(minutes=5)
    with line(tmp_path, answer(body(assets(priceUsd="x"))), answer(body([*assets(), *bad], later))) as on:
        on.pull()
        before = on.settle()
        assert on.refused() == {"asset-7": NO_PRICE}
        on.forward(minutes=5)
        on.pull()
        assert on.settle().equals(before)
        refused = on.lake.read(quality.Quarantine)
        assert refused.filter(pl.col("observed_at") == NOON)["reasons"].to_list() == [NO_PRICE]
        of_later = refused.filter(pl.col("observed_at") == later)["reasons"]
        assert of_later.value_counts().sort("count").rows() == [
            (f"{NO_PRICE},{PULL_REFUSED}", 5),
            (PULL_REFUSED, N_ASSETS),
        ]


@pytest.mark.fault(
    row=25, fault="a poison record; a poisoned pull", promise="alone in quarantine; above 5 % its pull is refused whole"
)
@pytest.mark.parametrize(
    ("n_good", "n_bad", "is_stopped"), [(18, 1, False), (19, 1, False), (18, 2, True), (9, 9, False)]
)
def test_the_share_counts_from_twenty_records_on(tmp_path: Path, n_good: int, n_bad: int, is_stopped: bool) -> None:
    assert (MOST_REFUSED, FEWEST_JUDGED) == (0.05, 20)
    bad = [asset(100 + i, priceUsd="poison") for i in range(n_bad)]
    with line(tmp_path, answer(body([*assets(n_good), *bad]))) as on:
        on.pull()
        if is_stopped:
            with pytest.raises(
                DataError, match=r"no pull of 2026-10-01 fits .* 20 records are refused: cast:price_usd \(2\)"
            ):
                on.settle()
            assert on.lake.read(quality.Quarantine).is_empty()
        else:
            assert on.settle().height == n_good
            assert len(on.refused()) == n_bad


@pytest.mark.fault(
    row=25, fault="a poison record; a poisoned pull", promise="alone in quarantine; above 5 % its pull is refused whole"
)
def test_a_bad_day_is_not_hidden_by_the_good_days_of_its_range(tmp_path: Path) -> None:
    poisoned = [asset(i, priceUsd="poison") for i in range(1, N_ASSETS + 1)]
    days = [answer(body(poisoned if day == 2 else assets(MANY), NOON.replace(day=day))) for day in (1, 2, 3)]
    with line(tmp_path, *days) as on:
        for day in (1, 2, 3):
            on.clock.set(NOON.replace(day=day))
            on.pull()
        with pytest.raises(DataError, match="no pull of 2026-10-02 fits the contract, 41 records are refused"):
            on.settle(window=Window.of_days(date(2026, 10, 1), date(2026, 10, 3)))


NAMES = [
    "\u202egnp.exe",
    "\x00\x1b[2J\x07",
    "<script>alert(1)</script>",
    "'; drop table assets; --",
    '=HYPERLINK("http://evil.example")',
    "🐕\u200d🦺 süß Ⅷ",
    "x" * 1_000_000,
]


@pytest.mark.fault(
    row=27, fault="control characters, RTL, a megabyte of text, script", promise="stored as sent, harmless where shown"
)
def test_a_hostile_name_is_stored_as_sent_and_shown_harmless(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [asset(100 + i, name=name) for i, name in enumerate(NAMES)]
    with line(tmp_path, answer(body([*assets(), *named]))) as on:
        on.pull()
        rows = on.settle().filter(pl.col("rank") >= 100).sort("rank")
    assert rows["name"].to_list() == NAMES
    shown = rows.select("name").to_dicts()
    capsys.readouterr()
    output.rows(shown, output.Format.TABLE)
    seen = capsys.readouterr().out
    assert not {"\x1b", "\x00", "\x07", "\u202e"} & set(seen)
    assert len(seen) < 10_000
    output.rows(shown, output.Format.JSON)
    assert [json.loads(told)["name"] for told in capsys.readouterr().out.splitlines()] == NAMES


@pytest.mark.fault(
    row=27, fault="control characters, RTL, a megabyte of text, script", promise="stored as sent, harmless where shown"
)
def test_a_text_that_is_no_unicode_makes_its_page_evidence(tmp_path: Path) -> None:
    sent = body(assets(name='@"\\ud800"@'))
    with line(tmp_path, answer(sent)) as on:
        with pytest.raises(DataError, match="ended malformed"):
            on.pull()
        assert on.evidence() == ({"malformed"}, [sent])
