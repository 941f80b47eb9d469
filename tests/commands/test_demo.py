"""The demo as a newcomer runs it: in a process of its own, its output in a pipe."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from crypto_assets.commands.demo import MARKER, fresh, mark
from crypto_assets.commands.up import free_ports, local_s3
from crypto_assets.errors import UsageError
from crypto_assets.resources.inspection import files_of, prove
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.settings import storage_options
from crypto_assets.sandbox import Recording, serve
from crypto_assets.tables import ALL_TABLES
from crypto_assets.tables.quality import Quarantine
from crypto_assets.tables.trusted import AssetSnapshots
from tests.faults.seaweed import weed

pytestmark = pytest.mark.e2e

# A table of the closing counts: name, raw, = or ≠, trusted, quarantined, duplicates.
_COUNT = re.compile(r"^ ?(trusted\.\w+) +([\d,]+) +(=|≠) +([\d,]+) +([\d,]+) +([\d,]+)", re.MULTILINE)


def _demo(*words: str, **further: str) -> subprocess.CompletedProcess[str]:
    script = "import sys; from crypto_assets.cli import main; sys.exit(main(sys.argv[1:]))"
    ours = ("CRYPTO_ASSETS_", "DAGSTER_", "COINCAP_", "ALPHAVANTAGE_", "COINGECKO_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)} | further
    return subprocess.run(
        [sys.executable, "-c", script, "demo", *words], capture_output=True, text=True, check=False, env=env
    )


def _counts(text: str) -> dict[str, list[int]]:
    found = {}
    for name, raw, sign, *rest in _COUNT.findall(text):
        assert sign == "="
        found[name] = [int(number.replace(",", "")) for number in (raw, *rest)]
    return found


@contextmanager
def _lake_of(place: str, home: Path) -> Iterator[Lake]:
    """The demo's lake as it was left; its S3 server, which ended with the demo, once more and on other ports."""
    if place == "dir":
        yield Lake(str(home / "lake"))
        return
    with local_s3(home / "s3", free_ports()) as told:
        yield Lake(told["CRYPTO_ASSETS_LAKE_URI"], storage_options=storage_options(told))


@pytest.mark.parametrize("place", ["dir", pytest.param("s3", marks=pytest.mark.s3)])
def test_the_demo_ends_with_counts_that_match_and_an_answer(tmp_path: Path, place: str) -> None:
    if place == "s3":
        weed()
    done = _demo("--home", str(tmp_path), "--lake", place)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("crypto_assets demo · simulated market, 2026-11-11 to 2026-11-12")

    counts = _counts(done.stdout)
    assert set(counts) == {
        "trusted.asset_snapshots",
        "trusted.exchange_snapshots",
        "trusted.market_snapshots",
        "trusted.fx_rates",
        "trusted.asset_history",
    }
    assert all(raw == trusted + refused + repeats for raw, trusted, refused, repeats in counts.values())
    # Two records were refused, a tenth of 60 rates came twice, and one round of exchanges of 35 was a web page.
    assert counts["trusted.asset_snapshots"] == [1000, 998, 2, 0]
    assert counts["trusted.fx_rates"] == [246, 240, 0, 6]
    assert counts["trusted.exchange_snapshots"] == [105, 105, 0, 0]

    assert "02:00 raw.coincap_exchanges failed, the others went on" in done.stdout
    assert "ran everything again: 0 new rows, no new commit" in done.stdout
    assert re.search(r"✓ checks +\d+ passed, 2 warned, 0 failed", done.stdout)
    assert re.search(r"^ +1 +Bitcoin +BTC +70,488\.25344322354067117 ", done.stdout, re.MULTILINE)

    with _lake_of(place, tmp_path) as lake:
        assert lake.read(Quarantine)["reasons"].to_list() == [
            "cast:price_usd,price_usd|nullability",
            "price_agrees_with_cap,price_usd|min",
        ]
        proofs = {contract.table.full_name: prove(lake, contract) for contract in ALL_TABLES}
        assert [proof.errors for proof in proofs.values() if proof.errors] == []
        assert sum(proof.n_proven for proof in proofs.values()) > 5_000
        # What a demo made, the next one may delete; in a bucket, nothing beside it.
        fresh(lake)
        assert files_of(lake).all().keys() == {MARKER}
    assert (tmp_path / "lake").exists() == (place == "dir")
    # `make up` shows the run: its materializations and its checks are in the instance that it opens.
    with dg.DagsterInstance.from_config(str(tmp_path / "dagster")) as instance:
        key = dg.AssetKey(["trusted", "asset_snapshots"])
        days = instance.get_materialized_partitions(key)
        assert days == {"2026-11-11", "2026-11-12"}


def test_a_lake_that_no_demo_made_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "mine").write_text("mine", encoding="utf-8")
    done = _demo("--home", str(tmp_path))
    assert done.returncode == 2
    assert "there is something here that no demo made" in done.stderr
    assert [path.name for path in (tmp_path / "lake").iterdir()] == ["mine"]


