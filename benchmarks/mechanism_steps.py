"""A training step of each mechanism as a multiple of multi_head's: forward and backward, float32.

The mechanisms take turns (A B C A B C ...); what counts is the processor time of this one thread,
its least over the rounds. Beside it stands what the forward pass keeps for the backward one.

    python benchmarks/mechanism_steps.py
    python benchmarks/mechanism_steps.py --tokens 2048 --batch 2 --layers 1 --mechanisms additive
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor
from torch.nn import functional as F

from attnkit.models.language_model import LanguageModel
from attnkit.registry import Spec

BASE = "multi_head"
HEAD_DIM, VOCABULARY = 64, 65


def step(model: LanguageModel, tokens: Tensor) -> float:
    """Seconds that one forward and backward pass takes this thread."""
    started = time.thread_time()
    F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
    model.zero_grad(set_to_none=True)
    return time.thread_time() - started


def bytes_kept(model: LanguageModel, tokens: Tensor) -> int:
    """Of all tensors that a forward pass keeps for the backward one, each storage once."""
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(tokens)
    storages = [tensor.untyped_storage() for tensor in kept]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--mechanisms", nargs="+", default=["linear", "retention", "gated_linear", "delta_net"]
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokens = torch.randint(VOCABULARY, (options.batch, options.tokens))
    models = {
        name: LanguageModel(
            VOCABULARY,
            max_seq_len=options.tokens,
            dim=options.dim,
            num_layers=options.layers,
            attention=Spec(name, {"num_heads": options.dim // HEAD_DIM}),
            position=Spec("none"),
        )
        for name in (BASE, *options.mechanisms)
    }
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(options.rounds):
        for name, model in models.items():
            seconds[name].append(step(model, tokens))
    for name, model in models.items():
        least, ratio = min(seconds[name]), min(seconds[name]) / min(seconds[BASE])
        kept = bytes_kept(model, tokens) / 2**20
        print(f"{name:14s} {least:7.2f} s   {ratio:5.2f} x {BASE}   keeps {kept:8.0f} MiB")


if __name__ == "__main__":
    main()
