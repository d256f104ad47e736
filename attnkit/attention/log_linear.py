"""Log-linear attention. Guo et al. 2025, arXiv:2506.04761

    head_t = sum_l λ_tl q_t S_tl,    S_tl = sum of k_s v_sᵀ over the tokens s of bucket l
    λ_t = softplus(x_t W_λ + b)
    output = rms_norm(head) W_o

Linear attention with several states instead of one. The tokens before t are divided into buckets
like those of a Fenwick tree: bucket 0 is the token itself, and bucket l contains 2^(l-1) tokens or
none, the nearest in the smallest. Token s is in the bucket of t whose number is the place, from 1,
of the highest bit in which their positions differ. With all λ equal this is linear attention
without its normalisation.

The last bucket contains all tokens that are further away. A sequence takes T log T steps: in each
block of 2^n tokens, the later half reads the state of the earlier half. A cache contains one state
for each 1 in the number of tokens so far, written in binary.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnkit.attention.base import Attention
from attnkit.attention.cache import State
from attnkit.attention.recurrent import Recurrent, in_chunks, joined, real_keys
from attnkit.masks import Mask
from attnkit.masks.once import positions
from attnkit.norms import HeadNorm
from attnkit.registry import ATTENTION

CHUNK = 64
"""Tokens per block whose pairs are computed one by one."""


@ATTENTION.register("log_linear")
class LogLinear(Recurrent):
    """As many states as the length has binary digits, each read with its own weight.

    Args:
        num_levels: number of buckets L; the last takes all tokens from 2^(L - 2) on.
    """

    smooth = False
    position_kinds = frozenset(("embeddings",))
    formula = "Σ_l λ_l q Σ_{s in bucket l} k_s v_sᵀ / √D,  l = bits of (t xor s), normalised"
    paper = "Guo et al. 2025, arXiv:2506.04761"

    def __init__(self, dim: int, *, num_levels: int = 16, **options) -> None:
        super().__init__(dim, **options)
        if num_levels < 2:
            raise ValueError(f"num_levels must be at least 2, got {num_levels}")
        self.num_levels = num_levels
        self.share = nn.Linear(dim, self.num_heads * num_levels)
        self.norm = HeadNorm(self.head_dim)

    def project_query(self, x: Tensor) -> Tensor:
        """Queries carry their weights of the levels: (B, H, T, D + L)."""
        share = F.softplus(self.share(x)).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        q = super().project_query(x)
        return torch.cat((q, share.to(q.dtype)), dim=-1)

    def advance(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, state: State | None
    ) -> tuple[Tensor, State]:
        """Reads all buckets (B, H, T, D); returns those after the last key, by their place."""
        assert not isinstance(state, Tensor)
        real = real_keys(mask, k)
        k = k if real is None else k * real
        empty = max(q.shape[2] - k.shape[2], 0)  # queries before the first key
        q, share = q[:, :, empty:].split((self.head_dim, self.num_levels), dim=-1)
        read = read_buckets if state else read_blocks
        heads = read(q * self.scale, k, v, share, state or {})
        return F.pad(heads, (0, 0, empty, 0)), filled(state or {}, k, v, self.num_levels)

    def merge(self, heads: Tensor, x: Tensor) -> Tensor:
        """Normalises each head and projects them."""
        return super().merge(self.norm(heads), x)

    @classmethod
    def why_no_fixed_cache(cls) -> str | None:
        return f"{cls.__name__} keeps more states as the sequence grows"

    def mixing_flops(self, num_tokens: int, pairs: int) -> int:
        """The FLOPs of a whole sequence, since decoding reads more states at some tokens."""
        return Attention.mixing_flops(self, num_tokens, pairs)

    def cache_elements(self, num_tokens: int) -> int:
        """A state (D, D) per head for each bucket that is filled."""
        num_states = sum(start < stop for start, stop in bounds(num_tokens, self.num_levels))
        return num_states * self.num_heads * self.head_dim**2


def bounds(length: int, num_levels: int) -> list[tuple[int, int]]:
    """Returns the first token of each bucket, and the one after its last, after `length` tokens:
    for each place of a bit, from the lowest on. The last bucket has all tokens further away.
    """
    last = num_levels - 2
    inner = [((length >> n + 1) << n + 1, (length >> n) << n) for n in range(last)]
    return [*inner, (0, (length >> last) << last)]


def levels(query: Tensor, key: Tensor, num_levels: int) -> Tensor:
    """The bucket of each key for each query, by positions that broadcast."""
    places = torch.arange(num_levels - 1, device=query.device)
    return ((query.unsqueeze(-1) >> places) != (key.unsqueeze(-1) >> places)).sum(dim=-1)


def read_blocks(q: Tensor, k: Tensor, v: Tensor, share: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Returns what the queries of a whole sequence read (B, H, T, D), in log2(T) steps.

    Args:
        q: (B, H, T, D), the last tokens.
        k: (B, H, S, D)
        v: (B, H, S, D)
        share: λ, (B, H, T, L).
        state: empty.
    """
    num_queries, length, last = q.shape[2], k.shape[2], share.shape[-1] - 1
    q, k, v, share = in_chunks(CHUNK, num_queries, q, k, v, share)  # (B, H, n, chunk, X)
    place = positions(0, q.shape[3], q.device)
    level = levels(place.unsqueeze(1), place, last + 1)
    products = (q @ k.transpose(-2, -1)).tril()
    heads = (products * share.gather(-1, level.expand_as(products))) @ v
    state_of, number = k.transpose(-2, -1) @ v, (q.shape[3] - 1).bit_length()
    while q.shape[2] > 1:  # blocks of two: the later one reads the earlier one
        if q.shape[2] % 2:
            q, share, heads, state_of = (
                F.pad(part, (0, 0, 0, 0, 0, 1)) for part in (q, share, heads, state_of)
            )
        number += 1
        weight = share[:, :, 1::2, :, min(number, last), None]
        read = weight * (q[:, :, 1::2] @ state_of[:, :, 0::2])
        heads = torch.cat((heads[:, :, 0::2], heads[:, :, 1::2] + read), dim=3)
        q, share = (torch.cat((part[:, :, 0::2], part[:, :, 1::2]), dim=3) for part in (q, share))
        state_of = state_of[:, :, 0::2] + state_of[:, :, 1::2]
    return joined(heads, length, num_queries)


