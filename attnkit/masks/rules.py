"""Masks: which query may attend to which key. They combine with `&` (both allow) and `|` (either
allows).

    causal | Prefix(length=8)         SlidingWindow(window=64) & Padding(keep)

Conventions:

- True means that attending is allowed, as in `scaled_dot_product_attention`
  (`nn.MultiheadAttention` means the opposite).
- Positions are absolute. With `T` queries and `S` keys the last query is at the last key, so query
  `t` has position `S - T + t`, as cached decoding needs. Only `grid.Placed` and `grid.Recent`
  differ.
- `window = W` lets a query see W keys, including its own.

A mask is one elementwise rule, `allowed`. The dense tensor, the chunks of the windowed kernel and
FlexAttention's mask_mod are all made from that rule, so that they cannot disagree.
"""

from __future__ import annotations

import functools
import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from attnkit.masks.once import once, positions
from attnkit.registry import MASKS, Spec


class Mask(ABC):
    """Which query may attend to which key."""

    back: int | None = None
    """Largest distance that a query sees back (None: no limit)."""

    ahead: int | None = None
    """Largest distance that a query sees ahead (None: no limit; 0: causal)."""

    sees_itself: bool = True
    """True if every query may see the key at its own position, so that no row is empty."""

    batch_size: int = 1
    """Number of batch rows with their own mask; 1 if it is the same for all."""

    first_key: int | Tensor = 0
    """Position of the first key: not 0 where a cache has dropped the keys before it."""

    needs_documents: bool = False
    """True until `bind` has provided the documents of a batch."""

    @abstractmethod
    def allowed(self, batch: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """Returns True where `query` may attend to `key`.

        Args:
            batch: row of the batch, integers.
            query: absolute query positions, integers.
            key: absolute key positions, integers; the three broadcast against each other.
        """

    def bind(self, *, documents: Tensor | None = None) -> Mask:
        """Returns the mask for one batch; a `document` mask takes the document number of each
        token.

        Args:
            documents: (B, S) integers; tokens of one document share a number.
        """
        return self

    def first_query(self, num_queries: int, num_keys: int) -> int | Tensor:
        """Returns the position of the first query, where the last one is at the last key."""
        return self.first_key + num_keys - num_queries

    def row(self, batch: Tensor) -> Tensor:
        """Maps a row of the batch to one of the mask's own tensors, which may have a single row."""
        return batch if self.batch_size > 1 else torch.zeros_like(batch)

    def parts(self) -> tuple[Mask, ...]:
        """Returns the masks that must all allow; the mask itself if it is not a conjunction."""
        return (self,)

    def dense(self, num_queries: int, num_keys: int, device: torch.device | None = None) -> Tensor:
        """Returns the mask as a boolean tensor that broadcasts to (B, H, T, S). Layers of one
        forward pass share it: copy it before changing it.
        """
        return once(_dense, self, num_queries, num_keys, device)

    def has_no_empty_row(self, num_queries: int, num_keys: int) -> bool:
        """True if each query certainly sees at least one key."""
        return self.sees_itself and num_queries <= num_keys

    def pairs(self, num_tokens: int) -> int:
        """Returns the number of (query, key) pairs allowed in self-attention over `num_tokens`
        tokens of one document.
        """
        rule = self.bind(documents=torch.zeros(1, num_tokens, dtype=torch.long))
        first = torch.zeros(1, 1, 1, 1, dtype=torch.long)
        key = torch.arange(num_tokens).view(1, 1, 1, -1)
        pairs = 0
        # In slices: the whole mask would need memory quadratic in the length.
        for query in torch.arange(num_tokens).split(1024):
            rows = rule.allowed(first, query.view(1, 1, -1, 1), key)
            pairs += int(rows.expand(1, 1, len(query), num_tokens).sum())
        return pairs

    def __and__(self, other: Mask) -> Mask:
        parts = [p for p in (*self.parts(), *other.parts()) if not isinstance(p, NoMask)]
        if not parts:
            return NoMask()
        return parts[0] if len(parts) == 1 else AllOf(masks=parts)

    def __or__(self, other: Mask) -> Mask:
        return AnyOf(masks=[self, other])


def _dense(mask: Mask, num_queries: int, num_keys: int, device: torch.device | None) -> Tensor:
    batch = torch.arange(mask.batch_size, device=device).view(-1, 1, 1, 1)
    first = mask.first_query(num_queries, num_keys)
    query = positions(first, num_queries, device).view(1, 1, -1, 1)
    key = positions(mask.first_key, num_keys, device).view(1, 1, 1, -1)
    return mask.allowed(batch, query, key)


@MASKS.register("none")
@dataclass(frozen=True)
class NoMask(Mask):
    """Everything is allowed: the bidirectional attention of an encoder."""

    def allowed(self, batch: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return torch.ones_like(query + key, dtype=torch.bool)


@MASKS.register("causal")
@dataclass(frozen=True)
class Causal(Mask):
    """No later token: key <= query. Required for an honest language-modeling loss."""

    ahead = 0

    def allowed(self, batch: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return key <= query


@MASKS.register("sliding_window")
@dataclass(frozen=True, kw_only=True)
class SlidingWindow(Mask):
    """The W nearest keys, including its own: causal by default, or centred on the query.
    arXiv:2004.05150.

    Args:
        window: number of keys that a query sees.
        centered: look to both sides (an even window has one key more behind); not causal.
    """

    window: int = 64
    centered: bool = False

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window must be at least 1, got {self.window}")

    @property
    def back(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.window // 2 if self.centered else self.window - 1

    @property
    def ahead(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (self.window - 1) // 2 if self.centered else 0

    def allowed(self, batch: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key >= query - self.back) & (key <= query + self.ahead)


@MASKS.register("prefix")
@dataclass(frozen=True, kw_only=True)
class Prefix(Mask):
    """Causal, but the first tokens see each other in both directions (prefix-LM). arXiv:1910.10683,
    section 3.2.1.

    Args:
        length: number of tokens in the prefix.
    """

    length: int = 8

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"length of the prefix must be at least 1, got {self.length}")

    def allowed(self, batch: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) | (key < self.length)


@MASKS.register("dilated")
@dataclass(frozen=True, kw_only=True)
class Dilated(Mask):
    """Causal, every d-th key only: (query - key) mod d = 0. arXiv:1904.10509, the strided pattern's
    second head.

    Args:
        dilation: distance between the keys that a query sees.
        window: number of keys that a query sees, including its own; null: all of them.
    """

    dilation: int = 2
    window: int | None = None

    ahead = 0

    def __post_init__(self) -> None:
        if self.dilation < 1:
            raise ValueError(f"dilation must be at least 1, got {self.dilation}")
        if self.window is not None and self.window < 1:
            raise ValueError(f"window must be at least 1, got {self.window}")

    @property
    def back(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return None if self.window is None else self.dilation * (self.window - 1)

    def allowed(self, batch: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = (key <= query) & ((query - key) % self.dilation == 0)
        return seen if self.back is None else seen & (key >= query - self.back)


@MASKS.register("document")
class Document(Mask):
    """Only tokens of the same document, for sequences of several documents. Combine with `causal`.

    A recipe's mask has no documents yet; `bind` provides those of a batch.

    Args:
        documents: (B, S) integers, the document of each key.
        query_documents: (B, T) integers if the queries are another sequence; default: the last T of
            `documents`.
    """

    def __init__(
        self, documents: Tensor | None = None, query_documents: Tensor | None = None
    ) -> None:
        self.documents = documents
        self.query_documents = query_documents
        self.needs_documents = documents is None
        self.batch_size = 1 if documents is None else documents.shape[0]
        self.sees_itself = query_documents is None

    def bind(self, *, documents: Tensor | None = None) -> Mask:
        return self if documents is None else Document(documents)

    def allowed(self, batch: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """Returns True where query and key belong to the same document.

        Raises:
            ValueError: if the mask is not bound to a batch.
        """
        if self.documents is None:
            raise ValueError(
                "the document mask needs the documents of the batch; call bind(documents=...)"
            )
        row = self.row(batch)
        of_key = self.documents[row, key]
        if self.query_documents is None:
            return self.documents[row, query] == of_key
        offset = self.documents.shape[1] - self.query_documents.shape[1]
        return self.query_documents[row, query - offset] == of_key


class Padding(Mask):
    """No padded key. It depends on the data, so recipes cannot name it.

    Args:
        keep: (B, S) boolean, True for real tokens.
    """

    sees_itself = False

    def __init__(self, keep: Tensor) -> None:
        self.keep = keep
        self.batch_size = keep.shape[0]

    def allowed(self, batch: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return self.keep[self.row(batch), key]


class _Combined(Mask):
    """Masks joined by one operator."""

    def __init__(self, masks: Sequence[Any]) -> None:
        if not masks:
            raise ValueError("masks must name at least one mask")
        self.masks = tuple(build_mask(mask) for mask in masks)
        self.batch_size = max(mask.batch_size for mask in self.masks)
        self.needs_documents = any(mask.needs_documents for mask in self.masks)

    def bind(self, *, documents: Tensor | None = None) -> Mask:
        return type(self)(masks=[mask.bind(documents=documents) for mask in self.masks])

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.masks == getattr(other, "masks", None)

    def __hash__(self) -> int:
        return hash((type(self), self.masks))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.masks))})"


@MASKS.register("all_of")
class AllOf(_Combined):
    """Allowed where every mask allows: `a & b`. In a recipe a plain list of masks means the same.

    Args:
        masks: the masks to join.
    """

    def __init__(self, *, masks: Annotated[Sequence[Mask | Spec], MASKS]) -> None:
        super().__init__(masks)
        backs = [m.back for m in self.masks if m.back is not None]
        aheads = [m.ahead for m in self.masks if m.ahead is not None]
        self.back = min(backs) if backs else None
        self.ahead = min(aheads) if aheads else None
        self.sees_itself = all(mask.sees_itself for mask in self.masks)

    def parts(self) -> tuple[Mask, ...]:
        """Returns the masks, with nested conjunctions flattened."""
        return tuple(part for mask in self.masks for part in mask.parts())

    def allowed(self, batch: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return functools.reduce(operator.and_, (m.allowed(batch, query, key) for m in self.masks))


@MASKS.register("any_of")
class AnyOf(_Combined):
    """Allowed where at least one mask allows: `a | b`.

    Args:
        masks: the masks to join.
    """

    def __init__(self, *, masks: Annotated[Sequence[Mask | Spec], MASKS]) -> None:
        super().__init__(masks)
        backs, aheads = [m.back for m in self.masks], [m.ahead for m in self.masks]
        self.back = None if None in backs else max(b for b in backs if b is not None)
        self.ahead = None if None in aheads else max(a for a in aheads if a is not None)
        self.sees_itself = any(mask.sees_itself for mask in self.masks)

    def allowed(self, batch: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return functools.reduce(operator.or_, (m.allowed(batch, query, key) for m in self.masks))


def build_mask(mask: Mask | Spec | str | Mapping[str, Any] | Sequence[Any]) -> Mask:
    """Makes a mask from a name, a spec, a list of them (all must allow), or a mask.

    Raises:
        RegistryError: if a name or an option is unknown.
        ValueError: if the value of an option is invalid.
    """
    if isinstance(mask, Mask):
        return mask
    if isinstance(mask, Sequence) and not isinstance(mask, str):
        return functools.reduce(operator.and_, (build_mask(part) for part in mask), NoMask())
    return MASKS.build(mask)


def name_of(mask: Mask) -> str:
    """Returns the mask as a recipe writes it: `causal & document`."""
    if isinstance(mask, Padding):
        return "padding"
    if isinstance(mask, AnyOf):
        return "(" + " | ".join(map(name_of, mask.masks)) + ")"
    if isinstance(mask, AllOf):
        return " & ".join(map(name_of, mask.masks))
    return MASKS.name_of(type(mask))
