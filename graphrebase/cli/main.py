"""Entry point: run a command, turn every error into a message and an exit code."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from graphrebase import __version__
from graphrebase.cli import commands
from graphrebase.errors import GraphRebaseError

#: The base of all errors about the command line itself. Some typer releases bring a click of
#: their own, so it is taken from typer's public subclass.
_CommandLineError = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)

_INTERRUPTED = 130

app = typer.Typer(
    name="graphrebase",
    help="Carry a fine-tuning over to a new base release, on exported ONNX models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done, 1 a bug, 2 usage, 3 input, 4 models that do not fit together, "
    "5 not finite or not verified, 6 output, 130 interrupted.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
commands.register(app)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"graphrebase {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log steps; show tracebacks of errors.")
    ] = False,
) -> None:
    """Carry a fine-tuning over to a new base release, on exported ONNX models."""
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, stream=sys.stderr, format="%(message)s", force=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code: 0 done, 1 a bug, 2-6 see ``errors``, 130."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(_run(given))


def _run(arguments: Sequence[str]) -> int:
    verbose = any(a in ("-v", "--verbose") for a in arguments)
    try:
        result = app(list(arguments), standalone_mode=False)
    except GraphRebaseError as error:
        _report(f"error: {error}", verbose)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("interrupted\n")
        return _INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except Exception as error:
        if isinstance(error, _CommandLineError):
            error.show()  # type: ignore[attr-defined]
            return 2
        _report(
            f"error: {type(error).__name__}: {error}\n  this is a bug in graphrebase; "
            "please report it with the output of the same command after `graphrebase -v`",
            verbose,
        )
        return 1
    if result == _INTERRUPTED:  # typer may have caught it
        sys.stderr.write("interrupted\n")
    return result if isinstance(result, int) else 0


def _report(message: str, verbose: bool) -> None:
    if verbose:
        traceback.print_exc()
    # Names come out of files: control characters must not reach the terminal.
    shown = "".join(
        c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in message
    )
    sys.stderr.write(shown + "\n")
