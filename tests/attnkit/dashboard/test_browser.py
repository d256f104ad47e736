"""The dashboard in a real browser, inside TensorBoard, on maps of real trainings.

Needs playwright and a Chromium: `chromium` on the path, or $CHROMIUM.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, quote

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util

from attnkit.tensorboard.map_format import decode, encode

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium: install it, or set $CHROMIUM"),
]

SITE = "attention/probe/self"
CROSS = "attention/probe/decoder.cross"
SOURCE = ["das", "kleine", "Mädchen", "sah", "."]
TARGET = ["<s>", "the", "little", "girl", "saw"]
CLINIC = {
    "steps": [0, 10, 20, 30],
    "heads": {
        "L0H0": {"induction": [0.0, 0.0, 0.0, 0.0], "copying": [0.0, 0.1, 0.2, -0.9]},
        "L0H1": {"induction": [0.1, 0.1, 0.1, 0.1], "copying": [0.0, 0.1, 0.2, 0.3]},
        "L1H0": {"induction": [0.1, 0.2, 0.6, 0.7], "copying": [0.0, 0.1, 0.2, 0.0]},
        "L1H1": {"induction": [0.0, 0.1, 0.2, 0.3], "copying": [0.0, 0.1, 0.2, 0.9]},
    },
}
HOSTILE = [
    '<img src=x onerror="parent.hacked=1;hacked=1">',
    "</script><script>parent.hacked=1</script>",
    "\u202eevil",
    "\ud800",
    "\x07\n",
    "=1+1",
]


# What was logged


def logged_records(run: Path) -> dict[int, object]:
    """Step -> record, read from the event file as it lies there."""
    (file,) = run.glob("events.out.tfevents.*")
    records = {}
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            if value.tag == "attention/probe/self":
                records[event.step] = decode(list(tensor_util.make_ndarray(value.tensor)))
    return records


@pytest.fixture(scope="module")
def real(maps_of_real_runs) -> dict[str, dict[int, object]]:
    """Variant -> step -> record."""
    return {name: logged_records(run) for name, run in maps_of_real_runs.items()}


@pytest.fixture(scope="module")
def logs(maps_of_real_runs, tmp_path_factory, make_record, make_moment, logged, write_run) -> Path:
    """The real runs beside some that no training here writes."""
    root = tmp_path_factory.mktemp("logs")
    for name, run in maps_of_real_runs.items():
        (root / name).symlink_to(run.parent)
    cross = [make_record(queries=TARGET, keys=SOURCE, site="decoder.cross", seed=s) for s in (0, 1)]
    write_run(root / "translation", [logged(record, i) for i, record in enumerate(cross)])
    write_run(root / "hostile<b>", [logged(make_record(queries=HOSTILE), 0)])
    write_run(root / "shallow", [logged(make_record((2,)), 0)])
    write_run(root / "signed", [logged(make_record(signed=True), 0)])
    for seed in (0, 1):
        write_run(root / f"deep/long-name-of-a-variant/seed{seed}", [logged(make_record(), 0)])
    write_run(root / "watched", [logged(make_record(seed=step), step) for step in (0, 30)])
    (root / "watched" / "clinic.json").write_text(json.dumps(CLINIC))
    for run, steps, tokens in (("watched", [0, 10, 30], SOURCE), ("hostile<b>", [0], HOSTILE)):
        moments = [make_moment(tokens, seed=step) for step in steps]
        history = json.dumps({"steps": steps, "moments": moments})
        (root / run / "contributions.json").write_text(history)
    tag, blobs, step = logged(make_record(), 0)
    header = json.loads(blobs[0]) | {"v": 2}
    write_run(root / "newer", [(tag, [json.dumps(header).encode(), *blobs[1:]], step)])
    return root


# The browser


@pytest.fixture(scope="module")
def board(tensorboard, logs) -> Iterator:
    with tensorboard("--logdir", str(logs)) as running:
        index = "data/plugin/attention/index"
        running.wait_for(index, lambda content: content.count(b"attention/probe") >= 9)
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Page:
    """One open dashboard, with all that it complained of and all that it asked for."""

    def __init__(self, browser, address: str, *, dark: bool = False) -> None:
        self.address = address
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page = browser.new_page(viewport={"width": 1280, "height": 900})
        self.page.set_default_timeout(300_000)  # milliseconds; against hanging alone
        self.page.on("console", lambda message: self._hear(message.type, message.text))
        self.page.on("pageerror", lambda error: self._hear("error", str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("response", self._see)
        self.frame = self.page.frame_locator("iframe")
        self.is_open = False
        if dark:
            settings = json.dumps({"theme": "dark"})
            self.page.add_init_script(f"localStorage.setItem('_tb_global_settings', {settings!r})")

    def _hear(self, kind: str, text: str) -> None:
        # A refused request is heard of in `_see`, which knows whose it was.
        if kind == "error" and not text.startswith("Failed to load resource"):
            self.complaints.append(text)

    def _see(self, response) -> None:
        if response.status >= 400 and "plugin/attention" in response.url:
            self.complaints.append(f"{response.status} {response.url}")

    def open(self, **choices) -> "Page":
        """Follows a deep link; lists become repeated keys. Only the first loads the page."""
        # The last part makes each link another one; the dashboard does not know it.
        parts = ["attention", f"p.attention.n={time.monotonic_ns()}"]
        for key, values in choices.items():
            for value in values if isinstance(values, list) else [values]:
                parts.append(f"p.attention.{key}={quote(str(value), safe='')}")
        if not self.is_open:
            self.page.goto(f"{self.address}#{'&'.join(parts)}")
            self.is_open = True
            return self.settled()
        self(".stage").evaluate("stage => { stage.dataset.state = 'left'; }")
        self.page.evaluate("hash => { location.hash = hash; }", "&".join(parts))
        return self.settled()

    def load(self, **choices) -> "Page":
        """Follows a deep link into a page that nobody has used."""
        self.page.goto("about:blank")
        self.is_open = False
        return self.open(**choices)

    def settled(self) -> "Page":
        """Waits until all panels are drawn."""
        self.frame.locator(".stage[data-state=ready] > *").first.wait_for(state="attached")
        return self

    def outside(self) -> list[str]:
        """Requests to anything but the server; what the page makes itself is none."""
        server = self.address.split("/some/where")[0].rstrip("/")
        inside = (server, "about:", "blob:", "data:")
        return [url for url in self.requests if not url.startswith(inside)]

    def __call__(self, selector: str):
        return self.frame.locator(selector)

    def press(self, *keys: str) -> "Page":
        for key in keys:
            self.page.keyboard.press(key)
        return self.settled()

    def evaluate(self, code: str, argument=None):
        """Runs code inside the frame."""
        return self.frame.locator("body").evaluate(code, argument)

    def link(self) -> dict[str, list[str]]:
        """The address as choices, once it has caught up with the page."""
        self.page.wait_for_timeout(250)
        choices: dict[str, list[str]] = {}
        hash_ = self.page.evaluate("location.hash")
        for key, value in parse_qsl(hash_, keep_blank_values=True):
            choices.setdefault(key.removeprefix("p.attention."), []).append(value)
        return choices


@pytest.fixture(scope="module")
def shared(browser, board) -> Iterator[Page]:
    page = Page(browser, board.address)
    yield page
    page.page.close()


@pytest.fixture
def page(shared) -> Iterator[Page]:
    """A page whose test ends without an error in the console or a request to elsewhere."""
    shared.complaints.clear()
    shared.requests.clear()
    yield shared
    assert shared.complaints == []
    assert shared.outside() == []


# Reading pixels

READ_THUMBNAIL = """(_, [panel, layer, head]) => {
  const row = document.querySelectorAll(".panel")[panel].querySelectorAll(".row[role=row]")[layer];
  const canvas = row.querySelectorAll("canvas")[head];
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return [canvas.width, canvas.height, [...data]];
}"""


def thumbnail(page: Page, panel: int, layer: int, head: int) -> np.ndarray:
    """The pixels (Q, K, 4) of a thumbnail: one a cell."""
    width, height, data = page.evaluate(READ_THUMBNAIL, [panel, layer, head])
    return np.array(data).reshape(height, width, 4)


def check_thumbnail(pixels: np.ndarray, weights: np.ndarray, allowed: np.ndarray) -> None:
    """Masked cells have no colour, and in each row the largest weight is the brightest pixel."""
    assert pixels.shape[:2] == weights.shape
    assert np.array_equal(pixels[..., 3] > 0, allowed)
    brightness = pixels[..., :3].sum(axis=-1)
    for row, shown in zip(weights, brightness, strict=True):
        assert row[shown.argmax()] >= row.max() - 0.01


def value(told: str) -> float:
    """A number as the page writes it."""
    return float(told.replace("\N{MINUS SIGN}", "-"))


def zoom_text(page: Page, panel: int = 0) -> str:
    return page(".zoom [role=gridcell]").nth(panel).text_content()


# Tests


@pytest.mark.parametrize("step", [0, -1], ids=["first step", "last step"])
def test_what_is_drawn_is_what_was_logged(page, real, step):
    runs = ["hybrid/seed0", "two_heads/seed0"]
    step = sorted(real["hybrid"])[step]
    page.open(run=runs, step=step)
    for panel, name in enumerate(("hybrid", "two_heads")):
        record = real[name][step]
        for index, layer in enumerate(record.layers):
            for head, weights in enumerate(layer.weights):
                pixels = thumbnail(page, panel, index, head)
                check_thumbnail(pixels, weights, layer.allowed)


def test_it_opens_at_the_last_step_with_all_steps_on_the_slider(page, real):
    page.open(run="two_heads/seed0")
    steps = sorted(real["two_heads"])
    assert page(".panel .step").text_content() == f"step {steps[-1]}"
    assert page(".place").text_content() == f"{len(steps)} of {len(steps)}"
    page.press("Home")
    assert page(".panel .step").text_content() == "step 0"
    page("input[type=range]").fill("1")
    page.settled()
    assert page(".panel .step").text_content() == f"step {steps[1]}"


def test_play_goes_through_all_steps_and_stops(page, real):
    page.open(run="two_heads/seed0", step=0)
    page(".play").click()
    page('.play[data-playing="true"]').wait_for()
    page('.play[data-playing="false"]').wait_for(timeout=300_000)
    assert page(".panel .step").text_content() == f"step {max(real['two_heads'])}"


def test_a_map_by_keyboard_alone(page, real):
    """Every cell that the arrow keys reach says the logged number."""
    page.open(run="two_heads/seed0", layer=1, head=1)
    record = real["two_heads"][max(real["two_heads"])]
    weights = record.layers[1].weights[1]
    page(".zoom .grid").focus()
    page.press("ArrowDown", *["ArrowDown"] * 4, "ArrowRight", "ArrowRight")
    query, key = 4, 2
    assert page.link()["query"] == [str(query)]
    assert page.link()["key"] == [str(key)]
    told = value(re.search(r": (.+)$", zoom_text(page)).group(1))
    assert told == pytest.approx(weights[query, key], abs=0.006)
    assert page(".zoom [role=gridcell]").get_attribute("aria-rowindex") == str(query + 1)
    first = page(".readout .item").first.text_content()
    assert float(re.search(r"[\d.]+$", first).group()) == pytest.approx(
        weights[query].max(), abs=0.006
    )
    page.press(*["ArrowRight"] * 9)
    assert zoom_text(page).endswith("masked")


def test_keys_choose_head_layer_view_and_scale(page):
    page.open(run="hybrid/seed0")
    page.press("h", "h", "l")
    assert (page.link()["head"], page.link()["layer"]) == (["2"], ["1"])
    page.press("H", "2", "s", "c")
    link = page.link()
    assert (link["head"], link["view"], link["scale"]) == (["1"], ["lines"], ["absolute"])
    assert link["colours"] == ["viridis"]
    page.press("?")
    assert page("dialog[open] dl").is_visible()
    page.page.keyboard.press("Escape")
    page.press("1", "ArrowDown", "ArrowDown", "Escape")
    assert "query" not in page.link()
    page.press("/")
    assert page("input[type=search]").evaluate("one => one === document.activeElement")
    page.page.keyboard.press("Escape")
    page(".thumbnail[aria-selected=true]").focus()
    page.press("ArrowUp", "ArrowRight")
    assert (page.link()["head"], page.link()["layer"]) == (["2"], ["0"])


def test_changes_are_said(page):
    page.open(run="two_heads/seed0")
    page.press("Home")
    page(
        "[role=status]",
    ).filter(has_text="step 0, 1 of").wait_for(state="attached")
    page.press("ArrowDown")
    page("[role=status]").filter(has_text="query 0").wait_for(state="attached")


def test_runs_are_compared_side_by_side(page, real):
    page.open(run=["two_heads/seed0"])
    assert page(".panel").count() == 1
    page(
        ".run",
    ).filter(has_text="hybrid").locator("input").check()
    page.settled()
    assert page(".panel h2").all_text_contents() == ["hybrid/seed0", "two_heads/seed0"]
    page(".panel").nth(0).locator(".thumbnail").nth(3).click()
    page.settled()
    assert page(".panel").nth(0).locator("h3").first.text_content() == "L0 · head 3"
    assert page(".panel").nth(1).locator("h3").first.text_content() == "L0 · head 1"
    assert "2 heads: h1 is shown" in page(".panel").nth(1).locator(".facts").text_content()
    tops = [page(".zoom").nth(i).bounding_box()["y"] for i in (0, 1)]
    assert tops[0] == pytest.approx(tops[1], abs=1)


def test_without_a_choice_runs_are_shown_that_have_the_same_maps(page):
    page.open(site=CROSS)
    assert page(".panel h2").all_text_contents() == ["translation"]
    page.open()
    names = page(".panel h2").all_text_contents()
    assert names == ["deep/long-name-of-a-variant/seed0", "hostile<b>"], "not two of one variant"
    assert page(".panel .problem:visible").count() == 0


def test_seeds_are_folded_under_their_variant(page):
    page.open(run="two_heads/seed0")
    line = page(".run").filter(has_text="long-name")
    assert line.locator(".fold").text_content() == "2 seeds"
    line.locator("input").check()
    page.settled()
    assert page(".panel h2").count() == 3
    line.locator(".fold").click()
    page(".seeds input").nth(1).uncheck()
    page.settled()
    seeds = [name for name in page(".panel h2").all_text_contents() if "long" in name]
    assert seeds == ["deep/long-name-of-a-variant/seed0"]
    assert line.locator(".fold").text_content() == "1 of 2"
    assert line.locator("input").evaluate("one => one.indeterminate")


def test_no_run_at_all_is_a_choice_too(page):
    page.open(run="two_heads/seed0")
    page(".run").filter(has_text="two_heads").locator("input").uncheck()
    page(".empty").filter(has_text="No run is chosen").wait_for()
    page.page.wait_for_function("() => location.hash.includes('p.attention.run=&')")
    page.open(run="")
    assert page(".panel").count() == 0


def test_panels_lie_level_and_scroll_together(page):
    """A long name takes two lines, a small model has fewer thumbnails; the maps start alike."""
    page.open(run=["deep/long-name-of-a-variant/seed0", "two_heads/seed0", "hybrid/seed0"], zoom=5)
    tops = [page(".frame").nth(i).bounding_box()["y"] for i in range(3)]
    assert tops == pytest.approx([tops[0]] * 3, abs=1)
    page(".frame").nth(1).evaluate("frame => frame.scrollTo(60, 40)")
    page.page.wait_for_timeout(100)
    places = page(".frame").evaluate_all("all => all.map(one => [one.scrollLeft, one.scrollTop])")
    assert places[1][0] == 60
    assert places[2] == places[1]


@pytest.mark.slow
def test_what_the_keyboard_reaches_is_scrolled_to(page):
    page.open(run="two_heads/seed0", zoom=5)
    assert page(".frame").evaluate("frame => frame.scrollTop") == 0
    page(".zoom .grid").focus()
    page.press(*["ArrowDown"] * 12)
    inside = page(".frame").evaluate(
        """frame => {
          const { top, bottom } = frame.getBoundingClientRect();
          const cell = frame.querySelector("[role=gridcell]").getBoundingClientRect();
          return frame.scrollTop > 0 && cell.top > top && cell.bottom < bottom;
        }"""
    )
    assert inside
    page.load(run="two_heads/seed0", query=3)
    assert page(".stage").evaluate("stage => stage.scrollTop") == 0, "it is in sight already"


def test_the_filter_is_a_regular_expression(page):
    page.open(run="two_heads/seed0")
    page("input[type=search]").fill("^h|sig")
    page(".run").nth(2).wait_for()
    assert page(".run").count() == 3
    page("input[type=search]").fill("(")
    assert page("input[type=search]").get_attribute("aria-invalid") == "true"


def test_lines_shade_the_keys_of_the_pinned_query(page, real):
    page.open(run="two_heads/seed0", view="lines", query=7)
    record = real["two_heads"][max(real["two_heads"])]
    mean = record.layers[0].weights[:, 7].mean(axis=0)
    shown = [
        value(page(f".tokens.key button >> nth={i}").get_attribute("data-weight"))
        for i in range(len(mean))
    ]
    assert shown == pytest.approx(mean, abs=0.006)
    assert int(page(".strings canvas").get_attribute("data-lines")) > 0
    page(".chip").nth(1).click()
    page.settled()
    assert page.link()["hidden"] == ["1"]
    alone = float(page(".tokens.key button >> nth=7").get_attribute("data-weight"))
    assert alone == pytest.approx(record.layers[0].weights[0, 7, 7], abs=0.006)
    page(".chip").nth(1).click(modifiers=["Shift"])
    page.settled()
    assert page.link()["hidden"] == ["0"]


def test_rollout_and_value_lengths_are_shown_in_matrix_and_lines(page, real):
    record = real["two_heads"][max(real["two_heads"])]
    size = len(record.query_tokens)
    first, second = record.layers
    below = first.weights.mean(axis=0) / 2 + np.eye(size) / 2
    rolled = (second.weights.mean(axis=0) / 2 + np.eye(size) / 2) @ below
    weighted = second.weights * second.lengths[:, None]
    tolerance = 0.006 * float(second.lengths.max())

    def shown():
        buttons = page(".tokens.key button")
        return [value(buttons.nth(i).get_attribute("data-weight")) for i in range(size)]

    page.open(run="two_heads/seed0", view="lines", layer=1, query=7, mode="values")
    assert shown() == pytest.approx(weighted[:, 7].mean(axis=0), abs=tolerance)
    assert "length of the value" in page(".facts").text_content()
    page.press("m")
    assert page.link()["mode"] == ["rollout"]
    assert shown() == pytest.approx(rolled[7], abs=0.008)
    assert page(".chip").all_text_contents() == ["all"]
    page.press("1", "l")
    assert page(".thumbnail").count() == 2
    check_thumbnail(thumbnail(page, 0, 1, 0), rolled, second.allowed)
    assert page(".zoom h3").first.text_content() == "L0 \N{MIDDLE DOT} all heads"
    # Both mechanisms of the other run have rows that sum to 1, and heads that are not changed.
    page.open(run="hybrid/seed0", layer=1, head=1, mode="values")
    linear = real["hybrid"][max(real["hybrid"])].layers[1]
    assert linear.lengths.shape == (2, size)
    check_thumbnail(thumbnail(page, 0, 1, 1), linear.weights[1] * linear.lengths[1], linear.allowed)
    page.open(run="signed", mode="rollout")
    assert "its rows do not sum to 1" in page(".problem").text_content()
    page.open(run="signed", mode="values")
    assert "Value lengths are not defined for L0, L1" in page(".problem").text_content()
    page.open(run="translation", site=CROSS, mode="rollout")
    assert "not defined for cross-attention" in page(".problem").text_content()


@pytest.mark.parametrize(
    ("view", "text", "key"),
    [("lines", ".tokens.query", "ArrowDown"), ("tokens", ".text >> nth=0", "ArrowRight")],
)
def test_a_text_is_one_stop_of_the_tab_key(page, view, text, key):
    page.open(run="two_heads/seed0", view=view, query=4)
    stops = page(text).locator("button[tabindex='0']")
    assert stops.count() == 1
    stops.focus()
    page.press(key, key)
    assert page.evaluate("() => document.activeElement.dataset.index") == "6"
    assert stops.get_attribute("data-index") == "6"
    page.press("Enter")
    assert "6" in page.link()["query"] + page.link().get("key", [])


def test_tokens_are_coloured_forwards_and_backwards(page, real):
    page.open(run="two_heads/seed0", view="tokens", query=6, head=1)
    weights = real["two_heads"][max(real["two_heads"])].layers[0].weights[1]
    for text, values, seen in ((0, weights[6], range(7)), (1, weights[:, 6], range(6, 12))):
        buttons = page(".text").nth(text).locator("button")
        shown = [buttons.nth(i).get_attribute("data-weight") for i in range(12)]
        for i, told in enumerate(shown):
            if i in seen:
                assert value(told) == pytest.approx(values[i], abs=0.006)
            else:
                assert told == "masked"
    ground = "one => getComputedStyle(one).backgroundColor"
    tints = [buttons.nth(i).evaluate(ground) for i in range(6, 12)]
    assert len(set(tints)) > 1, "what looks more is tinted more"
    page("select[aria-label=Scale]").select_option("log")
    page.settled()
    assert [buttons.nth(i).evaluate(ground) for i in range(6, 12)] != tints


def test_heads_are_drawn_over_training(page):
    page.open(run=["two_heads/seed0", "hybrid/seed0"], view="heads")
    assert page(".chart canvas").count() == 2 * 2 * 3
    limits = page(".chart canvas").evaluate_all("all => all.map(one => one.dataset.limit)")
    assert limits[:3] == limits[6:9], "both runs have the same scales"
    assert float(limits[0]) > 0
    page.press("l", "h", "Home")
    told = page(".heads .hint").first.text_content()
    assert told.startswith("L1 · head 1 entropy ")
    assert " 0.0" not in told.split("distance")[0], "maps are diffuse before training"
    label = page(".chart canvas").nth(3).get_attribute("aria-label")
    entropy = re.search(r"entropy ([\d.]+)", told).group(1)
    assert label == f"Entropy, layer L1: head 1 {entropy} at step 0"


def test_the_clinic_is_a_grid_with_curves_and_leads_to_the_map(page, logs):
    page.open(view="clinic", run=["watched", "two_heads/seed0"], step=20)
    assert "callbacks: [head_clinic]" in page(".panel .problem").last.text_content()
    cells = page(".head")
    assert cells.all_text_contents() == [".00", ".10", ".60", ".20"]
    marks = page(".formed").first.text_content()
    assert marks == "induction: formed by step 20 (at step 10: 0.20), first in L1H0"
    ground = "one => getComputedStyle(one).backgroundColor.match(/[0-9]+/g).map(Number)"
    light = [sum(cells.nth(i).evaluate(ground)) for i in range(4)]
    assert sorted(range(4), key=light.__getitem__) == [0, 1, 3, 2]
    cells.nth(2).click()
    page.settled()
    assert page(".clinic h3").text_content() == "L1 · head 0 · induction"
    page.press("ArrowRight")
    assert page(".clinic h3").text_content() == "L1 · head 1 · mixed"
    page(".clinic select").select_option("copying")
    page.press("End")
    assert cells.all_text_contents() == ["\N{MINUS SIGN}.90", ".30", ".00", ".90"]
    blue, _, white, red = (cells.nth(i).evaluate(ground) for i in range(4))
    assert blue[2] > blue[0]
    assert red[0] > red[2]
    assert min(white) > 240, "a signed score has its zero in the middle"
    told = "step 30: induction 0.300copying 0.900"
    assert page(".scores").text_content() == told
    assert page.link()["score"] == ["copying"]
    # A click on a curve chooses its head and step.
    curves = page(".clinic .plot canvas")
    box = curves.bounding_box()
    curves.click(position={"x": box["width"] - 14, "y": box["height"] - 42})
    page.settled()
    assert (page.link()["head"], page.link()["layer"]) == (["0"], ["0"])
    # The file grows while the run trains.
    heads = {
        name: {score: [*values, 0.25] for score, values in scores.items()}
        for name, scores in CLINIC["heads"].items()
    }
    longer = {"steps": [*CLINIC["steps"], 40], "heads": heads}
    (logs / "watched" / "clinic.json").write_text(json.dumps(longer))
    page.page.get_by_label("Reload").or_(page.page.locator(".reload-button")).first.click()
    page(".panel .step").filter(has_text="step 40").wait_for()
    page.settled()
    assert cells.all_text_contents() == [".25"] * 4
    cells.nth(3).click()
    page.settled()
    cells.nth(3).click()
    page(".zoom h3").first.wait_for()
    link = page.link()
    assert (link["view"], link["layer"], link["head"]) == (["matrix"], ["1"], ["1"])
    assert page(".zoom h3").first.text_content() == "L1 · head 1"


def test_contributions_are_those_of_the_step_and_the_token(page, make_moment):
    page.open(view="contributions", run=["watched", "two_heads/seed0"], step=10)
    assert "callbacks: [contributions]" in page(".panel .problem").last.text_content()
    stacks = page(".contributions .token")
    minus = "\N{MINUS SIGN}"

    def shown():
        rows = page(".contributions section").first.locator("tr").all_text_contents()
        return float(rows[-1].removeprefix("sum").replace(minus, "-"))

    moment = make_moment(SOURCE, seed=10)
    for goal, button in (("next", "The next token"), ("top", "The model's choice")):
        page(".goal button").filter(has_text=button).click()
        page.settled()
        sums = np.sum(moment[goal]["effects"], axis=0)
        for token in (4, 0, 2):
            stacks.nth(token).click()
            page.settled()
            assert shown() == pytest.approx(sums[token], abs=0.006)
            heights = stacks.nth(token).locator(".stack > [class^=of-]")
            pixels = heights.evaluate_all("all => all.map(one => parseFloat(one.style.height))")
            effects = [abs(of[token]) for of in moment[goal]["effects"] if of[token]]
            ratios = np.array(sorted(pixels)) / sorted(effects)
            np.testing.assert_allclose(ratios, ratios[0], rtol=0.01)
    link = page.link()
    assert (link["query"], link["goal"]) == (["2"], ["top"])
    # The arrows move between tokens in the bars, between steps elsewhere.
    page(".contributions .bars").focus()
    page.press("ArrowRight")
    assert page.link()["query"] == ["3"]
    page(".contributions .bars").evaluate("one => one.blur()")
    page.press("ArrowRight")
    assert page(".panel .step").first.text_content() == "step 30"
    effects = make_moment(SOURCE, seed=30)["top"]["effects"]
    assert shown() == pytest.approx(sum(of[3] for of in effects), abs=0.006)


def test_a_difference_is_that_of_the_numbers(page, real):
    page.open(
        run=["two_heads/seed0", "hybrid/seed0"], view="difference", b=":start", a="two_heads/seed0"
    )
    first, last = (real["two_heads"][step(real["two_heads"])] for step in (min, max))
    change = last.layers[0].weights[0] - first.layers[0].weights[0]
    pixels = thumbnail(page, 0, 0, 0).astype(int)
    redder = pixels[..., 0] - pixels[..., 2]
    query, key = np.unravel_index(change.argmax(), change.shape)
    assert redder[query, key] > 20
    query, key = np.unravel_index(change.argmin(), change.shape)
    assert redder[query, key] < -20


def test_what_cannot_be_subtracted_is_told(page):
    page.open(run=["signed", "two_heads/seed0"], view="difference")
    assert "6 query tokens and B 12" in page(".problem").text_content()
    page.open(run=["hybrid/seed0", "two_heads/seed0"], view="difference")
    assert "1 of 2 layers left out: different numbers of heads" in page(".facts").text_content()
    page.open(run=["deep/long-name-of-a-variant/seed0", "shallow"], view="difference")
    assert "1 of 2 layers left out: B has only 1" in page(".facts").text_content()


def test_cross_attention_has_both_texts(page):
    page.open(run="translation", site=CROSS, query=3)
    assert "cross-attention" in page(".facts").text_content()
    assert "girl" in page(".readout b").first.text_content()
    page.press("3")
    assert page(".text").nth(0).locator("button").all_text_contents() == SOURCE
    assert page(".text").nth(1).locator("button").all_text_contents() == TARGET
    page.press("4")
    assert page(".chart canvas").count() == 2 * 2, "distance is undefined between two texts"


def test_signed_maps_say_so_and_diverge(page, make_record):
    page.open(run="signed", scale="absolute")
    assert "signed weights" in page(".facts").text_content()
    weights = make_record(signed=True).layers[0].weights[0]
    pixels = thumbnail(page, 0, 0, 0).astype(int)
    redder = pixels[..., 0] - pixels[..., 2]
    clear = (abs(weights) > 0.5) & np.tri(6, dtype=bool)
    assert clear.sum() > 4
    assert np.array_equal(redder[clear] > 0, weights[clear] > 0)


def test_a_run_that_is_logged_at_other_steps_shows_its_nearest(page, real):
    page.open(run=["two_heads/seed0", "translation"], site=SITE)
    assert "has no maps of probe/self" in page(".panel .problem").last.text_content()
    page.open(run=["two_heads/seed0", "signed"], site=SITE)
    last = max(real["two_heads"])
    steps = page(".panel .step").all_text_contents()
    assert steps == [f"step {last}", f"step 0 (nearest to {last})"]


def test_hostile_texts_do_nothing(page):
    for view in ("matrix", "lines", "tokens", "heads", "clinic", "contributions", "difference"):
        page.open(run=["hostile<b>"], view=view, query=0)
    page.open(run=["hostile<b>"], view="tokens", query=0)
    texts = page(".text").first.locator("button").all_text_contents()
    assert texts[0].startswith("<img␣src=x")
    assert texts[2:5] == ["\\u202eevil", "\\ud800", "\\u0007\\n"]
    assert page("img, script:not([type=module])").count() == 0
    assert page.evaluate("() => window.hacked") is None
    assert page.page.evaluate("() => window.hacked") is None


def test_a_newer_format_is_told(page):
    page.open(run="newer")
    assert "format version 2 is unknown" in page(".problem").text_content()
    assert "update" in page(".problem").text_content()
    assert all(complaint.startswith("422") for complaint in page.complaints)
    page.complaints.clear()


def test_a_link_to_runs_that_are_elsewhere_says_so(page):
    page.open(run="moved/seed0")
    shown = page(".empty").filter(has_text="These runs are not in the log directory")
    assert "moved/seed0: choose others" in shown.text_content()


def test_a_deep_link_reproduces_the_view(page):
    page.open(run="hybrid/seed0")
    page.press("2", "l", "h", "ArrowDown", "ArrowDown", "Home")
    link = page.link()
    chosen = page(".tokens button[aria-pressed=true]").get_attribute("title")
    page.load(**{key: value for key, value in link.items() if key != "#attention"})
    assert page.link() == link
    assert page(".tab, [role=tab][aria-selected=true]").text_content() == "Lines"
    assert page(".tokens button[aria-pressed=true]").get_attribute("title") == chosen
    assert page(".panel .step").text_content() == "step 0"


def test_a_link_that_is_followed_while_the_address_is_due_is_not_written_over(page):
    """The address is written a little after each choice; a link may come in between, and the
    browser tells of it only later.
    """
    page.open(run="hybrid/seed0", layer=0)
    page(".stage").evaluate(
        """() => {
            document.dispatchEvent(new KeyboardEvent("keydown", {key: "h", bubbles: true}));
            const hash = "#attention&p.attention.run=hybrid%2Fseed0&p.attention.layer=1";
            window.parent.history.replaceState(null, "", hash);  // tells nobody, not even later
        }"""
    )
    page.settled()
    assert page.link()["layer"] == ["1"]


def test_nonsense_in_an_address_is_left_out(page):
    page.open(run=["two_heads/seed0", "nowhere"], layer="x", head=10**14, view="no", scale="%E0%A4")
    assert page(".panel").count() == 1
    assert page(".panel h3").first.text_content() == "L0 · head 1"


def test_export(page, real, tmp_path):
    page.open(run="two_heads/seed0", head=1)
    with page.page.expect_download() as waiting:
        page(".save button").filter(has_text="CSV").click()
    rows = Path(waiting.value.path()).read_text(encoding="utf-8").splitlines()
    weights = real["two_heads"][max(real["two_heads"])].layers[0].weights[1]
    assert len(rows) == 1 + len(weights)
    last = [float(value) for value in rows[-1].split(",")[-12:]]
    assert last == pytest.approx(weights[-1], abs=0.006)
    with page.page.expect_download() as waiting:
        page(".save button").filter(has_text="PNG").click()
    assert re.fullmatch(r"attention-two_heads_seed0-step\d+\.png", waiting.value.suggested_filename)
    assert saved_picture(waiting).std() > 10


def saved_picture(waiting) -> np.ndarray:
    """The pixels (height, width, 3) of a download."""
    with Image.open(waiting.value.path()) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def test_a_saved_picture_shows_what_the_page_shows(page):
    """The colours of the heads are told, and what is scrolled out of sight stays out."""
    page.open(run="two_heads/seed0", view="lines")
    with page.page.expect_download() as waiting:
        page(".save button").filter(has_text="PNG").click()
    pixels = saved_picture(waiting)
    for colour in ((0, 114, 178), (213, 94, 0)):
        assert (pixels == colour).all(axis=-1).sum() > 50
    page.open(run="two_heads/seed0", zoom=6)
    with page.page.expect_download() as waiting:
        page(".save button").filter(has_text="PNG").click()
    assert (saved_picture(waiting)[:, -16:] == 255).all()


def test_the_theme_follows_tensorboard(page):
    page.open(run="two_heads/seed0")
    ground = "() => getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    page.page.evaluate("document.body.classList.add('dark-mode')")
    page("body").page.wait_for_timeout(100)
    assert page.evaluate(ground) == "rgb(48, 48, 48)"
    page.page.evaluate("document.body.classList.remove('dark-mode')")


@pytest.mark.slow
def test_behind_a_prefix_with_the_python_reader_while_training_goes_on(
    browser, tensorboard, tmp_path, make_record, logged
):
    """A log directory that is empty at first, then holds scalars, then maps, then more of them."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    from attnkit.tensorboard import summaries

    flags = ("--load_fast=false", "--path_prefix=/some/where", "--reload_interval=1")
    (tmp_path / "other").mkdir()
    folders = f"mine:{tmp_path / 'logs'},others:{tmp_path / 'other'}"
    with tensorboard("--logdir_spec", folders, *flags) as board:
        page = Page(browser, board.address.rstrip("/") + "/").open()
        assert "No runs here yet" in page(".empty").text_content()
        writer = EventFileWriter(str(tmp_path / "logs" / "live"), flush_secs=600)
        value = Summary.Value(tag="loss/train", simple_value=1.0)
        writer.add_event(Event(step=0, wall_time=1.7e9, summary=Summary(value=[value])))
        writer.flush()
        board.wait_for("data/plugin/attention/index", lambda content: b"live" in content)
        reload = page.page.get_by_label("Reload").or_(page.page.locator(".reload-button")).first
        reload.click()
        page(".empty").filter(has_text="No attention maps in these runs").wait_for()
        for step in (0, 10):
            record = make_record(seed=step)
            summary = summaries.maps(record.tag, encode(record))
            writer.add_event(Event(step=step, wall_time=1.7e9 + step, summary=summary))
            writer.flush()
            wanted = f'"steps": [0{", 10" if step else ""}]'.encode()
            board.wait_for("data/plugin/attention/index", lambda content, w=wanted: w in content)
            reload.click()
            page(".panel .step").filter(has_text=f"step {step}").wait_for()
        writer.close()
        page.settled()
        assert page(".panel h2").text_content() == "mine/live"
        record = make_record(seed=10)
        check_thumbnail(
            thumbnail(page, 0, 1, 1), record.layers[1].weights[1], record.layers[1].allowed
        )
        assert page.complaints == []
        assert page.outside() == []
        own = [url for url in page.requests if "plugin/attention" in url]
        assert own
        assert all(url.startswith(board.address) for url in own)
        page.page.close()
