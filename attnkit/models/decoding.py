"""Generation: the model's own guesses, one token after the other."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from attnkit.models.language_model import LanguageModel


def sample(
    logits: Tensor,
    generator: torch.Generator,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """Draws one token for each row of logits (B, V) -> (B,).

    Args:
        logits: scores of the next token.
        generator: source of randomness, on the CPU, so that every device draws the same.
        temperature: divides the logits; 0 takes the likeliest token, and so does one so small that
            nothing else is left.
        top_k: draw among the k likeliest tokens only.
        top_p: draw among the fewest likeliest tokens whose probabilities sum to at least p
            (arXiv:1904.09751).
    """
    logits = logits.detach().float().cpu()
    if temperature == 0:
        return logits.argmax(dim=-1)
    # The largest first: nothing overflows but to minus infinity, which has no probability.
    below = logits - logits.amax(dim=-1, keepdim=True)
    probabilities = (below / max(temperature, torch.finfo(below.dtype).tiny)).softmax(dim=-1)
    likeliest, tokens = probabilities.sort(dim=-1, descending=True)
    if top_k is not None:
        likeliest[:, top_k:] = 0.0
    if top_p is not None:
        before = likeliest.cumsum(dim=-1) - likeliest
        likeliest[before >= top_p * likeliest.sum(dim=-1, keepdim=True)] = 0.0
    drawn = torch.multinomial(likeliest, 1, generator=generator)
    return tokens.gather(-1, drawn).squeeze(-1)


@torch.no_grad()
def generate(
    model: LanguageModel,
    prompt: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    end_token: int | None = None,
) -> Iterator[Tensor]:
    """Yields the next token of each row (B,), up to `max_new_tokens` times.

    Up to `max_seq_len` tokens it decodes from a cache, if the model can; beyond, each step reads
    the last `max_seq_len` tokens afresh.

    Args:
        model: in evaluation mode, or dropout acts.
        prompt: (B, T) tokens, at least one.
        max_new_tokens: tokens to generate.
        temperature: see `sample`.
        top_k: see `sample`.
        top_p: see `sample`.
        seed: the same seed gives the same tokens.
        end_token: separates documents; the `document` mask needs to know it.

    Raises:
        ValueError: if the prompt is empty or an option is out of range.
    """
    if prompt.shape[1] == 0:
        raise ValueError("the prompt is empty; it needs at least one token")
    if not temperature >= 0:
        raise ValueError(f"temperature must be at least 0, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")
    generator = torch.Generator().manual_seed(seed)
    tokens = prompt
    cache = model.new_cache() if model.can_cache else None
    for _ in range(max_new_tokens):
        if cache is not None and tokens.shape[1] <= model.max_seq_len:
            logits = model(tokens[:, cache.length :], _documents(tokens, end_token), cache)
        else:
            recent = tokens[:, -model.max_seq_len :]
            logits = model(recent, _documents(recent, end_token))
        following = sample(
            logits[:, -1], generator, temperature=temperature, top_k=top_k, top_p=top_p
        ).to(tokens.device)
        tokens = torch.cat((tokens, following[:, None]), dim=1)
        yield following


def _documents(tokens: Tensor, end_token: int | None) -> Tensor | None:
    """Numbers the documents (B, T): the end token belongs to the document that it ends."""
    if end_token is None:
        return None
    ends = (tokens == end_token).long()
    return ends.cumsum(dim=1) - ends
