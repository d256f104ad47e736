"""What a mechanism remembers between decoding steps: keys and values, or a state of fixed size."""

from __future__ import annotations

from torch import Tensor


class Cache:
    """The memory of one attention over one batch of sequences. Made by `Attention.new_cache`."""

    length: int = 0
    """Tokens seen so far."""

    def tensors(self) -> list[Tensor]:
        """The tensors that it holds."""
        return [value for value in vars(self).values() if isinstance(value, Tensor)]

    def num_bytes(self) -> int:
        """Bytes that the tokens seen so far need: those of all tensors, unless a cache keeps room
        for later tokens.
        """
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors())

    def select(self, rows: Tensor) -> None:
        """Keeps these rows of the batch, in this order: what beam search does to its hypotheses.

        Every tensor that a cache holds has the batch as its first axis; a cache for which that is
        not so overrides this.
        """
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.index_select(0, rows))


class KeyValueCache(Cache):
    """Keys and values of all tokens seen, in memory that doubles when it is full."""

    def __init__(self) -> None:
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Adds keys and values (B, H, S, D) of new tokens and returns those of all tokens."""
        start, self.length = self.length, self.length + keys.shape[2]
        self._keys = _write(self._keys, keys, start)
        self._values = _write(self._values, values, start)
        return self._keys[:, :, : self.length], self._values[:, :, : self.length]

    def num_bytes(self) -> int:
        """Bytes of the keys and values in use (not of the room kept for later ones)."""
        stored = [t[:, :, : self.length] for t in (self._keys, self._values) if t is not None]
        return sum(t.numel() * t.element_size() for t in stored)


def _write(buffer: Tensor | None, new: Tensor, start: int) -> Tensor:
    """Writes `new` at `start`, into a buffer twice as long if it does not fit."""
    stop = start + new.shape[2]
    if buffer is None or stop > buffer.shape[2]:
        grown = new.new_empty(*new.shape[:2], max(2 * start, stop), new.shape[3])
        if buffer is not None:
            grown[:, :, :start] = buffer[:, :, :start]
        buffer = grown
    buffer[:, :, start:stop] = new
    return buffer


State = Tensor | dict[str, Tensor]
"""What a mechanism carries from token to token: one tensor, or several by name, each with the batch
as its first axis.
"""


class StateCache(Cache):
    """A state of fixed size, however many tokens were seen."""

    def __init__(self) -> None:
        self.state: State | None = None

    def update(self, state: State, num_tokens: int) -> None:
        """Replaces the state by the one after `num_tokens` more tokens."""
        self.state = state
        self.length += num_tokens

    def tensors(self) -> list[Tensor]:
        """The tensors of the state."""
        if isinstance(self.state, dict):
            return list(self.state.values())
        return [] if self.state is None else [self.state]

    def select(self, rows: Tensor) -> None:
        if isinstance(self.state, dict):
            self.state = {name: t.index_select(0, rows) for name, t in self.state.items()}
        super().select(rows)
