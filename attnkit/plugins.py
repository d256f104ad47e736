"""The plugins of a run: which code it was made with, and whether that code may be run here.

A run keeps `plugins.json`, which names each plugin with its digest, and under `plugins/` a copy of
each plugin file. Loading a run or an exported file imports those copies, but only code that this
user has run before: `run` puts a copy of each plugin file into the cache folder, under
`plugins/<sha256>/`, and what is not found there needs `trust_plugins=True` (`--trust-plugins`).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from attnkit.data.storage import atomic_write, cache_folder, locked
from attnkit.errors import DataError
from attnkit.registry import (
    LAUNCHERS,
    PLUGIN_GROUP,
    REGISTRIES,
    RegistryError,
    import_source,
    imported_source,
    load_plugin,
)

log = logging.getLogger("attnkit")

RECORD = "plugins.json"
FOLDER = "plugins"


class UntrustedPluginError(DataError):
    """A run needs code that this user has never run; the message names files and digests."""


class ChangedPluginError(DataError):
    """A run is to go on with other code than it began with; the message says what changed."""


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """Code that a run was made with.

    Attributes:
        name: as the recipe names it: the path of a file, or a module.
        sha256: of the file, or of all Python files of the module's package.
        file: name of the copy in the run's folder `plugins`; None for a module.
        package: the installed package that a module belongs to, if it is known.
        version: of that package.
    """

    name: str
    sha256: str
    file: str | None = None
    package: str | None = None
    version: str | None = None

    @property
    def words(self) -> str:
        """What it is called, with the digest."""
        known = f"package {self.package} {self.version}, " if self.package else ""
        return f"{self.name} ({known}sha256 {self.sha256})"


def made_with(keys: Mapping[str, Any]) -> list[Plugin]:
    """The plugins of a recipe whose plugins have been imported.

    Args:
        keys: of the recipe, as `to_dict` gives them.
    """
    listed = list(keys["plugins"])
    tops = {name.partition(".")[0] for name in listed if not name.endswith(".py")}
    words = set(_words(keys))
    for registry in REGISTRIES:
        if registry is LAUNCHERS:  # they start runs, and are part of none
            continue
        for name in sorted(words.intersection(registry.names())):
            top = registry.get(name).__module__.partition(".")[0]
            if top not in ("attnkit", "__main__", *tops) and not top.startswith("attnkit_plugin_"):
                tops.add(top)
                listed.append(top)
    return [plugin for name in listed if (plugin := _described(name)) is not None]


def keep(directory: Path, plugins: Sequence[Plugin]) -> None:
    """Writes down, in a run's directory, what the run is made with; copies of earlier versions
    stay.

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


def remember(plugins: Sequence[Plugin]) -> None:
    """Records that this user runs these plugins, so that their runs can be opened."""
    for plugin in plugins:
        content = b"" if plugin.file is None else imported_source(plugin.name)
        if content is not None:
            _remembered(plugin, content)


