"""`crypto-assets up` as a person starts and stops it: it answers, stays on loopback, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300), pytest.mark.xdist_group("dagster")]


def children(pid: int) -> set[int]:
    """The process and everything it started, from /proc."""
    found = {pid}
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
    while more := {p for p, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def listeners(pids: set[int]) -> set[str]:
    """The addresses, in /proc's hex, on which the processes listen."""
    inodes = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                target = str(descriptor.readlink())
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and columns[9] in inodes:
                found.add(columns[1].split(":")[0])
    return found


@pytest.mark.fault(row=105, fault="a listener beyond loopback", promise="nothing listens there")
def test_up_answers_listens_on_loopback_only_and_stops_clean(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ours = ("CRYPTO_ASSETS_", "AWS_", "COINCAP_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [str(Path(sys.executable).parent / "crypto-assets"), "up", "--simulated", "--port", str(port)]
    with (tmp_path / "up.log").open("wb") as log:
        up = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + 120
            while True:
                assert up.poll() is None, (tmp_path / "up.log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "up.log").read_text()
                if "Dagster UI" in (tmp_path / "up.log").read_text():
                    break
                time.sleep(0.5)
            assert httpx.get(f"http://127.0.0.1:{port}/server_info", timeout=5).status_code == 200
            family = children(up.pid)
            assert len(family) >= 3
            # 127.0.0.1 in the byte order of /proc.
            assert listeners(family) == {"0100007F"}
        finally:
            up.send_signal(signal.SIGTERM)
            code = up.wait(60)
    told = (tmp_path / "up.log").read_text()
    assert code == 0, told
    assert "SIMULATED" in told
    assert f"Dagster UI  http://127.0.0.1:{port}" in told
    time.sleep(1)
    assert [pid for pid in family if Path(f"/proc/{pid}").exists() and "Z" not in status(pid)] == []


def status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"
