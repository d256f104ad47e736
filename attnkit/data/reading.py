"""A text as a model reads it to predict tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Reading:
    """A text as a model reads it to predict tokens.

    Attributes:
        inputs: arguments of the model, a batch of one sequence.
        stack: path in the model of the stack whose outputs predict; "" for the model itself.
        tokens: (T,) texts of the tokens at which it predicts.
        answers: (T,) ids of the tokens to predict; None: unknown from the text.
        token_text: id of a predicted token -> its text.
        notes: remarks for the reader, such as that the text was truncated.
    """

    inputs: tuple[Tensor, ...]
    stack: str
    tokens: Sequence[str]
    answers: Sequence[int | None]
    token_text: Callable[[int], str]
    notes: Sequence[str] = ()
