"""Imports the plugins of stored runs and exported files, but only code that this user has run
before.

`attnkit run` keeps a copy of each plugin file in the cache folder, under `plugins/<sha256>/`. Other
code needs `trust_plugins=True` (`--trust-plugins`).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attnkit.errors import DataError
from attnkit.registry import RegistryError, import_source, imported_source, load_plugin
from attnkit.storage.files import atomic_write, cache_folder, locked
from attnkit.storage.plugin_record import (
    FOLDER,
    RECORD,
    Plugin,
    changes,
    copy_in,
    describe,
    offering_packages,
    parse_record,
    read_record,
    refuse_changes,
)

log = logging.getLogger("attnkit")


class UntrustedPluginError(DataError):
    """A run needs code that this user has never run; the message lists files and digests."""


@dataclass
class StoredPlugins:
    """Imports the plugins of a stored run or an exported file; `load` is the loader of its recipe.

    Attributes:
        origin: the run or the file, for messages.
        record: its plugins, from `plugins.json`.
        copy: name in its folder `plugins` -> the contents of that file; None: it is missing.
        trust: also import code that this user has never run, after showing its digest.
        prefer_originals: use the file that the recipe names, if it exists, instead of the copy.
        allow_changes: use that file even if it has changed, provided that the old one ran here.
        refused: descriptions of plugins that were not imported.
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
        """Creates the loader of a run's directory."""
        record = read_record(directory) or []
        return cls(directory, record, lambda name: copy_in(directory, name), **options)

    @classmethod
    def of_texts(cls, origin: Path, texts: Mapping[str, str], **options: Any) -> StoredPlugins:
        """Creates the loader of an exported file, given its texts."""
        record = parse_record(texts[RECORD], origin) if RECORD in texts else []

        def copy(name: str) -> bytes | None:
            text = texts.get(f"{FOLDER}/{name}")
            return None if text is None else text.encode()

        return cls(origin, record, copy, **options)

    def load(self, name: str, folder: Path) -> bool:
        """Imports an entry of the recipe's `plugins`; returns False if it was refused.

        Raises:
            RegistryError: if it is missing or damaged, or importing it fails.
            ChangedPluginError: if a run is resumed and a file has changed.
        """
        if not name.endswith(".py"):
            return self._load_module(name)
        path = str((folder / name).resolve())
        content = self._content(path)
        plugin = Plugin(name=path, sha256=hashlib.sha256(content).hexdigest(), file=Path(path).name)
        if not self._is_allowed_change(plugin) and not self._may_run(plugin):
            return False
        import_source(content, _add_to_cache(plugin, content) or Path(path), known_as=path)
        return True

    def demand(self) -> None:
        """Raises an error if a plugin was refused.

        Raises:
            UntrustedPluginError: with the files and their digests.
        """
        if self.refused:
            shown = "\n".join(f"  {plugin}" for plugin in self.refused)
            raise UntrustedPluginError(
                f"{self.origin} needs plugins that have never run on this account:\n{shown}\n"
                "Plugins are code; nothing was run. Read them; if you trust them, add "
                "--trust-plugins (trust_plugins=True)"
            )

    def missing_packages(self) -> list[str]:
        """Returns messages about packages that the run used and that are not installed."""
        return [
            f"{self.origin} was made with the package {plugin.package} {plugin.version} (module "
            f"{plugin.name}), which is not installed here"
            for plugin in self.record
            if plugin.package is not None and describe(plugin.name) is None
        ]

    def _is_allowed_change(self, plugin: Plugin) -> bool:
        """True for an edited plugin of a run from this machine, if changes are allowed."""
        before = [x for x in self.record if x.name == plugin.name and x.file is not None]
        if not self.prefer_originals or not before or before[0].sha256 == plugin.sha256:
            return False
        if not _has_run(before[0]):
            return False
        if not self.allow_changes:
            refuse_changes(self.origin, changes(before, [plugin]))
        return True

    def _load_module(self, name: str) -> bool:
        plugin = describe(name)
        if plugin is None:
            recorded = [x for x in self.record if x.name == name and x.package]
            package = f" (package {recorded[0].package} {recorded[0].version})" if recorded else ""
            raise RegistryError(f"plugin module `{name}`{package} is not installed here")
        if not self._may_run(plugin):
            return False
        load_plugin(name)
        _add_to_cache(plugin, b"")
        return True

    def _content(self, path: str) -> bytes:
        """Returns the contents of a plugin file: the run's copy, or the file itself."""
        recorded = next((x for x in self.record if x.name == path and x.file is not None), None)
        copy = None if recorded is None else self.copy(recorded.file or "")
        if recorded is not None and copy is not None:
            if hashlib.sha256(copy).hexdigest() != recorded.sha256:
                raise RegistryError(
                    f"{self.origin}: the copy {FOLDER}/{recorded.file} of plugin file {path} is "
                    f"damaged (its sha256 differs from {RECORD}); restore it"
                )
            if not (self.prefer_originals and Path(path).is_file()):
                return copy
        if not Path(path).is_file():
            raise RegistryError(
                f"plugin file {path} does not exist, and {self.origin} has no copy of it"
            )
        return Path(path).read_bytes()

    def _may_run(self, plugin: Plugin) -> bool:
        if _has_run(plugin):
            return True
        if self.trust:
            log.warning("%s: running plugin %s", self.origin, plugin.description)
            return True
        self.refused.append(plugin.description)
        return False


def remember(plugins: Sequence[Plugin]) -> None:
    """Records that this user runs these plugins, so that their runs can be opened later."""
    for plugin in plugins:
        content = b"" if plugin.file is None else imported_source(plugin.name)
        if content is not None:
            _add_to_cache(plugin, content)


def _has_run(plugin: Plugin) -> bool:
    if plugin.package is not None and plugin.package in offering_packages().values():
        return True  # imported anyway, when a name is looked up
    try:
        return cache_folder(FOLDER).joinpath(_key(plugin)).is_dir()
    except DataError:
        return False


def _add_to_cache(plugin: Plugin, content: bytes) -> Path | None:
    """Writes the copy in the user's cache, and returns its path; None if that fails."""
    try:
        path = cache_folder(FOLDER, _key(plugin)) / Path(plugin.name).name
        if plugin.file is not None:
            with locked(path), atomic_write(path) as file:
                file.write(content)
    except (DataError, OSError) as error:
        log.warning("%s; runs with plugin %s will need --trust-plugins", error, plugin.name)
        return None
    return path


def _key(plugin: Plugin) -> str:
    """Returns the name of a plugin in the cache: that of its package, in any version, since the
    user has installed it; else the digest of the file or module.
    """
    if plugin.package is None:
        return plugin.sha256
    return hashlib.sha256(f"package {plugin.package}".encode()).hexdigest()
