"""Reads recipe text into nodes that record their place in the file.

PyYAML's loader drops line numbers; its composer keeps them. A `Node` is a value with its mark.
Merging and checking work on nodes, so that a problem can name its file and line.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from attnkit.recipe.errors import KeyPath, Mark, Problem, RecipeError, dotted
from attnkit.recipe.scalars import ScalarTrap, read_plain
from attnkit.recipe.shipped import shipped_recipes
from attnkit.registry import Spec, suggest

_MAX_BYTES = 200_000
_MAX_NODES = 10_000
_MAX_DEPTH = 40
_INVALID_CHARACTER = re.compile("[\0\ud800-\udfff]")  # invalid in paths and in UTF-8
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


class _Unreadable:
    def __repr__(self) -> str:
        return "unreadable"


UNREADABLE: Any = _Unreadable()
"""Value of a node whose problem has been reported already; later checks skip it."""


@dataclass(frozen=True)
class Node:
    """A value of a recipe and its place in the file.

    Attributes:
        value: a scalar, a dict of nodes, a list of nodes, or `UNREADABLE`.
        mark: where the value begins.
        key_mark: where its key begins; `mark` if it has no key.
    """

    value: Any
    mark: Mark
    key_mark: Mark


def read_file(path: Path, rank: int, problems: list[Problem]) -> Node:
    """Reads a recipe file into nodes; reports ambiguous words and duplicate keys in `problems`.

    Args:
        path: the file, as messages name it.
        rank: order of the file among those of the recipe.
        problems: receives what is wrong with single values.

    Raises:
        RecipeError: if the file is missing, empty, or not valid UTF-8 or YAML.
    """
    top = Mark(str(path), folder=path.parent, rank=rank)
    text = _read_text(path, top)
    lines = _LINE_BREAK.split(text)

    def mark(line: int, column: int) -> Mark:
        source = lines[line] if line < len(lines) else ""
        return replace(top, line=line + 1, column=column + 1, source=source)

    node = _compose(text, (), lambda at: mark(at.line, at.column), top, problems)
    if node is None:
        raise RecipeError([Problem(top, "", "the recipe is empty; see recipes/ for examples")])
    return node


def read_value(text: str, path: KeyPath, mark: Mark, problems: list[Problem]) -> Node:
    """Reads the value of an override, written as YAML on one line.

    Raises:
        RecipeError: if it is not valid YAML.
    """
    node = _compose(text, path, lambda at: mark, mark, problems)
    return node or Node(None, mark, mark)


def node_of(value: Any, mark: Mark, key_mark: Mark | None = None) -> Node:
    """Wraps plain Python values (a default, an interpolated value) into nodes at one mark."""
    key_mark = key_mark or mark
    if isinstance(value, Spec):
        value = {"name": value.name, **value.options}
    if dataclasses.is_dataclass(value):
        value = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        children = {str(key): node_of(item, mark, key_mark) for key, item in value.items()}
        return Node(children, mark, key_mark)
    if isinstance(value, list | tuple):
        return Node([node_of(item, mark) for item in value], mark, key_mark)
    return Node(str(value) if isinstance(value, Path) else value, mark, key_mark)


def plain(node: Node) -> Any:
    """The values without marks; None for unreadable ones."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return None if node.value is UNREADABLE else node.value


def _read_text(path: Path, top: Mark) -> str:
    def fail(message: str, line: int = 0) -> RecipeError:
        return RecipeError([Problem(replace(top, line=line, column=min(line, 1)), "", message)])

    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)  # a device may be endless
    except IsADirectoryError:
        raise fail("this is a folder; name a recipe file in it") from None
    except FileNotFoundError:
        raise fail(_missing(path)) from None
    except OSError as error:
        raise fail(f"cannot be read: {error.strerror}") from None
    if len(content) > _MAX_BYTES:
        raise fail(f"the file has more than {_MAX_BYTES:,} bytes, too many for a recipe")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise fail(f"byte 0x{byte:02x} is not valid UTF-8; save the file as UTF-8", line) from None


