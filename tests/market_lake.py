"""A lake of the simulated market with every provider in it and some trouble: what the cookbook is asked of.

Three days around 2026-11-13. Of the trouble: a spoiled record (quarantine), a refusal and an outage (source health),
minutes that a venue does not serve (gaps), an archive file that was restated (revisions). The same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from crypto_assets.assets.handles import opened
from crypto_assets.assets.raw import binance_archive
from crypto_assets.assets.raw.pulls import land
from crypto_assets.automation.cadence import ON_REQUEST, rounds
from crypto_assets.commands.backfill import chain
from crypto_assets.commands.run import execute
from crypto_assets.definitions import build_definitions
from crypto_assets.resources.clock import FixedClock
from crypto_assets.resources.lake import Lake
from crypto_assets.resources.settings import Settings
from crypto_assets.sandbox import Fault, Market, serve
from crypto_assets.sandbox.events import Events, Hole, Restatement
from crypto_assets.sandbox.tape import tape_of
from crypto_assets.tables import raw, trusted
from crypto_assets.tables.contract import Contract
from crypto_assets.tables.window import Window
from tests.chain import LIVE
from tests.tape_rows import frame

NOW = datetime(2026, 11, 13, 10, tzinfo=UTC)
DAYS = tuple(date(2026, 11, day) for day in (11, 12, 13))
BTC = "binance:BTC/USDT"
SEED = 7
_RESTATED_AT = NOW + timedelta(minutes=7)
# Every endpoint of CoinCap but its history; the last round is the one that the others join.
_ROUNDS = [datetime(2026, 11, day, hour, tzinfo=UTC) for day, hour in ((11, 10), (11, 22), (12, 10), (12, 22), (13, 4))]
_CHECKED: tuple[type[Contract], ...] = (trusted.FxRates, trusted.ExchangeScores)


def _at(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, minute, tzinfo=UTC)


def market_lake(home: Path, lake: Lake | None = None) -> Lake:
    """Fill a lake, one below the directory by default, raw to quality, by the product's own definitions."""
    clock = FixedClock(NOW)
    lake = lake or Lake(str(home / "lake"), clock=clock)
    with serve(Market(SEED)) as sandbox, ExitStack() as stack:
        settings = Settings(
            lake_uri=lake.root,
            state_dir=home / "state",
            coincap_base_url=sandbox.v3,
            coincap_calls_per_minute=10**6,
            coincap_credits_per_month=10**9,
            sandbox_url=sandbox.url,
        )
        sandbox.set_events(
            Events(
                holes=(Hole("binance:ETH/USDT", _at(12, 3), _at(12, 3, 40)),),
                restatements=(Restatement(BTC, _at(11, 0), _at(12, 0), at=_RESTATED_AT),),
            )
        )
        handles = {name: stack.enter_context(opened(name, settings, clock)) for name in _keyless(settings)}
        defs = build_definitions(settings, {"lake": lake, "clock": clock, **handles})
        instance = stack.enter_context(dg.DagsterInstance.ephemeral())

        def now(moment: datetime) -> None:
            clock.set(moment)
            sandbox.set_now(moment)

        def run(days: Sequence[date], tables: Sequence[type[Contract]], *, has_checks: bool = False) -> None:
            keys = [dg.AssetKey(list(table.table.path)) for table in tables]
            report = execute(defs, instance, days, keys, has_checks=has_checks)
            assert not report.failed, report.failed[0].told

        for moment in _ROUNDS:
            now(moment)
            _spoil(sandbox, moment)
            for contract, call in LIVE.items():
                land(lake, contract, [call(handles["coincap"])])
        sandbox.set_faults([])
        now(NOW)
        live = [table for each in rounds(settings) for table in each.feed.contracts]
        run([DAYS[-1]], live)
        now(NOW + timedelta(minutes=5))
        run([DAYS[-1]], [raw.RawExchangeTickers, raw.RawExchangeCandles])
        _, histories = chain(defs, None)
        run(DAYS[:2], [table for table in histories if table not in ON_REQUEST])
        now(_RESTATED_AT + timedelta(minutes=1))
        for found in binance_archive.restated(handles["binance_archive"], lake, Window.of_days(DAYS[0], DAYS[0])):
            binance_archive.repull(handles["binance_archive"], lake, found)
        derived = [key for key in defs.resolve_asset_graph().executable_asset_keys if key.path[0] != "raw"]
        report = execute(defs, instance, DAYS, derived, has_checks=False)
        assert not report.failed, report.failed[0].told
        run([DAYS[-1]], _CHECKED, has_checks=True)
        _trade(lake)
    return lake


def _keyless(settings: Settings) -> list[str]:
    from crypto_assets.assets.handles import absence

    return [name for name in settings.providers if absence(name, settings) is None]


def _spoil(sandbox: Any, moment: datetime) -> None:
    """The trouble of one round."""
    faults = {
        _ROUNDS[1]: [Fault(kind="negative_price", endpoint="assets", times=1)],
        _ROUNDS[2]: [Fault(kind="rate_limited_minute", endpoint="rates", times=1)],
        _ROUNDS[3]: [Fault(kind="not_a_record", endpoint="markets", times=1)],
    }
    sandbox.set_faults(faults.get(moment, []))


def _trade(lake: Lake) -> None:
    """Trades of a quarter of an hour, as a stream would have brought them."""
    start, end = _at(13, 9, 30), _at(13, 9, 45)
    trades = tape_of(Market(SEED), Events()).trades(BTC, start, end).records()
    lake.replace(trusted.Trades, frame(trusted.Trades, BTC, trades, end, {}), Window(start, end))
