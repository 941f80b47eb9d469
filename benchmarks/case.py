"""What a case is made of. The cases are in ``cases/``, running them is ``pair.py``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.checks import Result
from benchmarks.data import Size

# What saves a result to a file after the clock has stopped, for work that ends in memory.
Save = Callable[[Path], object]


@dataclass(frozen=True)
class Variant:
    """One way of doing a case's work.

    Attributes:
        name: of the form ``ours`` or ``duckdb``.
        work: ``module:function``; called ``function(data, out, *arguments)`` in a fresh process. It writes under
            ``out``, or returns a ``Save`` for what it made in memory. The module's imports are not timed.
        peer: the optional environment it runs in, or None for the project's own.
        setup: a function of the same module that fills ``out`` before the clock starts.
        arguments: more arguments of both.
    """

    name: str
    work: str
    peer: str | None = None
    setup: str | None = None
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """One kind of work and the ways of doing it; the first variant is the base of the ratios.

    Attributes:
        prepare: makes or finds the input for a size.
        expected: the right result of a variant, by table.
        read: a variant's result from what it left under ``out``.
    """

    name: str
    title: str
    variants: tuple[Variant, ...]
    prepare: Callable[[Size], Path]
    expected: Callable[[Path, Variant], Result]
    read: Callable[[Path, Variant], Result]


def link_tree(source: Path, target: Path) -> None:
    """A copy of a table that shares its files: Delta never changes a file in place."""
    shutil.copytree(source, target, copy_function=os.link)
