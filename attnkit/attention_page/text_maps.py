"""The maps of a trained model on a text, as returned by `run.attention("...")`."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from attnkit.attention_page.canvases import Canvas, MatplotlibCanvas
from attnkit.attention_page.figure import CANVASES, draw, panels_of
from attnkit.attention_page.modes import Mode, ModeError, in_mode
from attnkit.attention_page.page import page
from attnkit.storage.files import atomic_write, check_outs
from attnkit.tensorboard.attention_record import AttentionRecord
from attnkit.tensorboard.images import Scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".html", ".png", ".svg", ".pdf", ".npz")

NOTEBOOK_HEIGHT = 820
"""Height in pixels of the page inside a notebook."""


@dataclass(frozen=True, repr=False)
class TextMaps:
    """Exact attention maps of every layer and head, with their tokens.

    A *site* is a place in the model: `self` in a language model; `encoder.self`, `decoder.self` and
    `decoder.cross` in a translation model. Notebooks show the object as the page that
    `attnkit attention` writes.

    Attributes:
        records: one per site.
        title: of the page and of figures.
        mechanisms: site -> names of its mechanisms.
        notes: remarks for the reader, such as that the text was truncated.
    """

    records: Sequence[AttentionRecord]
    title: str
    mechanisms: dict[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def sites(self) -> list[str]:
        """Names of the sites."""
        return [record.site for record in self.records]

    def __getitem__(self, site: str) -> AttentionRecord:
        """Returns the maps of a site: `query_tokens`, `key_tokens`, and `layers` with `weights` (H,
        Q, K).

        Raises:
            KeyError: if the site does not exist; the message lists the existing ones.
        """
        for record in self.records:
            if record.site == site:
                return record
        raise KeyError(f"unknown site {site!r}; this model has {', '.join(self.sites)}")

    def weights(
        self, layer: int, head: int = 0, site: str | None = None, *, mode: Mode = "weights"
    ) -> np.ndarray:
        """Returns one map (Q, K).

        Args:
            layer: from 0.
            head: from 0.
            site: name of the site; None: the last, which is the cross-attention of a translation.
            mode: `weights`; `values`: times the lengths of what they hand over; `rollout`: through
                all layers up to this one, with the mean of the heads as head 0. See `modes.py`.

        Raises:
            KeyError: if the site does not exist.
            ModeError: if the mode is not defined for the site.
            ValueError: if the layer or head does not exist.
        """
        return panels_of(self._record(site, mode), layer, head)[0][0].weights

    def plot(
        self,
        layer: int | None = None,
        head: int | None = None,
        *,
        site: str | None = None,
        scale: Scale = "row",
        mode: Mode = "weights",
    ) -> Figure:
        """Returns a matplotlib figure of the maps of a site.

        Args:
            layer: index of a layer; None: all.
            head: index of a head; None: all.
            site: name of the site; None: the last.
            scale: meaning of the brightest colour: the largest weight of the `row`, of the `map`,
                or `one`.
            mode: see `weights`.

        Raises:
            FigureError: if matplotlib is not installed.
            ModeError: if the mode is not defined for the site.
        """
        sheet = self._draw(self._record(site, mode), layer, head, scale, MatplotlibCanvas)
        assert isinstance(sheet, MatplotlibCanvas)
        return sheet.figure

    def save(
        self,
        *paths: str | Path,
        layer: int | None = None,
        head: int | None = None,
        scale: Scale = "row",
        mode: Mode = "weights",
        overwrite: bool = False,
    ) -> list[Path]:
        """Writes files, with the format given by the suffix: `.html` a page for a browser, `.png`,
        `.svg` or `.pdf` a figure, `.npz` numbers. Each site gets its own figure, with the site in
        its name.

        Args:
            paths: names of the files.
            layer: the layer in figures; None: all.
            head: the head in figures; None: all.
            scale: of figures, see `plot`.
            mode: of figures and numbers, see `weights`; the page has a menu. Sites where it is not
                defined are left out.
            overwrite: replace existing files.

        Returns:
            The files that were written.

        Raises:
            DataError: if a suffix is unknown, a file exists, or its folder does not exist.
            FigureError: for `.pdf` without matplotlib.
            FontError: if no font has all characters of a `.png` or `.pdf`.
            ModeError: if the mode is defined for no site.
        """
        outs = [Path(path) for path in paths]
        check_outs(outs, SUFFIXES, overwrite=overwrite)
        contents: dict[Path, bytes] = {}
        for out in outs:
            if out.suffix == ".html":
                contents[out] = page(self.records, self.title).encode()
            elif out.suffix == ".npz":
                contents[out] = _numbers(self._defined(mode))
            else:
                records = self._defined(mode)
                several = len(records) > 1
                for record in records:
                    file = out.with_stem(f"{out.stem}-{record.site}") if several else out
                    sheet = self._draw(record, layer, head, scale, CANVASES[out.suffix])
                    contents[file] = sheet.content()
        check_outs(list(contents), SUFFIXES, overwrite=overwrite)  # with the names of the sites
        for file, content in contents.items():
            with atomic_write(file) as opened:
                opened.write(content)
        return list(contents)

    def _record(self, site: str | None, mode: Mode) -> AttentionRecord:
        record = self.records[-1] if site is None else self[site]
        return in_mode(record, mode, self.sites)

    def _defined(self, mode: Mode) -> list[AttentionRecord]:
        """Returns the maps of the sites for which a mode is defined; raises if there are none."""
        found, errors = [], []
        for record in self.records:
            try:
                found.append(in_mode(record, mode, self.sites))
            except ModeError as error:
                errors.append(error)
        if not found:
            raise errors[-1]
        return found

    def _draw(
        self,
        record: AttentionRecord,
        layer: int | None,
        head: int | None,
        scale: Scale,
        canvas: type[Canvas],
    ) -> Canvas:
        rows = panels_of(record, layer, head)
        parts = [self.mechanisms.get(record.site, ""), f"{record.kind}-attention ({record.site})"]
        if sum(map(len, rows)) == 1:
            parts.append(rows[0][0].name)
        subtitle = ", ".join(part for part in parts if part)
        return draw(
            rows,
            record.query_tokens,
            record.key_tokens,
            title=self.title,
            subtitle=f"{subtitle}. {_sentence(record.note)}",
            scale=scale,
            strip=None if record.sound is None else record.sound.strip,
            canvas=canvas,
        )

    def __repr__(self) -> str:
        sites = (
            f"{r.site}: {len(r.layers)} x {len(r.layers[0].weights)} maps of "
            f"{len(r.query_tokens)} x {len(r.key_tokens)} tokens"
            for r in self.records
        )
        return f"<TextMaps of {self.title}; {'; '.join(sites)}>"

    def _repr_html_(self) -> str:
        """Returns the page in an iframe, for Jupyter, Colab and marimo."""
        content = html.escape(page(self.records, self.title))
        return (
            f'<iframe srcdoc="{content}" sandbox="allow-scripts allow-downloads" '
            f'title="{html.escape(self.title)}" '
            f'style="width: 100%; height: {NOTEBOOK_HEIGHT}px; border: 0"></iframe>'
        )


def _sentence(note: str) -> str:
    """Formats a note as a sentence."""
    return note and note[0].upper() + note[1:] + ("" if note.endswith(".") else ".")


def _numbers(records: Sequence[AttentionRecord]) -> bytes:
    """Returns the contents of a `.npz` file."""
    arrays = {}
    for record in records:
        arrays[f"{record.site}/query_tokens"] = np.array(record.query_tokens)
        arrays[f"{record.site}/key_tokens"] = np.array(record.key_tokens)
        for layer in record.layers:
            arrays[f"{record.site}/{layer.name}"] = layer.weights
            if layer.allowed is not None:
                arrays[f"{record.site}/{layer.name}/allowed"] = layer.allowed
            if layer.lengths is not None:
                arrays[f"{record.site}/{layer.name}/lengths"] = layer.lengths
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()
