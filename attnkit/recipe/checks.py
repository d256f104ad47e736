"""Checks beyond the schema: plugins can be loaded, values fit together, the model can be built.

No data is read. Classes check their options in `__init__`, and the model is built on the meta
device, where tensors have shapes but no memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from attnkit.recipe.errors import KeyPath, Mark, Problem, dotted, key_path
from attnkit.recipe.sections import TrainerOptions
from attnkit.recipe.source import Node, node_of, plain
from attnkit.registry import TASKS, Registry, RegistryError, Spec, home_of, load_plugin, options_of

PluginLoader = Callable[[str, Path], bool]
"""Imports an entry of `plugins`, given the folder that a file is relative to; returns False if it
skips the entry. Raises a RegistryError.
"""


def import_plugin(name: str, folder: Path) -> bool:
    """The loader for recipes that the user names, whose plugins are trusted."""
    load_plugin(name, folder)
    return True


def load_plugins(root: Node, problems: list[Problem], load: PluginLoader) -> tuple[Node, bool]:
    """Imports the entries of `plugins`, relative to the file that lists them.

    Returns:
        The recipe with absolute paths, and whether all plugins were imported.
    """
    plugins = root.value.get("plugins")
    if plugins is None or not isinstance(plugins.value, list | str):
        return root, True
    entries, complete = [], True
    for i, entry in enumerate(plugins.value if isinstance(plugins.value, list) else [plugins]):
        if not isinstance(entry.value, str):
            entries.append(entry)
            continue
        folder = entry.mark.folder.resolve()
        try:
            complete &= load(entry.value, folder)
        except RegistryError as error:
            problems.append(Problem(entry.mark, f"plugins[{i}]", str(error)))
            complete = False
        is_file = entry.value.endswith(".py")
        entries.append(node_of((folder / entry.value).resolve(), entry.mark) if is_file else entry)
    return replace(root, value={**root.value, "plugins": replace(plugins, value=entries)}), complete


def check_named(
    section: str, registry: Registry[Any], spec: Spec, root: Node, problems: list[Problem]
) -> Any:
    """Builds the object that a section names, so that its class checks the values of its options;
    None if that fails.
    """
    return _try(lambda: registry.build(spec), section, spec.options, root, problems)


def complete_tasks() -> dict[str, Any]:
    """Name -> class of the complete tasks; a plugin may register an incomplete one."""
    found = {name: TASKS.get(name) for name in TASKS.names()}
    return {
        name: task
        for name, task in found.items()
        if hasattr(task, "missing_parts") and not task.missing_parts()
    }


def check_task(
    root: Node, keys: type, problems: list[Problem], *, all_names_known: bool
) -> tuple[str, bool]:
    """Finds the task that a recipe names, and checks that it is complete.

    Args:
        root: the recipe.
        keys: the class whose options are the keys of a recipe.
        problems: receives what is wrong.
        all_names_known: False if a plugin failed to load: it may register unknown names.

    Returns:
        The name and whether it is registered; the default one if the named one cannot be used.
    """
    default = options_of(keys)["task"].default
    node = root.value.get("task")
    if node is None or not isinstance(node.value, str):  # the schema refuses it
        return default, True
    name = node.value
    if name not in TASKS.names():
        if not all_names_known:
            return name, False
        try:
            TASKS.get(name)
        except RegistryError as error:
            problems.append(Problem(node.mark, "task", str(error)))
        return default, True
    task = TASKS.get(name)
    message = ""
    if not hasattr(task, "missing_parts"):  # this module cannot import the base class
        message = f"is a {task.__name__} and not a TaskDefinition; derive it from that"
    elif missing := task.missing_parts():
        message = f"lacks {', '.join(missing)}; see attnkit/tasks/definition.py"
    elif name in options_of(keys):
        message = "has the name of a key that every recipe has; choose another name"
    if message:
        problems.append(Problem(node.mark, "task", f"`{name}` of {home_of(task)} {message}"))
    return (default, True) if message else (name, True)


def check_foreign_keys(
    root: Node, task: Any, foreign: Sequence[str], problems: list[Problem]
) -> Node:
    """Refuses the keys of other tasks, and their sections.

    Args:
        root: the recipe.
        task: its task, a class.
        foreign: dotted keys that the task does not take.
        problems: receives what is wrong.

    Returns:
        The recipe without them.
    """
    name_of_task = TASKS.name_of(task)
    for key in foreign:
        path = tuple(key.split("."))
        node = _node_at(root, path)
        # A default may come from a recipe that this one extends.
        default = getattr(TrainerOptions, path[-1], None)
        if node is not None and node.value != default:
            problems.append(Problem(mark_of(root, path), key, task.does_not_take(key)))
    others = [name for name in complete_tasks() if name in root.value and name != name_of_task]
    for name in others:
        message = f"belongs to `task: {name}`, and this is {name_of_task}"
        problems.append(Problem(root.value[name].key_mark, name, message))
    refused = {*foreign, *others}
    return replace(root, value={k: v for k, v in root.value.items() if k not in refused})


def hint_at_section(problem: Problem, root: Node) -> Problem:
    """Adds to the problem of `task: {name: x, ...}` where the options of a task belong."""
    node = root.value.get("task")
    if problem.key != "task" or node is None or not isinstance(node.value, dict):
        return problem
    written = {key: plain(value) for key, value in node.value.items()}
    name = written.pop("name", None)
    if name not in TASKS.names():
        return problem
    message = f"{problem.message}; write `task: {name}`"
    if written:
        message += f", and its options in a section `{name}:` ({', '.join(written)})"
    return replace(problem, message=message)


def hint_at_task(problem: Problem, root: Node) -> Problem:
    """Adds to the problem of unknown data the task that accepts it, if there is one."""
    node = root.value.get("data")
    name = node.value if node is not None else None
    if isinstance(name, dict) and "name" in name:
        name = name["name"].value
    if problem.key not in ("data", "data.name") or not isinstance(name, str):
        return problem
    tasks = [task for task, cls in complete_tasks().items() if name in cls.data.names()]
    if not tasks or not problem.message.startswith("unknown "):
        return problem
    first, *rest = problem.message.split("\n")
    message = f"{first}; `{name}` is data of the task {' and '.join(tasks)}"
    return replace(problem, message="\n".join([message, *rest]))


def check_fit(recipe: Any, root: Node, problems: list[Problem]) -> None:
    """Reports keys that are valid one by one, but do not fit together for the task."""
    for key, message in recipe.definition.check(recipe):
        problems.append(Problem(mark_of(root, tuple(key.split("."))), key, message))


def check_model(task: Any, options: Mapping[str, Any], root: Node, problems: list[Problem]) -> None:
    """Builds the model on the meta device, with example vocabulary sizes."""
    from attnkit.models.shapes_only import shapes_only

    largest, key = _largest(options)
    if largest > LARGEST_SIZE:
        path = ("model", *key)
        message = f"must be at most {LARGEST_SIZE:,}, got {largest:,}"
        problems.append(Problem(mark_of(root, path), dotted(path), message))
        return

    def build() -> Any:
        with shapes_only():
            return task.model_class()(*task.example_sizes, **options)

    model = _try(build, "model", options, root, problems)
    if model is not None and not isinstance(getattr(model, "max_seq_len", None), int):
        message = (
            f"{type(model).__name__} of {home_of(type(model))} lacks the attribute `max_seq_len`, "
            "the number of tokens of its longest sequence"
        )
        problems.append(Problem(mark_of(root, ("model",)), "model", message))


LARGEST_SIZE = 2**26
"""Largest whole number in the section `model`: a count of tokens, features, layers or heads."""


def _largest(value: Any, path: KeyPath = ()) -> tuple[int, KeyPath]:
    """The largest whole number in a part of a recipe, and its key."""
    if isinstance(value, Spec):
        value = value.options
    if isinstance(value, list | tuple):
        value = {f"[{i}]": item for i, item in enumerate(value)}
    if isinstance(value, Mapping):
        found = [_largest(item, (*path, str(key))) for key, item in value.items()]
        return max(found, default=(0, path), key=lambda one: one[0])
    return (value if isinstance(value, int) else 0), path


def check_devices(trainer: Any, root: Node, problems: list[Problem]) -> None:
    """Checks that every device gets an equal share of a batch."""
    size, devices = trainer.batch_size, trainer.devices
    if isinstance(devices, int) and size % devices:
        path = ("trainer", "batch_size")
        message = f"{size} sequences cannot be shared evenly by {devices} devices; take a multiple"
        problems.append(Problem(mark_of(root, path), dotted(path), message))


def check_strategy(
    trainer: TrainerOptions,
    task: Any,
    options: Mapping[str, Any],
    root: Node,
    problems: list[Problem],
) -> None:
    """Checks that fsdp can shard every parameter."""
    path = ("trainer", "strategy")
    message = None
    if trainer.strategy == "fsdp":
        from attnkit.models.shapes_only import shapes_only

        with shapes_only():
            named = task.model_class()(*task.example_sizes, **options).named_parameters()
        numbers = [name for name, parameter in named if parameter.dim() == 0]
        if numbers:
            message = (
                f"fsdp cannot shard {numbers[0]}, a single number; define it as a vector of "
                "one element, or use ddp"
            )
    elif trainer.strategy.startswith("fsdp"):
        message = (
            f"{trainer.strategy} is Lightning's FSDP1, which flattens the weights: optimizers "
            "and gradient clipping no longer see their shapes; use fsdp"
        )
    if message is not None:
        problems.append(Problem(mark_of(root, path), dotted(path), message))


def _try(
    build: Callable[[], Any],
    section: str,
    options: Mapping[str, Any],
    root: Node,
    problems: list[Problem],
) -> Any:
    from attnkit.errors import DataError

    try:
        return build()
    # RuntimeError and OverflowError: a size beyond what torch can count.
    except (ValueError, DataError, RuntimeError, OverflowError) as error:
        message = str(error).partition("\n")[0]
        path = _key_at_fault(section, message, options)
        mark = mark_of(root, path)
        for named in (path, path[1:]) if len(path) > 2 else (path,):
            message = message.removeprefix(f"{dotted(named)} ").removeprefix(f"{dotted(named)}: ")
        problems.append(Problem(mark, dotted(path), message))
        return None


def _key_at_fault(section: str, message: str, options: Mapping[str, Any]) -> KeyPath:
    """The key at the start of a message: a key of the section, or an option of a name in it."""
    words = re.match(r"`?([\w.\[\]]*)", message)
    word = words[1].removeprefix(f"{section}.") if words else ""
    first, *below = key_path(word)
    if first in options:
        return (section, first, *below)
    specs = [
        key for key, value in options.items() if isinstance(value, Spec) and word in value.options
    ]
    return (section, specs[0], word) if len(specs) == 1 else (section,)


def _node_at(root: Node, path: KeyPath) -> Node | None:
    """The node at a key; None if there is none."""
    node = root
    for key in path:
        if not isinstance(node.value, dict) or key not in node.value:
            return None
        node = node.value[key]
    return node


def mark_of(root: Node, path: KeyPath) -> Mark:
    """The place of a key, or else of the nearest section around it."""
    node = root
    for key in path:
        inner = node.value
        if isinstance(inner, list):
            inner = {f"[{i}]": item for i, item in enumerate(inner)}
        if not isinstance(inner, dict) or key not in inner:
            return node.key_mark
        node = inner[key]
    return node.key_mark if isinstance(node.value, dict) else node.mark
