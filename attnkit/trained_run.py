"""A run that has been trained, ready to use: recipe, tokenizer and model. Loads no lightning."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnkit import run_directory
from attnkit.attention.maps import attention_maps
from attnkit.attention_page.text_maps import TextMaps
from attnkit.checkpoints.exported import SUFFIX, read_export, write_export
from attnkit.checkpoints.reading import check_finite, read_checkpoint
from attnkit.checkpoints.store import CheckpointStore
from attnkit.data.symbols import Symbols
from attnkit.data.tokenizer_base import FILE_NAME, Tokenizer, load_tokenizer, unknown_in
from attnkit.data.translation import TARGET_FOLDER
from attnkit.errors import CheckpointError, DataError
from attnkit.models.decoding import generate
from attnkit.models.language_model import LanguageModel
from attnkit.models.shapes_only import shapes_only
from attnkit.plugins import FOLDER, RECORD, StoredPlugins
from attnkit.recipe import Recipe
from attnkit.recipe.stored import stored_recipe, written_recipe
from attnkit.registry import SYNTHETIC
from attnkit.run_directory import RunDirectoryError
from attnkit.tensorboard.records import mechanisms_of, records_of
from attnkit.tensorboard.scalars import Scalars, read_scalars


@dataclass(frozen=True)
class Trained:
    """What every finished run gives, whatever its task.

    Attributes:
        recipe: the resolved recipe.
        origin: the run's directory, or the `.safetensors` file that was made of it.
    """

    recipe: Recipe
    origin: Path

    @property
    def title(self) -> str:
        """Recipe, variant and seed, for titles."""
        return f"{self.recipe.name} / {self.recipe.variant} / seed{self.recipe.seed}"

    @property
    def result(self) -> dict[str, Any]:
        """What `result.json` holds: the final metrics, costs, and what the task found.

        Raises:
            RunDirectoryError: if the run has not finished, or is an exported file.
        """
        try:
            return json.loads((self.origin / run_directory.RESULT).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunDirectoryError(
                f"{self.origin} has no readable {run_directory.RESULT}; it holds one once the run "
                "has finished"
            ) from error

    @property
    def curves(self) -> dict[str, Scalars]:
        """Tag -> `steps` (N,) and `values` (N,) of every scalar that was logged."""
        return read_scalars(self.origin) if self.origin.is_dir() else {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.title}, task {self.recipe.task}, from {self.origin}>"


@dataclass(frozen=True, repr=False)
class TrainedRun(Trained):
    """What a language-modeling or synthetic run left behind.

    Attributes:
        tokenizer: the run's own vocabulary.
        model: with the trained weights, in evaluation mode, on the CPU.
    """

    tokenizer: Tokenizer | Symbols
    model: LanguageModel

    def attention(self, text: str) -> TextMaps:
        """The exact maps of every layer and head on a text.

        Raises:
            DataError: if the text has no token, or of a synthetic task an unknown one.
            RunDirectoryError: if the model has no layers.
        """
        if not self.model.layers:
            raise RunDirectoryError("this run has no layers, so it has no attention to show")
        notes = []
        if unknown := self.unknown_in(text):
            notes.append(f"the run's vocabulary lacks {', '.join(map(repr, unknown))}")
        ids = self.tokenizer.encode(text).ids
        if not ids:
            raise DataError("--text is empty; give it at least one character")
        longest = self.model.max_seq_len
        if len(ids) > longest:
            notes.append(f"{len(ids)} tokens; the model reads the first {longest}")
            ids = ids[:longest]
        tokens = torch.tensor([ids])
        maps = attention_maps(self.model, (tokens, torch.zeros_like(tokens)))
        words = [self.tokenizer.token_text(i) for i in ids]
        records = records_of(maps, words, words, example="text")
        return TextMaps(records, self.title, mechanisms_of(maps), notes)

    def unknown_in(self, prompt: str) -> list[str]:
        """What of a prompt the vocabulary lacks, each once; the model reads it as
        `<|unknown|>`.
        """
        return unknown_in(self.tokenizer, prompt)

    def check_speaks(self) -> None:
        """Makes sure that the run can go on from a text.

        Raises:
            RunDirectoryError: if it learnt a synthetic task.
        """
        if isinstance(self.tokenizer, Symbols):
            raise RunDirectoryError(
                "this run learnt a synthetic task: it gives answers, and does not go on from a "
                "prompt. Its answers are under `samples` on the Text page of TensorBoard; attnkit "
                f"attention RUN --text '{self.tokenizer.decode(range(3))} ...' shows its maps"
            )

    def stream(self, prompt: str, max_new_tokens: int, **options: Any) -> Iterator[str]:
        """Yields the text that follows a prompt, piece by piece; `options` are those of `generate`.

        Raises:
            RunDirectoryError: if the run learnt a synthetic task.
            ValueError: if the prompt is empty or an option is out of range.
        """
        tokenizer = self.tokenizer
        self.check_speaks()
        assert not isinstance(tokenizer, Symbols)
        ids: list[int] = []
        told = ""
        for token in self._drawn(prompt, 1, max_new_tokens, options):
            ids.append(int(token))
            text = tokenizer.readable(ids)
            if not text.endswith(
                "\N{REPLACEMENT CHARACTER}"
            ):  # half of a character: wait for the rest
                yield text[len(told) :]
                told = text
        if rest := tokenizer.readable(ids)[len(told) :]:  # half of a character, and no more comes
            yield rest

    def generate(self, prompt: str, max_new_tokens: int = 300, **options: Any) -> str:
        """The text that follows a prompt, as a whole."""
        return "".join(self.stream(prompt, max_new_tokens, **options))

    def generate_several(
        self, prompt: str, num_samples: int, max_new_tokens: int = 300, **options: Any
    ) -> list[str]:
        """Several texts that follow one prompt, drawn in one batch; `options` and errors as for
        `stream`.
        """
        self.check_speaks()
        assert not isinstance(self.tokenizer, Symbols)
        drawn = list(self._drawn(prompt, num_samples, max_new_tokens, options))
        if not drawn:
            return [""] * num_samples
        return [self.tokenizer.readable(row) for row in torch.stack(drawn, dim=1).tolist()]

    def _drawn(
        self, prompt: str, num_samples: int, max_new_tokens: int, options: dict[str, Any]
    ) -> Iterator[Tensor]:
        """The tokens (num_samples,) that follow a prompt."""
        assert not isinstance(self.tokenizer, Symbols)
        ids = self.tokenizer.prompt(prompt)
        start = torch.tensor([ids] * num_samples, dtype=torch.long)
        start = start.to(self.model.embedding.weight.device)
        options = {"end_token": self.tokenizer.end_of_document_id, **options}
        return generate(self.model, start, max_new_tokens, **options)


def task_of(origin: Path) -> str:
    """The task of a run's directory, or of a `.safetensors` file; nothing of its model is made.

    Raises:
        RunDirectoryError: if it is no run.
        CheckpointError: if the file is none of attnkit.
    """
    if origin.suffix != SUFFIX:
        return written_recipe(origin).task
    with unpacked(origin) as (folder, _, _):
        return written_recipe(folder).task


def load_run(
    directory: str | Path, *, best: bool = False, trust_plugins: bool = False
) -> TrainedRun:
    """Loads a run from its directory, or from the file that `export_run` made of it.

    Args:
        directory: `runs/<recipe>/<variant>/seed<k>`, or a `.safetensors` file.
        best: take the checkpoint with the lowest validation loss, not the last one.
        trust_plugins: also run plugins that this user has never run, after their digests were
            logged. Without it, only weights are read from a run that came from elsewhere.

    Raises:
        RunDirectoryError: if the directory holds no run.
        UntrustedPluginError: if its model needs plugins that this user has never run.
        CheckpointError: if its checkpoint is missing, damaged, of another model, or not plain data.
    """
    directory = Path(directory)
    if directory.suffix == SUFFIX:
        with unpacked(directory) as (folder, weights, texts):
            plugins = StoredPlugins.of_texts(directory, texts, trust=trust_plugins)
            return _loaded(folder, weights, directory, plugins)
    run_directory.recipe_of(directory)
    path = checkpoint_of(directory, best=best)
    plugins = StoredPlugins.of_run(directory, trust=trust_plugins)
    return _loaded(directory, read_weights(path), path, plugins)


def export_run(
    directory: Path,
    target: Path,
    *,
    best: bool = False,
    overwrite: bool = False,
    trust_plugins: bool = False,
) -> TrainedRun:
    """Writes the weights of a run alone, with its recipe and vocabulary, into one file.

    Args:
        directory: of the run.
        target: the file, which ends in `.safetensors`.
        best: take the checkpoint with the lowest validation loss, not the last one.
        overwrite: replace a file that is there.
        trust_plugins: as for `load_run`.

    Returns:
        What `load_run` will make of the file.

    Raises:
        RunDirectoryError: if the directory holds no run.
        CheckpointError: if its checkpoint is bad, or the file cannot be written.
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


