"""Releasing quarantined records: a contract or a parser is mended, and the refused records come in."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from crypto_assets.assets.trusted import facts
from crypto_assets.commands import quarantine
from crypto_assets.tables import quality, raw, refined, trusted
from crypto_assets.tables.conform import Records
from tests.chain import at, chain


def test_replay_releases_what_a_mended_parser_can_read_and_carries_it_downstream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parse = facts.PARSERS[trusted.AssetSnapshots][raw.RawCoincapAssets]

    def broken(answers: pl.DataFrame) -> Records:
        """A parser that reads bitcoin's price with the wrong sign."""
        records = parse(answers)
        price = pl.when(pl.col("provider_asset_id") == "bitcoin").then(pl.lit("-1")).otherwise("price_usd")
        return Records(records.frame.with_columns(price_usd=price), records.texts)

    with chain(tmp_path) as c:
        c.pull(at(1, 12), [raw.RawCoincapAssets])
        with monkeypatch.context() as patch:
            patch.setitem(facts.PARSERS[trusted.AssetSnapshots], raw.RawCoincapAssets, broken)  # type: ignore[arg-type]
            assert c.run(at(1).date(), select=[trusted.AssetSnapshots, refined.AssetHourly]).success
        refused = c.lake.read(quality.Quarantine)
        assert refused.height == 1
        assert "price_usd|min" in refused["reasons"].item()
        assert c.lake.read(refined.AssetHourly).filter(asset_id="bitcoin").is_empty()

        monkeypatch.setenv("CRYPTO_ASSETS_LAKE_URI", c.lake.root)
        monkeypatch.setenv("CRYPTO_ASSETS_STATE_DIR", str(tmp_path / "state"))
        assert quarantine.replay("trusted.asset_snapshots") == 0
        assert "1 records released, 0 stay in quarantine" in capsys.readouterr().out
        assert c.lake.read(quality.Quarantine).is_empty()
        assert c.lake.read(refined.AssetHourly).filter(asset_id="bitcoin").height == 1


def test_replay_keeps_what_still_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from crypto_assets.sandbox import Fault

    with chain(tmp_path) as c:
        c.sandbox.set_faults([Fault("negative_price", "assets")])
        c.pull(at(1, 12), [raw.RawCoincapAssets])
        assert c.run(at(1).date(), select=[trusted.AssetSnapshots]).success
        monkeypatch.setenv("CRYPTO_ASSETS_LAKE_URI", c.lake.root)
        monkeypatch.setenv("CRYPTO_ASSETS_STATE_DIR", str(tmp_path / "state"))
        held = c.lake.read(quality.Quarantine)
        assert quarantine.replay(None) == 0
        assert "0 records released, 1 stay in quarantine" in capsys.readouterr().out
        assert c.lake.read(quality.Quarantine).equals(held)
