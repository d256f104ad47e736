"""What is measured on a GPU, in one process, since a lent card is short of time.

    python benchmarks/gpu.py --nanogpt ~/nanoGPT --minutes 9    # all parts, as far as time allows
    python benchmarks/gpu.py small large                        # some
    python benchmarks/gpu.py --rehearse                         # all, tiny, on any machine

small         `shakespeare_char_gpu`, all logging on, against nanoGPT of the same size, compiled
large         12 layers of 768, 1,024 tokens, batch 16, no dropout, likewise
eager         both without a compiler
mechanisms    a training step of mechanisms with a state, times multi_head's; 1,024 tokens
long          the same at 16,384 tokens
idle          share of time in which the device runs no kernel, in `large`
seeds         best validation loss and minutes of `shakespeare_char_gpu`, for three seeds
logging       share of the time of `small` that maps, samples and loggers take
translation   `multi30k_base_gpu`
generation    milliseconds a token, see generation.py
loop          the model, data and optimizer of `small` in a plain loop: compiled, and as CUDA graphs
kernels       each kernel that can compute multi_head, see `attnkit show multi_head --measure`

Each result is a line of the table in results.md. A part that fails is reported, and the next one
begins. Speeds are the median of the later half of the points of a curve; those of nanoGPT and of
plain loops, of windows of ten steps.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import generation
import lightning as L
import torch
from rich.console import Console
from torch import Tensor

from attnkit.cli.kernel_report import measure_kernels
from attnkit.models.language_model import LanguageModel
from attnkit.recipe import Recipe, load_recipe
from attnkit.registry import ATTENTION, OPTIMIZERS, Spec
from attnkit.runs import experiment
from attnkit.tasks.trained_run import load_run

RECIPES = Path(__file__).parents[1] / "recipes"
SMALL = RECIPES / "language_modeling" / "shakespeare_char_gpu.yaml"
TRANSLATION = RECIPES / "translation" / "multi30k_base_gpu.yaml"
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

TINY = ["model.dim=48", "model.max_seq_len=64", "trainer.max_steps=60", "validation.max_tokens=64"]
TINY_TEXT = ["model.num_layers=1", "trainer.batch_size=2", "logging.samples=1"]
TINY_TEXT += ["data.name=text", f"data.files={Path(__file__)}"]
TINY_PAIRS = ["data={name: reverse, num_train: 64, num_val: 8, max_length: 6}", "tokenizer=word"]
TINY_PAIRS += ["model.encoder.num_layers=1", "model.decoder.num_layers=1"]
TINY_PAIRS += ["trainer.batch_tokens=128"]


class Busy(L.Callback):
    """Measures the share of time in which the device runs a kernel, between two steps."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.share = float("nan")
        self._profiler: Any = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any, **__: Any
    ) -> None:
        step, activity = trainer.global_step, torch.profiler.ProfilerActivity
        if step == self.first:
            wait()
            watched = activity.CUDA if DEVICE.type == "cuda" else activity.CPU
            self._profiler = torch.profiler.profile(activities=[watched])
            self._profiler.start()
        elif step == self.last:
            wait()
            self._profiler.stop()
            here = DEVICE.type.upper()  # and not what the host does to launch kernels
            events = [e for e in self._profiler.events() if e.device_type.name == here]
            # A range that the compiler names covers the pauses between its kernels.
            ranges = [e.time_range for e in events if not e.is_user_annotation]
            self.share = busy_share([(r.start, r.end) for r in ranges])


def busy_share(ranges: Sequence[tuple[float, float]]) -> float:
    """Returns the share of the time from the first start to the last end that ranges cover."""
    covered, reached = 0.0, min(start for start, _ in ranges)
    first = reached
    for start, end in sorted(ranges):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered / (reached - first)


