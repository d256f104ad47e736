"""The memory of a mechanism between decoding steps: keys and values, or a state of fixed size."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from attnkit.masks.once import positions


class Cache:
    """The memory of one attention for one batch of sequences. Made by `Attention.new_cache`."""

    length: int = 0
    """Number of tokens so far; for a fixed cache, their number when it was fixed."""

    position: Tensor | None = None
    """For a fixed cache: position of the next token, (), on the device, so that one graph serves
    all tokens. The owner of the cache advances it.
    """

    @property
    def seen(self) -> int | Tensor:
        """Position of the next token."""
        return self.length if self.position is None else self.position

    def fix(self, room: int, position: Tensor) -> None:
        """Fixes the sizes and memory addresses of all tensors.

        Args:
            room: number of tokens to reserve memory for.
            position: see `position`; shared by the caches of a model.
        """
        self.position = position

    @functools.cached_property
    def tails(self) -> dict[str, Tensor]:
        """The last tokens seen by convolutions: name of the part -> (B, H, count, D)."""
        return {}

    def tensors(self) -> list[Tensor]:
        """Returns its tensors, including those in dictionaries."""
        return list(_tensors_in(vars(self)))

    def num_bytes(self) -> int:
        """Returns the bytes needed for the tokens so far, without reserved memory."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors())

    def select(self, rows: Tensor) -> None:
        """Selects rows of the batch, in this order, as beam search does.

        The batch must be the first axis of every tensor, including those in dictionaries; other
        caches override this method.
        """

        def selected(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: selected(part) for name, part in value.items()}
            return value.index_select(0, rows) if isinstance(value, Tensor) else value

        for name, value in list(vars(self).items()):
            setattr(self, name, selected(value))


