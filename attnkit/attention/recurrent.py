"""The base class of mechanisms with a recurrent state and no map.

A state absorbs each key and value, and each query reads from it; decoding only needs the state. A
subclass implements `advance`, which runs a whole sequence through a state. The functions below the
class compute it in chunks of tokens, all chunks at once: products within chunks are batched, and
one scan, `states_before`, computes the states between them in log2(chunks) steps.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from attnkit.attention.base import Attention
from attnkit.attention.cache import Cache, State, StateCache
from attnkit.attention.kernels import Operation, computed_outside, operation
from attnkit.attention.past import real_keys as real_keys  # imported from here by mechanisms
from attnkit.hardware.devices import autocast, autocast_dtype
from attnkit.masks import Causal, Mask


class Recurrent(Attention):
    """Attention with a state of fixed size.

    States and sums are at least float32: in bfloat16 a sum over a whole sequence would lose its
    small terms. Products follow autocast, except on a CPU, where bfloat16 is not faster here.

    Args:
        num_heads: number H of heads.
        head_dim: width D of a head; null: `dim / num_heads`.
        dropout: share of values that are hidden from the state in training, for each head.
        bias: add a bias vector to the four projections.
    """

    roles = frozenset(("self",))
    mask_names = frozenset(("causal", "padding"))
    position_kinds = frozenset(("embeddings", "queries_and_keys"))
    causal_only = True
    knows_order = True
    cache_dtype = torch.float32
    map_rows = "signed"

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int = 4,
        head_dim: int | None = None,
        dropout: float = 0.0,
        bias: bool = False,
    ) -> None:
        super().__init__(dim, num_heads=num_heads, head_dim=head_dim, dropout=dropout, bias=bias)

    @abstractmethod
    def advance(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, state: State | None
    ) -> tuple[Tensor, State]:
        """Runs tokens through the state.

        Args:
            q: (B, H, T, D)
            k: (B, H, S, D), or more features if keys carry more.
            v: (B, H, S, D)
            mask: which query may attend to which key.
            state: after the previous tokens; None: there are none.

        Returns:
            Heads (B, H, T, D), and the state after the last key: a tensor, or several by name, each
            with the batch as its first axis.
        """

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        """What each query reads from the state: (B, H, T, D)."""
        return self._advance(q, k, v, mask, None)[0]

    def decode(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, cache: Cache) -> Tensor:
        """Continues from the state in the cache."""
        assert isinstance(cache, StateCache)
        heads, state = self._advance(q, k, v, mask, cache.state)
        cache.update(state, k.shape[2])
        return heads

    def new_cache(self) -> Cache:
        return StateCache()

    @classmethod
    def why_no_fixed_cache(cls) -> str | None:
        return None if cls.decodes_as(Recurrent) else f"{cls.__name__} has its own way of decoding"

    def mixing_flops(self, num_tokens: int, pairs: int) -> int:
        """The FLOPs of decoding token by token, fewer than in chunks."""
        with FlopCounterMode(display=False) as counter:
            self._decode_one()
        return num_tokens * max(counter.get_total_flops() - self.projection_flops(), 0)

    def cache_elements(self, num_tokens: int) -> int:
        """The size of the state, independent of the length."""
        return sum(tensor.numel() for tensor in self._decode_one().tensors())

    @torch.no_grad()
    def _decode_one(self) -> StateCache:
        """Returns the cache after one token on the meta device."""
        cache = self.new_cache()
        assert isinstance(cache, StateCache)
        token = self.output.weight.new_zeros(1, 1, self.dim)
        self.forward(token, token, Causal(), cache)
        return cache

    def _advance(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, state: State | None
    ) -> tuple[Tensor, State]:
        dtype, device = v.dtype, q.device.type
        exact = torch.promote_types(dtype, torch.float32)
        if self.training and self.dropout > 0:
            # Hides a token from all later queries at once: what each query reads has the same mean
            # and variance as with dropped weights.
            v = v * F.dropout(torch.ones_like(v[..., :1]), self.dropout)
        products = device != "cpu" and autocast_dtype(device) is not None
        with autocast(device, enabled=products):
            heads, state = self.advance(q.to(exact), k.to(exact), v.to(exact), mask, state)
        return heads.to(dtype), state


STEPS = 0.001, 0.1
"""Range of the first step sizes, as in Mamba-2 (arXiv:2405.21060)."""


def draw_steps(count: int) -> Tensor:
    """Draws d (count,) such that softplus(d) is log-uniform in `STEPS`."""
    least, most = map(math.log, STEPS)
    step = torch.empty(count).uniform_(least, most).exp()
    return step + (-torch.expm1(-step)).log()  # the inverse of softplus


def in_chunks(chunk: int, num_queries: int, *heads: Tensor) -> list[Tensor]:
    """Pads queries, keys, ... at the front to the same length and cuts them: (B, H, L, X) -> (B, H,
    n, chunk, X) each.

    The chunk length is a power of two, and not longer than necessary, so that decoding one token
    does not cost a whole chunk.
    """
    length = longest(*heads)
    length = num_queries if num_queries > length else length
    # Written as comparisons, so that a compiler for dynamic lengths fixes the number of chunks and
    # nothing else.
    size = 1
    if torch.compiler.is_compiling() and length > 1:
        size = chunk  # one graph for sequences of all lengths
    while size < chunk and size < length:
        size *= 2
    total = size
    while total < length:
        total += size
    chunks = []
    for head in heads:
        front = length - head.shape[2]
        # One contiguous layout for all the following products, which would each create their own.
        filled = torch.compiler.is_compiling() or front > 0 or total > length
        head = F.pad(head, (0, 0, front, total - length)) if filled else head.contiguous()
        chunks.append(head.unflatten(2, (total // size, size)))
    return chunks


def longest(*heads: Tensor) -> int:
    """Returns the number of tokens of the longest of (B, H, L, X)."""
    length = heads[0].shape[2]
    for head in heads[1:]:
        length = head.shape[2] if head.shape[2] > length else length
    return length


def joined(chunks: Tensor | list[Tensor], length: int, num_queries: int) -> Tensor:
    """Inverts `in_chunks` for the queries: (B, H, n, chunk, X), or n of (B, H, chunk, X) -> (B, H,
    T, X).
    """
    heads = torch.cat(chunks, dim=2) if isinstance(chunks, list) else chunks.flatten(2, 3)
    return heads[:, :, length - num_queries : length]


def states_before(fade: Tensor | None, added: Tensor, state: Tensor | None) -> Tensor:
    """Returns the state before each chunk: S_{n+1} = A_n S_n + B_n, for all n at once.

    Args:
        fade: A. (B, H, n, D or 1, 1) scales each row of the state; (B, H, n, D, D) multiplies it;
            the batch may be 1. None: no decay.
        added: B, (B, H, n, D, E).
        state: S_0, (B, H, D, E); None: zero.

    Returns:
        (B, H, n, D, E)
    """
    exact = torch.promote_types(added.dtype, torch.float32)
    start = torch.zeros_like(added[:, :, :1]) if state is None else state.unsqueeze(2)
    chain = torch.cat((start, added[:, :, :-1]), dim=2).to(exact)
    if fade is None:
        return chain.cumsum(dim=2)
    with autocast(added.device.type, enabled=False):
        return _scanned(fade[:, :, :-1].to(exact), chain)


def _scanned(fade: Tensor, added: Tensor) -> Tensor:
    """Scans S_0 = B_0, S_{i+1} = A_i S_i + B_{i+1}: merges pairs of steps, recursively.

    Args:
        fade: A, (B, H, n - 1, D or 1, 1 or D)
        added: B, (B, H, n, D, E)
    """
    count = added.shape[2]
    if count == 1:
        return added
    inside, between = fade[:, :, 0::2], fade[:, :, 1::2]  # 0 to 1, 2 to 3, ...; 1 to 2, 3 to 4, ...
    even, odd = added[:, :, 0::2], added[:, :, 1::2]
    num_pairs = count // 2
    odd = _scanned(
        _applied(inside[:, :, 1:], between[:, :, : num_pairs - 1]),
        _applied(inside, even[:, :, :num_pairs]) + odd,
    )
    later = _applied(between, odd[:, :, : between.shape[2]]) + even[:, :, 1:]
    even = torch.cat((even[:, :, :1], later), dim=2)
    pairs = torch.stack((even[:, :, :num_pairs], odd), dim=3).flatten(2, 3)
    return pairs if count % 2 == 0 else torch.cat((pairs, even[:, :, num_pairs:]), dim=2)


def _applied(fade: Tensor, state: Tensor) -> Tensor:
    """Returns A S, where A may be a diagonal."""
    return fade * state if fade.shape[-1] == 1 else fade @ state


def decayed_sums(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, state: Tensor | None, chunk: int
) -> tuple[Tensor, Tensor]:
    """Runs tokens through a decaying state: S_t = exp(g_t) S_{t-1} + k_t v_tᵀ, o_t = q_t S_t. A
    certified outside kernel computes it if there is one.

    Args:
        q: (B, H, T, D)
        k: (B, H, S, D)
        v: (B, H, S, E)
        log_decay: (B, H, S, D or 1), g: at most 0; the batch may be 1. None: no decay.
        state: (B, H, D, E); None: zero.
        chunk: tokens per chunk.

    Returns:
        (B, H, T, E), and the state after the last key.
    """
    decays = () if log_decay is None else (log_decay,)
    if state is None and q.shape[2] == k.shape[2]:
        computed = computed_outside("decayed_sums", q, k, v, *decays)
        if computed is not None:
            return computed
    return _decayed_sums(q, k, v, *decays, state=state, chunk=chunk)


def _decayed_sums(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None = None,
    *,
    state: Tensor | None = None,
    chunk: int = 64,
) -> tuple[Tensor, Tensor]:
    num_queries, length = q.shape[2], longest(q, k)
    if log_decay is None:
        q, k, v = in_chunks(chunk, num_queries, q, k, v)
        added = k.transpose(-2, -1) @ v  # (B, H, n, D, E)
        before = states_before(None, added, state)
        last = before[:, :, -1] + added[:, :, -1]
        sums = (q @ k.transpose(-2, -1)).tril() @ v + q @ before
        return joined(sums, length, num_queries), last
    # Smaller decays are 0 anyway; in a sum they would only cost other terms their precision.
    log_decay = log_decay.clamp(min=math.log(torch.finfo(log_decay.dtype).tiny))
    q, k, v, log_decay = in_chunks(chunk, num_queries, q, k, v, log_decay)
    faded = log_decay.cumsum(dim=3)  # (B, H, n, chunk, D or 1): since the start of the chunk
    end = faded[:, :, :, -1:]
    fade = end.exp().transpose(-2, -1)
    added = (k * (end - faded).exp()).transpose(-2, -1) @ v
    before = states_before(fade, added, state)
    last = fade[:, :, -1] * before[:, :, -1] + added[:, :, -1]
    sums = faded_products(q, k, faded) @ v + (q * faded.exp()) @ before
    return joined(sums, length, num_queries), last


ONE_BY_ONE = 4
"""Tokens whose products are computed feature by feature, where each feature has its own decay."""


def faded_products(q: Tensor, k: Tensor, faded: Tensor) -> Tensor:
    """Returns sum_d q_id k_jd exp(g_id - g_jd) for j <= i within each chunk, else 0.

    For queries in the later half of a chunk and keys in the earlier half, this is the product of
    q exp(g_i - m) and k exp(m - g_j), with m the decay at the end of the earlier half: both
    exponents are at most 0. Each half is split again until few tokens are left.

    Args:
        q: (..., B, H, n, chunk, D); several sets of queries may use the same keys.
        k: (B, H, n, chunk, D)
        faded: g, (B, H, n, chunk, 1 or D)

    Returns:
        (..., B, H, n, chunk, chunk)
    """
    if faded.shape[-1] == 1:
        between = (faded - faded.transpose(-2, -1)).masked_fill(_later(faded), float("-inf"))
        return (q @ k.transpose(-2, -1)) * between.exp()
    size = min(ONE_BY_ONE, q.shape[-2])
    q, k, faded = (heads.unflatten(-2, (-1, size)) for heads in (q, k, faded))
    between = faded.unsqueeze(-2) - faded.unsqueeze(-3)  # (B, H, n, m, size, size, D)
    between = between.masked_fill(_later(faded).unsqueeze(-1), float("-inf")).exp()
    products = (q.unsqueeze(-2) * k.unsqueeze(-3) * between).sum(dim=-1)
    while products.shape[-3] > 1:  # (..., B, H, n, m, size, size): pairs of blocks become one
        middle = faded[..., 0::2, -1:, :]
        asked = q[..., 1::2, :, :] * (faded[..., 1::2, :, :] - middle).exp()
        offered = k[..., 0::2, :, :] * (middle - faded[..., 0::2, :, :]).exp()
        read = asked @ offered.transpose(-2, -1)
        earlier = F.pad(products[..., 0::2, :, :], (0, read.shape[-1]))
        later = torch.cat((read, products[..., 1::2, :, :]), dim=-1)
        products = torch.cat((earlier, later), dim=-2)
        q, k, faded = (heads.unflatten(-3, (-1, 2)).flatten(-3, -2) for heads in (q, k, faded))
    return products.squeeze(-3)


def _later(heads: Tensor) -> Tensor:
    """Keys after the query: (T, T) for (..., T, D)."""
    size = heads.shape[-2]
    return torch.ones(size, size, dtype=torch.bool, device=heads.device).triu(1)


def _sample_decayed(
    widths: tuple[int, ...], sizes: tuple[int, int, int], generator: torch.Generator
) -> list[Tensor]:
    """Returns queries, keys and values of typical size, and decays from weak to strong."""
    q, k, v, *others = (torch.randn(*sizes, width, generator=generator) for width in widths)
    return [q / widths[0] ** 0.5, k, v, *(-(2 * other - 3).exp() for other in others)]


operation(Operation("decayed_sums", _decayed_sums, _sample_decayed))