def _missing(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    near = sorted(other.name for other in path.parent.glob("*.yaml"))[:8]
    message = "there is no such file" + (f"; the folder has {', '.join(near)}" if near else "")
    # Suggestions are for misspelt names; a file name is not the name of a recipe of the kit.
    is_name = not path.suffix or path.parts[0] == "recipes"
    stems = [file.stem for file in shipped_recipes().values()] if is_name else []
    return message + suggest(path.stem, stems) + " (`attnkit recipes` lists the recipes of attnkit)"


def _compose(
    text: str,
    path: KeyPath,
    place: Callable[[yaml.Mark], Mark],
    top: Mark,
    problems: list[Problem],
) -> Node | None:
    key = dotted(path)
    try:
        # The pure Python loader: with deep nesting it raises, while the C loader ends the process.
        loader = yaml.SafeLoader(text)
        composed = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        hint = "; indent with spaces" if "'\\t'" in str(error.problem) else ""
        words = ", ".join(str(part) for part in (error.context, error.problem) if part)
        message = f"this is not valid YAML: {words}{hint}"
        raise RecipeError([Problem(place(at) if at else top, key, message)]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position)
        column = error.position - (text.rfind("\n", 0, error.position) + 1)
        mark = place(yaml.Mark("", error.position, line, column, None, 0))
        message = f"the character {chr(int(error.character))!a} is not allowed"
        raise RecipeError([Problem(mark, key, message)]) from None
    except RecursionError:
        raise RecipeError([Problem(top, key, "nested too deeply to be a recipe")]) from None
    if composed is None:
        return None
    return _Builder(loader, place, problems).build(composed, path, None)


class _Builder:
    """Turns composed YAML into nodes, once for each use of an alias."""

    def __init__(
        self, loader: yaml.SafeLoader, place: Callable[[yaml.Mark], Mark], problems: list[Problem]
    ) -> None:
        self._loader = loader
        self._place = place
        self._problems = problems
        self._built = 0

    def build(self, composed: yaml.Node, path: KeyPath, key_mark: Mark | None) -> Node:
        """Returns the node for composed YAML at `path`."""
        mark = self._place(composed.start_mark)
        self._limit(path, mark)
        if composed.tag != self._implicit_tag(composed):
            tag = composed.tag.replace("tag:yaml.org,2002:", "!!")
            value = self._refuse(
                mark, path, f"the tag `{tag}` is not allowed; write the plain value"
            )
        elif isinstance(composed, yaml.MappingNode):
            value = self._mapping(composed, path)
        elif isinstance(composed, yaml.SequenceNode):
            value = [
                self.build(item, (*path, f"[{i}]"), None) for i, item in enumerate(composed.value)
            ]
        else:
            value = self._scalar(composed, mark, path)
        return Node(value, mark, key_mark or mark)

    def _mapping(self, composed: yaml.MappingNode, path: KeyPath) -> dict[str, Node]:
        children: dict[str, Node] = {}
        for key_node, value_node in composed.value:
            mark = self._place(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse(mark, path, "a key must be a word")
                continue
            # Keys keep their text: `on` and `1` are words here.
            key = key_node.value
            if key == "<<":
                self._refuse(mark, path, "merge keys (`<<`) are not supported; use `extends`")
            elif key in children:
                first = children[key].key_mark
                where = f" is in line {first.line}" if first.line else ""
                self._refuse(mark, (*path, key), f"this key occurs twice; the first{where}")
            else:
                children[key] = self.build(value_node, (*path, key), mark)
        return children

    def _scalar(self, composed: yaml.Node, mark: Mark, path: KeyPath) -> Any:
        if found := _INVALID_CHARACTER.search(composed.value):  # from an escape in quotes
            return self._refuse(mark, path, f"the character {found[0]!a} is not allowed")
        if composed.style is not None:  # pyright: ignore[reportAttributeAccessIssue]
            return composed.value
        try:
            return read_plain(composed.value)
        except ScalarTrap as trap:
            return self._refuse(mark, path, str(trap))

    def _implicit_tag(self, composed: yaml.Node) -> str:
        style = getattr(composed, "style", None)
        return self._loader.resolve(
            type(composed), composed.value, (style is None, style is not None)
        )

    def _refuse(self, mark: Mark, path: KeyPath, message: str) -> Any:
        self._problems.append(Problem(mark, dotted(path), message))
        return UNREADABLE

    def _limit(self, path: KeyPath, mark: Mark) -> None:
        self._built += 1
        if self._built > _MAX_NODES:
            message = f"aliases expand to more than {_MAX_NODES:,} values"
            raise RecipeError([Problem(mark, dotted(path), message)])
        if len(path) > _MAX_DEPTH:
            message = (
                f"nested more than {_MAX_DEPTH} levels deep (or an alias that contains itself)"
            )
            raise RecipeError([Problem(mark, dotted(path[:4]), message)])
