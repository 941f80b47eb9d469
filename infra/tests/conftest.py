"""One synth of each stage for all tests, and the linters, which run beside them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from judge import Judge
from templates import ACCOUNT, REGION, Policies, Templates

import account

BIN = Path(sys.executable).parent
Linters = dict[str, "subprocess.Popen[str]"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-roles", action="store_true", help="write the table of roles in docs/aws.md anew")


@pytest.fixture(scope="session")
def assemblies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both stages' cloud assemblies. A finding of cdk-nag that nobody accepted fails the synth, and every test."""
    os.environ |= {"CDK_DEFAULT_ACCOUNT": ACCOUNT, "CDK_DEFAULT_REGION": REGION, **account.QUIET}
    import app

    folders = {}
    for stage in ("dev", "prod"):
        folders[stage] = tmp_path_factory.mktemp(stage)
        try:
            app.build(str(folders[stage]), stage=stage).synth()
        except RuntimeError as error:
            # Without templates no test can say anything, and each would try again.
            pytest.exit(f"the synth of {stage} fails: {error}", returncode=1)
    return folders


@pytest.fixture(scope="session")
def dev(assemblies: dict[str, Path]) -> Templates:
    return Templates(assemblies["dev"])


@pytest.fixture(scope="session")
def prod(assemblies: dict[str, Path]) -> Templates:
    return Templates(assemblies["prod"])


@pytest.fixture(scope="session", params=["dev", "prod"])
def stage(request: pytest.FixtureRequest, assemblies: dict[str, Path]) -> Templates:
    """Each stage in turn, for what both must hold."""
    return Templates(assemblies[request.param])


@pytest.fixture(scope="session")
def policies(dev: Templates) -> Policies:
    return Policies.of(dev)


@pytest.fixture(scope="session")
def judge(policies: Policies) -> Iterator[Judge]:
    with Judge(policies) as judge:
        yield judge


@pytest.fixture(scope="session", autouse=True)
def linters(assemblies: dict[str, Path], request: pytest.FixtureRequest) -> Iterator[Linters]:
    """cfn-lint and checkov over prod's templates, running beside the other tests."""
    folder = assemblies["prod"]
    commands = {
        "cfn-lint": ["cfn-lint", "--regions", REGION, "--", *map(str, sorted(folder.glob("*.template.json")))],
        "checkov": [
            *("checkov", "--directory", str(folder), "--framework", "cloudformation"),
            *("--compact", "--quiet", "--skip-download", "--output", "cli"),
        ],
    }
    wanted = any("lint" in item.name for item in request.session.items)
    running = {
        name: subprocess.Popen(
            [BIN / command[0], *command[1:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for name, command in commands.items()
        if wanted
    }
    yield running
    for process in running.values():
        process.kill()
        process.wait(10)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A command of this environment, with its output; the environment has no credentials but what is given."""

    def call(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        plain = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        nowhere = {"AWS_CONFIG_FILE": str(tmp_path / "none"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none")}
        return subprocess.run(
            [str(part) for part in command],
            env={**plain, **nowhere, "AWS_EC2_METADATA_DISABLED": "true", **environment},
            cwd=Path(__file__).parents[1],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    return call
