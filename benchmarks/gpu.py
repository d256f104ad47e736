"""What is measured on a GPU, in one process, since a lent card is short of time.

    python benchmarks/gpu.py small large --nanogpt ~/nanoGPT    # training, nanoGPT beside it
    python benchmarks/gpu.py mechanisms long translation

small         `shakespeare_char_gpu`, all logging on, against nanoGPT of the same size, compiled
large         12 layers of 768, 1,024 tokens, batch 16, no dropout, likewise
loop          the model, data and optimizer of `small` in a plain loop: compiled, and as CUDA graphs
translation   `multi30k_base_gpu`
mechanisms    a training step of mechanisms with a state, times multi_head's; 1,024 tokens
long          the same at 16,384 tokens

Speeds are the median of the later half of the windows of ten steps; `--nanogpt` names a checkout of
nanoGPT. Generation is in generation.py, kernels are in `attnkit show multi_head --measure`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from attnkit.models.language_model import LanguageModel
from attnkit.recipe import Recipe, load_recipe
from attnkit.registry import ATTENTION, OPTIMIZERS, Spec
from attnkit.runs import experiment
from attnkit.tasks.trained_run import load_run

RECIPES = Path(__file__).parents[1] / "recipes"
SMALL = RECIPES / "language_modeling" / "shakespeare_char_gpu.yaml"
LARGE = [
    "model.dim=768",
    "model.num_layers=12",
    "model.attention.num_heads=12",
    "model.max_seq_len=1024",
    "model.dropout=0",
    "trainer.batch_size=16",
]
STATES = ("linear", "retention", "gated_linear", "delta_net", "gated_delta_net", "kda", "mamba2")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait() -> None:
    """Waits for the device."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def later_median(windows: list[float]) -> float:
    """Returns the median of the later half."""
    return statistics.median(windows[len(windows) // 2 :])


def kit(path: Path, *keys: str) -> None:
    """Trains by `attnkit run`'s own code and prints speeds and the best validation loss."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe(path, [f"runs_dir={folder}", *keys])
        started = time.perf_counter()
        result = experiment.run(recipe)
        wall, record = time.perf_counter() - started, result.record
        curves = load_run(result.directory).curves
    speed = later_median(curves["speed/tokens_per_second"].values.tolist())
    peak = torch.cuda.max_memory_allocated() / 2**20 if DEVICE.type == "cuda" else 0
    print(
        f"attnkit {recipe.name}: {speed:,.0f} tokens/s, mean {record['tokens_per_second']:,.0f}; "
        f"{wall:.0f} s in all, {record['compile_seconds']:.0f} of them compiling; {peak:,.0f} MiB; "
        f"best validation loss {curves['loss/val'].values.min():.4f}; {result.metrics}",
        flush=True,
    )


def stepped(name: str, steps: int, tokens: int, step: Callable[[], Tensor]) -> None:
    """Times steps of a plain loop and prints the speed."""
    windows, last = [], None
    for number in range(1, steps + 1):
        loss = step()
        if number % 10 == 0:
            loss.item()
            now = time.perf_counter()
            if last is not None:
                windows.append((now - last) / 10)
            last = now
    seconds = later_median(windows)
    print(f"{name}: {1e3 * seconds:.2f} ms a step, {tokens / seconds:,.0f} tokens/s", flush=True)


def plain_loop(recipe: Recipe, mode: str, steps: int) -> None:
    """The kit's model, data and optimizer without a trainer."""
    data = experiment.build_data(recipe)
    data.prepare()
    model = experiment.build_model(recipe, data.tokenizer.vocab_size).to(DEVICE)
    optimizer = OPTIMIZERS.build(recipe.optimizer).build(model)
    run = torch.compile(lambda tokens, targets: model(tokens, targets=targets), mode=mode)
    number = iter(range(steps))

    def step() -> Tensor:
        batch = data.train_batch(next(number))
        tokens, targets = (
            part.pin_memory().to(DEVICE, non_blocking=True) if DEVICE.type == "cuda" else part
            for part in (batch.tokens, batch.targets)
        )
        with torch.autocast(DEVICE.type, torch.bfloat16):
            loss = run(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach().clone()

    tokens = recipe.trainer.batch_size * recipe.model["max_seq_len"]
    stepped(f"plain loop, torch.compile(mode={mode!r})", steps, tokens, step)


def nanogpt(folder: Path, recipe: Recipe, steps: int) -> None:
    """nanoGPT's model and optimizer, compiled, on random tokens of the same shape."""
    sys.path.insert(0, str(folder))
    from model import GPT, GPTConfig  # pyright: ignore[reportMissingImports]

    model, length, rows = recipe.model, recipe.model["max_seq_len"], recipe.trainer.batch_size
    heads = Spec.of(model["attention"]).options["num_heads"]
    config = GPTConfig(
        block_size=length,
        vocab_size=65,
        n_layer=model["num_layers"],
        n_head=heads,
        n_embd=model["dim"],
        dropout=model["dropout"],
        bias=False,
    )
    gpt = GPT(config).to(DEVICE)
    optimizer = gpt.configure_optimizers(1e-1, 1e-3, (0.9, 0.99), DEVICE.type)
    run = torch.compile(gpt)

    def step() -> Tensor:
        tokens, targets = torch.randint(65, (2, rows, length), device=DEVICE)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            _, loss = run(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(gpt.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    stepped("nanoGPT, compiled", steps, rows * length, step)


def mechanisms(tokens: int, rows: int) -> None:
    """Forward and backward of 4 layers of 512 in bfloat16, as it is, without a compiler."""
    base = None
    for name in ("multi_head", *STATES):
        heads = {"num_heads": 8} if "num_heads" in ATTENTION.options(name) else {}
        spec = Spec(name, heads)
        position = Spec("none")
        model = LanguageModel(
            65, max_seq_len=tokens, dim=512, num_layers=4, attention=spec, position=position
        ).to(DEVICE)
        batch, times = torch.randint(65, (rows, tokens), device=DEVICE), []
        for _ in range(8):
            wait()
            started = time.perf_counter()
            with torch.autocast(DEVICE.type, torch.bfloat16):
                loss = model(batch, targets=batch)
            loss.backward()
            model.zero_grad(set_to_none=True)
            wait()
            times.append(time.perf_counter() - started)
        seconds = statistics.median(times[3:])
        base = base or seconds
        print(f"{name:16s} {tokens:6,} tokens  {1e3 * seconds:8.2f} ms  {seconds / base:5.2f} x")


def main() -> None:
    """Prints the numbers of the parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parts = ("small", "large", "loop", "translation", "mechanisms", "long")
    parser.add_argument("parts", nargs="+", choices=parts)
    parser.add_argument("--nanogpt", type=Path)
    parser.add_argument("--steps", type=int, default=2000, help="of `small`; others take fewer")
    given = parser.parse_args()
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}", flush=True)
    few = max(given.steps // 10, 30)
    for part in given.parts:
        if part in ("small", "large"):
            keys = LARGE if part == "large" else []
            steps = few if part == "large" else given.steps
            kit(SMALL, *keys, f"trainer.max_steps={steps}")
            if given.nanogpt is not None:
                nanogpt(given.nanogpt, load_recipe(SMALL, keys), few)
        elif part == "loop":
            for mode in ("default", "reduce-overhead"):
                plain_loop(load_recipe(SMALL), mode, few)
        elif part == "translation":
            kit(RECIPES / "translation" / "multi30k_base_gpu.yaml", f"trainer.max_steps={few}")
        else:
            mechanisms(*((1024, 8) if part == "mechanisms" else (16384, 1)))


if __name__ == "__main__":
    main()
