"""``crypto-assets``: every command's signature and help, and how errors become one line and an exit code.

Belongs here: what people type. What a command does is in ``commands/``, imported when it is called, so that ``--help``
answers at once.

Exit codes: 0 done; 1 the data or a check failed; 2 the request makes no sense; 3 try again later; 4 it needs you.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from crypto_assets import __version__
from crypto_assets.commands import output
from crypto_assets.errors import CryptoAssetsError, UsageError

app = App(
    name="crypto-assets",
    help="A crypto market lakehouse: pull, check, refine and query market data.",
    help_epilogue="Exit codes: 0 done, 1 data or a check failed, 2 usage, 3 try again later, 4 it needs you.",
    version=__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
    result_action="return_value",
)
quarantine = App(name="quarantine", help="Records that did not fit their contract.")
app.command(quarantine)
stream = App(name="stream", help="Live trades from websockets into the lake.")
app.command(stream)
catalog = App(name="catalog", help="What Glue and Athena know of the lake's tables.")
app.command(catalog)

Json = Annotated[bool, Parameter(name="--json", negative=(), help="One JSON object a line.")]
Engine = Annotated[
    Literal["duckdb", "athena"] | None,
    Parameter(name="--engine", help="What answers; by default what CRYPTO_ASSETS_QUERY_ENGINE says, or duckdb."),
]
Csv = Annotated[bool, Parameter(name="--csv", negative=(), help="CSV with a header.")]
Feeds = Annotated[
    list[str] | None,
    Parameter(
        name="--feed", negative=(), help="Only this feed; several times for several. CRYPTO_ASSETS_FEEDS without."
    ),
]
Flush = Annotated[float, Parameter(help="Seconds between commits.")]
Select = Annotated[
    list[str] | None,
    Parameter(name="--select", consume_multiple=True, negative=(), help="Assets or zones, e.g. raw/coincap_assets."),
]


@app.command
def demo(
    *,
    replay: Annotated[Path | None, Parameter(help="Recorded answers instead of the simulated market.")] = None,
    home: Annotated[
        Path | None,
        Parameter(help="Where lake, state and Dagster history live; data/demo by default, data/live with --live."),
    ] = None,
    keep: Annotated[bool, Parameter(negative=(), help="Go on with the former demo's lake.")] = False,
    lake: Annotated[str, Parameter(help="dir, s3 (a local S3 server), or s3://bucket/prefix of yours.")] = "dir",
    venues: Annotated[
        bool, Parameter(negative=(), help="All providers of the simulated market, not CoinCap's.")
    ] = False,
    live: Annotated[
        bool, Parameter(negative=(), help="The providers as they are on the internet, without a key.")
    ] = False,
) -> int:
    """Fill a real lake without key or account, faults included, check it, and answer in SQL."""
    if venues or live:
        from crypto_assets.commands import venues as story

        if replay is not None or (venues and live):
            raise UsageError(
                "--replay, --venues and --live are three demos",
                where="command line",
                safe="nothing was done",
                hint="choose one",
            )
        return (story.live if live else story.simulated)(home, lake, is_kept=keep)
    from crypto_assets.commands import demo as command

    return command.demo(replay, home or command.DEFAULT_HOME, lake, is_kept=keep)


@app.command
def up(
    *,
    port: Annotated[int, Parameter(help="Port of the Dagster UI, on 127.0.0.1.")] = 3000,
    lake: Annotated[Literal["dir", "s3"], Parameter(help="A directory, or a local S3 server.")] = "dir",
    simulated: Annotated[bool, Parameter(negative=(), help="On the demo's lake and a simulated market.")] = False,
) -> int:
    """Start Dagster's daemon and UI on this machine, on every provider that needs no key or whose key is set."""
    from crypto_assets.commands import up as command

    return command.up(port, is_s3=lake == "s3", is_simulated=simulated)


