"""Writes a comparison to files, whose names say in which form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from attnkit.ablation.comparison import Comparison
from attnkit.ablation.tables import as_json, comma_separated, latex, markdown
from attnkit.data.cache import atomic_write


def _picture(comparison: Comparison) -> bytes:
    from attnkit.ablation.picture import picture  # Pillow and numpy: a table needs neither

    return picture(comparison)


def _page(comparison: Comparison) -> str:
    from attnkit.ablation.page import page

    return page(comparison)


FORMS: dict[str, Callable[[Comparison], str | bytes]] = {
    ".html": _page,
    ".png": _picture,
    ".md": markdown,
    ".csv": comma_separated,
    ".json": as_json,
    ".tex": latex,
}
"""End of a file's name -> what is written into it."""


def export(comparison: Comparison, outs: Sequence[Path]) -> None:
    """Writes the files, each whole or not at all.

    Raises:
        DataError: if one cannot be written.
    """
    contents = [FORMS[out.suffix](comparison) for out in outs]
    for out, content in zip(outs, contents, strict=True):
        with atomic_write(out) as file:
            file.write(content.encode() if isinstance(content, str) else content)
