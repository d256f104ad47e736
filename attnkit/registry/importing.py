"""Imports plugins and classes by path.

This module itself imports only the standard library.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
import traceback
from abc import ABCMeta
from pathlib import Path
from types import ModuleType
from typing import Any

from attnkit.registry.options import RegistryError

PLUGIN_GROUP = "attnkit.plugins"
"""Entry-point group in which an installed package names the modules that register its plugins."""

_PREFIX = "attnkit_plugin_"
"""Prefix of the module names of plugin files."""


def load_plugin(name: str, folder: Path | None = None) -> ModuleType:
    """Imports a plugin: a file (`my_attention.py`, relative to `folder`) or a module
    (`my_package.attention`).

    A file is imported once per process, and again after it has been edited.

    Raises:
        RegistryError: if the file or module does not exist, or its import fails; the message names
            the line.
    """
    if not name.endswith(".py"):
        try:
            return importlib.import_module(name)
        except Exception as error:
            raise RegistryError(_import_failure(f"plugin module `{name}`", error)) from error
    path = (folder or Path()) / name
    if not path.is_file():
        raise RegistryError(f"plugin file {path} does not exist")
    return import_source(path.read_bytes(), path)


_sources: dict[str, bytes] = {}
"""Module name of a plugin file -> the imported text."""


def import_source(content: bytes, path: Path, known_as: str | None = None) -> ModuleType:
    """Imports the text of a plugin file.

    Args:
        content: the text.
        path: its path, for tracebacks.
        known_as: path of the file that it is a copy of; None: `path`. It replaces an earlier import
            of that file.

    Raises:
        RegistryError: if the import fails; the message names the line.
    """
    # Python's own import would read the file again, or use compiled code beside it.
    module_name = _module_name(known_as or str(path))
    for name, known in _sources.items():
        if known == content and name in sys.modules:  # the same code, from any path
            _sources[module_name] = content
            return sys.modules[name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    previous = sys.modules.get(module_name)
    sys.modules[module_name] = module
    try:
        exec(compile(content, str(path), "exec", dont_inherit=True), module.__dict__)
    except Exception as error:
        del sys.modules[module_name]
        if previous is not None:
            sys.modules[module_name] = previous
        raise RegistryError(_import_failure(f"plugin file {path}", error, path)) from error
    _sources[module_name] = content
    return module


def imported_source(path: str) -> bytes | None:
    """Returns the text of a plugin file as imported by this process; None if it was not."""
    return _sources.get(_module_name(path))


def _module_name(path: str) -> str:
    resolved = Path(path).resolve()
    return f"{_PREFIX}{resolved.stem}_{hashlib.sha256(str(resolved).encode()).hexdigest()[:16]}"


def is_from_file(cls: type) -> bool:
    """True for a class that a plugin file defines."""
    return cls.__module__.startswith(_PREFIX)


def line_of_plugin(error: BaseException) -> str | None:
    """Returns `file:line`, the innermost line of a plugin file in an error's traceback; None if
    there is none.
    """
    last = None
    for frame, number in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__", "")).startswith(_PREFIX):
            last = f"{frame.f_code.co_filename}:{number}"
    return last


class Initialised(ABCMeta):
    """Metaclass of base classes that are modules of torch. A subclass whose `__init__` does not
    call `super().__init__` first is a `RegistryError`, which names the line of that `__init__`.
    """

    def __call__(cls, *arguments: Any, **options: Any) -> Any:
        error = None
        try:
            made = super().__call__(*arguments, **options)
            if "_parameters" in vars(made):
                return made
        except AttributeError as raised:
            if "before Module.__init__() call" not in str(raised):
                raise
            error = raised
        code = inspect.unwrap(cls.__init__).__code__
        raise RegistryError(
            f"{code.co_filename}:{code.co_firstlineno}: {cls.__name__}.__init__ must call "
            "super().__init__(...), with the arguments that it does not use itself, before it sets "
            "attributes"
        ) from error


def home_of(cls: type) -> str:
    """Returns the origin of a class: its module, or the file of a plugin."""
    if is_from_file(cls):
        return inspect.getfile(cls)
    return "a notebook or script" if cls.__module__ == "__main__" else cls.__module__


_entry_point_failures: list[str] = []
_entry_points_loaded = False


def load_installed_plugins() -> None:
    """Imports the plugins of installed packages (entry-point group `attnkit.plugins`).

    A package that fails to import is skipped; the failure is reported when a name is not found.
    """
    global _entry_points_loaded
    if _entry_points_loaded:
        return
    _entry_points_loaded = True
    for point in importlib.metadata.entry_points(group=PLUGIN_GROUP):
        try:
            point.load()
        except Exception as error:
            package = point.dist.name if point.dist else point.value
            _entry_point_failures.append(_import_failure(f"installed plugin `{package}`", error))


def installed_plugin_failures() -> list[str]:
    """Returns the failures of installed plugins so far."""
    return list(_entry_point_failures)


def _import_failure(what: str, error: Exception, path: Path | None = None) -> str:
    """Describes a failed import, with its line: if `path` is given, the innermost in that file."""
    frames = traceback.extract_tb(error.__traceback__)
    in_file = [
        f for f in frames if path is not None and Path(f.filename).resolve() == path.resolve()
    ]
    last = (in_file or frames)[-1]
    where = f"{last.filename}:{last.lineno}: "
    if isinstance(error, SyntaxError):
        where = f"{error.filename}:{error.lineno}: "
    elif last.filename.startswith("<frozen"):
        where = ""
    package = _missing_package(error)
    remedy = f" (pip install {package}, or the package that has this module)" if package else ""
    return f"{what} failed to import: {where}{type(error).__name__}: {error}{remedy}"


def class_at(path: str, base: str, kind: str) -> type[Any]:
    """Returns the class at a path, which must be derived from the class at `base`.

    Raises:
        RegistryError: if it cannot be imported, or is not derived from `base`.
    """

    def imported(dotted: str) -> Any:
        module, _, name = dotted.rpartition(".")
        return getattr(importlib.import_module(module), name)

    try:
        cls = imported(path)
    except (ImportError, AttributeError, ValueError) as error:
        missing = f"pip install {package}; " if (package := _missing_package(error)) else ""
        raise RegistryError(
            f"there is no {kind} at `{path}`: {missing}{type(error).__name__}: {error}"
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, imported(base))):
        raise RegistryError(f"`{path}` is not a {kind}: it is not derived from {base}")
    return cls


def unread_docstring(path: str) -> str | None:
    """Returns the docstring of a class at a path, without importing its module."""
    module, _, name = path.rpartition(".")
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_bytes())
    found = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    return ast.get_docstring(next(found))


def _missing_package(error: Exception) -> str:
    """Returns the package that is not installed; empty for another error."""
    name = (error.name or "") if isinstance(error, ModuleNotFoundError) else ""
    return "" if "." in name else name
