"""What the verdicts of `attnkit compare` are worth, by simulation on losses of real runs.

    python benchmarks/verdicts.py --train 40     # trains them first: a few minutes
    python benchmarks/verdicts.py                # on the losses that are recorded here

40 seeds of a small quickstart were trained, and their final validation losses stand below. A study
of identical variants draws its seeds from them: whatever it calls different is false. A planted
difference is added to one variant's losses, in standard deviations of the recorded ones. Seeds of
two variants are drawn independently, as if pairing gained nothing, which is the hardest case.

It decides `BOOTSTRAP_FROM`, too: both methods judge the same differences, of the recorded losses,
and skewed ones (exponential), as of a mechanism that sometimes fails to learn. With few seeds
Student's interval is right where losses scatter normally, and finds more; from 16 seeds on the
bootstrap finds as much, and is wrong less often where they are skewed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from attnkit.ablation.estimates import (
    LEVEL,
    Estimate,
    bootstrap_estimate,
    holm,
    paired_difference,
    t_estimate,
)

OVERRIDES = (
    "model.dim=32",
    "model.num_layers=2",
    "optimizer.lr=5e-3",
    "schedule.warmup_steps=20",
    "trainer.max_steps=150",
    "trainer.accelerator=cpu",
    "trainer.precision=32",
    "logging.samples=0",
    "logging.attention_maps=0",
)

# fmt: off
LOSSES = (
    2.65702, 2.64752, 2.61200, 2.59398, 2.56546, 2.56183, 2.56345, 2.61286, 2.61726, 2.58231,
    2.53182, 2.55113, 2.60402, 2.58275, 2.57078, 2.65617, 2.58349, 2.65212, 2.55162, 2.66366,
    2.62099, 2.68158, 2.63119, 2.54953, 2.62736, 2.59100, 2.59193, 2.62294, 2.59564, 2.65816,
    2.60872, 2.59840, 2.58976, 2.58953, 2.55775, 2.58190, 2.61031, 2.62133, 2.62974, 2.59996,
)
# fmt: on
"""Nats a token, seeds 0 to 39."""


def train(count: int) -> list[float]:
    """Final validation losses of `count` seeds."""
    from attnkit import load_recipe, run

    recipe = Path(__file__).parents[1] / "recipes/language_modeling/characters.yaml"
    with tempfile.TemporaryDirectory() as folder:
        return [
            run(load_recipe(recipe, [*OVERRIDES, f"seed={seed}", f"runs_dir={folder}"])).metrics[
                "loss"
            ]
            for seed in range(count)
        ]


def study(
    losses: np.ndarray, rng: np.random.Generator, variants: int, seeds: int, planted: float = 0.0
) -> list[float]:
    """Holm's p values of `variants` that are all like the base, but for what is planted in the
    first of them, in standard deviations.
    """
    drawn = rng.choice(losses, (variants + 1, seeds))
    drawn[1] += planted * losses.std(ddof=1)
    return holm([paired_difference(list(one - drawn[0])).p or 0.0 for one in drawn[1:]])


def rates(losses: np.ndarray, variants: int, seeds: int, plans: int) -> tuple[float, float, float]:
    """Share of differences called where there are none, share of studies with any such, and share
    of planted differences of two standard deviations that are found.
    """
    rng = np.random.default_rng(0)
    false = np.array([study(losses, rng, variants, seeds) for _ in range(plans)]) < LEVEL
    found = [study(losses, rng, variants, seeds, 2.0)[0] < LEVEL for _ in range(plans)]
    return float(false.mean()), float(false.any(axis=1).mean()), float(np.mean(found))


def excludes_zero(
    draw: Callable[[np.random.Generator, int], np.ndarray],
    estimate: Callable[[list[float]], Estimate],
    seeds: int,
    times: int,
) -> float:
    """How often zero lies outside the interval of differences that are drawn."""
    rng = np.random.default_rng(0)
    ps = [estimate(list(draw(rng, seeds))).p or 0.0 for _ in range(times)]
    return float(np.mean(np.array(ps) < LEVEL))


def main() -> None:
    """Prints the rates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--train", type=int, metavar="SEEDS", help="train, and use those losses")
    parser.add_argument("--plans", type=int, default=2000)
    arguments = parser.parse_args()
    losses = np.array(train(arguments.train) if arguments.train else LOSSES)
    print(f"{len(losses)} losses: mean {losses.mean():.4f}, deviation {losses.std(ddof=1):.4f}")
    if arguments.train:
        print(", ".join(f"{loss:.5f}" for loss in losses))
    print("\nvariants seeds  called different  studies with any  2 deviations found")
    for variants, seeds in ((1, 3), (1, 5), (1, 8), (4, 3), (4, 8), (8, 8), (4, 20)):
        plans = arguments.plans if seeds < 20 else arguments.plans // 10
        called, any_called, found = rates(losses, variants, seeds, plans)
        print(f"{variants:8} {seeds:5} {called:16.1%} {any_called:17.1%} {found:18.1%}")
    called, _, found = rates(losses, 1, 8, 20)
    print(f"20 plans of 8 seeds, as the issue asks: {called:.0%} false, {found:.0%} found")
    one = losses.std(ddof=1)
    draws: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
        "none, recorded losses": lambda rng, n: rng.choice(losses, n) - rng.choice(losses, n),
        "none, exponential": lambda rng, n: rng.exponential(size=n) - 1,
        "one deviation": lambda rng, n: rng.choice(losses, n) - rng.choice(losses, n) + one,
    }
    print("\na difference is called, if there is    seeds       t  bootstrap")
    for name, draw in draws.items():
        for seeds in (3, 5, 8, 12, 16, 20, 30):
            by_t = excludes_zero(draw, t_estimate, seeds, arguments.plans)
            by_bootstrap = excludes_zero(draw, bootstrap_estimate, seeds, arguments.plans // 2)
            print(f"{name:35} {seeds:8} {by_t:7.1%} {by_bootstrap:10.1%}")


if __name__ == "__main__":
    main()