def read_record(directory: Path) -> list[Plugin] | None:
    """What a run was made with; None if it does not say.

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
    """Reads `plugins.json`; `path` is named in errors.

    Raises:
        DataError: if it is damaged.
    """
    try:
        plugins = [Plugin(**entry) for entry in json.loads(content)]
        for plugin in plugins:
            names = [plugin.name, plugin.sha256]
            names += [x for x in (plugin.file, plugin.package, plugin.version) if x is not None]
            is_name = plugin.file is None or Path(plugin.file).name == plugin.file
            if not all(isinstance(name, str) for name in names) or not is_name:
                raise ValueError("no names")
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is damaged; restore it, or remove the run") from error
    return plugins


def changes(before: Sequence[Plugin] | None, now: Sequence[Plugin]) -> dict[str, str]:
    """Plugin -> what changed since a run began; empty for a run that kept no record. A file that
    has moved is no change.
    """
    if before is None:
        return {}
    code = {plugin.sha256 for plugin in before} & {plugin.sha256 for plugin in now}
    old = {plugin.name: plugin for plugin in before if plugin.sha256 not in code}
    new = {plugin.name: plugin for plugin in now if plugin.sha256 not in code}
    return {
        name: f"plugin {name}: {_short(old.get(name))} -> {_short(new.get(name))}"
        for name in dict.fromkeys([*old, *new])
    }


def refuse_changes(directory: Path, changed: Mapping[str, str]) -> None:
    """Raises an error if a plugin changed.

    Raises:
        ChangedPluginError: with what changed.
    """
    if changed:
        raise ChangedPluginError(
            f"the plugins have changed since the run in {directory} began "
            f"({'; '.join(changed.values())}); bring them back (copies of the files lie in "
            f"{directory / FOLDER}), or add --allow-changes, which shows the difference"
        )


@dataclass
class StoredPlugins:
    """Imports the plugins of a stored run or an exported file; `load` is the loader of its recipe.

    Attributes:
        origin: the run or the file, named in messages.
        record: what it says it was made with.
        copy: name in its folder `plugins` -> text of that file; None: there is none.
        trust: also import code that this user has never run, after showing its digest.
        prefer_originals: take the file that the recipe names, where it is there, not the copy.
        allow_changes: also if it is not what it was, and the run's own plugins have run here.
        refused: what was left out, in words.
    """

    origin: Path
    record: Sequence[Plugin]
    copy: Callable[[str], bytes | None]
    trust: bool = False
    prefer_originals: bool = False
    allow_changes: bool = False
    refused: list[str] = field(default_factory=list)

    @classmethod
    def of_run(cls, directory: Path, **options: Any) -> StoredPlugins:
        """Those of a run's directory."""
        record = read_record(directory) or []
        return cls(directory, record, lambda name: copy_in(directory, name), **options)

    @classmethod
    def of_texts(cls, origin: Path, texts: Mapping[str, str], **options: Any) -> StoredPlugins:
        """Those of an exported file, given the texts in it."""
        record = parse_record(texts[RECORD], origin) if RECORD in texts else []

        def copy(name: str) -> bytes | None:
            text = texts.get(f"{FOLDER}/{name}")
            return None if text is None else text.encode()

        return cls(origin, record, copy, **options)

    def load(self, name: str, folder: Path) -> bool:
        """Imports an entry of the recipe's `plugins`; False if that was refused.

        Raises:
            RegistryError: if it is missing or damaged, or importing it fails.
            ChangedPluginError: if a run goes on and a file is not what it was.
        """
        if not name.endswith(".py"):
            return self._load_module(name)
        path = str((folder / name).resolve())
        content = self._content(path)
        plugin = Plugin(name=path, sha256=hashlib.sha256(content).hexdigest(), file=Path(path).name)
        if not self._is_own_change(plugin) and not self._may_run(plugin):
            return False
        import_source(content, _remembered(plugin, content) or Path(path), known_as=path)
        return True

    def demand(self) -> None:
        """Raises an error if a plugin was refused.

        Raises:
            UntrustedPluginError: with the files and their digests.
        """
        if self.refused:
            shown = "\n".join(f"  {words}" for words in self.refused)
            raise UntrustedPluginError(
                f"{self.origin} needs plugins that have never run on this account:\n{shown}\n"
                "They are code, and nothing of them was run. Read them; if you trust them, add "
                "--trust-plugins (trust_plugins=True)"
            )

    def missing_packages(self) -> list[str]:
        """Installed packages that the run was made with and that are not here."""
        return [
            f"{self.origin} was made with the package {plugin.package} {plugin.version} (module "
            f"{plugin.name}), which is not installed here"
            for plugin in self.record
            if plugin.package is not None and _described(plugin.name) is None
        ]

    def _is_own_change(self, plugin: Plugin) -> bool:
        """True for a file of a run that grew here, if it was edited and that is allowed."""
        before = [x for x in self.record if x.name == plugin.name and x.file is not None]
        if not self.prefer_originals or not before or before[0].sha256 == plugin.sha256:
            return False
        if not _has_run(before[0]):
            return False
        if not self.allow_changes:
            refuse_changes(self.origin, changes(before, [plugin]))
        return True

    def _load_module(self, name: str) -> bool:
        plugin = _described(name)
        if plugin is None:
            known = [x for x in self.record if x.name == name and x.package]
            package = f" (package {known[0].package} {known[0].version})" if known else ""
            raise RegistryError(f"plugin module `{name}`{package} is not installed here")
        if not self._may_run(plugin):
            return False
        load_plugin(name)
        _remembered(plugin, b"")
        return True

    def _content(self, path: str) -> bytes:
        """The text of a plugin file: the copy, which made the weights, or the file itself."""
        known = next((x for x in self.record if x.name == path and x.file is not None), None)
        copy = None if known is None else self.copy(known.file or "")
        if known is not None and copy is not None:
            if hashlib.sha256(copy).hexdigest() != known.sha256:
                raise RegistryError(
                    f"{self.origin}: the copy {FOLDER}/{known.file} of plugin file {path} is "
                    f"damaged (its sha256 differs from {RECORD}); restore it"
                )
            if not (self.prefer_originals and Path(path).is_file()):
                return copy
        if not Path(path).is_file():
            raise RegistryError(
                f"plugin file {path} does not exist, and {self.origin} holds no copy of it"
            )
        return Path(path).read_bytes()

    def _may_run(self, plugin: Plugin) -> bool:
        if _has_run(plugin):
            return True
        if self.trust:
            log.warning("%s: running plugin %s", self.origin, plugin.words)
            return True
        self.refused.append(plugin.words)
        return False


