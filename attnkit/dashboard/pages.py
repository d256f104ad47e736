"""The files of the pages: a fixed list, taken from the package once."""

from __future__ import annotations

import functools
from importlib import resources

ENTRY = "main.js"
"""The module that TensorBoard imports; its `render` draws the dashboard."""

CONTENT_TYPES = {"js": "text/javascript", "css": "text/css"}

_FOLDER = resources.files("attnkit.dashboard").joinpath("static")


@functools.cache
def names() -> tuple[str, ...]:
    """The names of all files that may be served."""
    files = (file.name for file in _FOLDER.iterdir())
    return tuple(sorted(name for name in files if name.rpartition(".")[2] in CONTENT_TYPES))


def read(name: str) -> tuple[bytes, str]:
    """Returns the content and the media type of one of `names`."""
    return _FOLDER.joinpath(name).read_bytes(), CONTENT_TYPES[name.rpartition(".")[2]]
