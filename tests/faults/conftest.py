"""What the fault tests share: the S3 server, the proxy before it, lakes on both, and the table of what was proved.

A test that proves a row of the matrix says so by ``@pytest.mark.fault(row=36, fault="...", promise="...")``. At the end
of the session the rows are printed, each with the tests that prove it; ``--write-reliability`` also writes them to
docs/reliability.md. A test adds a line of measured figures by the ``figure`` fixture.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from crypto_assets.resources.lake import Lake
from tests.faults.damage import HOUSEHOLD, House, household, move_in
from tests.faults.proxy import Proxy, proxy
from tests.faults.seaweed import BUCKET, Store, seaweed

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RELIABILITY = ROOT / "docs" / "reliability.md"
Figure = Callable[[str], None]


# ---- lakes ----


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A real S3 server on loopback, with the bucket ``lake``."""
    with seaweed(tmp_path_factory.mktemp("seaweed")) as running:
        yield running


@pytest.fixture(scope="session")
def _running_proxy(store: Store) -> Iterator[Proxy]:
    with proxy(store.port) as running:
        yield running


@pytest.fixture
def faults(_running_proxy: Proxy) -> Iterator[Proxy]:
    """The proxy before the S3 server; without faults again at the end of the test."""
    _running_proxy.clear()
    yield _running_proxy
    _running_proxy.clear()


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """A folder of the bucket that is the test's own."""
    return re.sub(r"\W+", "-", request.node.name).strip("-")[:120]


@pytest.fixture
def bucket_lake(store: Store, prefix: str) -> Lake:
    """An empty lake in the bucket, reached directly."""
    return Lake(f"s3://{BUCKET}/{prefix}", storage_options=store.options(), run_id="run-1")


@pytest.fixture
def far_lake(store: Store, faults: Proxy, prefix: str) -> Lake:
    """The same lake, reached through the proxy."""
    return Lake(f"s3://{BUCKET}/{prefix}", storage_options=store.options(faults.port), run_id="run-1")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The filled lake of the household's tables, which nobody changes."""
    return household(tmp_path_factory)


@pytest.fixture
def house(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> House:
    """A copy of it, to damage."""
    return move_in(template, tmp_path, monkeypatch, capsys, HOUSEHOLD)


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """Add a line of measured figures to the report."""

    def add(line: str) -> None:
        request.node.user_properties.append(("figure", line))

    return add


# ---- the table of what was proved ----


@dataclass
class _Row:
    number: float
    fault: str
    promise: str
    tests: dict[str, None] = field(default_factory=dict)
    seconds: float = 0.0
    failed: bool = False
    skipped: list[str] = field(default_factory=list)
    n_passed: int = 0

    @property
    def outcome(self) -> str:
        if self.failed:
            return "FAILED"
        if self.skipped:
            return f"{'partly ' if self.n_passed else ''}skipped: {'; '.join(dict.fromkeys(self.skipped))}"
        return "holds"


class _Registry:
    """Collects the reports, also those of pytest-xdist's workers: what a row is travels with the report."""

    def __init__(self) -> None:
        self.rows: dict[tuple[float, str], _Row] = {}
        self.figures: dict[str, None] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if name == "figure" and report.when == "teardown":
                self.figures[str(value)] = None
            if name == "fault":
                self._count(report, cast("tuple[float, str, str]", value))

    def _count(self, report: pytest.TestReport, told: tuple[float, str, str]) -> None:
        number, fault, promise = told
        row = self.rows.setdefault((number, fault), _Row(number, fault, promise))
        row.tests[re.sub(r"\[.*", "", report.nodeid).removeprefix("tests/faults/")] = None
        row.seconds += report.duration
        row.failed |= report.failed
        if report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            row.skipped.append(reason.removeprefix("Skipped: "))
        row.n_passed += report.passed and report.when == "call"

    def sorted(self) -> list[_Row]:
        return [self.rows[key] for key in sorted(self.rows)]

    def lines(self) -> list[str]:
        """The table for a terminal: one line a row, and one for each test below it."""
        told = []
        for row in self.sorted():
            told.append(f"{row.number:>4g}  {row.fault} -> {row.promise}: {row.outcome}, {row.seconds:.1f} s")
            told += [f"      {test}" for test in row.tests]
        return told

    def document(self) -> str:
        table = [
            "| # | fault | promise | proved by | outcome | seconds |",
            "|--:|---|---|---|---|--:|",
        ]
        for row in self.sorted():
            tests = "<br>".join(f"`{test}`" for test in row.tests)
            cells = (f"{row.number:g}", row.fault, row.promise, tests, row.outcome, f"{row.seconds:.1f}")
            table.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
        figures = [f"* {line}" for line in self.figures]
        return "\n".join([_HEAD, *table, "", "## Measured on the way", "", *figures, ""])


_HEAD = """# What is promised when things break, and what proves it

Written by `make test-faults`, from the tests that it ran; do not edit. Tests without a folder are in `tests/faults`.
S3 is a SeaweedFS server on loopback, with a proxy before it that loses answers, resets connections and refuses
requests. `holds` means that every test of the row passed in the run that wrote this page.
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-reliability",
        action="store_true",
        help="run this folder's tests and all with the mark fault, wherever they are; write docs/reliability.md",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Registry(), "fault_registry")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--write-reliability", default=False):
        others = [item for item in items if HERE not in item.path.parents and not item.get_closest_marker("fault")]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in set(others)]
    for item in items:
        for mark in item.iter_markers("fault"):
            row, fault, promise = mark.kwargs["row"], mark.kwargs["fault"], mark.kwargs["promise"]
            item.user_properties.append(("fault", (row, fault, promise)))
        if {"store", "_running_proxy"} & set(getattr(item, "fixturenames", ())):
            # One server is enough for two workers' machine.
            item.add_marker(pytest.mark.xdist_group("seaweed"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    registry = config.pluginmanager.get_plugin("fault_registry")
    if not isinstance(registry, _Registry) or not registry.rows:
        return
    terminalreporter.section("fault -> promise: outcome, seconds, proved by")
    for line in [*registry.lines(), *registry.figures]:
        terminalreporter.write_line(line)
    is_whole = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    if is_whole and config.getoption("--write-reliability", default=False):
        RELIABILITY.write_text(registry.document(), encoding="utf-8")
        terminalreporter.write_line(f"written: {RELIABILITY.relative_to(ROOT)}")
