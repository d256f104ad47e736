"""What a schema cannot say: plugins that load, values that fit together, a model that can be built.

Nothing here touches data: classes check their options when they are made, and the model is made on
the meta device, where tensors have shapes and no memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from attnkit.recipe.errors import KeyPath, Mark, Problem, dotted
from attnkit.recipe.sections import TrainerOptions, TranslationOptions
from attnkit.recipe.source import Node, node_of
from attnkit.registry import SOURCES, TOKENIZERS, Registry, RegistryError, Spec, load_plugin

PluginLoader = Callable[[str, Path], bool]
"""Imports an entry of `plugins`, given the folder that a file is relative to; False: it was left
out. Raises a RegistryError.
"""


def import_plugin(name: str, folder: Path) -> bool:
    """The loader of recipes that a person names: their code is that person's."""
    load_plugin(name, folder)
    return True


def load_plugins(root: Node, problems: list[Problem], load: PluginLoader) -> tuple[Node, bool]:
    """Imports what `plugins` names, relative to the file that names it.

    Returns:
        The recipe with absolute files, and whether all were imported.
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
) -> None:
    """Makes what a section names, so that its class checks the values of its options."""
    _try(lambda: registry.build(spec), section, spec.options, root, problems)


def check_model(
    model_class: type, options: Mapping[str, Any], root: Node, problems: list[Problem]
) -> None:
    """Builds the model on the meta device. The vocabulary, which data decides, changes no rule."""
    from attnkit.models.shapes_only import TooManyModulesError, shapes_only

    largest, key = _largest(options)
    if largest > LARGEST_SIZE:
        path = ("model", *key)
        message = f"{largest:,} is beyond any model; the limit is {LARGEST_SIZE:,}"
        problems.append(Problem(mark_of(root, path), dotted(path), message))
        return

    def build() -> None:
        try:
            with shapes_only():
                model_class(vocab_size=256, **options)
        except TooManyModulesError as error:
            raise ValueError(f"{dotted(key)} {largest:,} makes {error}") from None

    _try(build, "model", options, root, problems)


LARGEST_SIZE = 2**26
"""Of a whole number in the section `model`: what is counted is tokens, features, layers, heads."""


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
    """Each device takes the same share of a batch."""
    size, devices = trainer.batch_size, trainer.devices
    if isinstance(devices, int) and size % devices:
        path = ("trainer", "batch_size")
        message = f"{size} sequences cannot be shared evenly by {devices} devices; take a multiple"
        problems.append(Problem(mark_of(root, path), dotted(path), message))


def check_strategy(
    trainer: TrainerOptions,
    model_class: type,
    options: Mapping[str, Any],
    root: Node,
    problems: list[Problem],
) -> None:
    """What fsdp shares out over the processes can be cut."""
    path = ("trainer", "strategy")
    message = None
    if trainer.strategy == "fsdp":
        from attnkit.models.shapes_only import shapes_only

        with shapes_only():
            named = model_class(vocab_size=256, **options).named_parameters()
        numbers = [name for name, parameter in named if parameter.dim() == 0]
        if numbers:
            message = (
                f"fsdp cannot share out {numbers[0]}, a single number; make it a vector of one "
                "element where it is defined, or take ddp"
            )
    elif trainer.strategy.startswith("fsdp"):
        message = (
            f"{trainer.strategy} is Lightning's FSDP1, whose weights have lost the shapes by which "
            "optimizers and the clipping of gradients go; take fsdp"
        )
    if message is not None:
        problems.append(Problem(mark_of(root, path), dotted(path), message))


def check_length(
    model: Mapping[str, Any], longest: int, root: Node, problems: list[Problem]
) -> None:
    """The model takes the longest sequence of the data."""
    if model["max_seq_len"] < longest:
        path = ("model", "max_seq_len")
        message = (
            f"{model['max_seq_len']} is less than the {longest} tokens of the longest sequence "
            f"(data.length, data.test_lengths); set it to {longest}"
        )
        problems.append(Problem(mark_of(root, path), dotted(path), message))


def check_task(task: str, values: Mapping[str, Any], root: Node, problems: list[Problem]) -> None:
    """What is set belongs to the task, and the vocabularies fit the embeddings."""
    trainer, own = values.get("trainer"), f"belongs to `task: translation`, and this is {task}"
    foreign: dict[KeyPath, str] = {}
    if isinstance(trainer, TrainerOptions):
        if task == "translation" and trainer.batch_size != TrainerOptions.batch_size:
            foreign["trainer", "batch_size"] = "translation counts tokens; set trainer.batch_tokens"
        if task != "translation" and trainer.batch_tokens != TrainerOptions.batch_tokens:
            foreign["trainer", "batch_tokens"] = own
    if task != "translation" and values.get("translation") != TranslationOptions():
        foreign["translation",] = own
    if task != "translation" and values.get("target_tokenizer") is not None:
        foreign["target_tokenizer",] = own
    if task == "language_modeling" and not problems:
        foreign |= _unfit_vocabulary(values["data"], values["tokenizer"])
    if task == "synthetic" and "tokenizer" in root.value:
        foreign["tokenizer",] = "a synthetic task has its own vocabulary; leave this key out"
    model = values.get("model")
    separate = task == "translation" and values.get("target_tokenizer") is not None
    if separate and isinstance(model, Mapping) and model.get("shared_embeddings"):
        foreign["target_tokenizer",] = (
            "source and target have a tokenizer each, so they cannot share embeddings; set "
            "model.shared_embeddings=false, or leave target_tokenizer out"
        )
    for path, message in foreign.items():
        problems.append(Problem(mark_of(root, path), dotted(path), message))


def _unfit_vocabulary(data: Spec, tokenizer: Spec) -> dict[KeyPath, str]:
    """Text needs a vocabulary that reads it; tokens need one that is there already."""
    from attnkit.data.language_modeling import NO_TEXT
    from attnkit.data.sources.base import TokenSource

    made = TOKENIZERS.build(tokenizer)
    if issubclass(SOURCES.get(data.name), TokenSource):
        return {} if made.vocab_size else {("tokenizer",): NO_TEXT}
    needed = "data.{} is text; name the vocabulary's tokenizer.json in tokenizer.file"
    return {} if made.reads_text else {("tokenizer",): needed.format(data.name)}


def _try(
    build: Callable[[], Any],
    section: str,
    options: Mapping[str, Any],
    root: Node,
    problems: list[Problem],
) -> None:
    from attnkit.errors import DataError

    try:
        build()
    # RuntimeError and OverflowError: a size beyond what torch can count.
    except (ValueError, DataError, RuntimeError, OverflowError) as error:
        message = str(error).partition("\n")[0]
        path = _accused(section, message, options)
        mark = mark_of(root, path)
        for named in (path, path[1:]) if len(path) > 2 else (path,):
            message = message.removeprefix(f"{dotted(named)} ").removeprefix(f"{dotted(named)}: ")
        problems.append(Problem(mark, dotted(path), message))


def _accused(section: str, message: str, options: Mapping[str, Any]) -> KeyPath:
    """The key with whose name a message begins: one of the section, or of one name in it."""
    words = re.match(r"`?([\w.]*)", message)
    word = words[1].removeprefix(f"{section}.") if words else ""
    first, *below = word.split(".")
    if first in options:
        return (section, first, *below)
    specs = [
        key for key, value in options.items() if isinstance(value, Spec) and word in value.options
    ]
    return (section, specs[0], word) if len(specs) == 1 else (section,)


def mark_of(root: Node, path: KeyPath) -> Mark:
    """Where a key stands, or the nearest section around it that is written."""
    node = root
    for key in path:
        inner = node.value
        if isinstance(inner, list):
            inner = {f"[{i}]": item for i, item in enumerate(inner)}
        if not isinstance(inner, dict) or key not in inner:
            return node.key_mark
        node = inner[key]
    return node.key_mark if isinstance(node.value, dict) else node.mark
