"""What a task is: the contract between it and recipes, runs, commands. Loads no Lightning.

A task has two parts. Its `TaskDefinition`, registered in `TASKS`, says what a recipe of it holds,
and how data, model and trained runs are made; its `Task` (`training/task.py`) is the
LightningModule that trains. They are apart because most commands need the first alone, and
Lightning takes seconds to import.
"""

from __future__ import annotations

import importlib
import inspect
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from attnkit.hardware import compiles
from attnkit.recipe.checks import whole_tasks
from attnkit.registry import OPTIMIZERS, SCHEDULES, TASKS, Registry, Spec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from attnkit.data.task_data import TaskData
    from attnkit.recipe import Recipe
    from attnkit.trained_run import TrainedRun
    from attnkit.training.task import Task


class Row(NamedTuple):
    """A line of the table that a run ends with.

    Attributes:
        label: what the number is.
        number: as it is shown.
        is_dim: shown in grey.
        begins_section: a line is drawn above it.
    """

    label: str
    number: str
    is_dim: bool = False
    begins_section: bool = False


class TaskDefinition(ABC):
    """What the kit asks of a task.

    The keyword-only parameters of `__init__` are the keys of the recipe's section that is called as
    the task is: `task: mine` and `mine: {weight: 0.5}`. An instance is one recipe's task, with
    those values; it touches no data.

    A subclass sets `data`, `default_data`, `model` and `module`, and overrides `build_data`; all
    else has defaults.

    Attributes:
        data: registry of what the section `data` may name.
        default_data: what it names by default.
        model: class of the model, or "package.module:Class"; its keyword-only parameters are the
            keys of the section `model`, and the data's `vocab_sizes` its positional ones. It has an
            attribute `max_seq_len`, the tokens of its longest sequence. Layers in a `Stack` are
            counted one by one (`attnkit show`, `compare`), other weights as two FLOPs a token.
        module: the `Task`, or "package.module:Class", which loads it when a run begins.
        example_sizes: `vocab_sizes` that stand for those of the data where a recipe is checked.
        run_class: what `load_run` returns, a `TrainedRun`, or "package.module:Class".
        takes: keys that not every task has, out of `tokenizer`, `target_tokenizer`,
            `trainer.batch_size` and `trainer.batch_tokens`.
        loads_with: sections of the recipe that a trained model cannot be opened without.
        lower_is_better: metric -> which way is better, where its name does not say it (`loss`,
            `perplexity`, `bits`, `error`: lower; anything else: higher).
    """

    data: ClassVar[Registry[Any]]
    default_data: ClassVar[Spec]
    model: ClassVar[type | str]
    module: ClassVar[type | str]
    example_sizes: ClassVar[tuple[int, ...]] = (256,)
    run_class: ClassVar[type | str] = "attnkit.trained_run:TrainedRun"
    takes: ClassVar[tuple[str, ...]] = ("trainer.batch_size",)
    loads_with: ClassVar[tuple[str, ...]] = ("model", "data")
    lower_is_better: ClassVar[Mapping[str, bool]] = {}

    @property
    def name(self) -> str:
        """The name under which the task is registered."""
        return TASKS.name_of(type(self))

    # What a recipe may say

    @classmethod
    def missing_parts(cls) -> list[str]:
        """What a subclass still has to set or to override, as words of its code."""
        needed = ("data", "default_data", "model", "module")
        missing = [f"the class attribute `{name}`" for name in needed if not hasattr(cls, name)]
        missing += [f"the method `{name}`" for name in sorted(cls.__abstractmethods__)]
        module = getattr(cls, "module", "")
        if inspect.isclass(module):
            methods = sorted(getattr(module, "__abstractmethods__", ()))
            missing += [f"the method `{name}` of {module.__name__}" for name in methods]
        return missing

    def check(self, recipe: Recipe) -> Iterable[tuple[str, str]]:
        """Yields what is wrong with a recipe whose keys are each right by themselves: the dotted
        key, what is wrong with it and how to fix it. Default: nothing.
        """
        return ()

    @classmethod
    def does_not_take(cls, key: str) -> str:
        """Says why a recipe of this task cannot have a key that is not among `takes`."""
        name = TASKS.name_of(cls)
        if key == "trainer.batch_size":
            return f"{name} counts tokens; set trainer.batch_tokens"
        owners = [other for other, task in whole_tasks().items() if key in task.takes]
        return f"belongs to `task: {' or '.join(owners)}`, and this is {name}"

    # Data, model and module

    @abstractmethod
    def build_data(self, recipe: Recipe) -> TaskData:
        """The data that a recipe names; nothing is read yet."""

    def sizes(self, recipe: Recipe) -> tuple[tuple[int, ...], str]:
        """What the model is built for, before there is data: `vocab_sizes`, or a guess, and where
        the numbers are from. Default: `example_sizes`.
        """
        return self.example_sizes, "assumed"

    @classmethod
    def model_class(cls) -> type:
        """The class of the model."""
        return loaded(cls.model)

    def build_model(self, recipe: Recipe, *sizes: int) -> Any:
        """The model that a recipe describes, with weights drawn from its seed."""
        import torch

        torch.manual_seed(recipe.seed)
        return self.model_class()(*sizes, **recipe.model)

    def build_task(self, recipe: Recipe, model: nn.Module, data: TaskData) -> Task:
        """The model with its losses, its data and its optimizer."""
        return loaded(self.module)(
            model,
            data,
            OPTIMIZERS.build(recipe.optimizer),
            SCHEDULES.build(recipe.schedule),
            definition=self,
            max_steps=recipe.trainer.max_steps,
            accumulate=recipe.trainer.accumulate,
            num_workers=recipe.trainer.num_workers,
            seed=recipe.seed,
            gradient_clip=recipe.trainer.gradient_clip,
            compile_model=compiles(recipe.trainer.compile, recipe.trainer.accelerator),
            **self.module_options(recipe),
        )

    def module_options(self, recipe: Recipe) -> dict[str, Any]:
        """Keyword arguments of `module`, besides those of every `Task`. Default: none."""
        return {}

    def tokens_per_batch(self, recipe: Recipe, max_seq_len: int) -> int:
        """Tokens of a full batch, for what a recipe costs; no data is read."""
        if "trainer.batch_tokens" in self.takes:
            return recipe.trainer.batch_tokens
        return recipe.trainer.batch_size * max_seq_len

    # Trained runs

    def load(
        self, folder: Path, recipe: Recipe, weights: dict[str, Tensor], origin: Path
    ) -> TrainedRun:
        """Opens a trained run. Default: `run_class` with a model of `sizes`.

        Args:
            folder: holds what `save_vocabulary` wrote.
            recipe: of the run.
            weights: of its model.
            origin: the checkpoint or the exported file that they are from, for errors.

        Raises:
            CheckpointError: if the weights are those of another model.
        """
        from attnkit.trained_run import filled, home_of

        sizes, _ = self.sizes(recipe)
        model = filled(lambda: self.model_class()(*sizes, **recipe.model), weights, origin)
        return loaded(self.run_class)(recipe, home_of(folder, origin), model)

    def evaluate(self, run: TrainedRun, data: Sequence[str]) -> Iterator[Any]:
        """Yields what `attnkit evaluate` prints. Default: the metrics of the whole validation
        split, as at the end of training.

        Raises:
            DataError: if other data is asked for.
        """
        import torch

        from attnkit.console import numbers_table
        from attnkit.errors import DataError
        from attnkit.hardware import default_device

        if data:
            raise DataError(
                f"--data {data[0]}: a run of the task {self.name} is measured on the validation "
                "split of its own data; leave it out"
            )
        own = self.build_data(run.recipe)
        own.prepare()
        device = default_device()
        task = self.build_task(run.recipe, run.model, own).to(device).eval()
        task.is_final = True
        batches = own.val_batches(None)
        with torch.no_grad():
            for i in range(len(batches)):
                task.validation_step(task.transfer_batch_to_device(batches[i], device, 0), i)
            metrics = task.metrics()
        part = run.recipe.validation.part
        record = {**task.record(), "metrics": metrics, "validation_part": part}
        record["validation_share"] = 1
        table = numbers_table(self.title(record))
        for row in self.rows(record):
            table.add_row(row.label, row.number)
        yield table

    # The report of a run

    def title(self, record: Mapping[str, Any]) -> str:
        """What the final numbers are from.

        Args:
            record: the content of `result.json`.
        """
        part, share = record["validation_part"], record.get("validation_share", 1)
        some = "whole" if share == 1 else f"{share:.1%} of the"
        if part == "all":
            return f"{some} validation split"
        half = f"{part.replace('_', ' ')} of validation"
        return half if share == 1 else f"{share:.1%} of the {half}"

    def rows(self, record: Mapping[str, Any]) -> Iterable[Row]:
        """The lines of the table that a run ends with. Default: one for each metric."""
        for name, value in record["metrics"].items():
            yield Row(name.replace("_", " "), f"{value:.4f}")

    def remarks(self, record: Mapping[str, Any]) -> Iterable[str]:
        """What a reader of those numbers must know. Default: nothing."""
        return ()

    def next_commands(self, directory: Path, example: str) -> dict[str, str]:
        """What one may do with a run: purpose -> command.

        Args:
            directory: of the run.
            example: what the module's `example` says.
        """
        command = f"attnkit attention {shlex.quote(str(directory))}"
        return {"its maps": f"{command} --text {shlex.quote(example)}"} if example else {}


def loaded(named: type | str) -> Any:
    """A class, or the one that "package.module:Class" names."""
    if not isinstance(named, str):
        return named
    module, _, name = named.partition(":")
    return getattr(importlib.import_module(module), name)