@pytest.mark.s3
def test_a_bucket_that_no_demo_made_is_left_alone(s3_options: dict[str, str]) -> None:
    lake, root = Lake("s3://lake/mine", storage_options=s3_options), Lake("s3://lake", storage_options=s3_options)
    files_of(lake).write("trusted/mine", b"mine")
    with pytest.raises(UsageError, match="there is something here that no demo made"):
        fresh(lake)
    mark(lake)
    assert files_of(lake).all().keys() == {"trusted/mine"}

    files_of(lake).write(MARKER, b"")
    files_of(root).write("mine-too", b"")
    fresh(lake, is_kept=True)
    assert files_of(lake).names() == {MARKER, "trusted"}
    fresh(lake)
    assert files_of(lake).names() == {MARKER}
    assert files_of(root).names() >= {"mine", "mine-too"}


@pytest.mark.parametrize("place", ["s3://lake", "s3://lake/", "s3:///x", "gs://lake/x", "bucket"])
def test_a_whole_bucket_is_no_place_for_a_demo(tmp_path: Path, place: str) -> None:
    done = _demo("--home", str(tmp_path), "--lake", place)
    assert done.returncode == 2
    assert "never a whole bucket, for the next demo deletes the lake" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.recorded
def test_a_recording_is_replayed_to_the_last_digit(tmp_path: Path, recorded: Path) -> None:
    folder = recorded / "v2_2024-03"
    done = _demo("--home", str(tmp_path), "--replay", str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    assert "replayed: 100 assets, 364 history days, 182 rates in trusted" in done.stdout
    assert "ran everything again: 0 new rows, no new commit" in done.stdout
    assert _counts(done.stdout) == {
        "trusted.asset_snapshots": [100, 100, 0, 0],
        "trusted.fx_rates": [182, 182, 0, 0],
        "trusted.asset_history": [364, 364, 0, 0],
    }

    sent = {row["id"]: row for row in Recording(folder).assets(datetime(2024, 4, 1, tzinfo=UTC))}
    held = Lake(str(tmp_path / "lake")).read(AssetSnapshots)
    assert held["max_supply"].null_count() == 44
    assert held["explorer_url"].null_count() == 2
    prices = held.select("provider_asset_id", pl.col("price_usd").cast(pl.String)).rows()
    assert {key: price.rstrip("0").rstrip(".") for key, price in prices} == {
        key: row["priceUsd"].rstrip("0").rstrip(".") for key, row in sent.items()
    }


def test_where_no_provider_can_be_reached_each_is_a_line_and_nothing_is_written(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        # Bound and not listening: refused at once, whatever else runs here.
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        done = _demo("--live", "--home", str(tmp_path), CRYPTO_ASSETS_SANDBOX_URL=url)
    assert done.returncode == 3, done.stderr
    assert (
        "coincap is left out: CoinCap v3 needs a key: set COINCAP_API_KEY (it brings a thousand assets" in done.stdout
    )
    services = re.findall(r" ✗ (.+) cannot be reached: 127\.0\.0\.1:\d+: Connection refused", done.stdout)
    assert services == [
        *("exchanges binance", "exchanges kraken", "exchanges coinbase", "binance_archive", "coingecko", "mempool"),
        "alpha_vantage",
    ]
    assert done.stderr.startswith("error: no provider can be reached")
    assert not (tmp_path / "lake").exists()


@pytest.mark.timeout(400)
def test_the_demo_of_every_provider_ends_with_counts_that_match_and_one_agreed_price(tmp_path: Path) -> None:
    done = _demo("--venues", "--home", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "coincap, exchanges, binance_archive, coingecko, mempool, alpha_vantage; 6 markets" in done.stdout
    counts = _counts(done.stdout)
    assert {"trusted.candles", "trusted.quotes", "trusted.onchain_stats", "trusted.exchange_scores"} <= counts.keys()
    assert all(raw == trusted + refused + repeats for raw, trusted, refused, repeats in counts.values())
    # The time from midnight to 10:05 and two days of Binance, at its end told by the archive and by the venue.
    assert counts["trusted.candles"][1] > 10_000
    assert re.search(r"✓ checks +\d+ passed, \d+ warned, 0 failed", done.stdout)
    assert re.search(
        r"2026-11-13 +bitcoin +[\d,.]+ +ok +5 .*binance, coinbase, coincap, coingecko, kraken", done.stdout
    )


def test_a_replay_serves_on_loopback_only(tmp_path: Path) -> None:
    (tmp_path / "v2_rates_all.json").write_text(
        '{"data":[{"id":"x","symbol":"X","rateUsd":"1","type":"fiat"}],"timestamp":1711500000000}', encoding="utf-8"
    )
    with serve(Recording(tmp_path)) as sandbox:
        assert sandbox.url.startswith("http://127.0.0.1:")