class Bench:
    """The parts, and the sizes that they take.

    Args:
        given: the command line.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.few = max(given.steps // 10, 30)
        self.place = f"{device_name()}, torch {torch.__version__}, {commit()}"

    def say(self, what: str, result: str) -> None:
        """Prints a line of the table."""
        command = " ".join(["python benchmarks/gpu.py", *sys.argv[1:]])
        print(f"| {what} | {result} | {self.place} | `{command}` |", flush=True)

    def recipe(self, path: Path, *keys: str) -> Recipe:
        """Loads a recipe, tiny in a rehearsal."""
        tiny = []
        if self.given.rehearse:
            tiny = TINY + (TINY_PAIRS if path == TRANSLATION else TINY_TEXT)
        last = {key.partition("=")[0]: key for key in (*keys, *tiny)}
        return load_recipe(path, [*last.values()])

    def kit(self, what: str, path: Path, *keys: str, callbacks: Sequence[L.Callback] = ()) -> float:
        """Trains by `attnkit run`'s own code; returns the seconds without compiling."""
        if DEVICE.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with tempfile.TemporaryDirectory() as folder:
            recipe = self.recipe(path, f"runs_dir={folder}", *keys)
            started = time.perf_counter()
            result = experiment.run(recipe, callbacks=callbacks)
            wall, record = time.perf_counter() - started, result.record
            curves = load_run(result.directory).curves if recipe.logging.to else {}
        compiling, peak = record["compile_seconds"], (record["peak_memory_bytes"] or 0) / 2**20
        found = f"{record['tokens_per_second']:,.0f} tokens/s on average"
        if curves:
            speed = later_median(curves["speed/tokens_per_second"].values.tolist())
            best = curves["loss/val"].values.min()
            found = f"{speed:,.0f} tokens/s ({found}), best validation loss {best:.4f}"
        ends = ", ".join(f"{name} {value:.4g}" for name, value in result.metrics.items())
        self.say(
            f"{recipe.name}, {what}",
            f"{found}; at the end {ends}; {record['steps']:,} steps in {wall:.0f} s, "
            f"{compiling:.0f} of them compiling; {peak:,.0f} MiB",
        )
        return wall - compiling

    def beside_nanogpt(self, size: str, steps: int, *keys: str, compiled: bool = True) -> None:
        """Trains the kit and, if there is a checkout, nanoGPT of the same size."""
        how, option = ("compiled", []) if compiled else ("eager", ["trainer.compile=false"])
        what = f"{size}, {how}, all logging"
        self.kit(what, SMALL, f"trainer.max_steps={steps}", *option, *keys)
        if self.given.nanogpt is not None:
            steps = min(steps, self.few)
            speed = nanogpt(self.given.nanogpt, self.recipe(SMALL, *keys), steps, compiled=compiled)
            self.say(f"nanoGPT, {size}, {how}", speed)

    def small(self) -> None:
        self.beside_nanogpt("6 x 384", self.given.steps)

    def large(self) -> None:
        self.beside_nanogpt("12 x 768", self.few, *LARGE)

    def eager(self) -> None:
        self.beside_nanogpt("6 x 384", self.few, compiled=False)
        self.beside_nanogpt("12 x 768", max(self.few // 2, 30), *LARGE, compiled=False)

    def mechanisms(self) -> None:
        self.state_steps(1024, 8)

    def long(self) -> None:
        self.state_steps(16384, 1)

    def idle(self) -> None:
        busy = Busy(20, 40)
        self.kit("12 x 768, profiled", SMALL, "trainer.max_steps=60", *LARGE, callbacks=[busy])
        self.say(
            "share of time without a kernel, 12 x 768, steps 21 to 40", f"{1 - busy.share:.1%}"
        )

    def seeds(self) -> None:
        for seed in range(3):
            self.kit(f"whole, seed {seed}", SMALL, f"seed={seed}")

    def logging(self) -> None:
        steps = f"trainer.max_steps={self.given.steps}"
        off = ["logging.attention_maps=0", "logging.samples=0", "logging.to=[]"]
        seconds = [
            self.kit(f"logging {'off' if keys else 'on'}", SMALL, steps, *keys)
            for keys in ([], off, [], off)
        ]
        on, off_ = sum(seconds[0::2]), sum(seconds[1::2])
        self.say("share of time that all logging takes, 6 x 384", f"{1 - off_ / on:.1%}")

    def translation(self) -> None:
        self.kit("first steps", TRANSLATION, f"trainer.max_steps={max(self.few, 400)}")

    def generation(self) -> None:
        few = ["--layers", "1", "--dim", "64", "--tokens", "4", "--rounds", "1", "--ways", "fixed"]
        with patch.object(sys, "argv", ["generation.py", *(few if self.given.rehearse else [])]):
            generation.main()

    def loop(self) -> None:
        for mode in ("default", "reduce-overhead"):
            self.say(f"plain loop, mode={mode}", plain_loop(self.recipe(SMALL), mode, self.few))

    def kernels(self) -> None:
        lengths = [64] if self.given.rehearse else [4096, 16384]
        measure_kernels(Console(width=120), "multi_head", lengths)

    def state_steps(self, tokens: int, rows: int) -> None:
        """Forward and backward of 4 layers of 512 in bfloat16, as it is, without a compiler."""
        dim, layers, base = 512, 4, None
        if self.given.rehearse:
            tokens, rows, dim, layers = 64, 1, 64, 1
        for name in ("multi_head", *STATES):
            heads = {"num_heads": dim // 64} if "num_heads" in ATTENTION.options(name) else {}
            model = LanguageModel(
                65,
                max_seq_len=tokens,
                dim=dim,
                num_layers=layers,
                attention=Spec(name, heads),
                position=Spec("none"),
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
            self.say(
                f"forward and backward, {layers} x {dim}, {tokens:,} tokens, batch {rows}, {name}",
                f"{1e3 * seconds:.2f} ms, {seconds / base:.2f} times multi_head's",
            )


def device_name() -> str:
    """Returns the name of the card."""
    return torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU"


def commit() -> str:
    """Returns the short hash of this checkout."""
    command = ["git", "-C", str(RECIPES), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown commit"


def wait() -> None:
    """Waits for the device."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def later_median(windows: list[float]) -> float:
    """Returns the median of the later half."""
    return statistics.median(windows[len(windows) // 2 :])


def stepped(steps: int, tokens: int, step: Callable[[], Tensor]) -> str:
    """Times steps of a plain loop and returns the speed."""
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
    return f"{1e3 * seconds:.2f} ms a step, {tokens / seconds:,.0f} tokens/s"


def plain_loop(recipe: Recipe, mode: str, steps: int) -> str:
    """Times the kit's model, data and optimizer without a trainer."""
    data = experiment.build_data(recipe)
    data.prepare()
    model = experiment.build_model(recipe, data.tokenizer.vocab_size).to(DEVICE)
    optimizer = OPTIMIZERS.build(recipe.optimizer).build(model)
    how: dict[str, Any] = {"mode": mode} if DEVICE.type == "cuda" else {"backend": "eager"}
    run = torch.compile(lambda tokens, targets: model(tokens, targets=targets), **how)
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

    return stepped(steps, recipe.trainer.batch_size * recipe.model["max_seq_len"], step)


def nanogpt(folder: Path, recipe: Recipe, steps: int, *, compiled: bool) -> str:
    """Times nanoGPT's model and optimizer on random tokens of the same shape."""
    sys.path.insert(0, str(folder))
    from model import GPT, GPTConfig  # pyright: ignore[reportMissingImports]

    model, length, rows = recipe.model, recipe.model["max_seq_len"], recipe.trainer.batch_size
    config = GPTConfig(
        block_size=length,
        vocab_size=65,
        n_layer=model["num_layers"],
        n_head=Spec.of(model["attention"]).options["num_heads"],
        n_embd=model["dim"],
        dropout=model["dropout"],
        bias=False,
    )
    gpt = GPT(config).to(DEVICE)
    optimizer = gpt.configure_optimizers(1e-1, 1e-3, (0.9, 0.99), DEVICE.type)
    run = torch.compile(gpt) if compiled else gpt

    def step() -> Tensor:
        tokens, targets = torch.randint(65, (2, rows, length), device=DEVICE)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            _, loss = run(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(gpt.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return stepped(steps, rows * length, step)


PARTS = (
    *("small", "large", "eager", "mechanisms", "long", "idle", "seeds", "logging", "translation"),
    *("generation", "loop", "kernels"),
)


def main() -> int:
    """Prints the results of the parts; returns the number of those that failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="all of them without a name")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--steps", type=int, default=2000, help="of `small`; others take fewer")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no part after")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes: does each part run?")
    given = parser.parse_args()
    if unknown := [part for part in given.parts if part not in PARTS]:
        parser.error(f"unknown part {unknown[0]}; choose from {', '.join(PARTS)}")
    if given.rehearse:
        given.steps = 30
    bench, started, failed = Bench(given), time.monotonic(), 0
    for part in given.parts or PARTS:
        minutes = (time.monotonic() - started) / 60
        if minutes > given.minutes:
            print(f"{part}: not begun, {minutes:.1f} minutes have passed", flush=True)
            continue
        try:
            getattr(bench, part)()
        except Exception as error:
            failed += 1
            print(f"{part} failed: {type(error).__name__}: {error}", flush=True)
        finally:
            torch._dynamo.reset()
    return failed


if __name__ == "__main__":
    sys.exit(main())
