"""``demo --venues`` and ``demo --live``: every provider that is here through the whole chain, simulated or as it is.

Belongs here: the story that both tell: a round of what is now, some days of the past, one run from raw to refined, and
what it came to. On the sandbox time stands still and faults strike on purpose; on the internet a provider that cannot
be reached is one line, and the others go on.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from crypto_assets.commands import output
from crypto_assets.commands import run as runs
from crypto_assets.commands.demo import (
    DEFAULT_HOME,
    SEED,
    closing,
    closing_words,
    fresh,
    held_lake,
    judge,
    require_place,
    teller,
)
from crypto_assets.errors import TransientError

if TYPE_CHECKING:
    import dagster as dg

    from crypto_assets.resources.clock import Clock
    from crypto_assets.resources.lake import Lake
    from crypto_assets.resources.settings import Settings

# Beside the demo's: what is real and what is simulated never share a lake.
LIVE_HOME = Path("data/live")
# An ordinary morning; the days before it are what is backfilled.
NOW = datetime(2026, 11, 13, 10, tzinfo=UTC)
N_PAST_DAYS = 2
ROUNDS_APART = timedelta(minutes=5)
# What goes wrong on purpose: kind, endpoint, how often, and what people are told of it.
FAULTS = (
    ("throttled", "coingecko.markets", 1, "coingecko throttles once: waited and asked again"),
    ("server_error", "kraken.ticker", 1, "kraken fails once: asked again"),
    ("checksum_mismatch", "binance_archive.klines", 1, "a checksum of another file: the file was asked for once more"),
)
# Longer than a slow resolver or a far host takes; who does not answer by then cannot be reached.
_REACH_S = 8.0
_Key = tuple[str, str]
_ANSWER = (
    "select date, asset_id, price_usd, status, n_sources, mad_bps, sources from refined.price_daily "
    "where asset_id in ('bitcoin', 'ethereum') order by date desc, asset_id limit 6"
)


@dataclass(frozen=True)
class Scene:
    """Everything that the story plays on."""

    lake: Lake
    clock: Clock
    settings: Settings
    defs: dg.Definitions
    instance: dg.DagsterInstance  # the run that people look at in the Dagster UI
    scratch: dg.DagsterInstance
    steps: output.Steps


def simulated(home: Path | None, place: str, *, is_kept: bool) -> int:
    """All providers on the sandbox, with faults; 0 where every count matches and no blocking check failed."""
    from crypto_assets.resources.clock import FixedClock
    from crypto_assets.resources.settings import Settings
    from crypto_assets.sandbox import Fault, Market, serve

    require_place(place)
    home = home or DEFAULT_HOME
    output.line(f"crypto_assets demo · every provider, simulated, {NOW:%Y-%m-%d}, nothing leaves this machine")
    clock = FixedClock(NOW)
    with held_lake(home, place) as lake, serve(Market(SEED)) as sandbox:
        settings = Settings(
            lake_uri=lake.root,
            state_dir=home.resolve() / "state",
            coincap_base_url=sandbox.v3,
            # A simulated market costs nothing.
            coincap_calls_per_minute=10**6,
            coincap_credits_per_month=10**9,
            sandbox_url=sandbox.url,
        )
        sandbox.set_now(NOW)
        sandbox.set_faults([Fault(kind=kind, endpoint=where, times=n) for kind, where, n, _ in FAULTS])  # type: ignore[arg-type]
        fresh(lake, is_kept=is_kept)

        def later() -> None:
            clock.set(NOW + ROUNDS_APART)
            sandbox.set_now(clock.now())

        with _scene(home, lake, clock, settings) as scene:
            code = _played(scene, [told for *_, told in FAULTS], later)
    closing_words(home, place)
    return code


def live(home: Path | None, place: str, *, is_kept: bool) -> int:
    """The providers that need no key, and those whose key is set, as they are on the internet.

    Raises TransientError where none of them can be reached.
    """
    from crypto_assets.resources.clock import SystemClock
    from crypto_assets.resources.settings import Settings

    require_place(place)
    home = home or LIVE_HOME
    clock, sandbox = SystemClock(), Settings().sandbox_url
    what = "the providers as they are" if sandbox is None else f"the sandbox at {sandbox} in the providers' place"
    output.line(f"crypto_assets demo · {what}, {clock.now():%Y-%m-%d %H:%M} UTC")
    with held_lake(home, place) as lake:
        settings = reachable(Settings(lake_uri=lake.root, state_dir=home.resolve() / "state"))
        fresh(lake, is_kept=is_kept)
        with _scene(home, lake, clock, settings) as scene:
            code = _played(scene, [], None)
    closing_words(home, place, command="crypto-assets up")
    return code


def reachable(settings: Settings) -> Settings:
    """The settings without what cannot be reached from here, each named in a line.

    Raises TransientError where nothing is left.
    """
    from crypto_assets.assets.handles import absence, provider_urls
    from crypto_assets.providers.registry import PROVIDERS

    for line in runs.absences(settings):
        output.line(f"   {line}")
    urls: dict[tuple[str, str], str] = {}
    for name in settings.providers:
        if absence(name, settings) is None:
            own = provider_urls(PROVIDERS[name], settings.sandbox_url) if name in PROVIDERS else {}
            asked = {market.partition(":")[0] for market in settings.markets}
            found = own or {name: settings.coincap_base_url}
            urls |= {(name, service): url for service, url in found.items() if name != "exchanges" or service in asked}
    lost = {key: why for key, why in unreachable(urls).items() if why is not None}
    for (name, service), why in lost.items():
        output.line(f" ✗ {name if name == service else f'{name} {service}'} cannot be reached: {why}")
    kept = {name for name, service in urls if (name, service) not in lost}
    if not kept:
        raise TransientError(
            "no provider can be reached",
            where="the network",
            safe="nothing was written",
            hint="check the network, or run crypto-assets demo --venues, which needs none",
        )
    venues = {service for name, service in lost if name == "exchanges"}
    return settings.model_copy(
        update={
            "providers": tuple(name for name in settings.providers if name in kept),
            "markets": tuple(market for market in settings.markets if market.partition(":")[0] not in venues),
        }
    )


def unreachable(urls: Mapping[_Key, str]) -> dict[_Key, str | None]:
    """Why each address takes no connection from here; None where it does. All are tried at once, for seconds."""
    pool = ThreadPoolExecutor(max(1, len(urls)))
    tries = {key: pool.submit(_connects, url) for key, url in urls.items()}
    told: dict[_Key, str | None] = {}
    for key, attempt in tries.items():
        try:
            told[key] = attempt.result(_REACH_S)
        except TooLate:
            told[key] = f"{urlsplit(urls[key]).hostname} does not answer within {_REACH_S:.0f} s"
    # The system's resolver cannot be told to stop; nobody waits for it.
    pool.shutdown(wait=False, cancel_futures=True)
    return told


def _connects(url: str) -> str | None:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=_REACH_S / 2).close()
    except socket.gaierror:
        return f"{parts.hostname} is not known to the name server"
    except OSError as error:
        return f"{parts.hostname}:{port}: {error.strerror or 'no answer in time'}"
    return None


@contextmanager
def _scene(home: Path, lake: Lake, clock: Clock, settings: Settings) -> Iterator[Scene]:
    steps = output.Steps()
    with ExitStack() as stack:
        with steps.step("start") as step:
            step.now = "loading Dagster"
            import dagster as dg

            from crypto_assets.assets.handles import absence, opened

            present = [name for name in settings.providers if absence(name, settings) is None]
            connected = {name: stack.enter_context(opened(name, settings, clock)) for name in present}
            defs = runs.definitions(settings, {"lake": lake, "clock": clock, **connected})
            instance = stack.enter_context(runs.instance_at(home.resolve() / "dagster"))
            scratch = stack.enter_context(dg.DagsterInstance.ephemeral())
            step.detail = f"{', '.join(present)}; {len(settings.markets)} markets, lake in {lake.root}"
        yield Scene(lake, clock, settings, defs, instance, scratch, steps)


def _played(scene: Scene, troubles: Sequence[str], later: Callable[[], None] | None) -> int:
    """Rounds, past days, one run through everything, and what it came to."""
    import dagster as dg

    from crypto_assets.automation.cadence import ON_REQUEST, rounds
    from crypto_assets.commands.backfill import chain

    today = scene.clock.now().date()
    past = [today - timedelta(days=n) for n in range(N_PAST_DAYS, 0, -1)]
    by_provider: dict[str, list[dg.AssetKey]] = {}
    for each in rounds(scene.settings):
        keys = [dg.AssetKey(list(table.table.path)) for table in each.feed.contracts]
        by_provider.setdefault(each.feed.provider, []).extend(keys)
    for provider, keys in by_provider.items():
        _pull(scene, provider, [today], keys)
    if later is not None:
        later()
        keys = [
            key for key in by_provider.get("exchanges", []) if key.path[1] in ("exchange_tickers", "exchange_candles")
        ]
        _pull(scene, "5 min later", [today], keys)
    _, histories = chain(scene.defs, None)
    keys = [dg.AssetKey(list(table.table.path)) for table in histories if table not in ON_REQUEST]
    _pull(scene, "past days", past, keys, notes=troubles)
    days = [*past, today]
    derived = [key for key in scene.defs.resolve_asset_graph().executable_asset_keys if key.path[0] != "raw"]
    with scene.steps.step("refresh") as step:
        report = runs.execute(scene.defs, scene.instance, [days[0], days[-1]], derived, tell=teller(step))
        step.detail = f"one run over {len(days)} days: {len(report.n_rows)} of {len(derived)} assets computed"
        judge(step, report)
    is_good = closing(scene.lake, days[0], days[-1], scene.steps) and not report.failed
    _answer(scene.lake)
    return 0 if is_good else 1


def _pull(
    scene: Scene, label: str, days: Sequence[date], keys: Sequence[dg.AssetKey], *, notes: Sequence[str] = ()
) -> None:
    from crypto_assets.tables import raw

    def held() -> tuple[int, int]:
        states = [scene.lake.state(table) for table in raw.TABLES]
        return sum(state.n_rows for state in states if state), sum(state.n_bytes for state in states if state)

    with scene.steps.step(label) as step:
        before = held()[0]
        report = runs.execute(scene.defs, scene.scratch, [days[0], days[-1]], keys, has_checks=False, tell=teller(step))
        step.detail = f"{held()[0] - before} answers of {len(keys)} tables"
        judge(step, report, notes)


def _answer(lake: Lake) -> None:
    from crypto_assets.commands.sql import engine

    output.line(f'crypto-assets sql "{_ANSWER}"')
    with engine(lake) as asked:
        found = asked.query(_ANSWER)
    output.table(found.to_dicts(), found.columns)
