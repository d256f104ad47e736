"""What each part of a model adds to the prediction after each token of a text."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnkit.attention_page.canvases import PngCanvas
from attnkit.attention_page.figure import visible
from attnkit.data.reading import Reading
from attnkit.pages.offline import offline_page
from attnkit.storage.files import atomic_write, check_outs
from attnkit.tasks.trained_run import TrainedRun
from attnkit.tensorboard.palettes import DIVERGING_REACH, DIVERGING_ZERO, PALETTE
from attnkit.understanding.residual_stream import SplitStream, split_stream
from attnkit.understanding.run_task import check_heads

SUFFIXES = (".html", ".png", ".npz")

WORDS = 3
"""Number of tokens that are listed for each part."""

CELL, LETTERS, TITLE, MARGIN = 16.0, 11.0, 15.0, 16.0
"""Sizes of the figure, in points."""


@dataclass(frozen=True)
class Explanation:
    """The residual stream of a text, with its tokens.

    Attributes:
        title: of the page and the figure, such as the run.
        stream: the parts.
        tokens: (T,) texts of the tokens at which the model predicts.
        next_tokens: (T,) number of the token to predict; where it is unknown, as at the end of the
            text, the model's choice.
        token_text: number -> text.
        notes: remarks for the caller.
    """

    title: str
    stream: SplitStream
    tokens: Sequence[str]
    next_tokens: Tensor
    token_text: Callable[[int], str]
    notes: Sequence[str] = field(default_factory=list)

    @property
    def chosen(self) -> Tensor:
        """(T,), the model's most likely token at each position."""
        return self.stream.logits.argmax(dim=-1)

    @classmethod
    def of(cls, run: TrainedRun, text: str) -> Explanation:
        """Explains what a trained run predicts after each token of a text.

        Raises:
            DataError: if the model cannot read the text, or its parts do not sum to its logits.
            RunDirectoryError: if the model has no layers, or its task predicts no tokens of a text.
        """
        check_heads(run)
        return cls.of_reading(run.title, run.model, run.reading(text))

    @classmethod
    def of_reading(cls, title: str, model: Any, reading: Reading) -> Explanation:
        """Explains what a model predicts after each token of a text.

        Args:
            title: of the page and the figure.
            model: the model; it is not changed.
            reading: the text, as the model reads it.

        Raises:
            DataError: if its parts do not sum to its logits.
        """
        stream = split_stream(model, reading.stack, lambda model: model(*reading.inputs))
        chosen = stream.logits.argmax(dim=-1).tolist()
        targets = [
            best if answer is None else answer
            for best, answer in zip(chosen, reading.answers, strict=True)
        ]
        texts = reading.tokens, torch.tensor(targets), reading.token_text
        return cls(title, stream, *texts, reading.notes)

    def save(self, *paths: str | Path, overwrite: bool = False) -> list[Path]:
        """Writes files, with the format given by the suffix: `.html` a page, `.png` a figure,
        `.npz` the numbers.

        Raises:
            DataError: if a suffix is unknown, a file exists, or its folder does not exist.
        """
        outs = [Path(path) for path in paths]
        check_outs(outs, SUFFIXES, overwrite=overwrite)
        make = {".html": self._page, ".png": self._figure, ".npz": self._numbers}
        contents = {out: make[out.suffix]() for out in outs}
        for out, content in contents.items():
            with atomic_write(out) as opened:
                opened.write(content)
        return outs

    def page_data(self) -> dict[str, Any]:
        """Returns the numbers of the page, as `attnkit.tensorboard.contributions` describes."""
        stream = self.stream
        whole = stream.final.sum(dim=0)
        turns = torch.nn.functional.cosine_similarity(stream.final, whole[None], dim=-1)
        words = [stream.words(part, WORDS) for part in range(len(stream.parts))]
        data: dict[str, Any] = {
            "tokens": list(self.tokens),
            "parts": [{"name": part.name, "kind": part.kind} for part in stream.parts],
            "lengths": _rounded(stream.added.norm(dim=-1)),
            "turns": _rounded(turns),
            "words": [self._token_texts(*of_part) for of_part in words],
            "lens": self._lens(),
        }
        for goal, tokens in (("next", self.next_tokens), ("top", self.chosen)):
            texts = [self.token_text(int(token)) for token in tokens]
            data[goal] = {"tokens": texts, "effects": _rounded(stream.to(tokens))}
        return data

    def _page(self) -> bytes:
        return offline_page(
            "attnkit.dashboard",
            "contributions.js",
            title=f"What attention adds: {self.title}",
            data={"title": self.title, "moment": self.page_data()},
            body="<noscript>This page needs JavaScript.</noscript>",
        ).encode()

    def _token_texts(self, tokens: Tensor, effects: Tensor) -> list[list[tuple[str, float]]]:
        return [
            [
                (self.token_text(token), round(effect, 3))
                for token, effect in zip(of_token, by, strict=True)
            ]
            for of_token, by in zip(tokens.tolist(), effects.tolist(), strict=True)
        ]

    def _lens(self) -> list[dict[str, Any]]:
        found = []
        for layer, logits in enumerate(self.stream.lens):
            likely, tokens = logits.softmax(dim=-1).max(dim=-1)
            ranks = {
                goal: (1 + (logits > logits.gather(1, of[:, None])).sum(dim=-1)).tolist()
                for goal, of in (("next", self.next_tokens), ("top", self.chosen))
            }
            pairs = zip(tokens.tolist(), likely.tolist(), strict=True)
            found.append(
                {
                    "name": "embedding" if layer == 0 else f"layer {layer - 1}",
                    "words": [(self.token_text(token), round(p, 4)) for token, p in pairs],
                    "ranks": ranks,
                }
            )
        return found

    def _figure(self) -> bytes:
        """Draws the effects on the logit of the next token: parts downwards, tokens across."""
        stream = self.stream
        effects = stream.to(self.next_tokens).numpy()  # (P, T)
        names = [part.name for part in stream.parts]
        rows = [visible(token) for token in self.tokens]
        targets = [visible(self.token_text(int(token))) for token in self.next_tokens]
        left = MARGIN + 0.62 * LETTERS * max(map(len, names)) + 6
        above = 0.62 * LETTERS * max(map(len, (*rows, "token"))) + 8
        below = 0.62 * LETTERS * max(map(len, (*targets, "next"))) + 8
        caption = (
            "Effect of each part on the logit of the next token (below), above the mean logit."
        )
        largest = float(np.abs(effects).max()) or 1.0
        key = f"Blue: lowers it, red: raises it; the strongest colour is {largest:.2f}."
        head = MARGIN + 1.8 * TITLE + 3.2 * LETTERS
        width = max(left + CELL * len(rows), 0.62 * LETTERS * len(caption) + MARGIN) + MARGIN
        height = head + above + CELL * len(names) + below + MARGIN
        text = "".join((self.title, caption, key, *names, *rows, *targets))
        sheet = PngCanvas(width, height, text)
        sheet.text(MARGIN, MARGIN + 0.6 * TITLE, self.title, TITLE)
        sheet.text(MARGIN, MARGIN + 2.0 * TITLE, caption, LETTERS)
        sheet.text(MARGIN, MARGIN + 2.0 * TITLE + 1.5 * LETTERS, key, LETTERS)
        top = head + above
        places = DIVERGING_ZERO + np.rint(DIVERGING_REACH * effects / largest).astype(int)
        sheet.cells(left, top, PALETTE[places], (CELL, CELL))
        for p, name in enumerate(names):
            sheet.text(left - 5, top + (p + 0.5) * CELL, name, LETTERS, "right")
        bottom = top + CELL * len(names)
        for t, (token, after) in enumerate(zip(rows, targets, strict=True)):
            x = left + (t + 0.5) * CELL
            sheet.text(x, top - 4, token, LETTERS, up=True)
            sheet.text(x, bottom + 4 + 0.62 * LETTERS * len(after), after, LETTERS, up=True)
        return sheet.content()

    def _numbers(self) -> bytes:
        stream, content = self.stream, io.BytesIO()
        np.savez_compressed(
            content,
            tokens=np.array(list(self.tokens)),
            next_tokens=self.next_tokens.numpy(),
            parts=np.array([part.name for part in stream.parts]),
            effects=stream.to(self.next_tokens).numpy(),
            added=stream.added.numpy(),
            final=stream.final.numpy(),
            streams=stream.streams.numpy(),
            logits=stream.logits.numpy(),
        )
        return content.getvalue()


def _rounded(values: Tensor) -> list[Any]:
    return [[round(value, 4) for value in row] for row in values.tolist()]
