"""A process in which whatever can happen to a key happens to it, at debug level, with real resources and storage.

Run as ``python -m tests.security.canary <folder>`` with the key in COINCAP_API_KEY and ALPHAVANTAGE_API_KEY. What it
leaves behind (lake, state, Dagster's SQLite and logs, stdout, stderr) is what ``test_canary.py`` searches, and what the
webserver then serves.
"""

from __future__ import annotations

import logging
import sys
import traceback
from pathlib import Path

import dagster as dg

from crypto_assets.definitions import build_definitions
from crypto_assets.errors import CryptoAssetsError
from crypto_assets.resources.clock import SystemClock
from crypto_assets.resources.settings import Settings
from crypto_assets.sandbox import Fault, Market, serve
from crypto_assets.tables import raw, trusted
from crypto_assets.tables.contract import Contract
from tests.faults.hostile import Hostile, answer, echo, hostile, redirect
from tests.faults.payloads import assets, body

# What the provider does with the key, one pull each.
MISUSES = {
    "refused": echo(401, template=b'{"error":"invalid key @"}'),
    "forbidden": echo(403, template=b'{"error":"@ may not"}'),
    "web page": echo(200, kind="text/html", template=b"<html>@</html>"),
    "redirect": redirect("https://elsewhere.example/?key=1"),
    "in a record": echo(200, template=body(assets(name="!KEY!")).replace(b"!KEY!", b"@")),
    "poisoned": echo(200, template=body(assets(priceUsd="!KEY!")).replace(b"!KEY!", b"@")),
    "drifted": echo(200, template=b'{"data":[{"id":"@","@":"@"}]}'),
    "nothing": answer(b'{"data":[]}'),
}


def settings_for(url: str, home: Path) -> Settings:
    return Settings(
        lake_uri=str(home / "lake"),
        state_dir=home / "state",
        coincap_base_url=url,
        coincap_calls_per_minute=10_000,
        coincap_credits_per_month=1_000_000,
    )


def run(settings: Settings, instance: dg.DagsterInstance, select: list[type[Contract]]) -> bool:
    """A run of today for the tables, with the resources that production has."""
    job = build_definitions(settings).resolve_job_def("refresh")
    result = job.get_subset(
        asset_selection=frozenset(dg.AssetKey(list(c.table.path)) for c in select), asset_check_selection=frozenset()
    ).execute_in_process(instance=instance, raise_on_error=False, partition_key=str(SystemClock().now().date()))
    return result.success


def misuse(server: Hostile, home: Path, instance: dg.DagsterInstance) -> None:
    """One run for each misuse; what the run fails with is printed, as a terminal would show it."""
    for name, script in MISUSES.items():
        server.answer(script)
        is_good = run(settings_for(server.url, home / "misused"), instance, [raw.RawCoincapAssets])
        print(f"{name}: {'landed' if is_good else 'failed'}")
    print("settled:", run(settings_for(server.url, home / "misused"), instance, [trusted.AssetSnapshots]))


def repeat(home: Path, instance: dg.DagsterInstance) -> None:
    """Runs of a provider that takes its key in the query and repeats it in the words for a used-up quota."""
    with serve(Market(7, n_assets=20)) as sandbox:
        settings = Settings(
            lake_uri=str(home / "repeated"),
            state_dir=home / "state",
            sandbox_url=sandbox.url,
            providers=("alpha_vantage",),
        )
        asked: list[type[Contract]] = [raw.RawAlphaVantageRates, trusted.Quotes]
        print("key in the query:", run(settings, instance, asked))
        sandbox.set_faults([Fault("quota_429", "alpha_vantage.currency_exchange_rate")])
        print("key repeated:", run(settings, instance, asked))


def main(home: Path) -> None:
    logging.basicConfig(level=logging.DEBUG, filename=home / "debug.log", force=True)
    SystemClock.sleep = lambda self, seconds: None  # type: ignore[method-assign]
    secret = Settings().coincap_api_key
    assert secret is not None
    with dg.DagsterInstance.get() as instance:
        with serve(Market(7, n_assets=20), keys=frozenset({secret.get_secret_value()})) as sandbox:
            settings = settings_for(sandbox.v3, home)
            print(repr(settings), settings.model_dump_json())
            print("keyed run:", run(settings, instance, [raw.RawCoincapAssets, trusted.AssetSnapshots]))
        with hostile(answer(b"")) as server:
            misuse(server, home, instance)
            repeat(home, instance)
            (home / "seen.bin").write_bytes(b"".join(server.requests))
    try:
        build_definitions(settings_for(f"https://example.org/?key={secret.get_secret_value()}", home))
        raise CryptoAssetsError(repr(secret), where="canary", safe="nothing", hint="none")
    except CryptoAssetsError:
        traceback.print_exc()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