def read_buckets(
    q: Tensor, k: Tensor, v: Tensor, share: Tensor, state: dict[str, Tensor]
) -> Tensor:
    """Returns what new tokens read, from each other and from the buckets before them: (B, H, T, D).

    Args:
        q: (B, H, T, D)
        k: (B, H, T, D)
        v: (B, H, T, D)
        share: λ, (B, H, T, L).
        state: sums of buckets (B, H, D, D), by the place of their bit.
    """
    num_levels, seen = share.shape[-1], tokens_in(state)
    query = positions(seen, q.shape[2], q.device).unsqueeze(1)
    products = (q @ k.transpose(-2, -1)).tril()
    level = levels(query, query.mT, num_levels)
    heads = (products * share.gather(-1, level.expand_as(products))) @ v
    for place, sums in state.items():
        start = bounds(seen, num_levels)[int(place)][0]
        level = levels(query, torch.full_like(query, start), num_levels)
        weight = share.gather(-1, level.expand(*share.shape[:3], 1))
        heads = heads + weight * (q @ sums)
    return heads


def filled(state: dict[str, Tensor], k: Tensor, v: Tensor, num_levels: int) -> dict[str, Tensor]:
    """Returns the buckets after new tokens (B, H, T, D), which merge those of `state` as a sum
    carries its digits.
    """
    seen = tokens_in(state)
    before = bounds(seen, num_levels)
    buckets = {}
    for place, (start, stop) in enumerate(bounds(seen + k.shape[2], num_levels)):
        if start == stop:
            continue
        new = slice(max(start - seen, 0), max(stop - seen, 0))
        sums = k[:, :, new].transpose(-2, -1) @ v[:, :, new]
        inside = [old for old in state if start <= before[int(old)][0] < stop]
        buckets[str(place)] = sum((state[old] for old in inside), sums)
    return buckets


def tokens_in(state: dict[str, Tensor]) -> int:
    """Returns the number of tokens in buckets: their places are its binary digits. (Tokens beyond
    the last place change no bucket.)
    """
    return sum(1 << int(place) for place in state)