def _described(name: str) -> Plugin | None:
    """A plugin as it is here; None if it is missing. Imports nothing."""
    if name.endswith(".py"):
        content = imported_source(name)
        if content is None:
            return None
        digest, path = hashlib.sha256(content).hexdigest(), Path(name)
        return Plugin(name=name, sha256=digest, file=f"{path.stem}-{digest[:8]}.py")
    top = name.partition(".")[0]
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # ValueError: made by hand, as in a notebook
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
    """The installed package that a top-level module belongs to."""
    offering = _offering_packages().get(top)
    return offering or next(iter(importlib.metadata.packages_distributions().get(top, [])), None)


def _offering_packages() -> dict[str, str]:
    """Top-level module -> package, for the packages that offer plugins."""
    return {
        point.value.partition(":")[0].partition(".")[0]: point.dist.name
        for point in importlib.metadata.entry_points(group=PLUGIN_GROUP)
        if point.dist is not None
    }


def _words(value: Any) -> Iterator[str]:
    """All texts in the values of a recipe."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _words(item)


def _short(plugin: Plugin | None) -> str:
    if plugin is None:
        return "nothing"
    version = f"{plugin.version} " if plugin.version else ""
    return f"{version}sha256 {plugin.sha256[:8]}"


def _key(plugin: Plugin) -> str:
    """Under which name a plugin is remembered: a package in any version, since installing it is a
    decision of its own; all else by its digest.
    """
    if plugin.package is None:
        return plugin.sha256
    return hashlib.sha256(f"package {plugin.package}".encode()).hexdigest()


def _has_run(plugin: Plugin) -> bool:
    if plugin.package is not None and plugin.package in _offering_packages().values():
        return True  # it is imported whenever a name is looked up
    try:
        return cache_folder(FOLDER).joinpath(_key(plugin)).is_dir()
    except DataError:
        return False


def _remembered(plugin: Plugin, content: bytes) -> Path | None:
    """The copy in the user's cache, made if it is missing; None if that cannot be."""
    try:
        path = cache_folder(FOLDER, _key(plugin)) / Path(plugin.name).name
        if plugin.file is not None:
            with locked(path), atomic_write(path) as file:
                file.write(content)
    except (DataError, OSError) as error:
        log.warning("%s; runs with plugin %s will need --trust-plugins", error, plugin.name)
        return None
    return path


def copy_in(directory: Path, name: str) -> bytes | None:
    """The copy of a plugin file that a run keeps; None if it is missing."""
    try:
        return (directory / FOLDER / name).read_bytes()
    except OSError:
        return None
