"""What TensorBoard's own tabs show of a log folder with two studies and another program's run.

Needs playwright and a Chromium: `chromium` on the path, or $CHROMIUM.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from attnkit.ablation.mean_runs import write_mean
from attnkit.listeners.listener import RunInfo
from attnkit.listeners.loggers import TensorBoard
from attnkit.tensorboard.attention_record import AttentionRecord, layer_map

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium: install it, or set $CHROMIUM"),
]

STUDIES = {"words": 1.0, "letters": 3.0}  # name -> final loss of its first variant and seed
VARIANTS = {  # name -> number of heads, window, final loss above that
    "multi_head": (2, 128, 0.0),
    "window=64": (4, 64, 0.25),
    "window=8": (4, 8, 0.5),
}
SEEDS = (0, 1)


def write_studies(root: Path) -> None:
    maps = layer_map("L0", np.eye(2, dtype=np.float32)[None], np.tri(2, dtype=bool))
    record = AttentionRecord("probe", "self", "self", True, list("ab"), list("ab"), [maps])
    for study, first in STUDIES.items():
        plan = {
            "varied": ["model.attention.num_heads", "model.mask.window"],
            "tuned": {},
            "changed_to_match": {},
        }
        (root / study).mkdir(parents=True)
        (root / study / "ablation.json").write_text(json.dumps(plan))
        for variant, (heads, window, more) in VARIANTS.items():
            for seed in SEEDS:
                directory = root / study / variant / f"seed{seed}"
                logger = TensorBoard().open(RunInfo(directory, name=study, variant=variant))
                model = {"dim": 8, "mask": {"window": window}, "attention": {"num_heads": heads}}
                logger.begin({"model": model, "seed": seed})
                logger.maps(record, 0)
                for step in (0, 10):
                    logger.scalars({"loss/train": 5.0 - step / 10, "optimizer/rate": 0.1}, step)
                logger.scalars({"final/loss": first + more + seed / 10}, 10)
                logger.finish("success")
                (directory / "result.json").touch()
            assert write_mean(root / study, variant)


def write_another_program(directory: Path) -> None:
    writer = EventFileWriter(str(directory))
    for step in (0, 10):
        summary = Summary(value=[Summary.Value(tag="val_loss", simple_value=1.0)])
        writer.add_event(Event(step=step, wall_time=1.7e9 + step, summary=summary))
    writer.close()


@pytest.fixture(scope="module")
def address(tensorboard, tmp_path_factory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("logs")
    write_studies(root)
    write_another_program(root / "resnet/version_0")
    with tensorboard("--logdir", str(root)) as board:
        yield board.address


@pytest.fixture
def page(address) -> Iterator:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = chromium.new_page(viewport={"width": 1280, "height": 1200})
        opened.set_default_timeout(300_000)  # milliseconds; against hanging alone
        yield opened
        chromium.close()


def cells_of(page) -> list[list[str]]:
    """The rows of the table of hyperparameters, as they are seen."""
    rows: dict[int, list[tuple[float, str]]] = {}
    for cell in page.locator("vaadin-grid-cell-content").all():
        box, text = cell.bounding_box(), "".join(cell.inner_text().split("\n")).strip()
        if box and text:
            middle = round((box["y"] + box["height"] / 2) / 10)
            rows.setdefault(middle, []).append((box["x"], text))
    return [[text for _, text in sorted(rows[middle])] for middle in sorted(rows)]


def test_hparams_shows_varied_keys_then_the_final_loss_of_each_trial(page, address):
    """A trial is a variant of one study: two studies have variants of the same names."""
    page.goto(f"{address}#hparams")
    trials = {f"{study}/{variant}" for study in STUDIES for variant in VARIANTS}
    for trial in trials:
        page.locator("vaadin-grid-cell-content", has_text=trial).first.wait_for()
    heading, *rows = cells_of(page)
    assert heading[2:5] == ["model.attention.num_heads", "model.mask.window", "loss/final"]
    assert not {"seed", "model.dim"} & set(heading)
    assert {row[0] for row in rows} == trials
    for trial, heads, window, loss, *_ in rows:
        study, _, variant = trial.partition("/")
        finals = [STUDIES[study] + VARIANTS[variant][2] + seed / 10 for seed in SEEDS]
        assert (float(heads), float(window)) == VARIANTS[variant][:2]
        assert float(loss) == pytest.approx(np.mean(finals), abs=1e-3)


SEEN = """(one) => {
  const text = document.createTreeWalker(one, NodeFilter.SHOW_TEXT).nextNode();
  const isSeen = (_, i) => {
    const range = document.createRange();
    range.setStart(text, i);
    range.setEnd(text, i + 1);
    const box = range.getBoundingClientRect();
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    return box.width && one.contains(document.elementFromPoint(x, y));
  };
  return [...text.data].filter(isSeen).join("").trim();
}"""
"""Returns the letters of an element that are not cut off."""


def test_time_series_begins_with_the_loss_and_tells_variants_apart(page, address):
    page.goto(f"{address}#timeseries")
    page.locator(".group-title", has_text="val_loss").wait_for()
    groups = [text for text in page.locator(".group-title").all_inner_texts() if text != "Pinned"]
    assert groups == ["loss", "maps", "optimizer", "range", "val_loss"]
    names = page.locator("tb-data-table-content-row .table-column-run .cell")
    names.nth(18).wait_for()
    seen: dict[str, set[str]] = {}
    for name in names.all():
        variant = name.inner_text().strip().rpartition("/seed")[0] or name.inner_text().strip()
        seen.setdefault(variant, set()).add(name.evaluate(SEEN))
    assert len(seen) == len(STUDIES) * 2 * len(VARIANTS) + 1  # and their means; another program
    for variant, texts in seen.items():
        others = set().union(*(seen[each] for each in seen if each != variant))
        assert not texts & others, f"{variant} is cut where it differs: {texts}"
