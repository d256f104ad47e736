"""Digests of the code of a mechanism: a row of another digest was made with other code."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from attnkit.registry import ATTENTION
from attnkit.storage.plugin_record import describe


def code_of(mechanism: str, plugins: Sequence[str]) -> str:
    """Returns a digest of a mechanism's own code: its file, those of the mechanisms that it is
    derived from, and the plugins of its row. Comments and docstrings of the kit's files do not
    count, nor the place of files.

    What all mechanisms share (the template, models, training) is not in it: a change there that
    changes numbers raises the version of the protocol.
    """
    digest = hashlib.sha256()
    for source in sorted(set(_own_sources(ATTENTION.get(mechanism)))):
        digest.update(source.encode())
    for plugin in plugins:
        found = describe(plugin)
        digest.update((found.sha256 if found else plugin).encode())
    return digest.hexdigest()


def _own_sources(mechanism: type) -> Iterator[str]:
    homes = {ATTENTION.get(name).__module__ for name in ATTENTION.names()}
    for cls in mechanism.__mro__:
        if cls.__module__ in homes and cls.__module__.startswith("attnkit."):
            file = sys.modules[cls.__module__].__file__
            assert file is not None
            yield without_words(Path(file).read_text(encoding="utf-8"))


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
