"""Names to classes: what a recipe may call, which options it takes, and where plugins come from.

Every axis of the kit (mechanism, mask, position, data source, tokenizer, optimizer) is one
`Registry`. A class enters it with a decorator; what a recipe may set on it is read from its
`__init__` (see `options.py`).

Only the standard library is imported here, so that names can be listed before torch is loaded.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import re
import sys
import traceback
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from attnkit.options import (
    LEFT_OUT,
    REQUIRED,
    Option,
    RegistryError,
    Spec,
    options_of,
    parameters_of,
    positional_option,
    suggest,
)

__all__ = [
    "ATTENTION",
    "CALLBACKS",
    "LAUNCHERS",
    "LEFT_OUT",
    "LOGGERS",
    "MASKS",
    "OPTIMIZERS",
    "PAIRS",
    "POSITIONS",
    "REGISTRIES",
    "REQUIRED",
    "SCHEDULES",
    "SOURCES",
    "SYNTHETIC",
    "TOKENIZERS",
    "Option",
    "Registry",
    "RegistryError",
    "Spec",
    "home_of",
    "import_source",
    "imported_source",
    "load_plugin",
    "options_of",
    "suggest",
]

T = TypeVar("T")
P = TypeVar("P", bound=type)

PLUGIN_GROUP = "attnkit.plugins"
"""Entry-point group in which an installed package names the modules that register its plugins."""


class Registry(Generic[T]):
    """Name -> class for one axis.

    The built-in classes live in `package`, one name a file (or all in one module); they are
    imported at the first look-up, together with the plugins of installed packages.

    Args:
        kind: what is registered, in words, for messages ("mask").
        package: dotted name of the package or module with the built-in classes.
        base: path of a class; those derived from it may be named by their own path too, as in
            `lightning.pytorch.callbacks.EarlyStopping`, whether registered or not.
        paths: name -> path of a built-in class that is imported only where it is asked for.
    """

    def __init__(
        self,
        kind: str,
        package: str | None,
        *,
        base: str | None = None,
        paths: Mapping[str, str] | None = None,
    ) -> None:
        self.kind = kind
        self._package = package
        self._base = base
        self._paths = dict(paths or {})
        self._classes: dict[str, type[T]] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[P], P]:
        """Returns a decorator that enters a class under `name` and leaves the class as it is.

        Raises:
            RegistryError: if the name is not snake_case or is taken.
        """
        if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
            raise RegistryError(f"{self.kind} name {name!r} is not snake_case")

        def enter(cls: P) -> P:
            if not f"{cls.__module__}.".startswith(f"{self._package}."):
                self._discover()  # the built-in names come first, so a plugin cannot take one
            taken = self.get(name) if name in self._paths else self._classes.get(name)
            if taken is not None and not _same_definition(taken, cls):
                raise RegistryError(
                    f"{self.kind} `{name}` is already registered by "
                    f"{taken.__module__}.{taken.__qualname__}; choose another name"
                )
            self._classes[name] = typing.cast("type[T]", cls)
            return cls

        return enter

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._discover()
        return sorted({*self._classes, *self._paths})

    def __contains__(self, name: str) -> bool:
        """True if a name is registered, or is the path of a class where that may stand."""
        return self.is_path(name) or name in self.names()

    def is_path(self, name: str) -> bool:
        """True if a name is the path of a class, and this registry takes such."""
        return self._base is not None and "." in name

    def get(self, name: str) -> type[T]:
        """Returns the class registered under `name`, or that at a path.

        Raises:
            RegistryError: if there is none; the message suggests the nearest name and lists all.
        """
        if self._base is not None and self.is_path(name):
            return _class_at(name, self._base, self.kind)
        if name in self._paths and name not in self._classes:
            module, _, attribute = self._paths[name].rpartition(".")
            self._classes[name] = getattr(importlib.import_module(module), attribute)
        self._discover()
        if name not in self._classes:
            message = f"unknown {self.kind} `{name}`{suggest(name, self.names())}"
            message += f" (known: {', '.join(self.names())}"
            message += f"; or the path of a {self._base}" * (self._base is not None) + ")"
            for failure in _entry_point_failures:
                message += f"\n{failure}"
            raise RegistryError(message)
        return self._classes[name]

    def name_of(self, cls: type) -> str:
        """Returns the name under which `cls` is registered, or its class name if it is not."""
        self._discover()
        return next((name for name, known in self._classes.items() if known is cls), cls.__name__)

    def options(self, name: str) -> dict[str, Option]:
        """The keys that a recipe may set for `name`: the keyword-only parameters of its `__init__`.

        A class whose `__init__` ends in `**options` passes them on, so its parent's parameters
        count too.
        """
        cls = self.get(name)
        return parameters_of(cls) if self.is_path(name) else options_of(cls)

    def summary(self, name: str) -> str:
        """First sentence of the class's docstring."""
        unread = name in self._paths and name not in self._classes
        doc = _unread_docstring(self._paths[name]) if unread else inspect.getdoc(self.get(name))
        paragraph = (doc or "").partition("\n\n")[0]
        return re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(paragraph.split()))[0]

    def build(self, spec: Spec | str | Mapping[str, Any], *supplied: Any) -> T:
        """Makes an instance: `supplied` go first by position, the spec's options by keyword.

        Raises:
            RegistryError: if the name or an option is unknown, or a required option is missing.
        """
        spec = Spec.of(spec)
        cls = self.get(spec.name)
        known = self.options(spec.name)
        for key in spec.options:
            if key not in known:
                positional = positional_option(cls, key)
                why = f"; {positional}" if positional else suggest(key, known)
                raise RegistryError(
                    f"{self.kind} `{spec.name}` has no option `{key}`{why} "
                    f"(known: {', '.join(known) or 'none'})"
                )
        for option in known.values():
            if option.default is REQUIRED and option.name not in spec.options:
                raise RegistryError(f"{self.kind} `{spec.name}` needs the option `{option.name}`")
        return cls(*supplied, **spec.options)

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True  # from here on: what is imported below may look up names itself
        try:
            if self._package is not None:
                package = importlib.import_module(self._package)
                for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
                    importlib.import_module(f"{self._package}.{module.name}")
        except BaseException:
            self._discovered = False  # the next look-up fails as well, instead of missing names
            raise
        load_installed_plugins()