UNPACKED = (run_directory.RECIPE, FILE_NAME, f"{TARGET_FOLDER}/{FILE_NAME}")
"""Texts of an exported file that are written to a folder; no others are."""


@contextmanager
def unpacked(file: Path) -> Iterator[tuple[Path, dict[str, Tensor], dict[str, str]]]:
    """An exported file as a folder that holds the recipe and the vocabularies, while the block
    lasts; its weights; and all of its texts.

    Raises:
        CheckpointError: if the file is missing, damaged, or not one of attnkit.
    """
    weights, texts = read_export(file)
    if run_directory.RECIPE not in texts:
        raise CheckpointError(f"{file} was not exported by attnkit: it holds no recipe")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        for text_name in UNPACKED:
            if text_name in texts:
                path = folder / text_name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(texts[text_name].encode())
        try:
            yield folder, weights, texts
        except Exception as error:  # names what the user has, not a folder that is gone
            inside, named = f"{folder}{os.sep}", f"{file}: "
            error.args = tuple(
                arg.replace(inside, named) if isinstance(arg, str) else arg for arg in error.args
            )
            raise


def checkpoint_of(directory: Path, *, best: bool) -> Path:
    """Where the newest or the best checkpoint of a run lies."""
    name = run_directory.BEST if best else run_directory.LAST
    return directory / run_directory.CHECKPOINTS / name


