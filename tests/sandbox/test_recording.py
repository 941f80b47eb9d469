"""Recorded answers come back text for text; an unusable folder is refused in words."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from crypto_assets.errors import UsageError
from crypto_assets.sandbox import Recording, serve


@pytest.fixture
def folder(recorded: Path) -> Path:
    return recorded / "v2_2024-03"


def held(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


@pytest.mark.recorded
def test_a_folder_says_what_it_holds_and_from_when(folder: Path) -> None:
    recording = Recording(folder)
    assert recording.endpoints == {"assets", "history", "rates"}
    assert recording.recorded_at == datetime(2024, 3, 29, 14, 40, 50, 932000, tzinfo=UTC)
    assert recording.history_assets == {"bitcoin"}
    assert recording.history_span("bitcoin") == (
        datetime(2023, 3, 31, tzinfo=UTC),
        datetime(2024, 3, 28, tzinfo=UTC),
    )
    with pytest.raises(KeyError):
        recording.history_span("ethereum")


@pytest.mark.recorded
def test_recorded_answers_are_served_text_for_text(folder: Path) -> None:
    assets = held(folder, "v2_assets_top100.json")
    history = held(folder, "v2_asset_bitcoin_history_d1.json")
    with serve(Recording(folder)) as sandbox, httpx.Client(trust_env=False) as http:

        def ask(path: str) -> Any:
            return http.get(f"{sandbox.v2}/{path}").json()

        assert ask("assets") == assets
        assert ask("assets?limit=7&offset=95") == {**assets, "data": assets["data"][95:]}
        assert ask("assets/bitcoin") == held(folder, "v2_asset_bitcoin.json")
        listed = next(row for row in assets["data"] if row["id"] == "ethereum")
        assert ask("assets/ethereum") == {"data": listed, "timestamp": assets["timestamp"]}
        assert ask("assets/bitcoin/history?interval=d1") == history
        assert len(history["data"]) == 364
        window = ask("assets/bitcoin/history?interval=d1&start=1711411200000&end=1711584000000")
        assert window == {**history, "data": history["data"][-3:-1]}
        assert ask("rates") == held(folder, "v2_rates_all.json")
        assert ask("rates/russian-ruble") == held(folder, "v2_rate_russian-ruble.json")
        for path in ("exchanges", "markets", "assets/ethereum/history?interval=d1", "assets/bitcoin/markets"):
            answer = http.get(f"{sandbox.v2}/{path}")
            assert (answer.status_code, answer.json()) == (404, {"error": "not recorded"})


@pytest.mark.recorded
def test_exchanges_without_an_envelope_time_are_served(folder: Path) -> None:
    recording = Recording(folder.parent)
    assert recording.endpoints == {"exchanges"}
    assert recording.recorded_at == datetime(2024, 9, 21, 21, 14, 2, 910000, tzinfo=UTC)
    with serve(recording) as sandbox:
        body = httpx.get(f"{sandbox.v3}/exchanges", trust_env=False).json()
    assert body["data"] == held(folder.parent, "v2_exchanges_sample.json")["data"]
    assert body["timestamp"] == 1726953242910


def test_a_missing_envelope_time_is_the_newest_of_the_folder(tmp_path: Path) -> None:
    rate = {"id": "euro", "symbol": "EUR", "currencySymbol": "€", "type": "fiat", "rateUsd": "1.08"}
    (tmp_path / "v2_rates_all.json").write_text(json.dumps({"data": [rate]}))
    (tmp_path / "notes.json").write_text('{"timestamp": 1700000000000}')
    (tmp_path / "v2_rate_euro.json").write_text('{"data": {"id": "euro", "rateUsd": 1.0800}, "timestamp": 5}')
    with serve(Recording(tmp_path)) as sandbox, httpx.Client(trust_env=False) as http:
        assert http.get(f"{sandbox.v3}/rates").json() == {"data": [rate], "timestamp": 1700000000000}
        # A number keeps its digits even where the record wrote no text.
        assert http.get(f"{sandbox.v3}/rates/euro").text == '{"data":{"id":"euro","rateUsd":1.0800},"timestamp":5}'


def test_a_folder_without_answers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        Recording(tmp_path / "missing")
    with pytest.raises(UsageError, match="no CoinCap answer"):
        Recording(tmp_path)
    (tmp_path / "v2_assets_top100.json").write_text("not json")
    (tmp_path / "v2_rates_all.json").write_text('{"error": "Unauthorized", "timestamp": 1}')
    with pytest.raises(UsageError, match="no CoinCap answer"):
        Recording(tmp_path)
    (tmp_path / "v2_rates_all.json").write_text('{"data": [{"id": "euro", "rateUsd": "1.08"}]}')
    with pytest.raises(UsageError, match="says when"):
        Recording(tmp_path)
