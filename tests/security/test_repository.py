"""What is committed: no secret, no trace of a machine, pinned dependencies, and a bill of materials that is current."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock")

RULES = {
    "AWS access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "bearer token": re.compile(r"\bBearer [A-Za-z0-9._~+/-]{16,}"),
    "private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "key in an address": re.compile(r"[?&](?:api_?key|token|access_key|key|secret)=[^&\s\"'{}<>\[\]()$]{8,}", re.I),
    "word and host in an address": re.compile(r"://[^/\s:@{}\"']+:[^/\s@{}\"']{6,}@"),
    "secret in a setting": re.compile(
        r"""(?:secret|passw(?:or)?d|api_?key|token)["']?\s*[:=]\s*["']([A-Za-z0-9+/=_-]{16,})["']""", re.I
    ),
    "path of a machine": re.compile(r"(?<![\w.])/(?:root|work|home/[a-z]\w*|Users/\w+)/"),
    "package registry": re.compile(
        r"(?:--(?:extra-)?index-url|https?://[^/\s\"']*(?:pypi|artifact|nexus|devpi|registry|mirror)[^/\s\"']*)", re.I
    ),
}
# What the tests use in place of keys, and whatever else only looks like a finding. Each is a whole text of a finding.
ALLOWED = {
    "?apiKey=secret-key",  # the made-up key of a made-up crash, in tests/commands/test_cli.py
    # Names of recorded answers.
    "currency_exchange_rate_BTC_CNY_2017-12",
    "digital_currency_daily_BTC_EUR_2024-06-02_truncated",
}
CANARY = re.compile(r"canary|c4n4ry|kkkk", re.I)
# Long words of many different characters are keys, unless they are hashes or names.
_WORD = re.compile(r"(?<![A-Za-z0-9+/=_.-])[A-Za-z0-9+/_-]{32,}={0,2}(?![A-Za-z0-9+/=_.-])")
_HASH = re.compile(r"[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}")
_READ = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".cfg", ".ini", ".sh", ".lock", ".txt", ""}


def tracked() -> list[Path]:
    """What git holds, and what it would take next."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("git is not installed")
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file() and path.suffix in _READ]


def findings(text: str, *, is_lock: bool = False) -> Iterator[tuple[str, str]]:
    """What looks like a secret or a machine, by rule and text."""
    for name, rule in RULES.items():
        yield from ((name, match[0]) for match in rule.finditer(text))
    if is_lock:
        return
    for match in _WORD.finditer(text):
        if _is_random(match[0]):
            yield "a random word", match[0]


def _is_random(word: str) -> bool:
    kinds = (any(map(str.isdigit, word)), any(map(str.islower, word)), any(map(str.isupper, word)))
    entropy = -sum(n / len(word) * math.log2(n / len(word)) for n in Counter(word).values())
    return all(kinds) and entropy > 4.2 and not _HASH.fullmatch(word)


def test_no_file_holds_a_secret_or_a_trace_of_a_machine() -> None:
    # npm's lock has hashes in base 64, too.
    locks = (*LOCKS, "package-lock.json")
    found = [
        f"{path.relative_to(ROOT)}: {name}: {told[:60]}"
        for path in tracked()
        for name, told in findings(path.read_text(encoding="utf-8", errors="replace"), is_lock=path.name in locks)
        if told not in ALLOWED and not CANARY.search(told)
    ]
    assert found == []


PLANTED = {
    "AWS access key": "AKIA" + "Z3MNQ8RT5WY2KD7P",
    "bearer token": "Authorization: Bearer " + "eyJhbGciOiJIUzI1",
    "private key": "-----BEGIN " + "RSA PRIVATE KEY-----",
    "key in an address": "https://host.example/query?function=X&api" + "key=9QX2M7V4TR8KD3WY",
    "word and host in an address": "postgresql://me:" + "hunter2hunter2@host/db",
    "secret in a setting": "api_key = '" + "q7x2m9v4t8r1k5w3'",
    "path of a machine": "see /ro" + "ot/.ssh/id and nothing else",
    "package registry": "--index" + "-url https://somewhere.example/simple",
    "a random word": "x = '" + "Zk3vQ9xT1mB7nR5wY2dL8sH4" + "jF6gP0aC'",
}


@pytest.mark.parametrize("rule", [*RULES, "a random word"])
def test_the_scan_finds_what_is_planted(rule: str) -> None:
    assert rule in {name for name, _ in findings(PLANTED[rule])}


@pytest.mark.parametrize(
    "text",
    [
        "sha256:83490def1f723413db5096591f7609ac52544805be93849170088ed04f5a2e0b",
        'f"Authorization: Bearer {secret}"',
        "https://rest.coincap.io/v3/assets?limit=2000&offset=0",
        "test_a_quota_refusal_is_never_retried_and_closes_the_month",
    ],
)
def test_what_only_looks_like_a_secret_is_left_alone(text: str) -> None:
    assert list(findings(text)) == []


@pytest.mark.parametrize("name", LOCKS)
def test_every_dependency_is_pinned_by_hash_and_no_host_is_named(name: str) -> None:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pins = [i for i, line in enumerate(lines) if line and not line.startswith((" ", "#"))]
    loose = [lines[i] for i in pins if "==" not in lines[i] or not lines[i + 1].strip().startswith("--hash=sha256:")]
    assert loose == []
    assert len(pins) > 100
    hosts = [line for line in lines if "://" in line or "index" in line.split("#")[0] or "@ " in line]
    assert hosts == []


@pytest.fixture(scope="module")
def make_sbom() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_sbom", ROOT / "docs" / "make_sbom.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_bill_of_materials_is_current(make_sbom: ModuleType) -> None:
    assert (ROOT / "sbom.json").read_text(encoding="utf-8") == make_sbom.text(), "run: python docs/make_sbom.py"


def test_the_bill_of_materials_names_every_pin_and_who_needs_it(make_sbom: ModuleType) -> None:
    told = json.loads((ROOT / "sbom.json").read_text(encoding="utf-8"))
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pins = set(re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(\S+)", lock, re.M))
    assert {(c["name"], c["version"]) for c in told["components"]} == {(n.lower(), v) for n, v in pins}
    needs = {entry["ref"].split("@")[0]: entry["dependsOn"] for entry in told["dependencies"]}
    direct = {ref.split("/")[1].split("@")[0] for ref in needs["pkg:pypi/crypto-assets"]}
    assert {"dagster", "deltalake", "polars", "httpx"} <= direct
    assert any("anyio" in ref for ref in needs["pkg:pypi/httpx"])
    assert sum(len(on) for on in needs.values()) > len(pins)


@pytest.mark.fault(row=105, fault="a listener beyond loopback", promise="nothing listens there")
def test_nothing_in_the_package_listens_beyond_loopback() -> None:
    """``up`` and the sandbox are also watched while they run: tests/e2e/test_up.py, tests/sandbox/test_app.py.

    Containers listen on a network of their own; that nothing but the UI is published of them, and that on loopback, is
    held by tests/deploy/test_image.py.
    """
    everywhere = re.compile(r"0\.0\.0\.0|[\"']::[\"']|INADDR_ANY|[\"']\*:\d")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in (*(ROOT / "crypto_assets").rglob("*.py"), ROOT / "Makefile", *ROOT.glob("*.yaml"))
        if path.name != "compose.yaml"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if everywhere.search(line)
    ]
    assert found == []