def _loaded(
    directory: Path, weights: dict[str, Tensor], origin: Path, plugins: StoredPlugins
) -> TrainedRun:
    """The run whose recipe and vocabulary lie in a directory; `origin` is named in errors."""
    recipe = stored_recipe(directory, plugins=plugins)
    if recipe.task == "translation":
        raise RunDirectoryError(f"{origin} is no run of language modeling but one of {recipe.task}")
    if recipe.task == "synthetic":
        tokenizer = Symbols(SYNTHETIC.build(recipe.data).symbols)
    else:
        tokenizer = load_tokenizer(directory)
    size = tokenizer.vocab_size
    model = filled(lambda: LanguageModel(size, **recipe.model), weights, origin)
    return TrainedRun(recipe, home_of(directory, origin), tokenizer, model)


def home_of(directory: Path, origin: Path) -> Path:
    """What a person named: the exported file that weights came from, or the run's directory."""
    return origin if origin.suffix == SUFFIX else directory


def filled(make: Callable[[], nn.Module], weights: dict[str, Tensor], origin: Path) -> Any:
    """The model that `make` makes, in evaluation mode, with weights that were read from `origin`.

    Raises:
        CheckpointError: if they are those of another model or vocabulary, or not finite.
    """
    try:
        with shapes_only():  # before memory is taken
            make().load_state_dict({name: tensor.to("meta") for name, tensor in weights.items()})
        check_finite(weights, origin)
        model = make()
        model.load_state_dict(weights)
    except RuntimeError as error:
        _, first, *others = str(error).splitlines()
        more = f" (and {len(others)} more)" if others else ""
        raise CheckpointError(
            f"{origin} does not fit the recipe and the vocabulary beside it: {first.strip()}{more}"
        ) from error
    return model.eval()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads the model's weights out of a checkpoint that verifies. Plain data only: nothing in the
    file is ever run.

    Raises:
        CheckpointError: if the file is missing, damaged, no checkpoint, or holds more than plain
            data.
    """
    return model_weights(read_checkpoint(CheckpointStore(path.parent).check(path.name)))


def model_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The model's part of a checkpoint, by the model's own names."""
    prefix = "model."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }
