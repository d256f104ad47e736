"""The result of a comparison, before it is rendered as a table, a page or a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from attnkit.ablation.estimates import BOOTSTRAP_FROM, LEVEL, Estimate
from attnkit.ablation.stored_run import LeftOut, StoppedVariant, StoredRun

if TYPE_CHECKING:
    from attnkit.ablation.tidy import Frames

FOUND_WITH_FEW = {2: 13, 3: 29, 4: 48, 5: 66}
"""Seeds -> power in per cent of one comparison, for a difference of two standard deviations;
measured by `benchmarks/verdicts.py`.
"""

NOT_DECIDED = "not decided"
"""In place of the verdict of a variant that halving has stopped."""

Verdict = Literal["better", "worse", "within noise"]


def is_lower_better(metric: str) -> bool:
    """True if a metric's name is that of an error: loss, perplexity, bits, an error rate."""
    return any(word in metric for word in ("loss", "perplexity", "bits", "error"))


@dataclass(frozen=True)
class Row:
    """One variant, over its seeds.

    Attributes:
        variant: its name; prefixed with the study's name where several are compared.
        is_base: True for the variant that the others are compared with.
        runs: sorted by seed.
        values: seed -> the metric.
        value: the mean of the metric.
        difference: of the metric to the base's, over the common seeds; None for the base, and where
            there are no common seeds.
        p_holm: the difference's p value, corrected for the number of verdicts.
        verdict: `better`, `worse` or `within noise`; None for the base, and where there is none.
        no_verdict: why there is no verdict.
        remarks: what makes the comparison with the base unfair, and what was done about it.
        speed_remarks: differences between its machine and the base's, which make speeds
            incomparable; empty: there are none.
    """

    variant: str
    is_base: bool
    runs: tuple[StoredRun, ...]
    values: Mapping[int, float]
    value: Estimate
    difference: Estimate | None = None
    p_holm: float | None = None
    verdict: Verdict | None = None
    no_verdict: str | None = None
    remarks: tuple[str, ...] = ()
    speed_remarks: tuple[str, ...] = ()

    def mean_of(self, key: str) -> float | None:
        """Returns the mean of a number in the runs' records; None if a run has none."""
        numbers = [run.record.get(key) for run in self.runs]
        present = [number for number in numbers if isinstance(number, int | float)]
        return sum(present) / len(present) if len(present) == len(numbers) else None

    @property
    def cache_bytes_per_token(self) -> float | None:
        """Bytes that decoding keeps for a full context, divided by its tokens."""
        total, run = self.mean_of("cache_bytes"), self.runs[0]
        length = run.record.get("max_seq_len") or run.recipe["model"].get("max_seq_len")
        return None if total is None or not length else total / length

    def to_dict(self) -> dict[str, Any]:
        """Returns all numbers, in plain types."""
        difference = self.difference
        return {
            "variant": self.variant,
            "is_base": self.is_base,
            "seeds": {str(seed): value for seed, value in self.values.items()},
            "mean": self.value.mean,
            "low": self.value.low,
            "high": self.value.high,
            "n": self.value.n,
            "difference": difference.mean if difference else None,
            "difference_low": difference.low if difference else None,
            "difference_high": difference.high if difference else None,
            "difference_n": difference.n if difference else None,
            "method": difference.method if difference else None,
            "p": difference.p if difference else None,
            "p_holm": self.p_holm,
            "verdict": self.verdict,
            "no_verdict": self.no_verdict,
            "parameters": self.mean_of("parameters"),
            "training_flops_per_token": self.mean_of("training_flops_per_token"),
            "tokens_per_second": self.mean_of("tokens_per_second"),
            "peak_memory_bytes": self.mean_of("peak_memory_bytes"),
            "cache_bytes_per_token": self.cache_bytes_per_token,
            "remarks": list(self.remarks),
            "speed_remarks": list(self.speed_remarks),
            "stopped_at_step": None,
            "directories": [str(run.directory) for run in self.runs],
        }


