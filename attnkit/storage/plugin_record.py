"""The record of a run's plugins: `plugins.json` names each one with its digest, `plugins/` has
copies of the files.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attnkit.errors import DataError
from attnkit.registry import LAUNCHERS, PLUGIN_GROUP, REGISTRIES, imported_source
from attnkit.storage.files import atomic_write, parse_json

RECORD = "plugins.json"
FOLDER = "plugins"


class ChangedPluginError(DataError):
    """The code of a run has changed since it began; the message lists the changes."""


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """Code that a run uses.

    Attributes:
        name: name in the recipe: the path of a file, or a module.
        sha256: digest of the file, or of all Python files of the module's package.
        file: name of the copy in the run's folder `plugins`; None for a module.
        package: the installed package of a module, if it is known.
        version: version of that package.
    """

    name: str
    sha256: str
    file: str | None = None
    package: str | None = None
    version: str | None = None

    @property
    def description(self) -> str:
        """Name and digest, for messages."""
        known = f"package {self.package} {self.version}, " if self.package else ""
        return f"{self.name} ({known}sha256 {self.sha256})"


def made_with(keys: Mapping[str, Any]) -> list[Plugin]:
    """Returns the plugins that a recipe uses, after they have been imported.

    Args:
        keys: keys of the recipe, from `to_dict`.
    """
    names = list(keys["plugins"])
    top_modules = {name.partition(".")[0] for name in names if not name.endswith(".py")}
    words = set(strings_in(keys))
    for registry in REGISTRIES:
        if registry is LAUNCHERS:  # not part of a run
            continue
        for name in sorted(words.intersection(registry.names())):
            top = registry.get(name).__module__.partition(".")[0]
            if top not in ("attnkit", "__main__", *top_modules) and not top.startswith(
                "attnkit_plugin_"
            ):
                top_modules.add(top)
                names.append(top)
    return [plugin for name in names if (plugin := describe(name)) is not None]


def keep(directory: Path, plugins: Sequence[Plugin]) -> None:
    """Writes the record and copies of the files to a run's directory; earlier copies remain.

    Raises:
        DataError: if it cannot be written.
    """
    if not plugins and not (directory / RECORD).exists():
        return
    for plugin in plugins:
        content = imported_source(plugin.name)
        if plugin.file is not None and content is not None:
            (directory / FOLDER).mkdir(exist_ok=True)
            with atomic_write(directory / FOLDER / plugin.file) as file:
                file.write(content)
    with atomic_write(directory / RECORD) as file:
        file.write(json.dumps([asdict(plugin) for plugin in plugins], indent=2).encode())


def read_record(directory: Path) -> list[Plugin] | None:
    """Reads the record of a run; None if there is none.

    Raises:
        DataError: if the record is damaged.
    """
    path = directory / RECORD
    try:
        return parse_record(path.read_bytes(), path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def parse_record(content: str | bytes, path: Path) -> list[Plugin]:
    """Parses `plugins.json`; errors name `path`.

    Raises:
        DataError: if it is damaged.
    """
    try:
        plugins = [Plugin(**entry) for entry in parse_json(content)]
        for plugin in plugins:
            names = [plugin.name, plugin.sha256]
            names += [x for x in (plugin.file, plugin.package, plugin.version) if x is not None]
            is_name = plugin.file is None or Path(plugin.file).name == plugin.file
            if not all(isinstance(name, str) for name in names) or not is_name:
                raise ValueError("not names")
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is damaged; restore it, or remove the run") from error
    return plugins


def copy_in(directory: Path, name: str) -> bytes | None:
    """Returns a run's copy of a plugin file; None if it is missing."""
    try:
        return (directory / FOLDER / name).read_bytes()
    except OSError:
        return None


def changes(before: Sequence[Plugin] | None, now: Sequence[Plugin]) -> dict[str, str]:
    """Returns plugin -> its change since a run began; empty for a run without a record. A moved
    file has not changed.
    """
    if before is None:
        return {}
    code = {plugin.sha256 for plugin in before} & {plugin.sha256 for plugin in now}
    old = {plugin.name: plugin for plugin in before if plugin.sha256 not in code}
    new = {plugin.name: plugin for plugin in now if plugin.sha256 not in code}
    return {
        name: f"plugin {name}: {_short_version(old.get(name))} -> {_short_version(new.get(name))}"
        for name in dict.fromkeys([*old, *new])
    }


def refuse_changes(directory: Path, changed: Mapping[str, str]) -> None:
    """Raises an error if a plugin changed.

    Raises:
        ChangedPluginError: with the changes.
    """
    if changed:
        raise ChangedPluginError(
            f"the plugins have changed since the run in {directory} began "
            f"({'; '.join(changed.values())}); restore them (copies of the files are in "
            f"{directory / FOLDER}), or add --allow-changes, which shows the difference"
        )


def describe(name: str) -> Plugin | None:
    """Returns a plugin as installed here, without importing it; None if it is missing."""
    if name.endswith(".py"):
        content = imported_source(name)
        if content is None:
            return None
        digest, path = hashlib.sha256(content).hexdigest(), Path(name)
        return Plugin(name=name, sha256=digest, file=f"{path.stem}-{digest[:8]}.py")
    top = name.partition(".")[0]
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # ValueError: a module without a spec, as in a notebook
        return None
    if spec is None:
        return None
    folders = [Path(folder) for folder in spec.submodule_search_locations or []]
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    if not folders and spec.origin is not None and Path(spec.origin).is_file():
        files = [Path(spec.origin)]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    package = _package_of(top)
    version = None if package is None else importlib.metadata.version(package)
    return Plugin(name=name, sha256=digest.hexdigest(), package=package, version=version)


def _package_of(top: str) -> str | None:
    """Returns the installed package of a top-level module."""
    offering = offering_packages().get(top)
    return offering or next(iter(importlib.metadata.packages_distributions().get(top, [])), None)


def offering_packages() -> dict[str, str]:
    """Returns top-level module -> package, for packages that offer plugins."""
    return {
        point.value.partition(":")[0].partition(".")[0]: point.dist.name
        for point in importlib.metadata.entry_points(group=PLUGIN_GROUP)
        if point.dist is not None
    }


def strings_in(value: Any) -> Iterator[str]:
    """Yields all strings in the values of a recipe, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from strings_in(item)


def _short_version(plugin: Plugin | None) -> str:
    if plugin is None:
        return "nothing"
    version = f"{plugin.version} " if plugin.version else ""
    return f"{version}sha256 {plugin.sha256[:8]}"
