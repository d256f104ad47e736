"""The protocol: which tasks every mechanism trains, at which size, and which numbers count.

docs/protocol.md describes it. Whatever changes a number raises `VERSION`: rows of two versions are
never in one table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from attnkit.errors import UserError

VERSION = 2

BASE = "multi_head"
"""The mechanism that the others are compared with and matched to."""

Tier = Literal["minutes", "hours", "gpu"]


class RankError(UserError):
    """A row cannot be made: the tier does not run here, or the protocol cannot take a mechanism."""


@dataclass(frozen=True)
class Part:
    """One task of the protocol.

    Attributes:
        recipe: a study that comes with the kit; the protocol sets its variants. Its metric has
            verdicts; the accuracies at its `test_lengths` stand beside it.
        changes: tier -> the keys in which its study differs from the recipe.
    """

    recipe: str
    changes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Protocol:
    """What every row is trained on.

    Attributes:
        tier: the size.
        parts: task -> its study.
        version: of the numbers.
    """

    tier: str
    parts: Mapping[str, Part]
    version: int = VERSION

    @property
    def name(self) -> str:
        """Of its folders: `minutes-v2`."""
        return f"{self.tier}-v{self.version}"


TIERS: Mapping[Tier, str] = {
    "minutes": "two CPU cores",
    "hours": "a CPU with several cores, or a GPU",
    "gpu": "a CUDA GPU",
}
"""Tier -> what it is made for."""


def _larger(*changes: str) -> dict[str, tuple[str, ...]]:
    """Returns the changes of a synthetic task, the same for both larger tiers."""
    return dict.fromkeys(("hours", "gpu"), changes)


PARTS: Mapping[str, Part] = {
    "language": Part(
        "rank_language",
        {
            "hours": (
                *("model.max_seq_len=128", "model.dim=128", "model.num_layers=4"),
                *("trainer.batch_size=24", "validation.every_n_steps=500"),
                "ablation.budget={flops: 1.6e+13}",
            ),
            "gpu": (
                *("model.max_seq_len=256", "model.dim=256", "model.num_layers=6"),
                *("trainer.batch_size=64", "validation.every_n_steps=500"),
                "ablation.budget={flops: 2.5e+14}",
            ),
        },
    ),
    "recall": Part(
        "rank_recall",
        _larger(
            "data={length: 256, min_length: 8, test_lengths: [8, 32, 64, 128], num_pairs: 64}",
            *("data.vocab_size=512", "model.max_seq_len=256", "trainer.batch_size=256"),
            *("trainer.max_steps=4000", "validation.every_n_steps=500"),
        ),
    ),
    "induction": Part(
        "rank_induction",
        _larger("model.dim=64", "trainer.max_steps=2000", "data.vocab_size=20"),
    ),
    "copy": Part(
        "rank_copy",
        _larger(
            *("data.length=64", "data.num_copied=16", "model.max_seq_len=64"),
            *("model.dim=64", "trainer.max_steps=3000"),
        ),
    ),
    "parity": Part(
        "rank_parity",
        _larger("model.dim=64", "trainer.max_steps=2000"),
    ),
    "s3": Part(
        "rank_s3",
        _larger("model.dim=64", "trainer.max_steps=3000"),
    ),
}


def protocol_of(tier: Tier) -> Protocol:
    """Returns the protocol of a tier.

    Raises:
        RankError: if this machine cannot run it.
    """
    if tier == "gpu":
        import torch

        if not torch.cuda.is_available():
            raise RankError(
                "--tier gpu needs a CUDA GPU, and torch finds none here; take --tier minutes "
                f"({TIERS['minutes']}) or --tier hours ({TIERS['hours']})"
            )
    return Protocol(tier, PARTS)