@dataclass(frozen=True)
class Comparison:
    """All variants, in display order.

    Attributes:
        title: names of the studies.
        metric: the metric that is compared.
        lower_is_better: of the metric.
        base: the variant that the others are compared with.
        rows: one per variant.
        stopped: variants that halving has stopped: they have no row and no verdict.
        left_out: runs that were found or planned, but are not in the comparison.
        others: comparisons of the same runs by further metrics.
        num_verdicts: number of comparisons that the verdicts are corrected for, over all metrics;
            stopped variants count.
    """

    title: str
    metric: str
    lower_is_better: bool
    base: str
    rows: Sequence[Row]
    stopped: Sequence[StoppedVariant] = ()
    left_out: Sequence[LeftOut] = ()
    others: tuple[Comparison, ...] = ()
    num_verdicts: int = 0

    def to_pandas(self) -> Frames:
        """Returns tidy data frames of the runs, their curves and the variants; needs pandas.

        Raises:
            UserError: if pandas is not installed.
        """
        from attnkit.ablation.tidy import to_pandas

        return to_pandas(self)

    @property
    def how(self) -> list[str]:
        """Sentences that explain the intervals and the verdicts."""
        methods = {row.difference.method for row in self.rows if row.difference}
        by = []
        if "t" in methods:
            by.append("Student's t interval")
        if "bootstrap" in methods:
            by.append(f"studentised bootstrap from {BOOTSTRAP_FROM} seeds on")
        lines = ["±: 95 % interval of the mean over seeds (Student's t)."]
        if all(row.value.n == 1 for row in self.rows):
            lines = ["One seed: no interval and no verdict; train more with seed=1, seed=2, ..."]
        parts = {run.record.get("validation_part", "all") for row in self.rows for run in row.runs}
        if len(parts) == 1 and (part := parts.pop()) != "all":
            lines.append(f"Validation numbers are from the {part.replace('_', ' ')} of the split.")
        shares = {run.record.get("validation_share", 1) for row in self.rows for run in row.runs}
        if len(shares) == 1 and (share := shares.pop()) < 1:
            lines.append(f"Validation text is an evenly spread {share:.1%} of the split.")
        if by:
            lines.append(f"Differences are paired by seed ({'; '.join(by)}).")
        if self.num_verdicts:
            lines.append(
                f"Verdicts: at {100 * LEVEL:.0f} % after Holm's correction for {self.num_verdicts} "
                f"comparison{'s' * (self.num_verdicts > 1)}; the intervals are not corrected."
            )
        lines += self._about_stopped()
        fewest = min(
            (row.difference.n for row in self.rows if row.verdict and row.difference), default=0
        )
        if fewest in FOUND_WITH_FEW:
            lines.append(
                f"{fewest} seeds are few: one comparison finds a difference of two standard "
                f"deviations in about {FOUND_WITH_FEW[fewest]} % of cases, with 8 seeds in 94 %."
            )
        return lines

    def _about_stopped(self) -> list[str]:
        """Says how many variants were stopped at which rung."""
        rungs = {(each.rung, each.rungs): None for each in self.stopped}
        lines = []
        for rung, last in sorted(rungs):
            stopped = [each for each in self.stopped if (each.rung, each.rungs) == (rung, last)]
            steps = sorted({each.step for each in stopped})
            at = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
            names = ", ".join(each.variant for each in stopped)
            noun = "variant" if len(stopped) == 1 else "variants"
            lines.append(
                f"Halving stopped {len(stopped)} {noun} at rung {rung} of {last} (step {at}): "
                f"{names}. Not decided; counted in the correction."
            )
        return lines

    def variants_as_dicts(self) -> list[dict[str, Any]]:
        """Returns the numbers of each row, then those of the stopped variants, with None for
        missing ones.
        """
        rows = [row.to_dict() for row in self.rows]
        empty = dict.fromkeys(rows[0]) | {
            "is_base": False,
            "seeds": {},
            "n": 0,
            "remarks": [],
            "speed_remarks": [],
        }
        stopped = [
            {
                **empty,
                "variant": each.variant,
                "no_verdict": NOT_DECIDED,
                "stopped_at_step": each.step,
                "directories": [str(directory) for directory in each.runs.values()],
            }
            for each in self.stopped
        ]
        return [*rows, *stopped]

    def to_dict(self) -> dict[str, Any]:
        """Returns all numbers in plain types, for programs."""
        return {
            "version": 1,
            "title": self.title,
            "metric": self.metric,
            "lower_is_better": self.lower_is_better,
            "base": self.base,
            "level": LEVEL,
            "correction": f"Holm over {self.num_verdicts} comparisons",
            **({"others": [other.to_dict() for other in self.others]} if self.others else {}),
            "variants": self.variants_as_dicts(),
            "how": self.how,
            "left_out": [
                {"directory": str(run.directory), "reason": run.reason} for run in self.left_out
            ],
        }
