"""What people see of the lease: who runs a lake's schedules, in ``status``, at ``up`` and not in ``doctor``."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from crypto_assets import cli
from crypto_assets.commands.up import _warn_of_holder
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.lease import Holder, hold, slot_of, this_installation
from crypto_assets.resources.settings import Settings

NOW = datetime.now(UTC).replace(microsecond=0)
LENGTH = timedelta(minutes=12)
THERE = Holder("bbbbbbbb", "there")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """An empty lake, and a state directory that the environment names too."""
    for name in [name for name in os.environ if name.startswith(("CRYPTO_ASSETS_", "AWS_", "COINCAP_", "DAGSTER_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CRYPTO_ASSETS_LAKE_URI", str(tmp_path / "lake"))
    monkeypatch.setenv("CRYPTO_ASSETS_STATE_DIR", str(tmp_path / "state"))
    return Settings()


def take(settings: Settings, holder: Holder) -> None:
    hold(slot_of(settings.lake_root, {}), holder, FixedClock(NOW), LENGTH)


def lease_in_status(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    capsys.readouterr()
    assert cli.main(["status", "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [{k: v for k, v in record.items() if k != "kind"} for record in records if record["kind"] == "lease"]


def test_status_says_who_runs_the_schedules(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert lease_in_status(capsys) == []
    # Looking makes nothing.
    assert not settings.state_dir.exists()

    take(settings, THERE)
    (lease,) = lease_in_status(capsys)
    assert (lease["holder"], lease["is_here"], lease["counter"]) == ("there (installation bbbbbbbb)", False, 1)
    assert (lease["state"], lease["since"]) == ("held", f"{NOW:%Y-%m-%dT%H:%M:%SZ}")


def test_status_knows_its_own_lease(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    take(settings, this_installation(settings.state_dir))
    (lease,) = lease_in_status(capsys)
    assert lease["is_here"] is True


def test_status_reads_on_past_a_corrupt_lease(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    slot_of(settings.lake_root, {}).swap(b"{", None)
    (lease,) = lease_in_status(capsys)
    assert lease["state"] == "_lease/schedules.json is not a lease; the next tick replaces it"


def test_up_warns_of_another_holder_in_one_line(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    clock = FixedClock(NOW)
    _warn_of_holder(settings, clock)
    take(settings, this_installation(settings.state_dir))
    _warn_of_holder(settings, clock)
    assert capsys.readouterr().err == ""

    clock.sleep(LENGTH.total_seconds())
    hold(slot_of(settings.lake_root, {}), THERE, clock, LENGTH)
    _warn_of_holder(settings, clock)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: there (installation bbbbbbbb) has run this lake's schedules since ")

    clock.sleep(LENGTH.total_seconds())
    _warn_of_holder(settings, clock)
    assert capsys.readouterr().err == ""


def test_up_warns_of_what_cannot_be_told_and_goes_on(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    slot_of(settings.lake_root, {}).swap(b"{", None)
    _warn_of_holder(settings, FixedClock(NOW))
    assert capsys.readouterr().err == "warning: _lease/schedules.json is not a lease\n"


def test_the_lease_is_no_foreign_file(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    take(settings, THERE)
    cli.main(["doctor", "--json"])
    findings = {row["subject"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert findings["foreign files"]["seen"] == "none"
