"""Trains the runs of the tour, and shows their results on one page."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from attnkit.models.accounting import cache_bytes
from attnkit.pages.offline import offline_page
from attnkit.recipe import Recipe, load_recipe
from attnkit.runs import experiment
from attnkit.storage.run_directory import FinishedError
from attnkit.tasks.language_modeling.trained import TrainedLanguageModel
from attnkit.tasks.trained_run import load_run
from attnkit.tasks.translation.translator import Translator
from attnkit.tensorboard.attention_record import AttentionRecord
from attnkit.understanding.tour.ideas import IDEAS, Idea, Training, trainings
from attnkit.understanding.word_vectors import attention_off, hidden_states

TEXT = "Return the length."
PROMPT = "Return the"
LINES = ("a b c d e f g h", "h e a d", "c a b b a g e")
"""Lines that the translation writes backwards; the page shows the map of the first."""

LONG = 10_000
"""Number of tokens for which the page states the memory."""

PACKAGE = "attnkit.understanding.tour"


def tour(overrides: tuple[str, ...] = (), write: Callable[[str], None] = print) -> str:
    """Trains the missing runs, and returns the page as HTML.

    Args:
        overrides: keys changed in every run, such as `runs_dir=tour_runs`.
        write: prints a line before each training.
    """
    every = {training: training.changed(overrides) for training in trainings()}
    # Loads all recipes before training, so that an invalid key is reported at once.
    recipes = {each: load_recipe(each.recipe, list(each.changes)) for each in every.values()}
    runs: dict[Training, Any] = {}
    for number, (training, changed) in enumerate(every.items(), start=1):
        write(f"{number} of {len(every)}: {changed.command}")
        runs[training] = load_run(trained(recipes[changed]))
    ideas = []
    for idea in IDEAS:
        panels = {}
        for switch, training in (("on", idea.on), ("off", idea.off)):
            panel = _panel(idea, runs[training], off=switch == "off")
            panels[switch] = {"command": every[training].command, **panel}
        ideas.append({"name": idea.name, **panels})
    data = {"words": _words(), "ideas": ideas}
    return offline_page(PACKAGE, "tour.js", title="A tour of attention", data=data)


def trained(recipe: Recipe) -> Path:
    """Returns the directory of a recipe's run, after training what is missing."""
    with suppress(FinishedError):
        experiment.run(recipe, resume="auto")
    return recipe.run_dir


def _words() -> dict[str, Any]:
    import yaml

    return yaml.safe_load(resources.files(PACKAGE).joinpath("words.yaml").read_text("utf-8"))


def _panel(idea: Idea, run: Any, *, off: bool) -> dict[str, Any]:
    if isinstance(run, Translator):
        return _translation(run)
    if idea.name == "added":
        return _added(run, off=off)
    panel = _language_model(run)
    if idea.name == "state":
        panel["memory"] = cache_bytes(run.model, LONG, torch.float32)
    return panel


def _language_model(run: TrainedLanguageModel) -> dict[str, Any]:
    has_layers = bool(run.model.layers)
    return {
        "loss": run.result["metrics"]["loss"],
        "site": _site(run.attention(TEXT).records[0]) if has_layers else None,
        "prompt": PROMPT,
        "text": run.generate(PROMPT, 30, temperature=0.7, top_k=20, seed=1),
    }


def _translation(run: Translator) -> dict[str, Any]:
    lines = [line.translations[0].text for line in run.translate(LINES)]
    reversed_line = LINES[0][::-1]
    maps = run.attention(f"{LINES[0]} ||| {reversed_line}")
    return {
        "exact": run.result["metrics"]["exact_match_test"],
        "site": _site(maps["decoder.cross"]),
        "lines": [list(pair) for pair in zip(LINES, lines, strict=True)],
    }


@torch.no_grad()
def _added(run: TrainedLanguageModel, *, off: bool) -> dict[str, Any]:
    """Returns the length of what attention adds, and the most likely token after each token."""
    model, ids = run.model, run.encode(TEXT)
    added: list[torch.Tensor] = []

    def store(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        added.append(output[0].norm(dim=-1))

    without = range(len(model.layers)) if off else ()
    states = hidden_states(model, [ids], without)[:, 0]
    with attention_off(model, without):
        hooks = [layer.attention.register_forward_hook(store) for layer in model.layers]
        tokens = torch.tensor([ids])
        likeliest = model(tokens, torch.zeros_like(tokens))[0].softmax(dim=-1).max(dim=-1)
        for hook in hooks:
            hook.remove()
    shares = torch.stack(added) / states[:-1].norm(dim=-1)
    words = [run.token_text(token) for token in ids]
    return {
        "site": {
            "queries": [f"{number}" for number in range(1, len(shares) + 1)],
            "keys": words,
            "maps": [{"name": "", "weights": _rounded(shares.numpy())}],
            "allowed": None,
        },
        "guesses": [
            [word, run.token_text(guess), round(p, 3)]
            for word, guess, p in zip(
                words, likeliest.indices.tolist(), likeliest.values.tolist(), strict=True
            )
        ],
    }


def _site(record: AttentionRecord) -> dict[str, Any]:
    allowed = record.layers[0].allowed
    if allowed is not None and allowed.ndim == 3:
        allowed = allowed.any(axis=0)
    return {
        "queries": list(record.query_tokens),
        "keys": list(record.key_tokens),
        "maps": [
            {"name": f"{layer.name} H{head}", "weights": _rounded(weights)}
            for layer in record.layers
            for head, weights in enumerate(layer.weights)
        ],
        "allowed": None if allowed is None else allowed.astype(int).tolist(),
    }


def _rounded(weights: np.ndarray) -> list[list[float]]:
    return [[round(float(weight), 4) for weight in row] for row in weights]
