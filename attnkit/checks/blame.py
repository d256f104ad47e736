"""Describes an error to the author of a mechanism, without the frames of the kit and of torch."""

from __future__ import annotations

import ast
import inspect
import re
import sysconfig
import textwrap
import traceback
from pathlib import Path

import torch

KIT = Path(__file__).parents[1]
_FOREIGN = (
    Path(torch.__file__).parent,
    *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")),
)
LONGEST = 300
"""Maximum number of characters of an error's first line."""


def first_line(error: BaseException) -> str:
    """Returns the type and first line of an error, since errors of torch may go on with tables of
    its dispatcher. Of an error of the compiler, those of the original error.
    """
    error = getattr(error, "inner_exception", error)
    lines = str(error).strip().splitlines() or [""]
    return shorten(f"{type(error).__name__}: {lines[0]}")


def shorten(text: str) -> str:
    """Returns a text, cut at `LONGEST` characters and marked with dots."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def is_a_refusal(error: BaseException) -> bool:
    """Returns True for a ValueError from a `raise` statement, as for a size that is refused."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return isinstance(error, ValueError) and (last.line or "").startswith("raise ")


def frames_of(error: BaseException, mechanism: type) -> tuple[str, ...]:
    """Returns the author's frames, outermost first: `file:line in function: code`. If there are
    none, the last frame of the kit, and the methods that the author overrides.
    """
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if is_the_authors(f.filename)]
    if theirs or is_the_kits(inspect.getfile(mechanism)):
        shown = theirs or [f for f in frames if not _is_foreign(f.filename)][-3:]
        return tuple(_line(frame) for frame in shown)
    kits = [f for f in frames if is_the_kits(f.filename)][-1:]
    own = [name for name, value in vars(mechanism).items() if inspect.isfunction(value)]
    methods = ", ".join(own) or "attributes"
    if is_about_in_place(error):
        return *map(_line, kits), f"look for a change in place in its own {methods}"
    return (
        *map(_line, kits),
        f"the kit failed on a result of {mechanism.__name__}: look at the shapes that its own "
        f"{methods} return",
    )


def is_about_in_place(error: BaseException) -> bool:
    """Returns True for an error of torch about a tensor that was changed in place."""
    return isinstance(error, RuntimeError) and re.search("in-?place", str(error)) is not None


def line_that_writes(attribute: str, *classes: type) -> str:
    """Returns the first line outside of `__init__` that assigns to an attribute of this name, or
    else uses it, in the classes and those that they inherit from: `file:line in function: code`;
    empty: there is none.
    """
    written, used = [], []
    for cls in dict.fromkeys(base for each in classes for base in each.__mro__):
        try:
            file = inspect.getfile(cls)
            if _is_foreign(file):
                continue
            lines, start = inspect.getsourcelines(cls)
            tree = ast.parse(textwrap.dedent("".join(lines)))
        except (OSError, TypeError, SyntaxError):  # such as a built-in class
            continue
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            if function.name == "__init__":
                continue
            nodes = [n for n in ast.walk(function) if isinstance(n, ast.Attribute | ast.Subscript)]
            for node in sorted(nodes, key=lambda node: node.lineno):
                target = node.value if isinstance(node, ast.Subscript) else node
                if isinstance(target, ast.Attribute) and target.attr == attribute:
                    code = lines[node.lineno - 1].strip()
                    line = f"{file}:{start + node.lineno - 1} in {function.name}: {code}"
                    (written if isinstance(node.ctx, ast.Store) else used).append(line)
    return next(iter((*written, *used)), "")


def line_in(text: str) -> str:
    """Returns the author's last line in the text of a traceback; empty: there is none."""
    found = re.findall(r'File "(.+?)", line (\d+), in (\w+)(?:\n\s+(.+))?', text)
    theirs = [frame for frame in found if is_the_authors(frame[0])]
    if not theirs:
        return ""
    file, number, function, code = theirs[-1]
    return f"{file}:{number} in {function}: {code}".rstrip(": ")


def is_the_kits(file: str) -> bool:
    """Returns True for a file of attnkit."""
    return KIT in Path(file).resolve().parents


def is_the_authors(file: str) -> bool:
    """Returns True for a file that belongs to neither the kit, nor torch, nor Python."""
    return not (file.startswith("<") or is_the_kits(file) or _is_foreign(file))


def _is_foreign(file: str) -> bool:
    parents = Path(file).resolve().parents
    return any(folder.resolve() in parents for folder in _FOREIGN)


def _line(frame: traceback.FrameSummary) -> str:
    return f"{frame.filename}:{frame.lineno} in {frame.name}: {frame.line}"