@app.command
def run(
    *,
    day: Annotated[str, Parameter(help="YYYY-MM-DD, today or yesterday, in UTC.")] = "today",
    select: Select = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> int:
    """Carry one day from the providers' answers to refined tables, with its checks."""
    from crypto_assets.commands import run as command

    return command.run(day, select or [], output.chosen(as_json=as_json, as_csv=as_csv))


@app.command
def backfill(
    *assets: str,
    first: Annotated[str | None, Parameter(name="--from", help="First day; 30 days by default.")] = None,
    last: Annotated[str, Parameter(name="--to", help="Last day.")] = "yesterday",
    venue: Annotated[str | None, Parameter(help="Only this venue's markets, or this provider's histories.")] = None,
    market: Annotated[str | None, Parameter(help="Only this market, e.g. binance:BTC/USDT, or BTC/USDT.")] = None,
    dry_run: Annotated[bool, Parameter(negative=(), help="Say what it would take, and stop.")] = False,
    yes: Annotated[bool, Parameter(negative=(), help="Spend the calls without asking.")] = False,
    as_json: Json = False,
    as_csv: Csv = False,
) -> int:
    """Compute past days in one run, after saying what it takes; run again, it takes up what is missing.

    Parameters
    ----------
    assets: str
        Tables, e.g. trusted/candles: with what they are made of and all that follows from them. All without.
    """
    from crypto_assets.commands import backfill as command

    form = output.chosen(as_json=as_json, as_csv=as_csv)
    span = (first, last)
    return command.backfill(assets, span, venue=venue, market=market, is_dry=dry_run, is_agreed=yes, form=form)


@app.command
def status(*, as_json: Json = False, as_csv: Csv = False) -> int:
    """Tables and their age, providers and their budget, gaps, failing checks, cadence."""
    from crypto_assets.commands import status as command

    return command.status(output.chosen(as_json=as_json, as_csv=as_csv))


@app.command
def sql(
    statement: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    engine: Engine = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> int:
    """Answer a SELECT in Athena SQL over every table and view; - reads it from stdin.

    Parameters
    ----------
    statement: str
        The statement, e.g. "select * from refined.latest_assets limit 5".
    """
    from crypto_assets.commands import sql as command

    return command.sql(statement, output.chosen(as_json=as_json, as_csv=as_csv), engine)


@app.command
def show(
    table: str,
    /,
    *,
    limit: Annotated[int, Parameter(help="How many rows.")] = 20,
    columns: Annotated[bool, Parameter(negative=(), help="The columns with types, units and meaning.")] = False,
    engine: Engine = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> int:
    """Some rows of a table or view, or its columns.

    Parameters
    ----------
    table: str
        Its name, e.g. trusted.asset_snapshots.
    """
    from crypto_assets.commands import sql as command

    form = output.chosen(as_json=as_json, as_csv=as_csv)
    return command.show(table, limit, form, engine, has_columns=columns)


@quarantine.command(name="show")
def quarantine_show(
    *,
    table: Annotated[str | None, Parameter(help="Only this trusted table.")] = None,
    day: Annotated[str | None, Parameter(help="Only this day, YYYY-MM-DD.")] = None,
    limit: Annotated[int, Parameter(help="How many records, the newest first.")] = 20,
    as_json: Json = False,
    as_csv: Csv = False,
) -> int:
    """The refused records, with their reasons."""
    from crypto_assets.commands import quarantine as command

    return command.show(table, day, limit, output.chosen(as_json=as_json, as_csv=as_csv))


@quarantine.command(name="replay")
def quarantine_replay(*, table: Annotated[str | None, Parameter(help="Only this trusted table.")] = None) -> int:
    """Compute the days that hold refused records again, so that those which fit by now come in."""
    from crypto_assets.commands import quarantine as command

    return command.replay(table)


@catalog.command(name="sync")
def catalog_sync(
    *,
    create: Annotated[bool, Parameter(negative=(), help="Make databases that are missing.")] = False,
    as_json: Json = False,
    as_csv: Csv = False,
) -> int:
    """Make Glue equal to the lake: every table as its log and contract say, and every view."""
    from crypto_assets.commands import catalog as command

    return command.sync(output.chosen(as_json=as_json, as_csv=as_csv), is_creating=create)


@catalog.command(name="check")
def catalog_check(*, as_json: Json = False, as_csv: Csv = False) -> int:
    """Name what differs between Glue and the lake; exit code 1 where anything does. Nothing is changed."""
    from crypto_assets.commands import catalog as command

    return command.check(output.chosen(as_json=as_json, as_csv=as_csv))


@catalog.command(name="rebuild")
def catalog_rebuild(
    *,
    take_over: Annotated[bool, Parameter(negative=(), help="Also entries of another lake than this one.")] = False,
    as_json: Json = False,
    as_csv: Csv = False,
) -> int:
    """Delete our tables and views in Glue and make them again from the lake, which is only read."""
    from crypto_assets.commands import catalog as command

    return command.rebuild(output.chosen(as_json=as_json, as_csv=as_csv), takes_over=take_over)


@catalog.command(name="ddl")
def catalog_ddl() -> int:
    """Print the statements that register everything from within Athena, where Glue cannot be called."""
    from crypto_assets.commands import catalog as command

    return command.ddl()


@app.command
def rebuild(
    *,
    verify: Annotated[
        bool, Parameter(negative=(), help="Compare with the live tables, which are not touched.")
    ] = False,
    first: Annotated[str | None, Parameter(name="--from", help="First day; the first there is by default.")] = None,
    last: Annotated[str | None, Parameter(name="--to", help="Last day; the last there is by default.")] = None,
    keep: Annotated[bool, Parameter(negative=(), help="Keep what was computed, beside the lake.")] = False,
    as_json: Json = False,
    as_csv: Csv = False,
) -> int:
    """Make trusted and refined again from raw, beside the live tables, and compare them by content."""
    from crypto_assets.commands import rebuild as command

    form = output.chosen(as_json=as_json, as_csv=as_csv)
    return command.rebuild(first, last, form, is_verifying=verify, is_kept=keep)


@app.command
def doctor(
    *,
    deep: Annotated[bool, Parameter(negative=(), help="Read every file and compare it with its hash.")] = False,
    fix: Annotated[bool, Parameter(negative=(), help="Remove checkpoints and hints that mislead readers.")] = False,
    gc: Annotated[bool, Parameter(negative=(), help="List files that no version of a table names.")] = False,
    yes: Annotated[bool, Parameter(negative=(), help="With --gc: remove those older than 7 days.")] = False,
    as_json: Json = False,
    as_csv: Csv = False,
) -> int:
    """Look whether this machine, the lake and every table are as they should be."""
    from crypto_assets.commands import doctor as command

    form = output.chosen(as_json=as_json, as_csv=as_csv)
    return command.doctor(form, is_deep=deep, is_mending=fix, is_collecting=gc, is_agreed=yes)


@app.command
def sandbox(
    *,
    port: Annotated[int, Parameter(help="A port on 127.0.0.1; 0 takes a free one.")] = 0,
    seed: Annotated[int, Parameter(help="Which market.")] = 7,
    replay: Annotated[Path | None, Parameter(help="Recorded answers instead of a market.")] = None,
    key: Annotated[str | None, Parameter(help="The key that v3 asks for; none by default.")] = None,
    credits_: Annotated[int | None, Parameter(name="--credits", help="Credits a month on v3; no limit.")] = None,
    per_minute: Annotated[int | None, Parameter(help="Calls a minute; no limit.")] = None,
) -> int:
    """Serve a market on this machine that speaks CoinCap's v2 and v3 and the other providers, until stopped."""
    from crypto_assets.commands import up as command

    return command.sandbox(port, seed, replay, key=key, credits_per_month=credits_, calls_per_minute=per_minute)


@app.command
def athena(
    *,
    port: Annotated[int, Parameter(help="A port on 127.0.0.1; 0 takes a free one.")] = 5005,
    s3_endpoint: Annotated[
        str | None, Parameter(help="An S3 server for tables and results; its own by default.")
    ] = None,
) -> int:
    """Serve an AWS on this machine whose Athena answers over Delta tables in Glue, until stopped."""
    from crypto_assets.commands import athena as command

    return command.athena(port, s3_endpoint)


@stream.command(name="run")
def stream_run(*, feed: Feeds = None, flush: Flush = 5.0) -> int:
    """Keep websockets open and their trades in the lake, until stopped; what dies is started again."""
    from crypto_assets.commands import stream as command

    return command.run(feed or [], flush)


@stream.command(name="collect")
def stream_collect(
    *,
    feed: Annotated[str, Parameter(help="Its name, e.g. binance_stream.")],
    to: Annotated[str, Parameter(help="direct, kinesis://STREAM or kafka://BROKER[,BROKER]/TOPIC.")] = "direct",
) -> int:
    """One websocket onto this disk, and on to a consumer or broker."""
    from crypto_assets.commands import stream as command

    return command.collect(feed, to)


@stream.command(name="consume")
def stream_consume(
    *,
    source: Annotated[
        str, Parameter(name="--from", help="direct, kinesis://STREAM or kafka://BROKER[,BROKER]/TOPIC.")
    ] = "direct",
    feed: Feeds = None,
    flush: Flush = 5.0,
    rows: Annotated[int, Parameter(help="Commit when so many rows have come.")] = 100_000,
) -> int:
    """Collected trades into the lake, each exactly once."""
    from crypto_assets.commands import stream as command

    return command.consume(source, feed or [], flush, rows)


@stream.command(name="status")
def stream_status(*, as_json: Json = False, as_csv: Csv = False) -> int:
    """Each feed's connection, lag, backlog, holes and errors."""
    from crypto_assets.commands import stream as command

    return command.status(output.chosen(as_json=as_json, as_csv=as_csv))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; whatever goes wrong is one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A terminal that cannot show a tick is no reason to fail.
            stream.reconfigure(errors="replace")
    try:
        code = app(sys.argv[1:] if arguments is None else arguments, print_error=False, exit_on_error=False)
        sys.stdout.flush()
    except CycloptsError as error:
        output.failure(_usage(error))
        return UsageError.exit_code
    except CryptoAssetsError as error:
        output.failure(error)
        return error.exit_code
    except BrokenPipeError:
        # The reader has seen enough; Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        output.note("stopped")
        return 130
    except BaseException as error:  # the last border: people get a line, not a trace
        # A panic of a Rust library is an error like others, but no Exception.
        is_panic = type(error).__name__ == "PanicException"
        if os.environ.get("CRYPTO_ASSETS_DEBUG") == "1" or not (is_panic or isinstance(error, Exception)):
            raise
        # Without its text: a foreign message may hold an address or a key.
        output.note(
            f"error: {type(error).__name__}, which nobody foresaw — crypto-assets; the lake holds whole commits"
        )
        output.note("hint: set CRYPTO_ASSETS_DEBUG=1 to see the trace, and report it")
        return 1
    return code if isinstance(code, int) else 0


def _usage(error: CycloptsError) -> UsageError:
    told = " ".join(str(error).split()) or "the command line makes no sense"
    return UsageError(told, where="command line", safe="nothing was done", hint="see crypto-assets --help")


if __name__ == "__main__":
    sys.exit(main())
