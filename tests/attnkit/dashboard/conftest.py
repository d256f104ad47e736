"""Event files with attention maps, written as a run writes them, and TensorBoard around them."""

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from attnkit.tensorboard import summaries
from attnkit.tensorboard.attention_record import AttentionRecord, layer_map
from attnkit.tensorboard.map_format import encode

Logged = tuple[str, Sequence[bytes], int]
"""A tag, its blobs, and the step."""


@pytest.fixture(scope="session")
def make_record() -> Callable[..., AttentionRecord]:
    """`make_record(heads=(2, 4), seed=1)`: a record of random maps."""
    return random_record


def random_record(
    heads: Sequence[int] = (2, 2),
    queries: Sequence[str] = tuple("abcdef"),
    keys: Sequence[str] | None = None,
    *,
    seed: int = 0,
    masked: bool = True,
    signed: bool = False,
    site: str = "self",
) -> AttentionRecord:
    """Makes random maps: layer i has `heads[i]` heads; with `keys`, of cross-attention."""
    generator = np.random.default_rng(seed)
    shape = (len(queries), len(keys or queries))
    allowed = np.tri(*shape, shape[1] - shape[0], dtype=bool) if masked and not keys else None
    layers = []
    for index, count in enumerate(heads):
        weights = generator.normal(size=(count, *shape))
        if not signed:
            weights = np.exp(2 * weights) * (1 if allowed is None else allowed)
            weights = weights / weights.sum(axis=-1, keepdims=True)
        elif allowed is not None:
            weights = weights * allowed
        layers.append(layer_map(f"L{index}", weights, allowed))
    return AttentionRecord(
        example="probe",
        site=site,
        kind="cross" if keys else "self",
        causal=masked and not keys,
        query_tokens=queries,
        key_tokens=keys or queries,
        layers=layers,
    )


@pytest.fixture(scope="session")
def logged() -> Callable[[AttentionRecord, int], Logged]:
    """`logged(record, step)`: a record as it lies in an event file."""
    return lambda record, step: (record.tag, encode(record), step)


@pytest.fixture(scope="session")
def write_run() -> Callable[..., None]:
    """`write_run(directory, [logged(record, step), ...])`: writes an event file."""
    return write_events


def write_events(directory: Path, moments: Sequence[Logged], start: float = 1.7e9) -> None:
    """Writes an event file; the clock of its first step says `start`."""
    writer = EventFileWriter(str(directory), flush_secs=600)
    for tag, blobs, step in moments:
        summary = summaries.maps(tag, blobs)
        writer.add_event(Event(step=step, wall_time=start + step, summary=summary))
    writer.close()


class TensorBoard:
    """A TensorBoard of its own process, as a user starts it."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tensorboard.main", "--port", "0", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.address = self._address()

    def _address(self) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if " at http" in line:
                return line.split(" at ")[1].split(" ")[0]
        raise RuntimeError("TensorBoard did not start")

    def get(self, path: str) -> bytes:
        """What the server answers, relative to its address."""
        with urllib.request.urlopen(self.address + path, timeout=300) as answer:
            return answer.read()

    def wait_for(self, path: str, holds: Callable[[bytes], bool], seconds: float = 300) -> bytes:
        """Asks until the answer is as wanted: TensorBoard reads event files in the background."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                content = self.get(path)
            except urllib.error.HTTPError:
                content = b""
            if holds(content):
                return content
            time.sleep(0.1)
        raise TimeoutError(f"{path} did not become what was wanted")

    def stop(self) -> None:
        """Ends the process that was started here."""
        self.process.terminate()
        self.process.communicate(timeout=300)


@pytest.fixture(scope="session")
def tensorboard() -> Callable[..., AbstractContextManager[TensorBoard]]:
    """`with tensorboard("--logdir", folder) as board:` runs a TensorBoard while the block lasts."""
    return running


@contextmanager
def running(*arguments: str) -> Iterator[TensorBoard]:
    """What the fixture `tensorboard` returns."""
    board = TensorBoard(*arguments)
    try:
        yield board
    finally:
        board.stop()


@pytest.fixture(scope="session")
def maps_of_real_runs(
    small_keys: dict, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Two short trainings with maps, of other mechanisms and numbers of heads: variant -> run."""
    from attnkit.recipe import recipe_from_dict
    from attnkit.runs import experiment

    root = tmp_path_factory.mktemp("trained")
    keys = {
        **small_keys,
        "runs_dir": str(root),
        "logging": {"attention_maps": 4, "samples": 0, "probe_tokens": 12},
    }
    hybrid = '[{"name": "multi_head", "num_heads": 4}, {"name": "linear", "num_heads": 2}]'
    variants = {"two_heads": [], "hybrid": [f"model.attention={hybrid}"]}
    return {
        name: experiment.run(recipe_from_dict({**keys, "variant": name}, changes)).directory
        for name, changes in variants.items()
    }
