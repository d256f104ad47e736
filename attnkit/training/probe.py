"""Examples whose attention is logged while a run trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attnkit.data.pair_batch import IGNORED
from attnkit.data.reading import Reading
from attnkit.tensorboard.key_sound import KeySound

ASKS = "→"
"""Separates a token and the expected answer in the labels of a probe."""


@dataclass(frozen=True)
class Probe:
    """An example whose attention is logged repeatedly during training.

    Attributes:
        name: letters, digits, `.`, `_` and `-`.
        inputs: arguments of the module, each with a batch axis of 1.
        query_tokens: labels of the queries.
        key_tokens: labels of the keys.
        text: the example as text, to be shown.
        note: a remark for the viewer.
        site_tokens: site -> labels of its queries and keys, where they differ; see `AttentionMaps`.
        sound: what the keys of cross-attention are positions of, if that is a sound.
        reading: the example as the model reads it to predict tokens; None: it predicts none.
    """

    name: str
    inputs: tuple[Tensor, ...]
    query_tokens: Sequence[str]
    key_tokens: Sequence[str]
    text: str
    note: str = ""
    site_tokens: Mapping[str, tuple[Sequence[str], Sequence[str]]] | None = None
    sound: KeySound | None = None
    reading: Reading | None = None


def answering_probe(
    ids: Sequence[int],
    answers: Sequence[int],
    word: Callable[[int], str],
    *,
    text: str | None = None,
    note: str = "",
) -> Probe:
    """Returns the probe of one sequence in which some tokens are asked for an answer: their rows
    are labelled `word→answer`.

    Args:
        ids: the tokens.
        answers: the expected answer to each; `IGNORED` where nothing is asked.
        word: returns the text of a token.
        text: the example as text; None: the labels of its rows.
        note: added to the remark for the viewer.
    """
    words = [word(token) for token in ids]
    rows = [
        read if answer == IGNORED else f"{read}{ASKS}{word(answer)}"
        for read, answer in zip(words, answers, strict=True)
    ]
    tokens = torch.tensor([list(ids)])
    remark = f"a row with `{ASKS}` is asked for the token after it{note}"
    inputs = (tokens, torch.zeros_like(tokens))
    shown = " ".join(rows) if text is None else text
    asked = [None if answer == IGNORED else answer for answer in answers]
    return Probe(
        "probe",
        inputs,
        rows,
        words,
        shown,
        remark,
        {"self": (rows, words)},
        reading=Reading(inputs, "", words, asked, word),
    )
