"""``rebuild --verify``: trusted and refined made again from raw beside the live tables, and compared by content.

Belongs here: days and output. The work is ``automation/rebuild.py``, which the disaster drill does as well.
"""

from __future__ import annotations

import sys

from crypto_assets.commands import output
from crypto_assets.commands import run as runs
from crypto_assets.errors import UsageError


def rebuild(first: str | None, last: str | None, form: output.Format, *, is_verifying: bool, is_kept: bool) -> int:
    """Compute again, compare, and say table by table what is equal; 1 where something differs."""
    from crypto_assets.automation import rebuild as work
    from crypto_assets.resources.clock import SystemClock
    from crypto_assets.resources.settings import Settings

    safe = "nothing was computed"
    if not is_verifying:
        hint = "say --verify; to compute days again in place, crypto-assets backfill"
        raise UsageError("it only compares so far", where="rebuild", safe=safe, hint=hint)
    clock = SystemClock()
    since = runs.parsed_day(first, "--from", clock) if first else None
    until = runs.parsed_day(last, "--to", clock) if last else None
    if since and until and since > until:
        raise UsageError(f"{since} is after {until}", where="--from", safe=safe, hint="swap --from and --to")
    lake = runs.lake_of(Settings())
    lake.probe()
    # In a pipe stdout carries rows; signs of life go beside them.
    steps = output.Steps(sys.stdout if form is output.Format.TABLE else sys.stderr)
    with steps.step("rebuild") as step:
        found = work.rebuild(lake, since, until, is_kept=is_kept)
        step.detail = f"{len(found.compared)} tables, {found.days[0]} to {found.days[-1]}"
        step.is_failed = found.error is not None
        step.notes += [f"kept in {found.root}"] if is_kept else []
    output.rows(
        [
            {
                "table": table.table,
                "partitions": table.n_partitions,
                "rows": table.n_rows,
                "rebuilt": table.n_rebuilt,
                "equal": not table.differing,
                "differing": ", ".join(table.differing),
            }
            for table in found.compared
        ],
        form,
        columns=["table", "partitions", "rows", "rebuilt", "equal", "differing"],
    )
    if found.skipped:
        output.note(f"not compared, being computed from all days: {', '.join(found.skipped)}")
    for cause in [cause for table in found.differing for cause in table.causes]:
        output.note(f"failed: {cause}")
    if found.error is not None:
        output.failure(found.error)
        return found.error.exit_code
    return 0
