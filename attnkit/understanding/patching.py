"""Activation patching: which heads carry the difference between two texts.

The model reads the corrupted text, while the output of one head is replaced at all positions by its
output on the clean text; the rest of the model continues from there. "Denoising" in Heimersheim and
Nanda 2024, arXiv:2404.15255.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from rich import box
from rich.table import Table
from torch import Tensor

from attnkit.errors import DataError
from attnkit.listeners.map_records import site_of
from attnkit.tasks.trained_run import TrainedRun
from attnkit.understanding.head_outputs import mechanisms, on_head_outputs
from attnkit.understanding.run_task import check_heads

WIDE = 10
"""Largest number of heads in a layer for which the terminal shows all effects; else it lists the
largest.
"""


@dataclass(frozen=True)
class Patching:
    """The effect of each head on one prediction.

    Attributes:
        answer: text of the token that the model expects after the clean text.
        clean: its log-probability after the clean text, in nats.
        corrupted: its log-probability after the corrupted text.
        effects: mechanism -> (H,) rise of the log-probability after the corrupted text when the
            head is patched.
        sites: mechanism -> site and layer.
        notes: remarks for the reader.
    """

    answer: str
    clean: float
    corrupted: float
    effects: dict[str, list[float]]
    sites: dict[str, tuple[str, int]]
    notes: Sequence[str] = field(default_factory=list)

    def heads(self) -> list[tuple[str, float]]:
        """Returns name and effect of every head, the largest effect first."""
        found = []
        for name, effects in self.effects.items():
            site, layer = self.sites[name]
            place = f"L{layer}" if site == "self" else f"{site} L{layer}"
            found += [(f"{place}H{head}", effect) for head, effect in enumerate(effects)]
        return sorted(found, key=lambda head: -abs(head[1]))

    def shown(self) -> Iterator[Any]:
        """Yields what a terminal prints."""
        gap = self.clean - self.corrupted
        yield (
            f"log-probability of {self.answer!r}: {self.clean:.3f} after the clean text, "
            f"{self.corrupted:.3f} after the corrupted one ({-gap:+.3f})"
        )
        table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0))
        widest = max(map(len, self.effects.values()))
        if widest <= WIDE:
            table.add_column("rise with the head patched")
            for head in range(widest):
                table.add_column(f"H{head}", justify="right", no_wrap=True)
            for name, effects in self.effects.items():
                site, layer = self.sites[name]
                place = f"L{layer}" if site == "self" else f"{site} L{layer}"
                table.add_row(place, *(f"{effect:+.3f}" for effect in effects))
        else:
            table.add_column("head")
            table.add_column("rise", justify="right")
            for name, effect in self.heads()[:20]:
                table.add_row(name, f"{effect:+.3f}")
        yield table
        if abs(gap) > 1e-6:
            name, effect = self.heads()[0]
            yield f"{name} alone restores {effect / gap:.0%} of the difference"

    def as_json(self) -> str:
        """Returns all numbers as JSON."""
        content = {"answer": self.answer, "clean": self.clean, "corrupted": self.corrupted}
        return json.dumps(content | {"effects": dict(self.heads())}, indent=1) + "\n"


@torch.no_grad()
def patch_heads(run: TrainedRun, clean: str, corrupted: str) -> Patching:
    """Patches each head in turn, all in one forward pass.

    Args:
        run: a trained run.
        clean: the text whose next token is the answer.
        corrupted: another text with the same number of tokens.

    Raises:
        DataError: if a text cannot be read, or they differ in their number of tokens.
        RunDirectoryError: if the model has no layers, or its task predicts no tokens of a text.
    """
    check_heads(run)
    model = run.model
    good, bad = run.reading(clean, "--clean"), run.reading(corrupted, "--corrupted")
    shapes = [[tuple(part.shape) for part in reading.inputs] for reading in (good, bad)]
    if shapes[0] != shapes[1]:
        sizes = [len(reading.tokens) for reading in (good, bad)]
        raise DataError(
            f"--clean has {sizes[0]} tokens and --corrupted {sizes[1]}; heads are patched position "
            "by position, so give texts of the same length"
            if sizes[0] != sizes[1]
            else "--clean and --corrupted have sources of different lengths in tokens; give "
            "sources of the same length"
        )
    clean_heads: dict[str, Tensor] = {}

    def store(name: str, heads: Tensor) -> None:
        clean_heads[name] = heads[0]

    with on_head_outputs(model, store):
        logits = model(*good.inputs)[0, -1]
    answer = int(logits.argmax())
    found = mechanisms(model)
    places = [(name, head) for name in clean_heads for head in range(found[name].num_heads)]
    rows: dict[str, list[tuple[int, int]]] = {name: [] for name in clean_heads}
    for row, (name, head) in enumerate(places, start=1):  # row 0 is not patched
        rows[name].append((row, head))

    def act(name: str, heads: Tensor) -> Tensor:
        heads = heads.clone()
        for row, head in rows[name]:
            heads[row, :, head] = clean_heads[name][:, head]
        return heads

    inputs = [part.expand(1 + len(places), *part.shape[1:]) for part in bad.inputs]
    with on_head_outputs(model, act):
        after = model(*inputs)[:, -1].log_softmax(dim=-1)[:, answer].tolist()
    effects = {name: [after[row] - after[0] for row, _ in rows[name]] for name in clean_heads}
    return Patching(
        good.token_text(answer),
        float(logits.log_softmax(dim=-1)[answer]),
        after[0],
        effects,
        _places(clean_heads),
        list(dict.fromkeys((*good.notes, *bad.notes))),
    )


def _places(names: dict[str, Tensor]) -> dict[str, tuple[str, int]]:
    """Returns mechanism -> site, and layer within it."""
    found: dict[str, tuple[str, int]] = {}
    counts: dict[str, int] = {}
    for name in names:
        role = "cross" if name.endswith("cross_attention") else "self"
        site = site_of(name, role)
        counts[site] = counts.get(site, -1) + 1
        found[name] = (site, counts[site])
    return found