class KeyValueCache(Cache):
    """Keys and values of all tokens, and what a mechanism carries with them, in memory that doubles
    when it is full.

    Attributes:
        keeps: number of keys before the new ones that are kept, since no later query looks further
            back; None: all.
    """

    def __init__(self, keeps: int | None = None) -> None:
        self.keeps = keeps
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self._carried: Tensor | None = None
        self._dropped = 0  # position of the first key that is kept
        self._start = 0  # its place in the buffers
        # For a cache of fixed size that keeps a window: a key is at position % slots.
        self._slots = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Appends keys and values (B, H, S, D) of new tokens; returns those of all kept tokens, in
        order.
        """
        count = keys.shape[2]
        if self.position is not None:
            assert self._keys is not None
            assert self._values is not None
            places = positions(self.position, count, keys.device)
            if self._slots:
                assert self.keeps is not None
                if count > self._slots - self.keeps:
                    raise ValueError(
                        f"{count} tokens at once do not fit into a cache of fixed size with "
                        f"a window of {self.keeps + 1}; pass at most {self._slots - self.keeps}"
                    )
                places = places % self._slots
            self._keys.index_copy_(2, places, keys)
            self._values.index_copy_(2, places, values)
            return self.stored(count)
        kept = self.length - self._dropped
        if self.keeps is not None and kept > self.keeps:
            self._start += kept - self.keeps
            self._dropped += kept - self.keeps
            kept = self.keeps
        start = self._start
        fits = self._keys is not None and start + kept + count <= self._keys.shape[2]
        self._keys = _write(self._keys, keys, start, kept)
        self._values = _write(self._values, values, start, kept)
        self._start = start if fits else 0
        self.length += count
        return self.stored(count)

    def stored(self, count: int) -> tuple[Tensor, Tensor]:
        """Returns keys and values of the kept tokens, in order; for a fixed cache that keeps all,
        with the reserved memory.

        Args:
            count: number of tokens appended last.
        """
        assert self._keys is not None
        assert self._values is not None
        if self._slots:
            first = self.first_key(count)
            order = positions(first, self._slots, self._keys.device) % self._slots
            return self._keys.index_select(2, order), self._values.index_select(2, order)
        if self.position is not None:
            return self._keys, self._values
        kept = slice(self._start, self._start + self.length - self._dropped)
        return self._keys[:, :, kept], self._values[:, :, kept]

    @property
    def has_dropped(self) -> bool:
        """True if the first key is not at position 0."""
        return self._dropped > 0 or self._slots > 0

    def first_key(self, count: int) -> int | Tensor:
        """Returns the position of the first key; for a fixed cache with a window a () tensor,
        negative while there are fewer keys.

        Args:
            count: number of tokens appended last.
        """
        if self._slots:
            assert self.position is not None
            return self.position + (count - self._slots)
        return self._dropped

    def fix(self, room: int, position: Tensor) -> None:
        slots = 0 if self.keeps is None else -(-(self.keeps + 1) // 8) * 8
        self._slots = slots if slots < room else 0
        size = self._slots or room
        kept = self.length - self._dropped
        for name in ("_keys", "_values"):
            buffer = getattr(self, name)
            # Zeros, because masked values are multiplied by a weight of zero.
            fixed = buffer.new_zeros(*buffer.shape[:2], size, buffer.shape[3])
            last = min(kept, size)
            stop = self._start + kept
            places = torch.arange(self.length - last, self.length, device=buffer.device) % size
            fixed[:, :, places] = buffer[:, :, stop - last : stop]
            setattr(self, name, fixed)
        self._start = self._dropped = 0
        super().fix(room, position)

    def carry(self, carried: Tensor) -> Tensor:
        """Appends what the tokens of the last `append` carry (B, H', S, E); returns that of all."""
        before = self.length - carried.shape[2]
        self._carried = _write(self._carried, carried, 0, before)
        return self._carried[:, :, : self.length]

    def num_bytes(self) -> int:
        """Returns the bytes in use, without reserved memory unless the cache is fixed."""
        tensors = (self._keys, self._values, self._carried)
        used = self.length - self._dropped if self.position is None else None
        stored = [t[:, :, :used] for t in tensors if t is not None]
        stored += self.tails.values()
        return sum(t.numel() * t.element_size() for t in stored)


class Borrowed(KeyValueCache):
    """A view of an earlier layer's keys and values, for a layer that shares them. It stores
    nothing.

    Args:
        lender: the cache of that layer, which already contains the new tokens.
    """

    def __init__(self, lender: Cache) -> None:
        assert isinstance(lender, KeyValueCache)
        self._lender = lender

    @property
    def has_dropped(self) -> bool:
        """True if the first key is not at position 0."""
        return self._lender.has_dropped

    def first_key(self, count: int) -> int | Tensor:
        return self._lender.first_key(count)

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Returns those of the lender, which include the new ones."""
        self.length = self._lender.length
        return self._lender.stored(keys.shape[2])

    def fix(self, room: int, position: Tensor) -> None:
        Cache.fix(self, room, position)  # the lender reserves the memory

    def select(self, rows: Tensor) -> None:
        """Does nothing: the lender selects the rows."""

    def num_bytes(self) -> int:
        """Returns 0: the lender counts them."""
        return 0


def _write(buffer: Tensor | None, new: Tensor, start: int, kept: int) -> Tensor:
    """Writes `new` after the `kept` tokens that begin at `start`. If it does not fit, these are
    first copied to the front of a buffer that is twice as long.
    """
    stop = start + kept + new.shape[2]
    if buffer is None or stop > buffer.shape[2]:
        room = max(2 * kept, kept + new.shape[2])
        grown = new.new_empty(*new.shape[:2], room, new.shape[3])
        if buffer is not None:
            grown[:, :, :kept] = buffer[:, :, start : start + kept]
        buffer, start = grown, 0
    buffer[:, :, start + kept : start + kept + new.shape[2]] = new
    return buffer


State = Tensor | dict[str, Tensor]
"""The state of a mechanism: one tensor, or several by name, each with the batch as its first axis.
"""


class StateCache(Cache):
    """A state of fixed size, independent of the number of tokens."""

    def __init__(self) -> None:
        self.state: State | None = None

    def update(self, state: State, num_tokens: int) -> None:
        """Replaces the state by the one after `num_tokens` more tokens."""
        if self.position is None:
            self.state = state
            self.length += num_tokens
        elif isinstance(state, dict):
            assert isinstance(self.state, dict)
            for name, tensor in state.items():
                self.state[name].copy_(tensor)
        else:
            assert isinstance(self.state, Tensor)
            self.state.copy_(state)


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors_in(part)
