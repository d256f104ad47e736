"""Shared by all commands: the application, error handling, and common arguments."""

from __future__ import annotations

import errno
import importlib.metadata
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from attnkit.errors import UserError
from attnkit.storage.run_directory import is_first_process, single_run

if TYPE_CHECKING:
    from attnkit.ablation.launch import StudyStopped


class Commands(TyperGroup):
    """All commands; arguments must be valid Unicode, since they are written to UTF-8 files."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuses bytes that are not UTF-8; Python passes them as lone surrogates."""
        for arg in args:
            try:
                arg.encode()
            except UnicodeEncodeError as error:
                byte = ord(arg[error.start]) & 0xFF
                ctx.fail(f"argument {arg!a}: byte 0x{byte:02x} is not valid UTF-8")
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="attnkit",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(requested: bool) -> None:
    if requested:
        typer.echo(f"attnkit {importlib.metadata.version('attnkit')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Experiment with attention: train recipes, look at the maps, compare mechanisms."""


FAILED, INTERRUPTED = 1, 130

PATH_ERRORS = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES)
"""System errors that an invalid path from the user can cause, in whatever function opens it."""

RecipeArgument = Annotated[
    Path,
    typer.Argument(
        help="A recipe file (YAML), or the name of one that `attnkit recipes` lists.",
        show_default=False,
    ),
]


def _single_run(path: Path) -> Path:
    try:
        run = single_run(path)
    except OSError as error:
        raise typer.BadParameter(f"{error.strerror}: {shortened(path)}") from None
    if run != path:
        typer.echo(f"using the only run there: {run}", err=True)
    return run


RunArgument = Annotated[
    Path,
    typer.Argument(
        help="A run's directory, runs/NAME/VARIANT/seedK, or a folder with a single run.",
        show_default=False,
        callback=_single_run,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE ... ~KEY]", help="Keys to change, or (~) to remove.", show_default=False
    ),
]
Text = Annotated[
    str,
    typer.Option(
        help="Input of the model; for a translation run 'sentence' or 'sentence ||| translation', "
        "for a speech run FILE.wav, 'FILE.wav ||| what is said', or a sentence to speak.",
        show_default=False,
    ),
]
Best = Annotated[
    bool, typer.Option("--best", help="The checkpoint with the lowest validation loss.")
]
OverwriteFiles = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]
TrustPlugins = Annotated[
    bool,
    typer.Option(
        "--trust-plugins",
        help="Run the plugins of a foreign run or file, after showing their digests.",
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def shortened(path: str | bytes | int | Path) -> str:
    """Returns a path for a message; only its end if it is long."""
    text = str(path)
    return text if len(text) <= 200 else f"...{text[-60:]}"


def stopped(stop: StudyStopped) -> int:
    """Reports that a signal stopped a study, and returns the exit code."""
    interrupted = stop.number == signal.SIGINT
    typer.echo(f"{'interrupted' if interrupted else 'terminated'}: {stop}", err=True)
    return INTERRUPTED if interrupted else 128 + stop.number


def guarded(act: Callable[[], Any], debug: bool) -> None:
    """Runs a command. A `UserError` becomes one message and its exit code, without a traceback."""
    try:
        act()
    except KeyboardInterrupt as error:
        if is_first_process():
            typer.echo(" ".join(["interrupted", *map(str, error.args)]), err=True)
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:  # the reader closed the pipe (`| head`); typer ends quietly
        raise
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, OSError) and error.errno in PATH_ERRORS and error.filename:
            error = UserError(f"{shortened(error.filename)}: {error.strerror}")
        known = isinstance(error, UserError)
        if known or debug:
            typer.echo(f"error: {error}", err=True)
        else:
            from attnkit.registry import line_of_plugin  # not above: `--help` needs no registry

            line = line_of_plugin(error)
            where = f"in {line} (--debug shows more)" if line else "(--debug shows where)"
            typer.echo(f"error: {type(error).__name__}: {error}\n{where}", err=True)
        raise typer.Exit(error.exit_code if known else FAILED) from None
