"""Milliseconds a token of generation, batch 1 and 64: from a cache that grows, and from one of
fixed size, as it is and compiled. On a GPU, the steps of a fixed one are a CUDA graph.

The ways take turns; what counts is the least of all rounds. On a GPU the clock is read after the
device has finished. The first text of each way is not counted: it compiles.

    python benchmarks/generation.py                     # on a GPU if there is one
    python benchmarks/generation.py --device cpu --ways grows fixed --tokens 60
"""

from __future__ import annotations

import argparse
import time
from unittest.mock import patch

import torch

from attnkit.models import decoding
from attnkit.models.language_model import LanguageModel
from attnkit.registry import Spec
from attnkit.training.compiled import Compiled

WAYS = ("grows", "fixed", "compiled")
VOCABULARY, PROMPT = 65, 16


def seconds(model: LanguageModel, run: decoding.Run | None, batch: int, tokens: int) -> float:
    """What a prompt and the tokens behind it take, each looked at as it comes."""
    prompt = torch.ones(batch, PROMPT, dtype=torch.long, device=model.embedding.weight.device)
    started = time.perf_counter()
    for following in decoding.generate(model, prompt, tokens, seed=1, run=run):
        following.tolist()  # as a text is shown: waits for the device
    return time.perf_counter() - started


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--attention", default="multi_head")
    parser.add_argument("--position", default="learned")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--tokens", type=int, default=240)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.manual_seed(0)
    model = LanguageModel(
        VOCABULARY,
        max_seq_len=PROMPT + options.tokens,
        dim=options.dim,
        num_layers=options.layers,
        attention=Spec(options.attention, {"num_heads": options.dim // 64}),
        position=Spec(options.position),
    )
    model = model.to(device).eval()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    print(f"{name}, torch {torch.__version__}, {options.layers} x {options.dim}, float32")
    for batch in options.batches:
        runs = {"grows": None, "fixed": model, "compiled": Compiled(model, dynamic=False)}
        least: dict[str, float] = {}
        for number in range(options.rounds + 1):
            for way in options.ways:
                with patch.object(decoding, "_fixes", lambda *_, way=way: way != "grows"):
                    took = seconds(model, runs[way], batch, options.tokens)
                if number:
                    least[way] = min(took, least.get(way, took))
        for way, took in least.items():
            print(f"batch {batch:3d}  {way:9s} {1000 * took / options.tokens:8.3f} ms a token")


if __name__ == "__main__":
    main()
