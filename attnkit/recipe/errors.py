"""Problems of a recipe: all of them at once, each with its place in the file.

bad.yaml:4:3: model.num_haeds: unknown key; did you mean `num_heads`? (known: dropout, num_heads)
      num_haeds: 8
      ^
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from attnkit.errors import UserError

KeyPath = tuple[str, ...]
"""Keys from the top of a recipe down; an element of a list is `[0]`, `[1]`, ..."""

_SHOWN_COLUMNS = 100


@dataclass(frozen=True)
class Mark:
    """Where something in a recipe was written.

    Attributes:
        origin: the file as the user named it, `override model.dim=8`, or `recipe` for a mapping.
        line: line in the file, from 1; 0 where the origin has no lines.
        column: column in that line, from 1.
        source: the text of that line.
        folder: where relative paths at this place are searched first.
        rank: orders the origins: the recipe's own file, then its parents, then overrides.
    """

    origin: str
    line: int = 0
    column: int = 0
    source: str = ""
    folder: Path = Path()
    rank: int = 0


@dataclass(frozen=True)
class Problem:
    """One problem: its place, its key (empty if it has none), and a message with the remedy."""

    mark: Mark
    key: str
    message: str

    @property
    def file(self) -> str:
        """The file, or the override, that holds the problem."""
        return self.mark.origin

    @property
    def line(self) -> int:
        """Line in the file, from 1; 0 where there are no lines."""
        return self.mark.line

    @property
    def column(self) -> int:
        """Column in the line, from 1."""
        return self.mark.column

    @property
    def source(self) -> str:
        """Text of the line."""
        return self.mark.source

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        headline = ": ".join(part for part in (place, self.key, self.message) if part)
        if not self.source.strip():
            return headline
        # A line of a flow mapping can be very long: show the part around the column.
        start = (
            max(0, self.column - _SHOWN_COLUMNS // 2) if len(self.source) > _SHOWN_COLUMNS else 0
        )
        shown = self.source[start : start + _SHOWN_COLUMNS].replace("\t", " ")
        return f"{headline}\n    {shown}\n    {' ' * (self.column - 1 - start)}^"


class RecipeError(UserError):
    """A recipe that cannot be run; `str()` shows all its problems, in file order.

    Attributes:
        problems: the problems, in file order.
    """

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = sorted(dict.fromkeys(problems), key=_place)
        super().__init__("\n".join(map(str, self.problems)))


def dotted(path: KeyPath) -> str:
    """`("model", "attention", "[0]", "name")` as `model.attention[0].name`."""
    return ".".join(path).replace(".[", "[")


def key_path(text: str) -> KeyPath:
    """`model.attention[0].name` as `("model", "attention", "[0]", "name")`."""
    return tuple(re.sub(r"\[(\w+)\]", r".[\1]", text).split("."))


def index_of(key: str) -> int | None:
    """The index of an element of a list, 0 for `[0]`; None for the key of a mapping."""
    found = re.fullmatch(r"\[([0-9]+)\]", key)
    return int(found[1]) if found else None


def _place(problem: Problem) -> tuple[int, int, int]:
    return (problem.mark.rank, problem.line, problem.column)
