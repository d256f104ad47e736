"""How fast the kit reaches a loss, against a plain float32 PyTorch loop over `shakespeare_char`.

For each seed, side by side on the same machine: the plain loop's 2,000 steps are timed (it has no
validation, and the kit's is not counted either; maps, samples and curves are), then
`shakespeare_speedrun` trains in a quarter of such a time, and its longer form in the whole of it.
Losses are those of the whole validation split.

    ATTNKIT_DATA=... python benchmarks/speedrun.py --seeds 0 1 2 --threads 2
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from training_speed import RECIPES, plain_loop

from attnkit.recipe import load_recipe
from attnkit.runs import experiment

LONG = ["trainer.max_steps=700", "trainer.batch_size=48", "schedule.warmup_steps=40"]
"""What makes the speedrun a run of the baseline's whole time."""


def main() -> None:
    """Prints a line for each seed, and the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    shares: dict[str, list[float]] = {"quarter": [], "whole": []}
    with tempfile.TemporaryDirectory() as folder:
        for seed in arguments.seeds:
            common = [f"runs_dir={Path(folder).as_posix()}", f"seed={seed}"]
            baseline = load_recipe(RECIPES / "shakespeare_char.yaml", [*common, "variant=plain"])
            tokens = 2000 * baseline.trainer.batch_size * baseline.model["max_seq_len"]
            plain_seconds = tokens / plain_loop(baseline, fused=True)
            print(f"seed {seed}: plain loop {plain_seconds:.1f} s for 2,000 steps")
            for name, overrides in (("quarter", []), ("whole", LONG)):
                recipe = load_recipe(
                    RECIPES / "shakespeare_speedrun.yaml",
                    [*common, f"variant={name}", *overrides],
                )
                result = experiment.run(recipe)
                seconds = result.record["tokens"] / result.record["tokens_per_second"]
                share = seconds / plain_seconds
                shares[name].append(share)
                print(
                    f"  {name}: loss {result.metrics['loss']:.4f} after {seconds:.1f} s, "
                    f"{share:.3f} of the plain loop's time "
                    f"({result.record['seconds']:.1f} s with validation)",
                    flush=True,
                )
    for name, values in shares.items():
        print(f"{name}: median share of the time {statistics.median(values):.3f}")


if __name__ == "__main__":
    main()