def _class_at(path: str, base: str, kind: str) -> type[Any]:
    """The class at a path, which must be derived from the one at another.

    Raises:
        RegistryError: if it cannot be imported, or is none.
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
        raise RegistryError(f"`{path}` is no {kind}: it is not derived from {base}")
    return cls


def _unread_docstring(path: str) -> str | None:
    """The docstring of a class at a path, whose module is not imported for it."""
    module, _, name = path.rpartition(".")
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_bytes())
    found = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    return ast.get_docstring(next(found))


def _missing_package(error: Exception) -> str:
    """The package that is not installed; empty if the error is another."""
    name = (error.name or "") if isinstance(error, ModuleNotFoundError) else ""
    return "" if "." in name else name


def _same_definition(a: type, b: type) -> bool:
    """True if `b` is `a` read again from the same file (say, a module reloaded)."""
    return (a.__module__, a.__qualname__) == (b.__module__, b.__qualname__)


def load_plugin(name: str, folder: Path | None = None) -> ModuleType:
    """Imports a plugin: a file (`my_attention.py`, relative to `folder`) or a module
    (`my_package.attention`).

    A file is imported once a process, however often it is named, and again after it was edited.

    Raises:
        RegistryError: if there is no such file or module, or if importing it fails; the message
            names the line.
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
"""Module name of a plugin file -> the text that was imported."""


