"""The quality zone: what was refused, what was checked, what is missing, and what the providers cost.

These tables make quality queryable in SQL beside the data. Rows that pass are in ``trusted.py``.
"""

from __future__ import annotations

from crypto_assets.tables.contract import (
    Contract,
    Kind,
    Table,
    Write,
    Zone,
    clock,
    count,
    day,
    flag,
    key,
    number,
    text,
)


def _quality_table(
    name: str,
    *sort_by: str,
    cadence: str,
    partition_by: tuple[str, ...] = ("date",),
    write: Write = Write.REPLACE,
    clock: str | None = None,
) -> Table:
    return Table(
        zone=Zone.QUALITY,
        name=name,
        group="quality",
        cadence=cadence,
        write=write,
        partition_by=partition_by,
        sort_by=sort_by,
        clock=clock,
        owner="team:data-quality",
    )


class Quarantine(Contract):
    """Records that did not fit their contract, with the reasons and a pointer to the raw answer."""

    # Partitioned by table as well, so that two tables settling the same day never touch the same file.
    table = _quality_table(
        "quarantine", "observed_at", partition_by=("table_name", "date"), cadence="with each table", clock="observed_at"
    )

    table_name = key("The trusted table that refused the record.")
    pull_id = key("The pull in raw that holds the record.")
    page = count("Page of the pull.", kind=Kind.KEY, primary_key=True)
    position = count("Position of the record in the page, from 0.", kind=Kind.KEY, primary_key=True)
    reasons = text("Reason codes, comma-separated, e.g. cast:price_usd,price_usd|min.")
    record = text("The record as JSON, as the provider sent it.")
    observed_at = clock("Time of the record, or of its answer where the record's own is unusable.")
    ingested_at = clock("Our clock when the answer had arrived.")
    date = day()


class CheckResults(Contract):
    """The newest verdict of every check of every partition, with a sample of failing rows."""

    table = _quality_table("check_results", "check_name", partition_by=("table_name", "date"), cadence="with each run")

    table_name = key("The table checked.")
    check_name = key("Stable identity of the check.")
    date = day("UTC day that was checked; the partition.", primary_key=True)
    suite = text("great_expectations, reconciliation, freshness or contract.")
    severity = text("error or warning.")
    is_blocking = flag("Whether a failure stops what is downstream.")
    passed = flag("The verdict.")
    observed = text("What was found.")
    expected = text("What was expected.")
    n_failed = count("Rows that failed.", kind=Kind.INTERVAL, wide=True)
    failing_rows = text("Up to 20 failing rows or values, as JSON.", nullable=True)


class GapLedger(Contract):
    """Times that should hold rows and do not: why, what was tried, and what became of it."""

    table = _quality_table(
        "gap_ledger",
        "table_name",
        "key",
        "gap_start_at",
        partition_by=(),
        cadence="with each run",
        write=Write.MERGE,
    )

    table_name = key("The table with the gap.")
    key = key("What is missing there, e.g. a market and interval; all where the whole table is silent.")
    gap_start_at = clock("First missing time.", primary_key=True)
    gap_end_at = clock("End (exclusive) of the gap.")
    n_missing = count(
        "Rows that are still missing; of what a stream did not hear, seconds that no answer covers yet.",
        kind=Kind.INTERVAL,
        wide=True,
    )
    cause = text(
        "venue_outage, no_trades, not_listed, delisted, rate_limited, provider_error, our_downtime or unknown."
    )
    state = text("open, queued (a repair was started), repaired or unrecoverable.")
    detail = text("What was met, in one line.")
    attempts = count("Repairs that were started for it.", kind=Kind.CUMULATIVE)
    run_id = text("The run that was last started to repair it.", nullable=True)
    detected_at = clock("Our clock when the gap was first met.")
    closed_at = clock("Our clock when it was repaired or given up; null while open.", nullable=True)
    date = day("UTC day of gap_start_at.")


