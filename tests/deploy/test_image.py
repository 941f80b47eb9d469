"""What the image and compose.yaml promise, read by the tools that build and start them; no engine runs here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
INSTANCE = ROOT / "deploy" / "instance"
PASSWORDS = ("POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY")
VALUES = {name: f"value-of-{name}" for name in PASSWORDS}
OURS = {"code", "webserver", "daemon", "stream"}


def tool(*command: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A command of this environment, with no variable but those given."""
    binary = Path(sys.executable).parent / command[0]
    return subprocess.run(
        [str(binary), *command[1:]],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    """The services as Compose understands them."""
    told = tool("docker-compose", "--profile", "*", "config", "--format", "json", environment=VALUES)
    assert told.returncode == 0, told.stderr
    found: dict[str, dict[str, Any]] = json.loads(told.stdout)["services"]
    return found


def dockerfile() -> list[str]:
    """The Dockerfile's instructions, one a line, without comments."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [line for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines() if line]


def last_stage() -> list[str]:
    """What the image inherits, from its base to its last stage."""
    found: list[str] = []
    stage = ""
    for line in dockerfile():
        if line.startswith("FROM"):
            stage = line.rsplit(" ", 1)[1]
        elif stage in {"runtime", "app"}:
            found.append(line)
    return found


def test_the_dockerfile_has_no_finding() -> None:
    found = tool("hadolint", "--no-color", "Dockerfile")
    assert (found.returncode, found.stdout) == (0, "")


def test_hadolint_would_find_what_it_looks_for(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python:latest\nRUN pip install uv\n")
    found = tool("hadolint", "--no-color", str(tmp_path / "Dockerfile"))
    assert found.returncode == 1
    assert {"DL3007", "DL3013", "DL3042"} <= set(re.findall(r"DL\d{4}", found.stdout))


def test_every_base_is_pinned_by_version_and_digest(services: dict[str, dict[str, Any]]) -> None:
    bases = [line for line in dockerfile() if line.startswith("FROM")]
    assert {line.split()[1] for line in bases} == {"${PYTHON}", "build", "runtime"}
    (python,) = [line.removeprefix("ARG PYTHON=") for line in dockerfile() if line.startswith("ARG PYTHON=")]
    for image in (python, services["postgres"]["image"]):
        assert re.fullmatch(r"[a-z]+:\d+\.\d+[\w.-]*@sha256:[0-9a-f]{64}", image), image


def test_every_package_is_pinned_by_hash_and_comes_as_a_wheel() -> None:
    installs = [line for line in dockerfile() if "pip install" in line and ".lock" in line]
    assert len(installs) == 3
    for line in installs:
        assert "--require-hashes" in line
        # pip itself brings what builds; what stays in an image is installed by uv.
        assert "--only-binary :all:" in line or "build.lock" in line
    for lock in (ROOT / "deploy" / "locks").glob("*.lock"):
        pins = re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==(\S+)", lock.read_text(), re.MULTILINE)
        assert pins, lock
        assert "://" not in lock.read_text(), lock


@pytest.mark.parametrize("lock", ["app.lock", "store.lock"])
def test_the_image_runs_on_what_the_tests_run_on(lock: str) -> None:
    def pins(file: Path) -> dict[str, str]:
        return dict(re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==(\S+)", file.read_text(), re.MULTILINE))

    ours, tested = pins(ROOT / "deploy" / "locks" / lock), pins(ROOT / "requirements-dev.lock")
    assert {name: version for name, version in ours.items() if tested.get(name) != version} == {}


def test_the_image_keeps_no_installer_and_is_nobody() -> None:
    lines = last_stage()
    assert any("pip uninstall --yes" in line for line in lines)
    assert "USER 10001:10001" in lines
    assert not any(re.match(r"(RUN|COPY|ADD) .*(apt|pip install|uv |gcc)", line) for line in lines)
    # What is copied belongs to root: nobody can change what they run.
    assert not any("--chown" in line for line in lines)


def test_only_what_is_built_of_reaches_the_build() -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [line.split()[1:-1] for line in dockerfile() if line.startswith("COPY") and "--from" not in line]
    for source in (name for names in copied for name in names):
        assert any(source == name or source.startswith(name + "/") for name in kept), source
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"


def test_a_forgotten_password_is_an_error_and_none_is_in_the_file() -> None:
    for name in PASSWORDS:
        told = tool("docker-compose", "config", "-q", environment={**VALUES, name: ""})
        assert told.returncode != 0
        assert f"required variable {name} is missing a value" in told.stderr
    assert tool("docker-compose", "config", "-q", environment=VALUES).returncode == 0


def test_every_container_is_locked_down(services: dict[str, dict[str, Any]]) -> None:
    assert set(services) == OURS | {"postgres", "s3"}
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"]), name
        assert service["pids_limit"] > 0, name
        assert int(service["mem_limit"]) > 0, name
        # Anything that is written goes to memory or to a named volume; nothing of the host is in a container.
        assert {mount["type"] for mount in service["volumes"]} == {"volume"}, name
        assert "privileged" not in service, name


def test_only_the_ui_is_reached_and_only_from_this_machine(services: dict[str, dict[str, Any]]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert [port["host_ip"] for port in published.pop("webserver")] == ["127.0.0.1"]
    assert published == {}
    told = json.loads(tool("docker-compose", "config", "--format", "json", environment=VALUES).stdout)
    assert told["networks"]["inside"]["internal"] is True
    for name in ("postgres", "s3", "daemon"):
        assert list(services[name]["networks"]) == ["inside"], name


def test_every_server_says_whether_it_is_well(services: dict[str, dict[str, Any]]) -> None:
    # s3's is its image's.
    for name in ("postgres", "code", "webserver", "daemon"):
        assert services[name]["healthcheck"]["test"][0] == "CMD", name
    for name in ("code", "webserver", "daemon"):
        assert {told["condition"] for told in services[name]["depends_on"].values()} == {"service_healthy"}, name


def test_runs_may_end_before_their_container_does(services: dict[str, dict[str, Any]]) -> None:
    assert services["code"]["stop_grace_period"] == "15m0s"


def test_instance_files_add_to_the_shared_one_and_repeat_nothing() -> None:
    shared, containers, ecs = (
        set(yaml.safe_load(file.read_text(encoding="utf-8")))
        for file in (ROOT / "dagster.yaml", INSTANCE / "containers.yaml", INSTANCE / "ecs.yaml")
    )
    assert containers == {"storage", "compute_logs", "local_artifact_storage"}
    assert ecs == {"run_launcher"}
    assert not shared & (containers | ecs)


def test_a_run_on_ecs_fits_into_what_ecs_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ECS takes 8192 characters of overrides; Dagster writes the whole instance into a run's command."""
    from dagster._core.code_pointer import ModuleCodePointer
    from dagster._core.instance.ref import InstanceRef
    from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
    from dagster._grpc.types import ExecuteRunArgs

    files = (ROOT / "dagster.yaml", INSTANCE / "containers.yaml", INSTANCE / "ecs.yaml")
    (tmp_path / "dagster.yaml").write_text("".join(file.read_text(encoding="utf-8") for file in files))
    monkeypatch.setenv("DAGSTER_RUN_TASK_DEFINITION", "arn")
    code = RepositoryPythonOrigin(
        executable_path="/opt/crypto_assets/bin/python",
        code_pointer=ModuleCodePointer("crypto_assets.definitions", "defs", "/opt/dagster"),
        entry_point=["dagster"],
        container_image=None,
        container_context={},
    )
    run = ExecuteRunArgs(
        job_origin=JobPythonOrigin(job_name="maintenance", repository_origin=code),
        run_id="1fa1142a-1341-4d28-adbc-17e74246ec41",
        instance_ref=InstanceRef.from_dir(str(tmp_path)),
    )
    command = json.dumps(run.get_command_args())
    # A thousand for the task role, cpu and memory, and names.
    assert len(command) < 7000
    # The password is named, never written.
    assert "DAGSTER_POSTGRES_PASSWORD" in command
