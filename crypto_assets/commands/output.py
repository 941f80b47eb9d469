"""How commands speak: tables on a terminal, JSON lines or CSV in a pipe, steps with their seconds, one-line errors.

Belongs here: everything that is written to stdout and stderr. What is said is each command's own business.
Values are exact: decimals are text, times are ISO 8601 with Z. Control characters of foreign texts never reach the
terminal, and CSV cells never begin a formula. ``NO_COLOR`` is honoured by rich.
"""

from __future__ import annotations

import json
import math
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TextIO

from crypto_assets.errors import CryptoAssetsError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

# Nobody should have to ask whether it hangs: in a pipe, a step that says nothing for this long says that it goes on.
_SILENCE_S = 1.5
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


class Format(StrEnum):
    """How rows are written: for eyes, one JSON object a line, or CSV."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def chosen(*, as_json: bool, as_csv: bool) -> Format:
    """The format asked for; without a wish, a table on a terminal and JSON lines in a pipe."""
    if as_csv:
        return Format.CSV
    if as_json or not sys.stdout.isatty():
        return Format.JSON
    return Format.TABLE


def line(text: str = "") -> None:
    """One line on stdout, at once."""
    sys.stdout.write(f"{printable(text)}\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """One line on stderr: remarks that must not mix with rows in a pipe."""
    sys.stderr.write(f"{printable(text)}\n")
    sys.stderr.flush()


def failure(error: CryptoAssetsError) -> None:
    """An error as people see it: what, where, what is safe; then what to do."""
    note(f"error: {error.what} — {error.where}; {error.safe}")
    note(f"hint: {error.hint}")


def rows(records: Iterable[Mapping[str, Any]], form: Format, *, columns: Sequence[str] = (), title: str = "") -> None:
    """Write records in the format; ``columns`` gives the header where there may be none."""
    held = list(records)
    names = list(columns) or list(dict.fromkeys(name for record in held for name in record))
    if form is Format.JSON:
        for record in held:
            sys.stdout.write(json.dumps({n: plain(v) for n, v in record.items()}, ensure_ascii=False) + "\n")
    elif form is Format.CSV:
        # A column is called what the SQL calls it: a header is as foreign as a cell.
        for record in (dict(zip(names, names, strict=True)), *held):
            sys.stdout.write(",".join(_cell(record.get(name)) for name in names) + "\n")
    else:
        table(held, names, title=title)
    sys.stdout.flush()


def table(records: Sequence[Mapping[str, Any]], columns: Sequence[str], *, title: str = "") -> None:
    """A table for eyes, also in a pipe (as the demo's closing tables)."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for name in columns:
        is_number = all(isinstance(r.get(name), int | float | Decimal | None) for r in records) and bool(records)
        shown.add_column(Text(name), justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
    for record in records:
        shown.add_row(*[Text(_shown(record.get(name))) for name in columns])
    console().print(shown)


def console() -> Console:
    """Rich on stdout; in a pipe wide enough for every table and without colour."""
    from rich.console import Console

    return Console(
        file=sys.stdout, markup=False, highlight=False, width=None if sys.stdout.isatty() else 160, soft_wrap=False
    )


def printable(text: str) -> str:
    """The text without what a terminal would obey."""
    return _CONTROL.sub("\ufffd", text)


def plain(value: Any) -> Any:
    """A value as JSON can say it without losing a digit."""
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def moment(value: datetime) -> str:
    """ISO 8601 with Z, with a fraction only where there is one."""
    aware = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return aware.isoformat().replace("+00:00", "Z")


def size(n_bytes: int) -> str:
    """Bytes for eyes."""
    amount = float(n_bytes)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


def _cell(value: Any) -> str:
    told = plain(value)
    if told is None:
        return ""
    if isinstance(told, bool):
        return str(told).lower()
    text = json.dumps(told, ensure_ascii=False) if isinstance(told, list | dict) else str(told)
    # A spreadsheet would run it; numbers that we made are no formulas.
    if isinstance(value, str | bytes | list | dict) and text.startswith(_FORMULA):
        text = f"'{text}"
    # Python's csv writer leaves a lone carriage return unquoted, which its own reader takes for a line's end.
    return '"' + text.replace('"', '""') + '"' if any(sign in text for sign in ',"\r\n') else text


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Decimal):
        text = format(value, ",f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    told = plain(value)
    text = json.dumps(told, ensure_ascii=False) if isinstance(told, list | dict) else str(told)
    # A raw body is megabytes: eyes see its beginning, JSON and CSV have it whole.
    return printable(text if len(text) <= 200 else f"{text[:200]}…")


@dataclass
class Step:
    """A step under way: ``now`` is what it does at the moment, ``detail`` what is said when it is done."""

    label: str
    now: str = ""
    detail: str = ""
    is_failed: bool = False
    notes: list[str] = field(default_factory=list)


class Steps:
    """Steps with their seconds: a spinner on a terminal, plain lines and signs of life in a pipe."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._is_terminal = self._stream.isatty()

    @contextmanager
    def step(self, label: str) -> Iterator[Step]:
        """Say that the step began, that it goes on, and how it ended."""
        step = Step(label)
        began = time.monotonic()
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(step, began, over), daemon=True)
        watcher.start()
        try:
            yield step
        except BaseException:
            step.is_failed = True
            raise
        finally:
            over.set()
            watcher.join()
            self._ended(step, time.monotonic() - began)

    def _watch(self, step: Step, began: float, over: threading.Event) -> None:
        if self._is_terminal:
            console_ = console()
            with console_.status(_going_on(step, 0.0)) as status:
                self._spin(status, step, began, over)
            return
        # Where nobody reads any more, the step itself will notice when it ends.
        with suppress(BrokenPipeError):
            while not over.wait(_SILENCE_S):
                self._write(f"   … {_going_on(step, time.monotonic() - began)}")

    def _spin(self, status: Status, step: Step, began: float, over: threading.Event) -> None:
        while not over.wait(0.1):
            status.update(_going_on(step, time.monotonic() - began))

    def _ended(self, step: Step, seconds: float) -> None:
        sign = "✗" if step.is_failed else "✓"
        if self._is_terminal:
            from rich.text import Text

            colour = "red" if step.is_failed else "green"
            console().print(
                Text.assemble((f" {sign} ", colour), f"{step.label:<12}", printable(step.detail), f"  {seconds:.1f} s")
            )
        else:
            self._write(f" {sign} {step.label:<12}{step.detail}  {seconds:.1f} s")
        for remark in step.notes:
            self._write(f"     {remark}")

    def _write(self, text: str) -> None:
        self._stream.write(f"{printable(text)}\n")
        self._stream.flush()


def _going_on(step: Step, seconds: float) -> str:
    return f"{step.label}{f': {step.now}' if step.now else ''} ({seconds:.0f} s)"
