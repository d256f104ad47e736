"""Reads logged maps through TensorBoard's data provider, and validates them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tensorboard import errors
from tensorboard.backend.event_processing import data_provider as reader
from tensorboard.data import provider as data_provider

from attnkit.tensorboard.map_header import PLUGIN_NAME, inflate_layer, read_header
from attnkit.tensorboard.untrusted import MapFormatError, require

READERS = 32
"""Number of blobs that are read simultaneously: four records of seven layers."""

ALL_STEPS = 10**6
"""More than any run logs: TensorBoard drops random steps above this number."""


_tensor_size = reader._tensor_size


def _num_blobs(tensor: Any) -> int:
    """Returns the number of blobs of a record, for TensorBoard's Python reader. The reader trusts
    the shape, and a wrong one would break the index of all maps. Such a record has no blobs here,
    and reading it raises an error.
    """
    size = _tensor_size(tensor)
    return size if 0 <= size <= len(tensor.string_val) else 0


@dataclass(frozen=True)
class Series:
    """The steps of one run and tag.

    Attributes:
        steps: ascending.
        started: Unix time of the first; distinguishes runs with the same name.
        keys: step -> the keys of its blobs.
    """

    steps: list[int]
    started: float
    keys: dict[int, tuple[str, ...]]


class LoggedMaps:
    """All maps known to TensorBoard. Thread-safe."""

    def __init__(self, provider: Any) -> None:
        # A `tensorboard.data.provider.DataProvider`, whose methods declare no result types.
        self.provider = provider
        if isinstance(provider, reader.MultiplexerDataProvider):
            reader._tensor_size = _num_blobs
        self._known: dict[tuple[str, str, str], Series] = {}
        self._lock = threading.Lock()
        # TensorBoard's data server takes 40 ms per blob, so all are requested at once.
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="attention")

    def all_series(self, context: Any, experiment: str) -> dict[tuple[str, str], Series]:
        """Returns (run, tag) -> its current steps."""
        return self._query(context, experiment, None)

    def one_series(self, context: Any, experiment: str, run: str, tag: str) -> Series:
        """Returns the current steps of one run and tag.

        Raises:
            errors.NotFoundError: if there are none.
        """
        chosen = data_provider.RunTagFilter(runs=[run], tags=[tag])
        found = self._query(context, experiment, chosen)
        if (run, tag) not in found:
            raise errors.NotFoundError(f"run {run!r} has no maps {tag!r}")
        return found[run, tag]

    def record(self, context: Any, experiment: str, run: str, tag: str, step: int) -> list[bytes]:
        """Returns one step: a validated header, and the bytes of each layer.

        Raises:
            errors.NotFoundError: if nothing was logged there.
            MapFormatError: if the data is damaged, too large, or of another version.
        """
        return _inflate(self.blobs(context, experiment, run, tag, step))

    def blobs(self, context: Any, experiment: str, run: str, tag: str, step: int) -> list[bytes]:
        """Returns the data of one step, unchecked.

        Raises:
            errors.NotFoundError: if nothing was logged there.
        """
        with self._lock:
            series = self._known.get((experiment, run, tag))
        if series is None or step not in series.keys:
            series = self.one_series(context, experiment, run, tag)
        if step not in series.keys:
            raise errors.NotFoundError(f"run {run!r} has no maps {tag!r} at step {step}")
        return list(self._readers.map(lambda key: self._blob(context, key), series.keys[step]))

    def _blob(self, context: Any, key: str) -> bytes:
        try:
            return self.provider.read_blob(context, blob_key=key)
        except (ValueError, TypeError, IndexError) as error:  # TensorBoard's Python reader
            raise MapFormatError(f"the logged data is damaged: {error}") from error

    def _query(
        self, context: Any, experiment: str, chosen: data_provider.RunTagFilter | None
    ) -> dict[tuple[str, str], Series]:
        found = self.provider.read_blob_sequences(
            context,
            experiment_id=experiment,
            plugin_name=PLUGIN_NAME,
            downsample=ALL_STEPS,
            run_tag_filter=chosen,
        )
        series = {
            (run, tag): _series(data) for run, tags in found.items() for tag, data in tags.items()
        }
        with self._lock:
            for (run, tag), one in series.items():
                self._known[experiment, run, tag] = one
        return series


def _series(data: Any) -> Series:
    keys = {datum.step: tuple(value.blob_key for value in datum.values) for datum in data}
    started = min((datum.wall_time for datum in data), default=0.0)
    return Series(sorted(keys), started, keys)


def _inflate(blobs: list[bytes]) -> list[bytes]:
    """Decompresses the layers and checks their number: the pages trust the header's sizes."""
    require(bool(blobs), "the record is damaged: it has no blobs, and so no header")
    header = read_header(blobs[0])
    layers = len(header.shapes)
    require(len(blobs) == 1 + layers, f"{layers} layers, but {len(blobs) - 1} blobs for them")
    return [blobs[0], *(inflate_layer(header, i, blob) for i, blob in enumerate(blobs[1:]))]
