"""What gets a row: a mechanism, with keys of its model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attnkit.ablation.ranking.protocol import RankError
from attnkit.checks.subjects import PARTS, module_of, names_in
from attnkit.recipe.errors import Mark, Problem
from attnkit.recipe.source import plain, read_value
from attnkit.registry import ATTENTION, MASKS, POSITIONS, home_of, suggest
from attnkit.storage.plugin_record import strings_in

OWN_KEYS = ("mask", "position", "layers")
"""Keys of a model that a row may set, beside the options of its mechanism."""

_BEFORE_A_KEY = re.compile(r"\s+(?=[A-Za-z_][\w.]*=)")


@dataclass(frozen=True)
class Subject:
    """What gets a row: a mechanism, with keys of its model that differ from the protocol's.

    Attributes:
        mechanism: its name.
        plugins: the files or modules that register it and the names in its keys, its own first;
            empty: they come with the kit.
        keys: such as `mask=sliding_window`, in order.
    """

    mechanism: str
    plugins: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its row, and of its runs: `multi_head mask={name: sliding_window, window: 8}`."""
        return " ".join((self.mechanism, *self.keys))

    def changes(self, num_heads: int) -> dict[str, Any]:
        """Returns the keys that give it its place in a study: as many heads as the base, and
        positions unless it tells them apart by itself.
        """
        cls = ATTENTION.get(self.mechanism)
        has_heads = "num_heads" in ATTENTION.options(self.mechanism)
        attention = {"name": self.mechanism, **({"num_heads": num_heads} if has_heads else {})}
        changes: dict[str, Any] = {"model.attention": attention}
        if cls.knows_order or "queries_and_keys" not in cls.position_kinds:
            changes["model.position"] = "none"
        for word in self.keys:
            key, value = self._read(word)
            if key.startswith("attention."):
                attention[key.removeprefix("attention.")] = value
            else:
                changes[f"model.{key}"] = value
        return changes

    def _read(self, word: str) -> tuple[str, Any]:
        """Returns a key and its value, from `mask=sliding_window`.

        Raises:
            RankError: if a row cannot set this key, or the value cannot be read.
        """
        key, _, written = word.partition("=")
        if key == "attention.name":
            raise RankError(
                f"{self.name}: a row begins with its mechanism; write '{written}' instead"
            )
        if key == "attention.num_heads":
            raise RankError(f"{self.name}: every row has the heads of the base; remove {key}")
        options = sorted(set(ATTENTION.options(self.mechanism)) - {"num_heads"})
        own = [*OWN_KEYS, *(f"attention.{option}" for option in options)]
        if ".".join(key.split(".")[: 2 if key.startswith("attention.") else 1]) not in own:
            raise RankError(
                f"{self.name}: a row has no key `{key}`{_meant(key, own)} "
                f"(known: {', '.join(own)}; all others are the protocol's)"
            )
        problems: list[Problem] = []
        node = read_value(written, ("model", *key.split(".")), Mark(f"{self.name!r}"), problems)
        if problems:
            raise RankError(f"{self.name}: {problems[0].message}")
        return key, plain(node)


def _meant(key: str, own: Sequence[str]) -> str:
    """Returns what a key that no row has may stand for."""
    if f"attention.{key}" in own:
        return f"; did you mean `attention.{key}`?"
    if any(key in MASKS.options(name) for name in MASKS.names()):
        return f"; did you mean `mask={{name: NAME, {key}: ...}}`?"
    section = "attention." if key.startswith("attention.") else ""
    keys = (name.removeprefix(section) for name in own if name.startswith(section))
    return suggest(key.removeprefix(section), keys).replace("mean `", f"mean `{section}")


def subjects_named(words: Iterable[str]) -> list[Subject]:
    """Returns the subjects that words name, each once.

    Args:
        words: names, plugin files, modules; each may be followed by keys, as in `multi_head
            mask=causal`. A plugin without a mechanism is one of the rows that use its names.

    Raises:
        RegistryError: if one is unknown.
        RankError: if one is not a mechanism, or has a key that is the protocol's.
    """
    requests = [_split(word) for word in words]
    modules = {what: module_of(what) for what, _ in requests}
    plugins = {
        module: str(Path(what).resolve()) if what.endswith(".py") else what
        for what, module in modules.items()
        if module is not None
    }
    found: dict[str, Subject] = {}
    parts: dict[str, str] = {}
    for what, keys in requests:
        module = modules[what]
        if module is None:
            if what not in ATTENTION.names():
                raise RankError(f"{what} is not a mechanism, so the table has no row for it")
            names = [what]
        else:
            names = names_in(module, ATTENTION)
            if not names and keys:
                raise RankError(
                    f"{what} registers no mechanism that could have keys; name both: "
                    f"attnkit rank {what} 'multi_head {' '.join(keys)}'"
                )
            if not names:
                parts[what] = module
        for name in names:
            named = Subject(name, keys=keys)
            found[named.name] = replace(named, plugins=_plugins_of(named, plugins))
    used = {plugin for subject in found.values() for plugin in subject.plugins}
    for what, module in parts.items():
        if plugins[module] not in used:
            raise RankError(_unused(what, module))
    return list(found.values())


def _split(word: str) -> tuple[str, tuple[str, ...]]:
    """Returns a name, file or module, and its keys in order."""
    what, *keys = _BEFORE_A_KEY.split(word.strip())
    if "=" in what:
        raise RankError(f"{word}: name the mechanism and its keys in one word: 'multi_head {word}'")
    return what, tuple(sorted(key.removeprefix("model.") for key in keys))


def _plugins_of(subject: Subject, plugins: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the plugins that register the names in a row, that of the mechanism first.

    Args:
        subject: the row.
        plugins: module -> plugin, of those that the command names.
    """
    used = dict.fromkeys(strings_in(subject.changes(1)))
    found: dict[str, None] = {}
    for registry in (ATTENTION, MASKS, POSITIONS, *PARTS.values()):
        for cls in (registry.get(name) for name in used if name in registry.names()):
            home = f"{cls.__module__}."
            if not home.startswith("attnkit."):
                named = (plugins[module] for module in plugins if home.startswith(f"{module}."))
                found[next(named, home_of(cls))] = None
    return tuple(found)


def _unused(what: str, module: str) -> str:
    """Returns why a plugin without a mechanism gets no row."""
    keys = [f"mask={name}" for name in names_in(module, MASKS)]
    keys += [f"position={name}" for name in names_in(module, POSITIONS)]
    if not keys:
        return f"{what} registers no mechanism, mask or position, so the table has no row for it"
    return (
        f"{what} registers no mechanism, and no row uses its names; name a row beside it: "
        f"attnkit rank {what} 'multi_head {' '.join(keys)}'"
    )
