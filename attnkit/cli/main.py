"""The command line: each command parses its arguments, then calls one function. Heavy modules are
imported when a command needs them.

A command is a file in this folder; the order below is that of `attnkit --help`.
"""

# isort: off
from attnkit.cli import run  # noqa: F401
from attnkit.cli import resume  # noqa: F401
from attnkit.cli import ablate  # noqa: F401
from attnkit.cli import claim  # noqa: F401
from attnkit.cli import rank  # noqa: F401
from attnkit.cli import show  # noqa: F401
from attnkit.cli import recipes  # noqa: F401
from attnkit.cli import generate  # noqa: F401
from attnkit.cli import translate  # noqa: F401
from attnkit.cli import transcribe  # noqa: F401
from attnkit.cli import evaluate  # noqa: F401
from attnkit.cli import attention  # noqa: F401
from attnkit.cli import senses  # noqa: F401
from attnkit.cli import clinic  # noqa: F401
from attnkit.cli import explain  # noqa: F401
from attnkit.cli import patch  # noqa: F401
from attnkit.cli import tour  # noqa: F401
from attnkit.cli import new  # noqa: F401
from attnkit.cli import check  # noqa: F401
from attnkit.cli import compare  # noqa: F401
from attnkit.cli import publish  # noqa: F401
from attnkit.cli import export  # noqa: F401
from attnkit.cli import dashboard  # noqa: F401

# isort: on
from attnkit.ablation.launchers.process import end_with_parent
from attnkit.cli.app import app
from attnkit.hardware import process


def main() -> None:
    """Entry point of the console script."""
    process.prepare()
    end_with_parent()
    app()
