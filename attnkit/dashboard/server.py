"""Starts TensorBoard with the settings of the dashboard."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from tensorboard import program

from attnkit.dashboard.loader import KEPT_STEPS
from attnkit.errors import UserError
from attnkit.tensorboard.map_header import PLUGIN_NAME

RELOAD_SECONDS = 5
KEPT_IMAGES = 100
"""With TensorBoard's default of ten images per tag the contact sheet of step 0 is lost."""


class DashboardError(UserError):
    """TensorBoard cannot be started as requested."""


def arguments(folders: Sequence[Path], host: str, port: int | None) -> list[str]:
    """Returns TensorBoard's arguments.

    Args:
        folders: folders with runs; several are shown under their own names.
        host: the address to listen on.
        port: the port; None: TensorBoard finds a free one.

    Raises:
        DashboardError: if a folder does not exist, is a file, or has a name that TensorBoard cannot
            handle.
    """
    for folder in folders:
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "does not exist"
            raise DashboardError(
                f"{folder} {what}; give a folder with runs (attnkit run creates one: runs/)"
            )
    listening = ["--host", host] if port is None else ["--host", host, "--port", str(port)]
    samples = f"{PLUGIN_NAME}={KEPT_STEPS},images={KEPT_IMAGES}"
    return [
        *_folder_arguments(folders),
        *listening,
        *("--reload_interval", str(RELOAD_SECONDS)),
        *("--samples_per_plugin", samples),
    ]


def _folder_arguments(folders: Sequence[Path]) -> list[str]:
    if len(folders) == 1:
        return ["--logdir", str(folders[0].absolute())]
    named = dict(zip(_names(folders), folders, strict=True))
    for folder in folders:
        if "," in str(folder.absolute()):
            raise DashboardError(
                f"{folder}: TensorBoard cannot show several folders if one has a comma in its path"
            )
    return ["--logdir_spec", ",".join(f"{name}:{path.absolute()}" for name, path in named.items())]


def _names(folders: Sequence[Path]) -> list[str]:
    """Returns short, distinct names for folders: the last parts of their paths."""
    paths = [folder.absolute() for folder in folders]
    if len(set(paths)) < len(paths):
        raise DashboardError("a folder is given twice; give each once")
    for count in range(1, max(len(path.parts) for path in paths)):
        names = ["_".join(path.parts[-count:]).replace(":", "_") for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(number) for number, _ in enumerate(paths)]


def serve(
    folders: Sequence[Path], host: str, port: int | None, write: Callable[[str], object]
) -> None:
    """Runs TensorBoard until it is interrupted (Ctrl-C) or terminated.

    Raises:
        DashboardError: as in `arguments`, or if TensorBoard cannot listen there.
    """
    board = program.TensorBoard()
    board.configure(["", *arguments(folders, host, port)])
    try:
        address = board.launch()
    except program.TensorBoardServerException as error:
        raise DashboardError(
            f"TensorBoard does not start: {error.msg}; try another --port"
        ) from error
    write(f"attention  {address}#{PLUGIN_NAME}")
    write(f"ablations  {address}#ablations")
    write(f"other tabs {address}")
    write("Ctrl-C stops it.")
    ended = threading.Event()

    def end(signal_number: int, frame: FrameType | None) -> None:
        ended.set()

    signal.signal(signal.SIGTERM, end)
    try:
        ended.wait()
    except KeyboardInterrupt:
        write("stopped")
