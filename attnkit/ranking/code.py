"""Digests of the code that a row depends on: if it changes, the row is made anew."""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from attnkit.registry import ATTENTION
from attnkit.storage.plugin_record import describe

ENGINE = ("attention", "masks", "models", "norms.py", "positions", "training")
"""Parts of the package that every mechanism trains with; without the mechanisms themselves."""

_PACKAGE = Path(__file__).resolve().parents[1]


def code_of(mechanism: str, plugins: Sequence[str]) -> str:
    """Returns a digest of the code that trains a mechanism: its own file and those of its parents,
    the plugins, and `ENGINE`. Comments, docstrings and the place of files do not count.
    """
    digest = hashlib.sha256(_engine().encode())
    for source in sorted(set(_own_sources(ATTENTION.get(mechanism)))):
        digest.update(source.encode())
    for plugin in plugins:
        found = describe(plugin)
        digest.update((found.sha256 if found else plugin).encode())
    return digest.hexdigest()


def _own_sources(mechanism: type) -> Iterator[str]:
    for cls in mechanism.__mro__:
        if cls.__module__.startswith("attnkit.attention."):
            file = sys.modules[cls.__module__].__file__
            assert file is not None
            yield without_words(Path(file).read_text(encoding="utf-8"))


@functools.cache
def _engine() -> str:
    """Returns the digest of `ENGINE`."""
    mechanisms = {_PACKAGE / "attention" / f"{name}.py" for name in ATTENTION.names()}
    digest = hashlib.sha256()
    for part in ENGINE:
        place = _PACKAGE / part
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            if file not in mechanisms:
                digest.update(without_words(file.read_text(encoding="utf-8")).encode())
    return digest.hexdigest()


def without_words(source: str) -> str:
    """Returns the syntax of a Python file, without comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or not body:
            continue
        first = body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            body[0] = ast.Pass()
    return ast.dump(tree)
