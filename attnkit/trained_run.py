"""A run that has been trained, ready to use: recipe, tokenizer and model. Loads no lightning."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from attnkit import run_directory
from attnkit.data.tokenizer_base import Tokenizer, load_tokenizer
from attnkit.models.decoding import generate
from attnkit.models.language_model import LanguageModel
from attnkit.recipe import Recipe, load_recipe
from attnkit.run_directory import RunDirectoryError


@dataclass(frozen=True)
class TrainedRun:
    """What a run left behind.

    Attributes:
        recipe: the resolved recipe.
        tokenizer: the run's own vocabulary.
        model: with the trained weights, in evaluation mode, on the CPU.
    """

    recipe: Recipe
    tokenizer: Tokenizer
    model: LanguageModel

    def unknown_in(self, prompt: str) -> list[str]:
        """What of a prompt the vocabulary lacks, each once; the model reads it as
        `<|unknown|>`.
        """
        encoding = self.tokenizer.encode(prompt)
        unknown = [
            prompt[start:stop]
            for token, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True)
            if token == self.tokenizer.unknown_id
        ]
        return list(dict.fromkeys(unknown))

    def stream(self, prompt: str, max_new_tokens: int, **options: Any) -> Iterator[str]:
        """Yields the text that follows a prompt, piece by piece; `options` are those of `generate`.

        Raises:
            ValueError: if the prompt is empty or an option is out of range.
        """
        tokenizer = self.tokenizer
        ids: list[int] = []
        told = ""
        start = torch.tensor([tokenizer.encode(prompt).ids], dtype=torch.long)
        options.setdefault("end_token", tokenizer.end_of_document_id)
        for token in generate(self.model, start, max_new_tokens, **options):
            ids.append(int(token))
            text = tokenizer.decode(ids)
            if not text.endswith(
                "\N{REPLACEMENT CHARACTER}"
            ):  # half of a character: wait for the rest
                yield text[len(told) :]
                told = text

    def generate(self, prompt: str, max_new_tokens: int = 300, **options: Any) -> str:
        """The text that follows a prompt, as a whole."""
        return "".join(self.stream(prompt, max_new_tokens, **options))


def load_run(directory: str | Path, *, best: bool = False) -> TrainedRun:
    """Loads a run from its directory.

    Args:
        directory: `runs/<recipe>/<variant>/seed<k>`.
        best: take the checkpoint with the lowest validation loss, not the last one.

    Raises:
        RunDirectoryError: if the directory holds no run, or its checkpoint is missing, damaged, of
            another model, or not plain data.
    """
    directory = Path(directory)
    recipe = load_recipe(run_directory.recipe_of(directory))
    name = run_directory.BEST if best else run_directory.LAST
    path = directory / run_directory.CHECKPOINTS / name
    weights = read_weights(path)
    tokenizer = load_tokenizer(directory)
    model = LanguageModel(tokenizer.vocab_size, **recipe.model)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        _, first, *others = str(error).splitlines()
        more = f" (and {len(others)} more)" if others else ""
        raise RunDirectoryError(
            f"{path} does not fit the recipe and the vocabulary beside it: {first.strip()}{more}"
        ) from error
    return TrainedRun(recipe, tokenizer, model.eval())


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads the model's weights out of a checkpoint. Plain data only: nothing in the file is ever
    run.

    Raises:
        RunDirectoryError: if the file is missing, damaged, no checkpoint, or holds more than plain
            data.
    """
    if not path.is_file():
        raise RunDirectoryError(
            f"{path} does not exist; the run has not got as far as a checkpoint"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on pickles, which are refused below
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise RunDirectoryError(
            f"{path} is damaged, or holds objects other than plain data; it was not loaded, and "
            "nothing in it was run"
        ) from error
    except (RuntimeError, EOFError, KeyError, OSError, ValueError) as error:
        raise RunDirectoryError(
            f"{path} is damaged or no checkpoint; restore it, or train the run again"
        ) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise RunDirectoryError(f"{path} is no checkpoint of attnkit: it holds no state_dict")
    prefix = "model."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }
