"""Loads, exports and represents trained runs of any task. Loads no Lightning."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn

import torch
from torch import Tensor, nn

from attnkit.attention.maps import attention_maps, has_attention
from attnkit.attention_page.text_maps import TextMaps
from attnkit.data.reading import Reading
from attnkit.data.tokenizer_base import FILE_NAME
from attnkit.errors import CheckpointError
from attnkit.listeners.map_records import SiteTokens, mechanisms_of, records_of
from attnkit.models.shapes_only import shapes_only
from attnkit.recipe import Recipe
from attnkit.recipe.stored import stored_recipe
from attnkit.storage import run_directory
from attnkit.storage.checkpoint_reading import check_finite, read_checkpoint
from attnkit.storage.checkpoint_store import CheckpointStore
from attnkit.storage.exported import SUFFIX, read_export, write_export
from attnkit.storage.files import parse_json
from attnkit.storage.plugin_record import FOLDER, RECORD
from attnkit.storage.plugin_trust import StoredPlugins
from attnkit.storage.run_directory import RunDirectoryError
from attnkit.tensorboard.key_sound import KeySound
from attnkit.tensorboard.scalars import Scalars, read_scalars

Weights = Literal["averaged", "last", "best"]
"""Names of the weights that a run keeps."""

FILES: dict[Weights, str] = {
    "averaged": run_directory.AVERAGED,
    "last": run_directory.LAST,
    "best": run_directory.BEST,
}


@dataclass(frozen=True)
class TrainedRun:
    """A trained run. A task derives its own class from it, see `TaskDefinition.run_class`.

    Attributes:
        recipe: the resolved recipe.
        origin: the run's directory, or the `.safetensors` file exported from it.
        model: with the trained weights, in evaluation mode, on the CPU.
    """

    recipe: Recipe
    origin: Path
    model: Any

    evaluation_options: ClassVar[tuple[str, ...]] = ()
    """The options of `attnkit evaluate` that `evaluate` accepts, besides `--data`."""

    @property
    def title(self) -> str:
        """Recipe, variant and seed, for titles."""
        return f"{self.recipe.name} / {self.recipe.variant} / seed{self.recipe.seed}"

    @property
    def result(self) -> dict[str, Any]:
        """The content of `result.json`: final metrics, costs, entries of the task.

        Raises:
            RunDirectoryError: if the run has not finished, or is an exported file.
        """
        try:
            return parse_json((self.origin / run_directory.RESULT).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunDirectoryError(
                f"{self.origin} has no readable {run_directory.RESULT}; it is written when the run "
                "has finished"
            ) from error

    @property
    def curves(self) -> dict[str, Scalars]:
        """Tag -> `steps` (N,) and `values` (N,) of every logged scalar."""
        return read_scalars(self.origin) if self.origin.is_dir() else {}

    def attention(self, text: str) -> TextMaps:
        """Returns the exact maps of every layer and head on one example.

        Args:
            text: the example as text.

        Raises:
            DataError: if the model cannot read the text.
            RunDirectoryError: if the model has no layers, or the task has no maps of a text.
        """
        self.refuse("shows no maps of a text")

    def reading(self, text: str, option: str = "--text") -> Reading:
        """Returns a text as the model reads it to predict tokens.

        Args:
            text: the example as text.
            option: option that the text is from, for messages.

        Raises:
            DataError: if the model cannot read the text.
            RunDirectoryError: if the task predicts no tokens of a text.
        """
        self.refuse("predicts no tokens of a text")

    def maps_of(
        self,
        inputs: tuple[Any, ...],
        query_tokens: Sequence[str],
        key_tokens: Sequence[str] | None = None,
        *,
        note: str = "",
        notes: Sequence[str] = (),
        site_tokens: Mapping[str, SiteTokens] | None = None,
        sound: KeySound | None = None,
    ) -> TextMaps:
        """Returns the exact maps of every layer and head for given inputs.

        Args:
            inputs: one example, with a batch axis of 1; a named tuple provides the parameters of
                `forward`.
            query_tokens: labels of the queries.
            key_tokens: labels of the keys; None: the same.
            note: remark for the viewer, shown on the page.
            notes: remarks for the caller.
            site_tokens: site (`encoder.self`) -> labels of its queries and keys, if they differ.
            sound: the sound whose positions are the keys of cross-attention, if any.

        Raises:
            RunDirectoryError: if the model has no layers.
        """
        if not has_attention(self.model):
            raise RunDirectoryError("this run has no layers, so it has no attention to show")
        maps = attention_maps(self.model, inputs, value_lengths=True)
        keys = query_tokens if key_tokens is None else key_tokens
        records = records_of(
            maps,
            query_tokens,
            keys,
            example="text",
            note=note,
            site_tokens=site_tokens,
            sound=sound,
        )
        return TextMaps(records, self.title, mechanisms_of(maps), list(notes))

    def stream(self, prompt: str, max_new_tokens: int = 300, **options: Any) -> Iterator[str]:
        """Yields the text that follows a prompt, piece by piece.

        Raises:
            RunDirectoryError: if the task does not generate text.
            ValueError: if the prompt is empty or an option is out of range.
        """
        self.refuse("does not generate text from a prompt")

    def generate(self, prompt: str, max_new_tokens: int = 300, **options: Any) -> str:
        """Returns the whole text that follows a prompt; see `stream`."""
        return "".join(self.stream(prompt, max_new_tokens, **options))

    def generate_several(
        self, prompt: str, num_samples: int, max_new_tokens: int = 300, **options: Any
    ) -> list[str]:
        """Returns several texts that follow one prompt, generated in one batch; see `stream`."""
        self.refuse("does not generate text from a prompt")

    def unknown_in(self, text: str) -> list[str]:
        """Returns the parts of a text that are not in the vocabulary, each once. Default: none."""
        return []

    def evaluate(self, data: Sequence[str] = (), **options: Any) -> Iterator[Any]:
        """Yields the output of `attnkit evaluate`. Default: the metrics of the whole validation
        split, as at the end of training.

        Args:
            data: splits of the run's own data, or files; empty: the default of the task.
            options: see `evaluation_options`, with Python names (`--gold-index`: `gold_index`).

        Raises:
            DataError: if the data does not exist.
        """
        yield from self.recipe.definition.evaluate(self, data)

    def refuse(self, words: str) -> NoReturn:
        """Reports something that runs of this task cannot do.

        Raises:
            RunDirectoryError: always.
        """
        commands = self.recipe.definition.next_commands(self.origin, "...").values()
        more = "".join(f"; {command}" for command in commands)
        raise RunDirectoryError(f"a run of the task {self.recipe.task} {words}{more}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.title}, task {self.recipe.task}, from {self.origin}>"


def load_run(
    directory: str | Path,
    *,
    best: bool = False,
    weights: Weights | None = None,
    trust_plugins: bool = False,
) -> Any:
    """Loads a run from its directory, or from a file of `export_run`.

    Args:
        directory: `runs/<recipe>/<variant>/seed<k>`, or a `.safetensors` file, which contains one
            set of weights.
        best: the same as `weights="best"`.
        weights: None: the averaged ones if they exist, otherwise the last.
        trust_plugins: also run plugins that this user has never run, after logging their digests.

    Returns:
        A `TrainedRun`, of the class of its task.

    Raises:
        RunDirectoryError: if the directory contains no run.
        UntrustedPluginError: if it needs plugins that this user has never run.
        CheckpointError: if its checkpoint is missing, damaged, of another model, or not plain data.
        DataError: if a vocabulary is missing or damaged.
    """
    directory = Path(directory)
    if directory.suffix == SUFFIX:
        with unpacked(directory) as (folder, tensors, texts):
            plugins = StoredPlugins.of_texts(directory, texts, trust=trust_plugins)
            recipe = stored_recipe(folder, plugins=plugins)
            return recipe.definition.load(folder, recipe, tensors, directory)
    run_directory.recipe_of(directory)
    folder = directory / run_directory.CHECKPOINTS
    if best:
        weights = "best"
    if weights is None:
        weights = "averaged" if (folder / FILES["averaged"]).is_file() else "last"
    path = folder / FILES[weights]
    if weights == "averaged" and not path.is_file():
        raise RunDirectoryError(
            f"{directory} has no averaged weights: its task or its recipe does not average them"
        )
    # The average is not in the checkpoint store, which only knows digests of its own files.
    tensors = model_weights(read_checkpoint(path)) if weights == "averaged" else read_weights(path)
    plugins = StoredPlugins.of_run(directory, trust=trust_plugins)
    recipe = stored_recipe(directory, plugins=plugins)
    return recipe.definition.load(directory, recipe, tensors, path)


def export_run(
    directory: Path,
    target: Path,
    *,
    best: bool = False,
    overwrite: bool = False,
    trust_plugins: bool = False,
) -> Any:
    """Writes the weights of a run, with its recipe and vocabulary, into one file.

    Args:
        directory: directory of the run.
        target: the file, which ends in `.safetensors`.
        best: use the checkpoint with the lowest validation loss; otherwise as `load_run` does.
        overwrite: replace an existing file.
        trust_plugins: as for `load_run`.

    Returns:
        The run, as `load_run` will load it from the file.

    Raises:
        RunDirectoryError: if the directory contains no run.
        CheckpointError: if its checkpoint is damaged, or the file cannot be written.
    """
    run = load_run(directory, best=best, trust_plugins=trust_plugins)
    pack(directory, run.model, target, overwrite=overwrite)
    return run


def pack(directory: Path, model: nn.Module, target: Path, *, overwrite: bool) -> None:
    """Writes a model's weights into one file, with the recipe, the vocabularies and the plugins of
    its run.

    Raises:
        CheckpointError: if the file cannot be written.
    """
    files = [run_directory.recipe_of(directory), *sorted(directory.rglob(FILE_NAME))]
    if (directory / RECORD).is_file():
        files += [directory / RECORD, *sorted((directory / FOLDER).glob("*.py"))]
    texts = {
        file.relative_to(directory).as_posix(): file.read_bytes().decode("utf-8") for file in files
    }
    write_export(target, model.state_dict(), texts, overwrite=overwrite)


UNPACKED = re.compile(rf"{re.escape(run_directory.RECIPE)}|([a-z_]+/)?{re.escape(FILE_NAME)}")
"""The only texts of an exported file that are written to a folder."""


@contextmanager
def unpacked(file: Path) -> Iterator[tuple[Path, dict[str, Tensor], dict[str, str]]]:
    """Unpacks an exported file for the duration of the block: yields a folder with the recipe and
    the vocabularies, the weights, and all texts.

    Raises:
        CheckpointError: if the file is missing, damaged, or not one of attnkit.
    """
    weights, texts = read_export(file)
    if run_directory.RECIPE not in texts:
        raise CheckpointError(f"{file} was not exported by attnkit: it contains no recipe")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        for text_name in filter(UNPACKED.fullmatch, texts):
            path = folder / text_name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(texts[text_name].encode())
        try:
            yield folder, weights, texts
        except Exception as error:  # name the user's file, not the temporary folder
            inside, named = f"{folder}{os.sep}", f"{file}: "
            error.args = tuple(
                arg.replace(inside, named) if isinstance(arg, str) else arg for arg in error.args
            )
            raise


def home_of(directory: Path, origin: Path) -> Path:
    """Returns the path that the user gave: the exported file or the run's directory."""
    return origin if origin.suffix == SUFFIX else directory


