"""The contributions of each part of a model to its prediction over training, as the callback
`contributions` writes them to a run's directory.

`contributions.json` is an object with two keys: `steps`, and `moments`, an object per step:

    tokens           T texts, at which the model predicts
    parts            P objects with `name` and `kind`: embedding, head, mlp or constant
    lengths, turns   P x T: length of what a part adds; its cosine to the sum before the head
    words            P x T x W pairs: tokens whose logits a part raises most, and by how much
    next, top        for the next token, and for the model's choice: `tokens`, T texts; `effects`,
                     P x T, on the logit of that token, above the mean over the vocabulary
    lens             the logit lens: an object per layer with `name`; `words`, T pairs: the
                     likeliest token and its probability; `ranks`, of `next` and `top`: T each

Imports only the standard library, since TensorBoard reads the file.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attnkit.tensorboard.untrusted import MapFormatError, is_a, list_of, read_steps, require, typed

FILE = "contributions.json"
"""Name of the file in a run's directory."""

MAX_BYTES = 256 * 2**20

KINDS = ("embedding", "head", "mlp", "constant")

GOALS = ("next", "top")


def extended(history: Mapping[str, Any], moment: Mapping[str, Any], step: int) -> dict[str, Any]:
    """Returns a history with a moment, which replaces one of the same step.

    Args:
        history: the history so far; may be empty.
        moment: contributions at the moment.
        step: step of the moment.
    """
    steps, moments = history.get("steps", []), history.get("moments", [])
    at = bisect_left(steps, step)
    after = at + (step in steps)
    return {
        "steps": [*steps[:at], step, *steps[after:]],
        "moments": [*moments[:at], moment, *moments[after:]],
    }


def as_json(history: Mapping[str, Any]) -> str:
    """Returns the contents of the file."""
    return json.dumps(history, separators=(",", ":")) + "\n"


def read_history(file: Path) -> dict[str, Any]:
    """Reads and checks a `contributions.json`.

    Raises:
        OSError: if it cannot be read.
        MapFormatError: if it is damaged, or too large.
    """
    try:
        content, steps = read_steps(file, MAX_BYTES)
        moments = list_of(content, "moments", dict)
        require(len(moments) == len(steps), f"{len(moments)} moments for {len(steps)} steps")
        for moment in moments:
            _check(moment)
    except MapFormatError as error:
        raise MapFormatError(f"{FILE} is damaged: {error}") from error
    return {"steps": steps, "moments": list(moments)}


def _check(moment: dict[str, Any]) -> None:
    tokens, parts = list_of(moment, "tokens", str), list_of(moment, "parts", dict)
    require(bool(tokens) and bool(parts), "a moment has no tokens, or no parts")
    for part in parts:
        known = is_a(part.get("name"), str) and part.get("kind") in KINDS
        require(known, "a part has no name, or an unknown kind")
    of_parts = (len(parts), len(tokens))
    for key in ("lengths", "turns"):
        _check_grid(moment, key, of_parts, _is_number)
    _check_grid(moment, "words", of_parts, _is_ranking)
    for goal in GOALS:
        aim = typed(moment, goal, dict)
        require(len(list_of(aim, "tokens", str)) == len(tokens), f"`{goal}` lacks tokens")
        _check_grid(aim, "effects", of_parts, _is_number)
    for layer in list_of(moment, "lens", dict):
        require(is_a(layer.get("name"), str), "a layer has no name")
        ranks = typed(layer, "ranks", dict)
        rows = {"words": [layer.get("words")], "ranks": [ranks.get(goal) for goal in GOALS]}
        _check_grid(rows, "words", (1, len(tokens)), _is_pair)
        _check_grid(rows, "ranks", (len(GOALS), len(tokens)), _is_number)


def _check_grid(
    content: dict[str, Any], key: str, shape: tuple[int, int], is_valid: Callable[[Any], bool]
) -> None:
    rows = typed(content, key, list)
    fits = len(rows) == shape[0] and all(is_a(row, list) and len(row) == shape[1] for row in rows)
    require(fits, f"`{key}` is not of shape {shape}")
    valid = all(is_valid(value) for row in rows for value in row)
    require(valid, f"`{key}` holds an entry of the wrong type")


def _is_number(value: Any) -> bool:
    return is_a(value, (int, float)) and math.isfinite(value)


def _is_pair(value: Any) -> bool:
    return is_a(value, list) and len(value) == 2 and is_a(value[0], str) and _is_number(value[1])


def _is_ranking(value: Any) -> bool:
    return is_a(value, list) and all(map(_is_pair, value))
