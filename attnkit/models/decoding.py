"""Generation: samples tokens from a model, one after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from attnkit.hardware.devices import end_failed_capture
from attnkit.models.cache import ModelCache
from attnkit.models.language_model import LanguageModel

log = logging.getLogger("attnkit")

LARGEST_SEED = 2**63 - 1
"""Largest seed of a torch generator."""

Run = Callable[..., Tensor]
"""A model, or a compiled form of it."""


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
        logits: logits of the next token.
        generator: source of randomness, on the CPU, so that every device draws the same tokens. It
            draws one number per row; everything else is computed on the device of the logits,
            without waiting for it.
        temperature: divides the logits; 0, or a value so small that all other probabilities vanish,
            selects the likeliest token.
        top_k: sample only from the k likeliest tokens.
        top_p: sample only from the smallest set of likeliest tokens whose probabilities sum to at
            least p (arXiv:1904.09751).
    """
    device, logits = logits.device, logits.detach().float()
    if temperature == 0:
        return logits.argmax(dim=-1)
    if torch.are_deterministic_algorithms_enabled():
        logits = logits.cpu()  # cumulative sums have no deterministic kernel on CUDA
    # Relative to the largest: a quotient can only overflow to minus infinity, a probability of 0.
    below = logits - logits.amax(dim=-1, keepdim=True)
    probabilities = (below / max(temperature, torch.finfo(below.dtype).tiny)).softmax(dim=-1)
    likeliest, tokens = probabilities.sort(dim=-1, descending=True)
    if top_k is not None:
        likeliest[:, top_k:] = 0.0
    if top_p is not None:
        before = likeliest.cumsum(dim=-1) - likeliest
        too_many = before >= top_p * likeliest.sum(dim=-1, keepdim=True)
        too_many[:, 0] = False  # a p below the smallest float32 is 0 here
        likeliest = likeliest.masked_fill(too_many, 0.0)
    # The first token whose cumulative probability exceeds a uniform random number.
    number = torch.rand(len(logits), 1, generator=generator).to(logits.device, non_blocking=True)
    ends = likeliest.cumsum(dim=-1)
    drawn = (ends <= number * ends[:, -1:]).sum(dim=-1, keepdim=True)
    last = (likeliest > 0).sum(dim=-1, keepdim=True) - 1  # rounding may exceed the last token
    return tokens.gather(-1, drawn.minimum(last)).squeeze(-1).to(device)


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
    run: Run | None = None,
) -> Iterator[Tensor]:
    """Yields the next token of each row (B,), up to `max_new_tokens` times.

    Up to `max_seq_len` tokens it decodes from a cache, if the model can. Beyond that, each step
    reads the last `max_seq_len` tokens again. On a CUDA device the cache has a fixed size, if the
    mechanisms support it, and each token is one launch of a CUDA graph.

    Args:
        model: in evaluation mode; otherwise dropout is active.
        prompt: (B, T) tokens, at least one.
        max_new_tokens: number of tokens to generate.
        temperature: see `sample`.
        top_k: see `sample`.
        top_p: see `sample`.
        seed: the same seed gives the same tokens.
        end_token: separates documents; needed for the `document` mask.
        run: a compiled form of the model, for the tokens after the prompt; the cache then has a
            fixed size on any device, so that one graph serves all tokens. The prompt is read once,
            by the uncompiled model.

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
    if not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"seed must be from 0 to {LARGEST_SEED}, got {seed}")
    generator = torch.Generator().manual_seed(seed)
    tokens = prompt
    end_token = end_token if model.needs_documents else None
    cache = model.new_cache() if model.can_cache else None
    fixes = cache is not None and _fixes(model, run, prompt.device)
    room = min(model.max_seq_len, prompt.shape[1] + max_new_tokens)
    step = None
    for _ in range(max_new_tokens):
        if cache is None or tokens.shape[1] > model.max_seq_len:
            recent = tokens[:, -model.max_seq_len :]
            logits = model(recent, _documents(recent, end_token))
        elif step is not None:
            logits = step(tokens, _documents(tokens, end_token))
        else:
            logits = model(tokens[:, cache.length :], _documents(tokens, end_token), cache)
            if fixes:
                step = _FixedStep(model if run is None else run, cache, room, prompt.device)
        following = sample(
            logits[:, -1], generator, temperature=temperature, top_k=top_k, top_p=top_p
        )
        tokens = torch.cat((tokens, following[:, None]), dim=1)
        yield following


class _FixedStep:
    """Computes one token per row with a cache of fixed size. On CUDA the step is a graph, which is
    captured at the first token and launched for each.
    """

    def __init__(self, run: Run, cache: ModelCache, room: int, device: torch.device) -> None:
        self._run = run
        self._cache = cache
        self._room = -(-room // 64) * 64  # suits kernels, and leaves few sizes to compile
        self._captures = device.type == "cuda"
        self._graph: torch.cuda.CUDAGraph | None = None
        cache.fix(self._room, device)

    def __call__(self, tokens: Tensor, documents: Tensor | None) -> Tensor:
        """Reads the last token and returns the logits of the next one (B, 1, V).

        Args:
            tokens: (B, S), all tokens so far.
            documents: (B, S), see `LanguageModel`.
        """
        tokens = tokens[:, -1].clone()[:, None]  # with the same strides at each length
        if documents is not None:
            documents = F.pad(documents, (0, self._room - documents.shape[1]))
        if self._captures and self._graph is None:
            self._capture(tokens, documents)
        if self._graph is None:
            return self._run(tokens, documents, self._cache)
        for captured, new in zip(self._inputs, (tokens, documents), strict=True):
            if captured is not None and new is not None:
                captured.copy_(new)
        self._graph.replay()
        return self._logits

    def _capture(self, *inputs: Tensor | None) -> None:
        """Captures the step as a graph, and restores the cache afterwards."""
        self._inputs = [None if tensor is None else tensor.clone() for tensor in inputs]
        before = [(tensor, tensor.clone()) for tensor in self._cache.tensors()]
        graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        # Autocast frees the casts in its cache when it ends, but the graph would still read them.
        keeps_casts = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)
        try:
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):  # libraries initialise themselves in the first calls
                for _ in range(3):
                    self._run(*self._inputs, self._cache)
                    for tensor, value in before:
                        tensor.copy_(value)
            torch.cuda.current_stream().wait_stream(aside)
            # Other threads may prepare batches meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._logits = self._run(*self._inputs, self._cache)
            self._graph = graph
        except RuntimeError as error:
            self._captures = False
            end_failed_capture()
            log.warning("each token is launched kernel by kernel, without a CUDA graph: %s", error)
        finally:
            torch.set_autocast_cache_enabled(keeps_casts)


def _fixes(model: LanguageModel, run: Run | None, device: torch.device) -> bool:
    """Returns True if the cache gets a fixed size after the prompt."""
    if run is None and device.type != "cuda":
        return False
    if (reason := model.why_no_fixed_cache()) is not None:
        log.info("tokens are decoded from a cache that grows: %s", reason)
    return reason is None


def _documents(tokens: Tensor, end_token: int | None) -> Tensor | None:
    """Numbers the documents (B, T): the end token belongs to the document that it ends."""
    if end_token is None:
        return None
    ends = (tokens == end_token).long()
    return ends.cumsum(dim=1) - ends
