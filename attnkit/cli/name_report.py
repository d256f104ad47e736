"""What `attnkit list` and `attnkit show` print about registered names."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from attnkit.cli.kernel_report import measure_kernels, show_kernels
from attnkit.cli.recipe_report import show_recipe
from attnkit.console import console
from attnkit.recipe.shipped import located, shipped_claims, shipped_recipes
from attnkit.registry import (
    ATTENTION,
    CALLBACKS,
    LAUNCHERS,
    LOGGERS,
    MASKS,
    MLPS,
    NORMS,
    OPTIMIZERS,
    POSITIONS,
    REGISTRIES,
    REQUIRED,
    SCHEDULES,
    TASKS,
    TOKENIZERS,
    WIRINGS,
    Option,
    Registry,
    RegistryError,
    Spec,
    home_of,
    installed_plugin_failures,
    load_plugin,
    suggest,
)


def _data() -> list[Registry[Any]]:
    """The registries of the data of all tasks."""
    from attnkit.recipe.checks import complete_tasks

    return list(dict.fromkeys(task.data for task in complete_tasks().values()))


KINDS: dict[str, Callable[[], list[Registry[Any]]]] = {
    "tasks": lambda: [TASKS],
    "attention": lambda: [ATTENTION],
    "masks": lambda: [MASKS],
    "positions": lambda: [POSITIONS],
    "mlps": lambda: [MLPS],
    "norms": lambda: [NORMS],
    "wirings": lambda: [WIRINGS],
    "data": _data,
    "tokenizers": lambda: [TOKENIZERS],
    "optimizers": lambda: [OPTIMIZERS],
    "schedules": lambda: [SCHEDULES],
    "launchers": lambda: [LAUNCHERS],
    "loggers": lambda: [LOGGERS],
    "callbacks": lambda: [CALLBACKS],
    "recipes": list,
}
"""Argument of `attnkit list` -> the registries that it lists."""


def show_names(kind: str | None = None, recipes: Path | None = None) -> None:
    """Prints names with their first sentence.

    Args:
        kind: one of `KINDS`, singular or plural; None: all of them.
        recipes: folder whose recipes are listed; None: those that come with the kit.

    Raises:
        RegistryError: if there is no such kind.
    """
    kinds = KINDS if kind is None else {_kind(kind): KINDS[_kind(kind)]}
    for registry in (one for registries in kinds.values() for one in registries()):
        table = _table(registry.kind)
        for name in registry.names():
            table.add_row(name, Text(registry.summary(name)))
        console.print(table)
    for failure in installed_plugin_failures():
        console.print(failure, markup=False)
    if "recipes" in kinds:
        _show_recipes(recipes)


def _kind(word: str) -> str:
    words = {name: name for name in KINDS} | {name.removesuffix("s"): name for name in KINDS}
    if word not in words:
        raise RegistryError(
            f"there is no kind `{word}`{suggest(word, words)} (known: {', '.join(KINDS)})"
        )
    return words[word]


def _show_recipes(folder: Path | None) -> None:
    if folder is None:
        files = shipped_recipes()
    else:
        files = {str(file): file for file in sorted(folder.rglob("*.yaml"))}
    table = _table("recipe")
    for name, file in files.items():
        table.add_row(escape(name), Text(_first_comment(file)))
    if files:
        console.print(table)
    else:
        console.print(f"no recipes under {folder}/", markup=False)


def _table(title: str) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, show_header=False
    )
    table.add_column(style="cyan", no_wrap=True, min_width=18)
    table.add_column()
    return table


def _first_comment(file: Path) -> str:
    """The first sentence of the comment at the top of a recipe."""
    words = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        words.append(line.lstrip("# "))
    sentence, stop, _ = " ".join(words).partition(". ")
    return sentence.rstrip(".") + ("." if stop else "")


def measure(name: str, tokens: Sequence[int], plugins: Sequence[str]) -> None:
    """Times the kernels that can compute a mechanism on this machine, and prints a table.

    Raises:
        RegistryError: if the name is not a mechanism, or a length is below 1.
    """
    for plugin in plugins:
        load_plugin(plugin, Path())
    for length in tokens:
        if length < 1:
            raise RegistryError(f"--tokens must be at least 1, got {length}")
    ATTENTION.get(name)
    measure_kernels(console, name, tokens)


def show(what: str, overrides: Sequence[str], plugins: Sequence[str]) -> None:
    """Prints what a name is or what a recipe costs.

    Raises:
        RegistryError: if it is neither.
        RecipeError: if the recipe has faults.
    """
    if what.endswith((".yaml", ".yml")):
        show_recipe(Path(what), overrides)
        return
    for plugin in plugins:
        load_plugin(plugin, Path())
    matching = [registry for registry in REGISTRIES if what in registry.names()]
    recipe = located(Path(what))
    is_recipe = recipe.is_file()
    if is_recipe and not matching:
        show_recipe(recipe, overrides)
        return
    if not matching:
        known = [name for registry in REGISTRIES for name in registry.names()]
        known += [file.stem for file in shipped_recipes().values()]
        message = (
            f"nothing is called `{what}`{suggest(what, known)} "
            "(`attnkit list` shows all names; the name of a recipe of your own ends in .yaml)"
        )
        raise RegistryError("\n".join([message, *installed_plugin_failures()]))
    for registry in matching:
        _show_name(registry, what)
    if is_recipe:
        name = next((name for name, file in shipped_recipes().items() if file == recipe), what)
        console.print(f"a recipe has this name too: attnkit show {name}", markup=False)


def _show_name(registry: Registry[Any], name: str) -> None:
    cls = registry.get(name)
    doc = (inspect.getdoc(cls) or "").partition("\nArgs:")[0].strip()
    console.print(f"[bold cyan]{name}[/]  [dim]{registry.kind}, {escape(home_of(cls))}[/]")
    console.print(Text(doc))
    if registry is ATTENTION:
        _show_mechanism(cls)
    if registry is MASKS:
        _show_mask(name)
    if registry is TASKS:
        _show_task(name)
    if registry is WIRINGS:
        _show_facts((("formula", vars(cls).get("formula")), ("paper", vars(cls).get("paper"))))
    if name in (claims := shipped_claims()):
        claim = f"a claim about it: attnkit claim {name} (in {claims[name].stem})"
        console.print(claim, style="dim", markup=False)
    _show_options(registry.options(name))
    if registry is ATTENTION:
        show_kernels(console, name)
    console.print()


def _show_mechanism(cls: Any) -> None:
    masks = "any" if cls.mask_names is None else ", ".join(sorted(cls.mask_names))
    masks += " that hides later tokens" * (cls.causal_only and cls.mask_names is None)
    places = ", ".join(sorted(kind.replace("_", " ") for kind in cls.position_kinds))
    rows = (
        ("formula", vars(cls).get("formula")),  # not the parent's, which differs
        ("paper", vars(cls).get("paper")),
        ("roles", ", ".join(f"{role}-attention" for role in sorted(cls.roles, reverse=True))),
        ("masks", masks),
        ("positions", f"acting on {places}"),
        ("map rows", cls.map_rows),
        ("memory", f"grows with {'the square of ' * (cls.memory_order() == 2)}the length"),
    )
    _show_facts(rows)


def _show_facts(rows: Iterable[tuple[str, str | None]]) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for label, text in rows:
        table.add_row(Text(label, style="dim"), Text(text or "not stated"))
    console.print(table)


def _show_task(name: str) -> None:
    from attnkit.recipe.checks import complete_tasks

    if (cls := complete_tasks().get(name)) is None:
        console.print(
            "incomplete; `attnkit run` with this task reports what is missing", markup=False
        )
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    model = cls.model_class()
    for label, text in (
        ("data", f"{cls.data.kind}: {', '.join(cls.data.names())}"),
        ("model", f"{model.__module__}.{model.__qualname__}"),
        ("takes", ", ".join(cls.takes)),
    ):
        table.add_row(Text(label, style="dim"), Text(text))
    console.print(table)


def _show_mask(name: str) -> None:
    """Draws the mask over twelve tokens: rows are queries, columns are keys."""
    import torch

    from attnkit.masks import build_mask

    example: dict[str, Any] = {"name": name}
    if name in ("all_of", "any_of"):
        example["masks"] = ["causal", {"name": "prefix", "length": 4}]
    if name == "sliding_window":
        example["window"] = 4
    if name == "bigbird":
        example |= {"block_size": 1, "num_random": 1}
    mask = build_mask(example).bind(documents=torch.tensor([[0] * 5 + [1] * 7]))
    allowed = mask.dense(12, 12)[0, 0].expand(12, 12)
    options = ", ".join(f"{key}={value}" for key, value in example.items() if key != "name")
    console.print(f"[dim]rows are queries, columns are keys{'; ' + options if options else ''}[/]")
    for row in allowed.tolist():
        console.print("  " + " ".join("■" if cell else "·" for cell in row))


def _show_options(options: dict[str, Option]) -> None:
    if not options:
        console.print("[dim]no options[/]")
        return
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    for column in ("option", "type", "default", "description"):
        table.add_column(column)
    for option in options.values():
        default = "required" if option.default is REQUIRED else yaml_words(option.default)
        table.add_row(option.name, Text(type_words(option.annotation)), default, Text(option.help))
    console.print(table)


def type_words(annotation: Any) -> str:
    """Describes a type annotation to the writer of a recipe."""
    metadata = getattr(annotation, "__metadata__", ())
    for registry in metadata:
        if isinstance(registry, Registry):
            return _named_words(registry.kind, get_args(annotation)[0])
    if metadata:
        return type_words(get_args(annotation)[0])
    words = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path"}
    if annotation in words:
        return words[annotation]
    if annotation is type(None):
        return "null"
    if dataclasses.is_dataclass(annotation):
        return "section"
    arguments = get_args(annotation)
    if not arguments:
        return getattr(annotation, "__name__", str(annotation))
    origin = get_origin(annotation)
    if origin is Literal:
        return " | ".join(map(str, arguments))
    arguments_text = list(
        dict.fromkeys(type_words(argument) for argument in arguments if argument is not ...)
    )
    if origin in _LISTS:
        kind = "tuple" if origin is tuple and ... not in arguments else "list"
        return f"{kind} of {', '.join(arguments_text)}"
    return "mapping" if origin in (dict, Mapping) else " or ".join(arguments_text)


def _named_words(kind: str, annotation: Any) -> str:
    """Describes an annotation that takes a registered name, or a list of them."""
    union = get_origin(annotation) in (Union, UnionType)
    members = get_args(annotation) if union else (annotation,)
    lists = [get_origin(arm) in _LISTS for arm in members if arm is not type(None)]
    if all(lists):
        return f"list ({kind})"
    return f"{kind}, or a list of them" if any(lists) else kind


_LISTS = (list, tuple, Sequence)


def yaml_words(value: Any) -> str:
    """A default as YAML, on one line."""

    def plain(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        if isinstance(value, Spec):
            return {"name": value.name, **value.options} if value.options else value.name
        return str(value) if isinstance(value, Path) else value

    return yaml.safe_dump(plain(value), default_flow_style=True).split("\n")[0]
