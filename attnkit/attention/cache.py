"""The memory of a mechanism between decoding steps: keys and values, or a state of fixed size."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from attnkit.once import positions


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
    """

    def __init__(self) -> None:
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self._carried: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Appends keys and values (B, H, S, D) of new tokens; returns those of all tokens."""
        if self.position is not None:
            assert self._keys is not None
            assert self._values is not None
            places = positions(self.position, keys.shape[2], keys.device)
            self._keys.index_copy_(2, places, keys)
            self._values.index_copy_(2, places, values)
            return self._keys, self._values
        start, self.length = self.length, self.length + keys.shape[2]
        self._keys = _write(self._keys, keys, start)
        self._values = _write(self._values, values, start)
        return self._keys[:, :, : self.length], self._values[:, :, : self.length]

    def fix(self, room: int, position: Tensor) -> None:
        super().fix(room, position)
        for name in ("_keys", "_values"):
            buffer = getattr(self, name)
            # Zeros, because masked values are multiplied by a weight of zero.
            fixed = buffer.new_zeros(*buffer.shape[:2], room, buffer.shape[3])
            fixed[:, :, : self.length] = buffer[:, :, : self.length]
            setattr(self, name, fixed)

    def carry(self, carried: Tensor) -> Tensor:
        """Appends what the tokens of the last `append` carry (B, H', S, E); returns that of all."""
        self._carried = _write(self._carried, carried, self.length - carried.shape[2])
        return self._carried[:, :, : self.length]

    def num_bytes(self) -> int:
        """Returns the bytes in use, without reserved memory unless the cache is fixed."""
        tensors = (self._keys, self._values, self._carried)
        used = self.length if self.position is None else None
        stored = [t[:, :, :used] for t in tensors if t is not None]
        stored += self.tails.values()
        return sum(t.numel() * t.element_size() for t in stored)


def _write(buffer: Tensor | None, new: Tensor, start: int) -> Tensor:
    """Writes `new` at `start`, to a buffer of twice the length if it does not fit."""
    stop = start + new.shape[2]
    if buffer is None or stop > buffer.shape[2]:
        grown = new.new_empty(*new.shape[:2], max(2 * start, stop), new.shape[3])
        if buffer is not None:
            grown[:, :, :start] = buffer[:, :, :start]
        buffer = grown
    buffer[:, :, start:stop] = new
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
