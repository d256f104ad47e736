"""Maps names in recipes to classes, with their options, and imports plugins.

Every axis of the kit (task, mechanism, mask, position, data source, tokenizer, optimizer) is one
`Registry`. A decorator registers a class; its options are read from its `__init__` (see
`options.py`).

Imports only the standard library, so that names can be listed before torch is loaded.
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
    "MLPS",
    "NORMS",
    "OPTIMIZERS",
    "PAIRS",
    "POSITIONS",
    "REGISTRIES",
    "REQUIRED",
    "SCHEDULES",
    "SOURCES",
    "SYNTHETIC",
    "TASKS",
    "TOKENIZERS",
    "WIRINGS",
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

    The built-in classes are in `package`, one name per file (or all in one module). They are
    imported at the first look-up, together with the plugins of installed packages.

    Args:
        kind: what is registered, for messages ("mask").
        package: dotted name of the package or module with the built-in classes.
        base: path of a class; those derived from it may be named by their own path too, as in
            `lightning.pytorch.callbacks.EarlyStopping`, whether registered or not.
        paths: name -> path of a built-in class that is imported only where it is asked for.
        module: where each name has a folder in the package: the module there that registers it.
    """

    def __init__(
        self,
        kind: str,
        package: str | None,
        *,
        base: str | None = None,
        paths: Mapping[str, str] | None = None,
        module: str | None = None,
    ) -> None:
        self.kind = kind
        self._package = package
        self._base = base
        self._paths = dict(paths or {})
        self._module = module
        self._classes: dict[str, type[T]] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[P], P]:
        """Returns a decorator that registers a class under `name` and leaves it unchanged.

        Raises:
            RegistryError: if the name is not snake_case or is taken.
        """
        if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
            raise RegistryError(f"{self.kind} name {name!r} is not snake_case")

        def enter(cls: P) -> P:
            if not f"{cls.__module__}.".startswith(f"{self._package}."):
                self._discover()  # built-in names first, so that a plugin cannot take one
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
        """Returns all registered names, sorted."""
        self._discover()
        return sorted({*self._classes, *self._paths})

    def __contains__(self, name: str) -> bool:
        """True if a name is registered, or is a path of a class that the registry accepts."""
        return self.is_path(name) or name in self.names()

    def is_path(self, name: str) -> bool:
        """True if a name is the path of a class, and this registry accepts paths."""
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
        """Returns the options of `name`: the keyword-only parameters of its `__init__`, including
        its parents' if it takes `**options`.
        """
        cls = self.get(name)
        return parameters_of(cls) if self.is_path(name) else options_of(cls)

    def summary(self, name: str) -> str:
        """Returns the first sentence of the class's docstring."""
        unread = name in self._paths and name not in self._classes
        doc = _unread_docstring(self._paths[name]) if unread else inspect.getdoc(self.get(name))
        paragraph = (doc or "").partition("\n\n")[0]
        return re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(paragraph.split()))[0]

    def build(self, spec: Spec | str | Mapping[str, Any], *supplied: Any) -> T:
        """Makes an instance from positional arguments (`supplied`) and the spec's options.

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
        self._discovered = True  # before the imports below, which may look up names themselves
        try:
            if self._package is not None:
                self._import_built_in(self._package)
        except BaseException:
            self._discovered = False  # the next look-up fails again, instead of missing names
            raise
        load_installed_plugins()

    def _import_built_in(self, package: str) -> None:
        found = importlib.import_module(package)
        for entry in pkgutil.iter_modules(getattr(found, "__path__", [])):
            if self._module is None:
                importlib.import_module(f"{package}.{entry.name}")
            elif entry.ispkg:
                importlib.import_module(f"{package}.{entry.name}.{self._module}")


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
    """True if `b` is the definition of `a`, read again from the same file (a reloaded module)."""
    return (a.__module__, a.__qualname__) == (b.__module__, b.__qualname__)


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
        if known == content and name in sys.modules:  # the same code, from any place
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
    """Returns the text of a plugin file as imported by this process; None if it was not."""
    return _sources.get(_module_name(path))


def _module_name(path: str) -> str:
    resolved = Path(path).resolve()
    return (
        f"attnkit_plugin_{resolved.stem}_{hashlib.sha256(str(resolved).encode()).hexdigest()[:16]}"
    )


def home_of(cls: type) -> str:
    """Returns the origin of a class: its module, or the file of a plugin."""
    if cls.__module__.startswith("attnkit_plugin_"):
        return inspect.getfile(cls)
    return "a notebook or script" if cls.__module__ == "__main__" else cls.__module__


_entry_point_failures: list[str] = []
_entry_points_loaded = False


def load_installed_plugins() -> None:
    """Imports what installed packages offer under the entry-point group `attnkit.plugins`.

    A package that fails to import is skipped: the failure is reported where a name is not found.
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
    """Describes a failed import, with the line in the file at `path`, if given, not deeper down."""
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
MLPS: Registry[Any] = Registry("MLP", "attnkit.models.mlps")
NORMS: Registry[Any] = Registry("normalisation", "attnkit.norms")
WIRINGS: Registry[Any] = Registry("wiring of a layer", "attnkit.models.wirings")
SOURCES: Registry[Any] = Registry("data source", "attnkit.data.sources")
PAIRS: Registry[Any] = Registry("source of sentence pairs", "attnkit.data.pairs")
SYNTHETIC: Registry[Any] = Registry("synthetic task", "attnkit.data.synthetic")
TOKENIZERS: Registry[Any] = Registry("tokenizer", "attnkit.data.tokenizers")
OPTIMIZERS: Registry[Any] = Registry("optimizer", "attnkit.training.optimizers")
SCHEDULES: Registry[Any] = Registry("learning-rate schedule", "attnkit.training.schedules")
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
TASKS: Registry[Any] = Registry("task", "attnkit.tasks", module="definition")

REGISTRIES: tuple[Registry[Any], ...] = (
    ATTENTION,
    MASKS,
    POSITIONS,
    MLPS,
    NORMS,
    WIRINGS,
    SOURCES,
    PAIRS,
    SYNTHETIC,
    TOKENIZERS,
    OPTIMIZERS,
    SCHEDULES,
    LAUNCHERS,
    LOGGERS,
    CALLBACKS,
    TASKS,
)
