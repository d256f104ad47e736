"""Event files with attention maps, written as a run writes them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="session")
def make_moment() -> Callable[..., dict[str, Any]]:
    """`make_moment(["a", "b"], seed=1)`: a moment of `contributions.json` with four parts, of which
    the first has no effect on the first token.
    """

    def make(tokens: Sequence[str], seed: int = 0) -> dict[str, Any]:
        rng, (parts, count) = np.random.default_rng(seed), (4, len(tokens))
        kinds = ["embedding", "head", "mlp", "constant"]
        effects = rng.normal(size=(2, parts, count)).round(4)
        effects[:, 0, 0] = 0.0
        return {
            "tokens": list(tokens),
            "parts": [{"name": f"<{kind}>", "kind": kind} for kind in kinds],
            "lengths": rng.random((parts, count)).tolist(),
            "turns": rng.uniform(-1, 1, (parts, count)).tolist(),
            "words": [[[[token, 1.0]] for token in tokens] for _ in kinds],
            "next": {"tokens": [*tokens[1:], "!"], "effects": effects[0].tolist()},
            "top": {"tokens": ["?"] * count, "effects": effects[1].tolist()},
            "lens": [
                {
                    "name": name,
                    "words": [[token, 0.5] for token in tokens],
                    "ranks": {"next": [7] * count, "top": [1] * count},
                }
                for name in ("embedding", "layer 0")
            ],
        }

    return make
