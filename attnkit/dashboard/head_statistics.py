"""Three statistics of each head's map, at every logged step.

All are means over the queries that may attend to at least two keys: a query with a single key has
the same values in every head. Rows are divided by their sums first, and signed weights are replaced
by their absolute values.

    entropy      -sum_k p_k ln p_k, in nats: 0 for one key, ln(n) for n equal keys
    distance     sum_k p_k |position of the query - position of the key|, in tokens; for
                 self-attention only, since two texts have no common positions
    first        p_0, the mass on the first key (the sink of arXiv:2309.17453)

A record stores square roots of weights in 8 bits (`attnkit.tensorboard.map_format`), which causes
an error of about 0.002 nats in a head's mean entropy.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from attnkit.tensorboard.map_format import decode
from attnkit.tensorboard.untrusted import MapFormatError

if TYPE_CHECKING:
    import numpy as np

    from attnkit.tensorboard.attention_record import AttentionRecord, LayerMap

Numbers = dict[str, list[list[float] | None]]

MAX_SERIES = 64

AT_ONCE = 4
"""Number of steps that are read simultaneously; most of their time is spent waiting."""


def statistics(record: AttentionRecord) -> Numbers:
    """Returns name -> one list per layer, with one number per head; None if undefined.

    A layer in which no query may attend to two keys is undefined.
    """
    numbers: Numbers = {"entropy": [], "distance": [], "first": []}
    for layer in record.layers:
        values = _of_layer(layer, record.kind)
        for name, of_heads in numbers.items():
            of_heads.append(values.get(name))
    return numbers


def _of_layer(layer: LayerMap, kind: str) -> dict[str, list[float]]:
    import numpy as np

    heads, queries, keys = layer.weights.shape
    allowed = np.ones((1, queries, keys), bool) if layer.allowed is None else layer.allowed
    allowed = np.broadcast_to(allowed, (heads, queries, keys))
    weights = abs(layer.weights) * allowed
    sums = weights.sum(axis=-1, keepdims=True)
    counts = (allowed.sum(axis=-1) > 1) & (sums[..., 0] > 0)  # (H, Q)
    if not counts.any(axis=-1).all():
        return {}
    rows = weights / np.where(sums > 0, sums, 1)
    surprise = -np.log(np.where(rows > 0, rows, 1))
    values = {
        "entropy": np.einsum("hqk,hqk->hq", rows, surprise),
        "first": rows[..., 0],
    }
    if kind == "self":
        # Aligned at the end, like a causal mask: the last query is at the last key.
        positions = np.arange(queries)[:, None] + keys - queries
        values["distance"] = np.einsum("hqk,qk->hq", rows, abs(positions - np.arange(keys)))
    return {name: _mean(value, counts) for name, value in values.items()}


def _mean(values: np.ndarray, counts: np.ndarray) -> list[float]:
    """Returns the means over the counted queries (H, Q), rounded for transfer."""
    means = (values * counts).sum(axis=-1) / counts.sum(axis=-1)
    return [round(float(mean), 5) for mean in means]


class StatisticsCache:
    """Computes each step of a run once. Thread-safe."""

    def __init__(self) -> None:
        self._computed: OrderedDict[Hashable, dict[int, Numbers]] = OrderedDict()
        self._lock = threading.Lock()

    def curves(
        self,
        series: Hashable,
        steps: Sequence[int],
        read: Callable[[int], list[bytes]],
    ) -> dict[str, Any]:
        """Returns {"steps": [...], "names": [...], "entropy": [one entry per step], ...}.

        Leaves out steps that cannot be read, or whose layers or heads differ from those of the last
        step.

        Raises:
            MapFormatError: if the last step cannot be read.
        """
        with self._lock:
            known = self._computed.setdefault(series, {})
            self._computed.move_to_end(series)
            while len(self._computed) > MAX_SERIES:
                self._computed.popitem(last=False)
        last = decode(read(steps[-1]))
        known[steps[-1]] = statistics(last)
        missing = [step for step in steps if step not in known]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            computed = pool.map(lambda step: _numbers(read, step), missing)
            known.update({step: new for step, new in zip(missing, computed, strict=True) if new})
        valid = [step for step in steps if _alike(known.get(step), known[steps[-1]])]
        return {
            "steps": valid,
            "names": [layer.name for layer in last.layers],
            **{name: [known[step][name] for step in valid] for name in known[steps[-1]]},
        }


def _numbers(read: Callable[[int], list[bytes]], step: int) -> Numbers | None:
    """Returns the statistics of one step; None if it cannot be read."""
    try:
        return statistics(decode(read(step)))
    except MapFormatError:
        return None


def _alike(numbers: Numbers | None, others: Numbers) -> bool:
    """True if two steps have the same layers and heads."""
    return numbers is not None and _sizes(numbers) == _sizes(others)


def _sizes(numbers: Numbers) -> list[int]:
    return [len(of_heads or []) for of_heads in numbers["entropy"]]
