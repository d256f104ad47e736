"""Translates sentences given as token ids, in batches of similar length."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from attnkit.data.tokenizer_base import Tokenizer
from attnkit.models.beam_search import Hypothesis, Search, beam_search, in_batches
from attnkit.models.encoder_decoder import EncoderDecoder

BATCH_TOKENS = 2400
"""Source tokens per batch, including padding, for a beam of one; fewer for a wider beam."""


def decoded_line(tokenizer: Tokenizer, hypothesis: Hypothesis) -> str:
    """Returns the text of a hypothesis as one line. A line break becomes a space, since files have
    one translation per line.
    """
    return " ".join(tokenizer.decode(hypothesis.tokens).splitlines())


def translate_ids(
    model: EncoderDecoder,
    sources: Sequence[np.ndarray],
    pad: Callable[[Sequence[np.ndarray]], tuple[Tensor, Tensor]],
    end: int,
    search: Search,
) -> list[list[Hypothesis]]:
    """Translates any number of sources, with the model in evaluation mode.

    Args:
        model: on any device.
        sources: token ids or features of each source, without an end token, shorter than the
            longest sequence of the model.
        pad: pads a batch of sources, and returns True for what is real, see
            `PairStore.pad_sources`.
        end: the end token of the target's vocabulary.
        search: options of the search.

    Returns:
        For each source its hypotheses, best first, in the order of the sources.
    """
    device = next(model.parameters()).device
    found: list[list[Hypothesis]] = [[] for _ in sources]
    training = model.training
    model.eval()
    batch_tokens = max(BATCH_TOKENS // max(1, search.beam // 2), 1)
    with torch.autocast(device.type, enabled=False):
        for batch in in_batches([len(row) + 1 for row in sources], batch_tokens):
            source, keep = pad([sources[i] for i in batch])
            best = beam_search(model, source.to(device), keep.to(device), end, search)
            for i, hypotheses in zip(batch, best, strict=True):
                found[i] = hypotheses
    model.train(training)
    return found