class RevisionLedger(Contract):
    """Values that a provider stated differently later: one row for each change of a column of a fact.

    Computed from raw, which keeps every version; the table itself holds the newest.
    """

    table = _quality_table(
        "revision_ledger",
        "observed_at",
        "row_key",
        "column_name",
        partition_by=("table_name", "date"),
        cadence="with each table",
        clock="observed_at",
    )

    table_name = key("The table whose fact changed.")
    row_key = key("The fact's key, its columns' values joined by a bar.")
    column_name = key("The column that changed.")
    observed_at = clock("Time of the fact.")
    old_value = text("What had been stated.")
    new_value = text("What was stated later.")
    old_available_at = clock("Our clock when the old value had arrived.")
    new_available_at = clock("Our clock when the new value had arrived.", primary_key=True)
    old_pull_id = text("The pull in raw that stated the old value.")
    new_pull_id = text("The pull in raw that stated the new value.")
    relative_change = number("new / old - 1; null where they are no numbers.", unit="1", nullable=True)
    date = day("UTC day of the fact; the partition.")


class Lateness(Contract):
    """How long after its time a fact of each provider arrived, through a day: what look-back windows are set by."""

    table = _quality_table("lateness", "table_name", "provider", cadence="with each run")

    table_name = key("The trusted table.")
    provider = key("Provider that stated the facts.")
    date = day("UTC day of the facts.", primary_key=True)
    n_rows = count("Facts.", kind=Kind.INTERVAL, wide=True)
    p50_s = number("Half arrived within.", unit="s", kind=Kind.INTERVAL)
    p99_s = number("99 of 100 arrived within.", unit="s", kind=Kind.INTERVAL)
    p999_s = number("999 of 1000 arrived within.", unit="s", kind=Kind.INTERVAL)
    highest_s = number("All arrived within.", unit="s", kind=Kind.INTERVAL)


class SourceHealth(Contract):
    """How each endpoint of each provider answered through a day, from the raw answers."""

    table = _quality_table("source_health", "provider", "endpoint", cadence="with each run")

    provider = key("Provider's name.", sources="raw.coincap_assets.provider")
    endpoint = key("Endpoint's name.", sources="raw.coincap_assets.endpoint")
    date = day("UTC day of the answers' arrival.", primary_key=True)
    n_calls = count(
        "Answers, and calls that got none.",
        kind=Kind.INTERVAL,
        wide=True,
        sources="raw.coincap_assets.pull_id",
    )
    n_ok = count("Answers with data.", kind=Kind.INTERVAL, wide=True, sources="raw.coincap_assets.outcome")
    n_limited = count(
        "Refusals for the rate or the quota.",
        kind=Kind.INTERVAL,
        wide=True,
        sources="raw.coincap_assets.outcome",
    )
    n_failed = count("Other bad endings.", kind=Kind.INTERVAL, wide=True, sources="raw.coincap_assets.outcome")
    n_bytes = count(
        "Bytes received.", unit="bytes", kind=Kind.INTERVAL, wide=True, sources="raw.coincap_assets.n_bytes"
    )
    score = number("Share of calls that brought data.", unit="1", low=0, high=1, sources="raw.coincap_assets.outcome")
    last_ok_at = clock(
        "Arrival of the newest answer with data.", nullable=True, sources="raw.coincap_assets.ingested_at"
    )


class CreditLedger(Contract):
    """Credits spent per provider and day, and through the calendar month so far."""

    table = _quality_table("credit_ledger", "provider", cadence="with each run")

    provider = key("Provider's name.", sources="raw.coincap_assets.provider")
    date = day("UTC day of the answers' arrival.", primary_key=True)
    n_calls = count("Calls made.", kind=Kind.INTERVAL, wide=True, sources="raw.coincap_assets.pull_id")
    credits = count(
        "Credits spent in the day.",
        unit="credits",
        kind=Kind.INTERVAL,
        wide=True,
        sources="raw.coincap_assets.credits",
    )
    credits_month = count(
        "Credits spent in the calendar month up to and with this day.",
        unit="credits",
        kind=Kind.CUMULATIVE,
        wide=True,
        sources="raw.coincap_assets.credits",
    )
    forecast_month_end = number(
        "Credits at the month's end if the month so far goes on.",
        unit="credits",
        kind=Kind.CUMULATIVE,
        low=0,
        sources="raw.coincap_assets.credits",
    )


TABLES: tuple[type[Contract], ...] = (
    Quarantine,
    CheckResults,
    GapLedger,
    RevisionLedger,
    Lateness,
    SourceHealth,
    CreditLedger,
)
