"""What writers said they did, against what the table holds: nothing acknowledged is lost, nothing is there twice.

Each writer notes a batch before it starts (``attempt``) and after its function returned (``ack``), in a file of its own
process's appends, so that a SIGKILL loses at most the note of an acknowledgement, never invents one.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deltalake import DeltaTable

from crypto_assets.resources.lake import Lake
from crypto_assets.tables.contract import Contract


@dataclass(frozen=True)
class History:
    """The notes of all writers, in one file that each of them appends whole lines to."""

    path: Path

    def note(self, event: str, worker: str, batch: str, n_rows: int) -> None:
        line = json.dumps({"event": event, "worker": worker, "batch": batch, "n_rows": n_rows}) + "\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            # One write of a short line to a file opened for appending is not interleaved with others.
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def events(self, event: str) -> dict[str, int]:
        """Rows by batch of the batches with this event."""
        if not self.path.exists():
            return {}
        told = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        return {note["batch"]: note["n_rows"] for note in told if note["event"] == event}


@dataclass
class Findings:
    """What a table breaks of the promise; all empty where it holds."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    partial: list[str] = field(default_factory=list)
    invented: list[str] = field(default_factory=list)
    gaps: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.lost or self.doubled or self.partial or self.invented or self.gaps)

    def __str__(self) -> str:
        return ", ".join(f"{len(value)} {name} {value[:5]}" for name, value in vars(self).items() if value) or "none"


def check(history: History, batches: Iterable[str], versions: Sequence[int]) -> Findings:
    """Compare the batch of each row in a table, and the table's versions, with what the writers noted."""
    attempted, acked = history.events("attempt"), history.events("ack")
    held = Counter(batches)
    found = Findings()
    found.lost = sorted(acked.keys() - held.keys())
    found.invented = sorted(held.keys() - attempted.keys())
    for batch, n_rows in sorted(held.items()):
        expected = attempted.get(batch, n_rows)
        if n_rows > expected:
            found.doubled.append(batch)
        elif n_rows < expected:
            found.partial.append(batch)
    if versions:
        found.gaps = sorted(set(range(versions[0], versions[-1] + 1)) - set(versions))
    return found


def versions(lake: Lake, contract: type[Contract]) -> list[int]:
    """The versions in the table's log, oldest first."""
    table = DeltaTable(lake.uri(contract), storage_options=lake.storage_options or None)
    return sorted(commit["version"] for commit in table.history())
