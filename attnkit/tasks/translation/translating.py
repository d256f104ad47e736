"""Sentences as token ids in, translations out: in batches of like length, in the order given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from attnkit.data.pair_batch import padded
from attnkit.data.tokenizer_base import Tokenizer
from attnkit.models.beam_search import Hypothesis, Search, beam_search, in_batches
from attnkit.models.encoder_decoder import EncoderDecoder

BATCH_TOKENS = 2400
"""Source tokens of a batch, padding included, for a beam of one; a wider beam has fewer."""


def decoded_line(tokenizer: Tokenizer, hypothesis: Hypothesis) -> str:
    """The text of a hypothesis as one line: a line break in it becomes a space, or it would be
    taken for two translations wherever a line is one.
    """
    return " ".join(tokenizer.decode(hypothesis.tokens).splitlines())


def translate_ids(
    model: EncoderDecoder, sources: Sequence[np.ndarray], ends: tuple[int, int], search: Search
) -> list[list[Hypothesis]]:
    """Translates sources, whatever their order and number; the model is put into evaluation mode.

    Args:
        model: on any device.
        sources: token ids of each source, without an end token, shorter than the model's longest.
        ends: the end tokens of the source's and the target's vocabulary.
        search: how to search.

    Returns:
        For each source its hypotheses, best first.
    """
    device = next(model.parameters()).device
    found: list[list[Hypothesis]] = [[] for _ in sources]
    training = model.training
    model.eval()
    batch_tokens = max(BATCH_TOKENS // max(1, search.beam // 2), 1)
    with torch.autocast(device.type, enabled=False):
        for batch in in_batches([len(row) + 1 for row in sources], batch_tokens):
            source, keep = padded([sources[i] for i in batch], ends[0])
            best = beam_search(model, source.to(device), keep.to(device), ends[1], search)
            for i, hypotheses in zip(batch, best, strict=True):
                found[i] = hypotheses
    model.train(training)
    return found