def import_source(content: bytes, path: Path, known_as: str | None = None) -> ModuleType:
    """Imports the text of a plugin file. What was read is what is run: Python's own import would
    read the file again, or take compiled code that lies beside it.

    Args:
        content: the text.
        path: where it lies, for tracebacks.
        known_as: path of the file that it is a copy of; None: `path`. It replaces what was imported
            from there.

    Raises:
        RegistryError: if importing it fails; the message names the line.
    """
    module_name = _module_name(known_as or str(path))
    for name, known in _sources.items():
        if known == content and name in sys.modules:  # the same code, wherever it lies
            _sources[module_name] = content
            return sys.modules[name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(module_name)
    sys.modules[module_name] = module
    try:
        exec(compile(content, str(path), "exec", dont_inherit=True), module.__dict__)
    except Exception as error:
        del sys.modules[module_name]
        if before is not None:
            sys.modules[module_name] = before
        raise RegistryError(_import_failure(f"plugin file {path}", error, path)) from error
    _sources[module_name] = content
    return module


def imported_source(path: str) -> bytes | None:
    """The text of a plugin file as this process imported it; None if it did not."""
    return _sources.get(_module_name(path))


def _module_name(path: str) -> str:
    resolved = Path(path).resolve()
    return (
        f"attnkit_plugin_{resolved.stem}_{hashlib.sha256(str(resolved).encode()).hexdigest()[:16]}"
    )


def home_of(cls: type) -> str:
    """Where a class comes from: its module; the file of a plugin that is a file."""
    if cls.__module__.startswith("attnkit_plugin_"):
        return inspect.getfile(cls)
    return "a notebook or script" if cls.__module__ == "__main__" else cls.__module__


_entry_point_failures: list[str] = []
_entry_points_loaded = False


def load_installed_plugins() -> None:
    """Imports what installed packages offer under the entry-point group `attnkit.plugins`.

    A package that fails to import does not take the kit down: the failure is told where a name is
    not found.
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
    """What is told of installed plugins that failed to import, so far."""
    return list(_entry_point_failures)


def _import_failure(what: str, error: Exception, path: Path | None = None) -> str:
    """Says where an import failed: in the file at `path`, where one is given, not deeper down."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if path is not None and Path(f.filename).resolve() == path.resolve()]
    last = (own or frames)[-1]
    where = f"{last.filename}:{last.lineno}: "
    if isinstance(error, SyntaxError):
        where = f"{error.filename}:{error.lineno}: "
    elif last.filename.startswith("<frozen"):
        where = ""
    return f"{what} failed to import: {where}{type(error).__name__}: {error}"


ATTENTION: Registry[Any] = Registry("attention mechanism", "attnkit.attention")
MASKS: Registry[Any] = Registry("mask", "attnkit.masks")
POSITIONS: Registry[Any] = Registry("position encoding", "attnkit.positions")
SOURCES: Registry[Any] = Registry("data source", "attnkit.data.sources")
PAIRS: Registry[Any] = Registry("source of sentence pairs", "attnkit.data.pairs")
SYNTHETIC: Registry[Any] = Registry("synthetic task", "attnkit.data.synthetic")
TOKENIZERS: Registry[Any] = Registry("tokenizer", "attnkit.data.tokenizers")
OPTIMIZERS: Registry[Any] = Registry("optimizer", "attnkit.tasks.optimizers")
SCHEDULES: Registry[Any] = Registry("learning-rate schedule", "attnkit.tasks.schedules")
LAUNCHERS: Registry[Any] = Registry("launcher of trials", "attnkit.ablation.launchers")
LOGGERS: Registry[Any] = Registry(
    "logger", "attnkit.listeners.loggers", base="lightning.pytorch.loggers.Logger"
)
CALLBACKS: Registry[Any] = Registry(
    "callback",
    None,
    base="lightning.pytorch.Callback",
    paths={
        "probe_maps": "attnkit.callbacks.probe_maps.ProbeMaps",
        "samples": "attnkit.callbacks.samples.Samples",
    },
)

REGISTRIES: tuple[Registry[Any], ...] = (
    ATTENTION,
    MASKS,
    POSITIONS,
    SOURCES,
    PAIRS,
    SYNTHETIC,
    TOKENIZERS,
    OPTIMIZERS,
    SCHEDULES,
    LAUNCHERS,
    LOGGERS,
    CALLBACKS,
)
