"""Maps names in recipes to classes, with their options.

Every axis of the kit (task, mechanism, mask, position, data source, tokenizer, optimizer) is one
`Registry`. A decorator registers a class; its options are read from its `__init__` (see
`options.py`).

Imports only the standard library, so that names can be listed before torch is loaded.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import logging
import pkgutil
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from attnkit.registry.importing import (
    class_at,
    home_of,
    installed_plugin_failures,
    is_from_file,
    load_installed_plugins,
    unread_docstring,
)
from attnkit.registry.options import (
    REQUIRED,
    Option,
    RegistryError,
    Spec,
    options_of,
    parameters_of,
    positional_option,
    suggest,
)

log = logging.getLogger("attnkit")

T = TypeVar("T")
P = TypeVar("P", bound=type)


class Registry(Generic[T]):
    """Name -> class for one axis.

    The built-in classes are in `package`, one name per file (or all in one module). They are
    imported at the first look-up, together with the plugins of installed packages.

    Args:
        kind: what is registered, for messages ("mask").
        package: dotted name of the package or module with the built-in classes.
        base: path of a class; those derived from it may be named by their own path too, as in
            `lightning.pytorch.callbacks.EarlyStopping`, whether registered or not.
        paths: name -> path of a built-in class that is imported only when it is needed.
        module: if each name has a folder in the package, the module there that registers it.
        files_may_replace: a plugin file may register a built-in name, which is logged. An older
            plugin and its runs then keep working when the kit adds a mechanism of that name.
    """

    def __init__(
        self,
        kind: str,
        package: str | None,
        *,
        base: str | None = None,
        paths: Mapping[str, str] | None = None,
        module: str | None = None,
        files_may_replace: bool = False,
    ) -> None:
        self.kind = kind
        self._package = package
        self._base = base
        self._paths = dict(paths or {})
        self._module = module
        self._files_may_replace = files_may_replace
        self._classes: dict[str, type[T]] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[P], P]:
        """Returns a decorator that registers a class under `name` and leaves it unchanged.

        Raises:
            RegistryError: if the name is not snake_case or is taken.
        """
        if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
            raise RegistryError(f"{self.kind} name {name!r} is not snake_case")

        def decorate(cls: P) -> P:
            if not f"{cls.__module__}.".startswith(f"{self._package}."):
                self._discover()  # built-in names first, so that a plugin cannot take one
            existing = self.get(name) if name in self._paths else self._classes.get(name)
            if existing is not None and self._may_replace(existing, cls):
                log.warning("%s replaces the built-in %s `%s`", home_of(cls), self.kind, name)
            elif existing is not None and not _same_definition(existing, cls):
                raise RegistryError(
                    f"{self.kind} `{name}` is already registered by "
                    f"{existing.__module__}.{existing.__qualname__}; choose another name"
                )
            self._classes[name] = typing.cast("type[T]", cls)
            return cls

        return decorate

    def _may_replace(self, existing: type, cls: type) -> bool:
        """True if a plugin file registers a built-in name, and may do so."""
        built_in = f"{existing.__module__}.".startswith(f"{self._package}.")
        return self._files_may_replace and built_in and is_from_file(cls)

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
            return class_at(name, self._base, self.kind)
        if name in self._paths and name not in self._classes:
            module, _, attribute = self._paths[name].rpartition(".")
            self._classes[name] = getattr(importlib.import_module(module), attribute)
        self._discover()
        if name not in self._classes:
            message = f"unknown {self.kind} `{name}`{suggest(name, self.names())}"
            message += f" (known: {', '.join(self.names())}"
            message += f"; or the path of a {self._base}" * (self._base is not None) + ")"
            for failure in installed_plugin_failures():
                message += f"\n{failure}"
            raise RegistryError(message)
        return self._classes[name]

    def name_of(self, cls: type) -> str:
        """Returns the name under which `cls` is registered, or its class name if it is not."""
        self._discover()
        return next((name for name, known in self._classes.items() if known is cls), cls.__name__)

    @contextlib.contextmanager
    def known(self, cls: type) -> Iterator[str]:
        """Yields the name of `cls`, which is registered within the block if it is not yet."""
        name = self.name_of(cls)
        registered = self._classes.get(name) is cls
        if not registered:
            name = "not_registered"
            self._classes[name] = typing.cast("type[T]", cls)
        try:
            yield name
        finally:
            if not registered:
                del self._classes[name]

    def options(self, name: str) -> dict[str, Option]:
        """Returns the options of `name`: the keyword-only parameters of its `__init__`, including
        its parents' if it takes `**options`.
        """
        cls = self.get(name)
        return parameters_of(cls) if self.is_path(name) else options_of(cls)

    def summary(self, name: str) -> str:
        """Returns the first sentence of the class's docstring."""
        unread = name in self._paths and name not in self._classes
        doc = unread_docstring(self._paths[name]) if unread else inspect.getdoc(self.get(name))
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
                hint = f"; {positional}" if positional else suggest(key, known)
                raise RegistryError(
                    f"{self.kind} `{spec.name}` has no option `{key}`{hint} "
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


def _same_definition(a: type, b: type) -> bool:
    """True if `b` is the definition of `a`, read again from the same file (a reloaded module)."""
    return (a.__module__, a.__qualname__) == (b.__module__, b.__qualname__)


ATTENTION: Registry[Any] = Registry(
    "attention mechanism", "attnkit.attention", files_may_replace=True
)
MASKS: Registry[Any] = Registry("mask", "attnkit.masks")
POSITIONS: Registry[Any] = Registry("position encoding", "attnkit.positions")
MLPS: Registry[Any] = Registry("MLP", "attnkit.models.mlps")
NORMS: Registry[Any] = Registry("normalisation", "attnkit.norms")
WIRINGS: Registry[Any] = Registry("wiring of a layer", "attnkit.models.wirings")
SOURCES: Registry[Any] = Registry("data source", "attnkit.data.sources")
PAIRS: Registry[Any] = Registry("source of sentence pairs", "attnkit.data.pairs")
SPEECH: Registry[Any] = Registry("source of speech", "attnkit.data.speech")
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
        "contributions": "attnkit.understanding.contributions_callback.Contributions",
        "head_clinic": "attnkit.understanding.clinic_callback.HeadClinic",
        "probe_maps": "attnkit.callbacks.probe_maps.ProbeMaps",
        "qk_clip": "attnkit.callbacks.qk_clip.QKClip",
        "samples": "attnkit.callbacks.samples.Samples",
        "senses": "attnkit.understanding.sense_curves.SenseCurves",
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
    SPEECH,
    SYNTHETIC,
    TOKENIZERS,
    OPTIMIZERS,
    SCHEDULES,
    LAUNCHERS,
    LOGGERS,
    CALLBACKS,
    TASKS,
)
