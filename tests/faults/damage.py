"""What the tests of damage share: a filled lake to damage, the command line, and somebody who follows its advice."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import NamedTuple

import dagster as dg
import polars as pl
import pytest

from crypto_assets import cli
from crypto_assets.commands import run as runs
from crypto_assets.definitions import build_definitions
from crypto_assets.errors import CryptoAssetsError, DataError
from crypto_assets.resources.inspection import Directory, Files, files_of, log_faults
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.settings import Settings
from crypto_assets.sandbox import Fault
from crypto_assets.tables import ALL_TABLES, quality, raw, refined, trusted
from crypto_assets.tables.contract import Contract
from tests.chain import LIVE, at, chain, only, same

DAYS = [date(2026, 10, day) for day in (1, 2, 3)]
MIDDLE = DAYS[1]
# Enough for the tests of damage, a table for each way in which rows reach one and what follows from it: the advice is
# often to compute all, and its run and its checks take a second a table.
HOUSEHOLD: tuple[type[Contract], ...] = (
    raw.RawCoincapAssets,
    raw.RawCoincapRates,
    trusted.AssetSnapshots,
    trusted.AssetAttributes,
    trusted.FxRates,
    refined.AssetHourly,
    refined.AssetDaily,
    refined.DimAsset,
)
_TABLES = r"(?:trusted|refined)(?:\.\w+)?"
_COMMAND = re.compile(rf"crypto-assets (backfill|run|doctor)((?: {_TABLES}| --(?:from|to|select) \S+| --fix)*)")


class Said(NamedTuple):
    code: int
    out: str
    err: str


def fill(home: Path, tables: Collection[type[Contract]] = ()) -> Path:
    """A lake of three days, one refused record and a gap, of these tables or all; each day was a run of its own."""
    with chain(home, n_assets=20) as c:
        definitions = only(c.definitions, tables) if tables else c.definitions
        graph = definitions.resolve_asset_graph()
        derived = [key for key in graph.materializable_asset_keys if key.path[0] != "raw"]
        for day in DAYS:
            c.sandbox.set_faults([Fault("negative_price", "assets")] if day == MIDDLE else [])
            for hour in (9, 21):
                c.pull(at(day.day, hour), [contract for contract in LIVE if contract in tables or not tables])
            # Checks take most of a run, and the middle day is the one that is damaged.
            report = runs.execute(definitions, c.instance, [day], derived, has_checks=day == MIDDLE)
            assert report.exit_code == 0, report.failed
        assert not c.run(date(2026, 9, 30), select=[raw.RawCoincapRates]).success
    return home / "lake"


def household(factory: pytest.TempPathFactory) -> Path:
    """The lake of the household's tables that every test of damage copies; filled once, by the first worker to ask."""
    root = factory.getbasetemp()
    home = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "household"
    with (home.parent / "household.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.exists():
            fill(factory.mktemp("filling") / "home", HOUSEHOLD).parent.rename(home)
    return home / "lake"


@dataclass
class House:
    """A lake in a directory, or at ``uri`` in a bucket, and its people."""

    root: Path
    template: Path
    away: Path
    capsys: pytest.CaptureFixture[str]
    uri: str = ""
    options: dict[str, str] = field(default_factory=dict)

    @property
    def lake(self) -> Lake:
        """The lake as a process opens it that starts now."""
        return Lake(self.uri or str(self.root), storage_options=self.options)

    def say(self, *words: str) -> Said:
        """Call the command line in this process."""
        self.capsys.readouterr()
        code = cli.main(words)
        return Said(code, *self.capsys.readouterr())

    def folder(self, contract: type[Contract]) -> Path:
        return Path(self.lake.uri(contract))

    def file(self, contract: type[Contract], day: date | None = MIDDLE) -> Path:
        """A data file of the table, of the day where it has days."""
        return self.folder(contract) / self.path(contract, day)

    def path(self, contract: type[Contract], day: date | None = MIDDLE) -> str:
        """The same below the table."""
        live = self.lake.live(contract)
        path: str = (live.filter(day=day) if live["day"].null_count() == 0 else live)["path"][0]
        return path

    def files(self, contract: type[Contract]) -> Files:
        """The table's files, wherever they are."""
        return files_of(self.lake, contract)

    def entry(self, contract: type[Contract], version: int) -> Path:
        return self.folder(contract) / "_delta_log" / f"{version:020}.json"

    def newest(self, contract: type[Contract]) -> int:
        """The table's version."""
        state = self.lake.state(contract)
        assert state is not None
        return state.version

    def content(self) -> dict[str, pl.DataFrame]:
        """Every row of every table that there is but verdicts, which say when they were made."""
        lake = self.lake
        tables = [table for table in ALL_TABLES if table is not quality.CheckResults and lake.state(table)]
        return {contract.table.full_name: lake.read(contract) for contract in tables}

    def refusal(self, contract: type[Contract]) -> DataError:
        """The error of reading the table: typed and of one line."""
        with pytest.raises(DataError) as caught:
            self.lake.read(contract)
        assert "\n" not in str(caught.value)
        assert caught.value.where == contract.table.full_name
        return caught.value

    def follow(self, error: CryptoAssetsError | str, contract: type[Contract] | None = None) -> None:
        """Do what the advice says, to the letter: put back, move away, run the command."""
        advice = error if isinstance(error, str) else error.hint
        found = _COMMAND.search(advice)
        if moving := re.search(r"move (\S+) away", advice):
            Path(moving[1]).rename(self.away / Path(moving[1]).name)
        elif "put it back from a backup" in advice:
            assert contract is not None
            backup = self.template / self.folder(contract).relative_to(self.root)
            shutil.copytree(backup, self.folder(contract), dirs_exist_ok=True)
        assert found or "backup" in advice, advice
        if found:
            said = self.say(found[1], *found[2].split())
            assert said.code == 0, said.err


def move_in(
    template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tables: Collection[type[Contract]] = (),
) -> House:
    """A copy of the filled lake, which the command line takes for its own; of these tables, where some are named."""
    house = House(tmp_path / "lake", template, tmp_path / "away", capsys)
    shutil.copytree(template, house.root)
    house.away.mkdir()
    for name in ("COINCAP_API_KEY", "DAGSTER_HOME", "AWS_ENDPOINT_URL", "CRYPTO_ASSETS_COINCAP_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CRYPTO_ASSETS_LAKE_URI", str(house.root))
    monkeypatch.setenv("CRYPTO_ASSETS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("CRYPTO_ASSETS_PROVIDERS", "coincap")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    if tables:

        def definitions(settings: Settings, resources: Mapping[str, object] | None = None) -> dg.Definitions:
            return only(build_definitions(settings, resources), tables)

        monkeypatch.setattr(runs, "definitions", definitions)
    return house


def move_to_bucket(house: House, uri: str, options: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> House:
    """The same house with its lake in a bucket, which the command line takes for its own."""
    moved = replace(house, uri=uri, options=options)
    here, there = files_of(house.lake), files_of(moved.lake)
    for path in here.all():
        there.write(path, here.read(path))
    for name, value in {**options, "CRYPTO_ASSETS_LAKE_URI": uri}.items():
        monkeypatch.setenv(name, value)
    return moved


def faults_of(folder: Path) -> list[str]:
    """What is wrong with the log of the table in the folder."""
    files = Directory(str(folder))
    return [fault.what for fault in log_faults(files, files.all())]


__all__ = [
    "DAYS",
    "HOUSEHOLD",
    "MIDDLE",
    "House",
    "Said",
    "faults_of",
    "fill",
    "household",
    "move_in",
    "move_to_bucket",
    "same",
]
