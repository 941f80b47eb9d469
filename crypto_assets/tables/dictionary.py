"""The data dictionary, ``docs/tables.md``, written from the contracts: ``python -m crypto_assets.tables.dictionary``.

With ``--check`` nothing is written, and the exit code says whether the file is current.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from crypto_assets.tables import ALL_TABLES
from crypto_assets.tables.contract import Contract, Zone, delta_type, description, fields, primary_key
from crypto_assets.tables.views import VIEWS

PATH = Path(__file__).parents[2] / "docs" / "tables.md"
_HEAD = """# Tables

Written by `make docs` from the contracts in `crypto_assets/tables/`; a test fails where it is not current.
A table `zone.name` is `crypto_zone.name` in Athena. Every table is Delta, reader 1 / writer 2, all times are UTC.
The measure says what may be computed: a `rolling_24h` value is never summed or differenced over time.
"""


def dictionary(contracts: Iterable[type[Contract]] = ALL_TABLES) -> str:
    """The whole dictionary as Markdown: lineage, then every table with its columns, then the views."""
    tables = list(contracts)
    parts = [_HEAD, "## Lineage\n", lineage(tables)]
    for zone in Zone:
        parts.append(f"## {zone}\n")
        parts += [_table(contract) for contract in tables if contract.table.zone is zone]
    parts.append(
        "## Views\n\nTables of the pipelines replaced here, under their own names, as SQL in `tables/views.py`.\n"
    )
    parts += [f"* `{name}`" for name in VIEWS]
    return "\n".join(parts) + "\n"


def lineage(contracts: Iterable[type[Contract]]) -> str:
    """Which table is computed from which, as a Mermaid graph, read from the columns' sources."""
    edges = {
        (".".join(source.split(".")[:2]), contract.table.full_name)
        for contract in contracts
        for field in fields(contract)
        for source in field.sources
        if not source.startswith(contract.table.full_name + ".")
    }
    lines = [
        f"  {source.replace('.', '_')}[{source}] --> {target.replace('.', '_')}[{target}]" for source, target in edges
    ]
    return "\n".join(["```mermaid", "graph LR", *sorted(lines), "```\n"])


def _table(contract: type[Contract]) -> str:
    table = contract.table
    rows = [
        f"| {f.name}{' (key)' if f.is_key else ''} | {delta_type(f.dtype)} | {'yes' if f.nullable else ''} | {f.unit} "
        f"| {f.kind} | {f.description.replace('|', '/')} |"
        for f in fields(contract)
    ]
    facts = [
        f"Grain: {', '.join(primary_key(contract))}",
        f"partitioned by {', '.join(table.partition_by)}" if table.partition_by else "not partitioned",
        f"written by {table.write}",
        table.cadence,
        f"kept {table.retention}",
        f"owner {table.owner}",
    ]
    head = "| column | type | null | unit | measure | what it is |\n|---|---|---|---|---|---|"
    return (
        f"### {table.full_name}\n\n{description(contract)}\n\n{'; '.join(facts)}.\n\n{head}\n" + "\n".join(rows) + "\n"
    )


def main(arguments: list[str]) -> int:
    """Write the file, or with ``--check`` compare it. Returns the exit code."""
    told = dictionary()
    if "--check" in arguments:
        if PATH.exists() and PATH.read_text(encoding="utf-8") == told:
            return 0
        sys.stderr.write(f"{PATH.name} is not current: run make docs\n")
        return 1
    PATH.write_text(told, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
