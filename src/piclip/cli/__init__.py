"""The command line: every command parses, calls the library, and prints.

Output for people goes to stderr; with ``--json`` data goes to stdout.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import typer

from piclip import __version__
from piclip.cli import (
    annotate,
    benchmark,
    calibrate,
    convert,
    data,
    demo,
    evaluate,
    figure,
    label_studio,
    options,
    page,
    priors,
    segment,
    table,
    train,
)
from piclip.errors import PiclipError, UsageError

_INTERRUPTED = 130  # what Typer makes of Ctrl-C

# Plain help: Rich's would take more than twice the time to start and break the examples' lines.
app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"piclip {__version__}")
        raise typer.Exit


@app.callback(
    epilog=options.examples(
        "piclip demo",
        "piclip segment --support zebra.jpg --mask zebra.png --name zebra "
        "--query photos --output masks",
        "piclip segment --help",
    )
)
def _piclip(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and leave."
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show the traceback of errors (also: PICLIP_DEBUG=1)."),
    ] = False,
) -> None:
    """Segment new images from a few labelled ones, with the training-free priors of PI-CLIP.

    Exit code: 0 when all went well, 1 for a failure, 2 for a wrong command line.
    """
    if debug:
        os.environ["PICLIP_DEBUG"] = "1"


options.command(app, "demo")(demo.demo)
options.command(app, "segment")(segment.segment)
options.command(app, "annotate")(annotate.annotate)
options.command(app, "priors")(priors.priors)
options.command(app, "convert")(convert.convert)
options.command(app, "app")(page.app)
options.command(app, "label-studio")(label_studio.label_studio)
app.add_typer(data.app, name="data")
options.command(app, "train")(train.train)
options.command(app, "evaluate")(evaluate.evaluate)
options.command(app, "table")(table.table)
options.command(app, "figure")(figure.figure)
options.command(app, "calibrate")(calibrate.calibrate)
app.add_typer(benchmark.app, name="benchmark")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line with what follows ``piclip``, by default that of the process.

    Returns:
        The exit code: 0, 1 for a failure, 2 for a wrong command line.
    """
    if arguments is None:
        _stop_as_by_ctrl_c()
        warnings.filterwarnings("ignore", module=r"PIL\.")  # damaged files are told of by name
    try:
        _refuse_empty(sys.argv[1:] if arguments is None else arguments)
        typer.main.get_command(app)(args=arguments, prog_name="piclip")
    except SystemExit as leaving:
        if leaving.code != _INTERRUPTED:
            return leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
        return _fail("Stopped; run the same command again to start over.", 1)
    except PiclipError as error:
        _show_traceback()
        return _fail(str(error), error.exit_code)
    except Exception as error:  # whatever else goes wrong is told in one sentence, too
        _show_traceback()
        return _fail(_unexpected(error), 1)
    return 0


def _refuse_empty(arguments: Sequence[str]) -> None:
    """Refuse an empty argument: no option takes one, and as a path it is the current folder."""
    for before, argument in pairwise(("piclip", *arguments)):
        if not argument or re.fullmatch(r"--[a-z-]+=", argument):
            raise UsageError(
                f"What follows {argument or before} is empty; write what is meant, for example . "
                f"for the current folder."
            )


def _stop_as_by_ctrl_c() -> None:
    """Let a closed terminal (SIGHUP) and kill (SIGTERM) end a command as Ctrl-C does."""
    for name in ("SIGHUP", "SIGTERM"):  # Windows has no SIGHUP, and nohup has it ignored
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def _unexpected(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        return (
            f"The memory does not suffice ({text}); use a smaller --batch-size or smaller images."
        )
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}; check the path."
    return (
        f"Unexpected {type(error).__name__}: {text}; run the command again with PICLIP_DEBUG=1 "
        f"and report what it prints."
    )


def _fail(sentence: str, exit_code: int) -> int:
    print(f"piclip: {sentence}", file=sys.stderr)
    return exit_code


def _show_traceback() -> None:
    if os.environ.get("PICLIP_DEBUG", "0") not in {"", "0"}:
        import traceback

        traceback.print_exc()