def filled(make: Callable[[], nn.Module], weights: dict[str, Tensor], origin: Path) -> Any:
    """Returns the model that `make` builds, in evaluation mode, with weights read from `origin`.

    Raises:
        CheckpointError: if they are those of another model or vocabulary, or not finite.
    """
    try:
        with shapes_only():  # before memory is allocated
            shapes = {n: getattr(tensor, "shape", ()) for n, tensor in weights.items()}
            make().load_state_dict({n: torch.empty(s, device="meta") for n, s in shapes.items()})
        check_finite(weights, origin)
        model = make()
        model.load_state_dict(weights)
    except RuntimeError as error:
        _, first, *others = str(error).splitlines()
        more = f" (and {len(others)} more)" if others else ""
        raise CheckpointError(
            f"{origin} does not match its recipe and vocabulary: {first.strip()}{more}"
        ) from error
    return model.eval()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Verifies a checkpoint and reads the model's weights from it. Reads plain data only: no code
    in the file is ever run.

    Raises:
        CheckpointError: if the file is missing, damaged or not a checkpoint, or contains more than
            plain data.
    """
    return model_weights(read_checkpoint(CheckpointStore(path.parent).check(path.name)))


def model_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Returns the model's part of a checkpoint, by the model's own names."""
    prefix = "model."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }
