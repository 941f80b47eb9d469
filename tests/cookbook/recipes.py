"""The cookbook's files: what each says of itself in its first lines, and its statement.

A file ``docs/cookbook/NN-name.sql`` opens with ``-- The question?``, then ``-- For: who asks.``, which may end in
``Replaces: 000-08, ...``, then ``-- Columns: name [unit], ...``, and ``-- Whole table: why`` where its condition does
not name the partitions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "cookbook"
_HEAD = re.compile(
    r"-- (?P<question>.+\?)\n"
    r"-- For: (?P<audience>.+?\.)(?: Replaces: (?P<replaces>[0-9, -]+)\.)?\n"
    r"-- Columns: (?P<columns>.+)\n"
    r"(?:-- Whole table: (?P<whole>.+)\n)?"
    r"(?P<statement>(?:select|with)\b[^;]+)\n"
)
_COLUMN = re.compile(r"(\w+) \[([^\]]+)\](?:, |$)")


@dataclass(frozen=True)
class Recipe:
    """A question and its answer: ``columns`` are names and units, ``replaces`` capabilities of replaced pipelines."""

    name: str
    question: str
    audience: str
    replaces: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    whole_table: str | None
    text: str
    statement: str


@cache
def recipes() -> tuple[Recipe, ...]:
    """All of them, by number. Raises ValueError for a file that does not open as it should."""
    return tuple(_read(path) for path in sorted(FOLDER.glob("*.sql")))


def _read(path: Path) -> Recipe:
    text = path.read_text(encoding="utf-8")
    found = _HEAD.fullmatch(text)
    if found is None or not re.fullmatch(r"\d\d(-[a-z0-9]+)+", path.stem):
        raise ValueError(f"{path.name} does not open with question, audience and columns, or is not one SELECT")
    columns = tuple(_COLUMN.findall(found["columns"]))
    if "".join(f"{name} [{unit}], " for name, unit in columns).removesuffix(", ") != found["columns"]:
        raise ValueError(f"{path.name}: columns are written as name [unit], name [unit]")
    return Recipe(
        name=path.stem,
        question=found["question"],
        audience=found["audience"],
        replaces=tuple((found["replaces"] or "").split(", ")) if found["replaces"] else (),
        columns=columns,
        whole_table=found["whole"],
        text=text,
        statement=found["statement"],
    )


def index() -> str:
    """``docs/cookbook/README.md`` as it must be."""
    return "\n".join(_index()) + "\n"


def _index() -> Iterator[str]:
    yield "# Cookbook"
    yield ""
    yield "Questions that people ask of a crypto market lake, each answered by one SELECT in Athena's SQL. Written by"
    yield "`python -m tests.cookbook` from the first lines of the files; a test fails where it is not current."
    yield ""
    yield "Run one with `crypto-assets sql - < docs/cookbook/01-latest-prices.sql`; in Athena they are named queries"
    yield "of the workgroup. Dates and ids are examples: put yours in. Every statement names the partitions it needs"
    yield "(`date`, `month`, `year`), because that decides what it costs; what each reads is held in `pruning.toml`."
    yield "Times are UTC. A value that is rolling over 24 hours is never summed over time."
    yield ""
    yield "*Replaces* says which capabilities of the five pipelines that this project replaces are answered: 000"
    yield "quotes by Kinesis and Glue, 001 zones of CoinCap, 002 assets and exchanges by Kafka and Spark, 003 the dbt"
    yield "dashboard of coins, 004 trades and news by websocket."
    yield ""
    yield "| file | question | for | replaces |"
    yield "|---|---|---|---|"
    for recipe in recipes():
        link = f"[{recipe.name}]({recipe.name}.sql)"
        yield f"| {link} | {recipe.question} | {recipe.audience} | {', '.join(recipe.replaces)} |"
