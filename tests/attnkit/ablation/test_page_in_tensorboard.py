"""The Ablations page in a real browser, inside TensorBoard.

Needs playwright and a Chromium: `chromium` on the path, or $CHROMIUM.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import parse_qsl, quote
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from attnkit.ablation.compare import compare_runs
from attnkit.ablation.tables import comma_separated, grid, latex
from attnkit.ablation.trial_files import failure_of, log_of
from attnkit.storage import run_directory
from attnkit.storage.run_directory import write_json
from attnkit.tensorboard import summaries
from attnkit.tensorboard.attention_record import AttentionRecord, layer_map
from attnkit.tensorboard.map_format import encode

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium: install it, or set $CHROMIUM"),
]

HOSTILE = '<img src=x onerror="parent.hacked=1;hacked=1">'
MANY = 500
FOLLOWED = ("base", "linear", "local")


@pytest.fixture(scope="module")
def logs(run_maker, study_of_the_session, tmp_path_factory) -> Path:
    """A study, one with a hostile name and a run that goes on, and one with many variants."""
    root = tmp_path_factory.mktemp("logs")
    make = run_maker(root)
    shutil.copytree(study_of_the_session, root / "small")
    for seed in (0, 1):
        make("base", seed, 2.0 + seed / 10, study="live", curve={0: 3.0, 10: 2.0 + seed / 10})
        make("other", seed, 1.5, study="live", curve={0: 3.0, 10: 1.5})
    (root / "live/other").rename(root / "live" / HOSTILE)
    run = make("base", 2, study="live", curve={0: 3.0, 5: 2.5})
    (run / "result.json").unlink()
    first = make("v0", 0, study="many")
    result = json.loads((first / "result.json").read_text())
    for i in range(1, MANY):
        run = root / f"many/v{i}/seed0"
        run.mkdir(parents=True)
        for name in ("recipe.yaml", "environment.json"):
            os.link(first / name, run / name)
        result["metrics"]["loss"] = 1 + i / 100
        (run / "result.json").write_text(json.dumps(result))
    for variant in FOLLOWED:
        for seed in range(4):
            run = make(variant, seed, study="followed", curve={0: 3.0, 10: 2.0 + seed / 10})
            if seed == 3:
                (run / "result.json").unlink()
    return root


@pytest.fixture(scope="module")
def board(tensorboard, logs) -> Iterator:
    with tensorboard("--logdir", str(logs)) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Page:
    """One open page, with what it complained of and what it asked for."""

    def __init__(self, browser, address: str, *, width: int = 1280, dark: bool = False) -> None:
        self.address = address
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.page.set_default_timeout(300_000)  # milliseconds; against hanging alone
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.frame = self.page.frame_locator("iframe").first
        if dark:
            settings = json.dumps({"theme": "dark"})
            self.page.add_init_script(f"localStorage.setItem('_tb_global_settings', {settings!r})")

    def open(self, **choices) -> "Page":
        """Follows a deep link into a page that nobody has used."""
        parts = ["ablations"]
        for key, values in choices.items():
            for value in values if isinstance(values, list) else [values]:
                parts.append(f"p.ablations.{key}={quote(str(value), safe='')}")
        self.page.goto("about:blank")
        self.page.goto(f"{self.address}#{'&'.join(parts)}")
        return self.settled()

    def settled(self) -> "Page":
        self.frame.locator(".ablations[data-state=ready]").wait_for()
        return self

    def __call__(self, selector: str, **options):
        return self.frame.locator(selector, **options)

    def row(self, name: str):
        return self("tbody tr").filter(has=self(".name", has_text=re.compile(f"^{name}\\*?$")))

    def link(self) -> dict[str, list[str]]:
        """The address as choices, once it has caught up with the page."""
        self.page.wait_for_timeout(300)
        choices: dict[str, list[str]] = {}
        for key, value in parse_qsl(self.page.evaluate("location.hash"), keep_blank_values=True):
            choices.setdefault(key.removeprefix("p.ablations."), []).append(value)
        return choices

    def words(self) -> list[list[str]]:
        rows = self("tbody tr").all()
        return [row.locator("th .name, td").all_inner_texts() for row in rows]

    def saved(self, button) -> Path:
        with self.page.expect_download() as waiting:
            button.click()
        return Path(waiting.value.path())


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
    inside = (shared.address, "about:", "blob:", "data:")
    assert [url for url in shared.requests if not url.startswith(inside)] == []


def test_the_table_is_that_of_compare_for_any_base_and_metric(page, logs):
    page.open(study="small")
    wanted = grid(compare_runs([logs / "small"]))
    assert [row[:-1] for row in page.words()] == wanted.rows
    assert page(".status").inner_text() == "12 runs finished"
    page("select[aria-label=Base]").select_option("same")
    page("select[aria-label=Metric]").select_option("perplexity")
    page("th button", has_text="perplexity").wait_for()
    page.row("same").locator("td", has_text="base").wait_for()
    wanted = grid(compare_runs([logs / "small"], base="same", metric="perplexity"))
    assert [row[:-1] for row in page.words()] == wanted.rows
    assert page(".notes li").all_inner_texts() == wanted.notes
    assert page("tr.better .name").all_inner_texts() == [
        row[0]
        for row, verdict in zip(wanted.rows, wanted.verdicts, strict=True)
        if verdict == "better"
    ]


@pytest.mark.slow
def test_curves_can_be_read_by_keyboard(page):
    """Numbers computed from what the fixture logged."""
    page.open(study="small")
    noise = np.array([0.01, -0.02, 0.015, -0.005])
    canvas = page(".plot canvas").first
    canvas.focus()
    page.page.keyboard.press("ArrowLeft")
    told = page(".read").first.inner_text()
    mean, low, high = (
        float(x) for x in re.search(r"base ([\d.]+) \(([\d.]+) to ([\d.]+)", told).groups()
    )
    assert (mean, low, high) == pytest.approx((2 + noise.mean(), 1.98, 2.015), abs=6e-4)
    assert "n=4" in told
    page.page.keyboard.press("ArrowDown")
    assert "step 5 better 1.5" in page(".read").first.inner_text()
    assert page("tr.pointed .name").inner_text() == "better"
    page("select[aria-label=over]").select_option("FLOPs")
    page(".plot canvas[aria-label*='over FLOPs']").wait_for()
    page("label", has_text="each seed").locator("input").check()
    page(".plot canvas[aria-label*='15 curves']").wait_for()
    page.page.keyboard.press("/")
    assert page("input[type=search]").evaluate("one => one === document.activeElement")


@pytest.mark.slow
def test_an_address_keeps_the_whole_state(page):
    page.open(study="small")
    page("select[aria-label=Base]").select_option("same")
    page("select[aria-label=curve]").select_option("loss/train")
    page("select[aria-label=over]").select_option("tokens")
    page("select[aria-label=against]").select_option("tokens_per_second")
    page("label", has_text="logarithmic").locator("input").check()
    page("th button", has_text="loss").first.click()
    page.row("base").locator("input").uncheck()
    page.settled()
    link = page.link()
    assert link["off"] == ["base"]
    words = page.words()
    page.open(**{key: value for key, value in link.items() if key != "#ablations"})
    assert page.link() == link
    assert page.words() == words
    assert page("th[aria-sort=ascending]").inner_text().startswith("loss")
    assert "loss/train over tokens: 2 curves" in page(".plot canvas").first.get_attribute(
        "aria-label"
    )
    page.open(study="nowhere", over="x", sort="9e9", page="-1", off="gone", filter="(")
    assert page("tbody tr").count() > 0
    assert page("input[type=search]").get_attribute("aria-invalid") == "true"


@pytest.mark.slow
def test_filters_and_pages(page):
    page.open(study="many")
    assert page("tbody tr").count() == 50
    assert f"1 to 50 of {MANY}" in page(".pager").inner_text()
    page(".pager button", has_text="next").click()
    page(".pager", has_text=f"51 to 100 of {MANY}").wait_for()
    assert [row[0] for row in page.words()] == [f"v{i}" for i in range(50, 100)]
    page("th button", has_text="loss").first.click()
    page("th[aria-sort=ascending]").wait_for()
    assert page.words()[0][0].startswith("v0")
    page("input[type=search]").fill("^v11[0-4]$")
    page(".pager").wait_for(state="hidden")
    assert page("tbody tr").count() == 5
    page("select[aria-label=Show]").select_option("failed")
    page(".pager", has_text="No variant matches").wait_for()


@pytest.mark.slow
def test_files_hold_what_the_page_shows(page, logs):
    page.open(study="small", base="same")
    found = compare_runs([logs / "small"], base="same")
    save = page(".toolbar .save button")
    assert page.saved(save.filter(has_text="CSV")).read_text() == comma_separated(found)
    assert page.saved(save.filter(has_text="LaTeX")).read_text() == latex(found)
    panel = page(".panel").first.locator("button")
    rows = page.saved(panel.filter(has_text="CSV")).read_text().splitlines()
    assert rows[0] == "variant,seed,step,loss/val,lowest seed,highest seed"
    assert rows[5] == "better,mean,5,1.5,1.5,1.5"
    drawing = ElementTree.parse(page.saved(panel.filter(has_text="SVG")))
    colours = {part.get("stroke") for part in drawing.iter("{http://www.w3.org/2000/svg}path")}
    assert {"#0072b2", "#d55e00", "#009e73"} <= colours
    with Image.open(page.saved(panel.filter(has_text="PNG"))) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert (abs(pixels - (213, 94, 0)).max(axis=-1) < 30).sum() > 50


def test_a_study_is_followed_while_it_runs(page, logs):
    """A run goes on and ends; another fails; verdicts are so far until all have ended."""
    study = logs / "live"
    run = study / "base/seed2"
    plan = {
        "version": 1,
        "name": "live",
        "base": "base",
        "variants": {"base": {}, HOSTILE: {}},
        "seeds": [0, 1, 2],
    }
    write_json(study / "ablation.json", plan)
    log = log_of(study, "base", 2)
    log.parent.mkdir(exist_ok=True)
    log.write_text("live/base  5/10  loss 2.5  0:01:00 left\n")
    with run_directory.in_use(run):
        page.open(study="live")
        page(".status", has_text="4 of 6 runs finished, 1 running, 1 queued").wait_for()
        assert "running: 5/10 loss 2.5 0:01:00 left" in " ".join(
            page(".going").inner_text().split()
        )
        assert page("td", has_text="so far").count() == 1
        assert "3 curves" in page(".plot canvas").first.get_attribute("aria-label")
        log.write_text("live/base  9/10  loss 2.1  0:00:09 left\n")
        page(".going", has_text="9/10").wait_for()
    shutil.copy(study / "base/seed1/result.json", run)
    log_of(study, HOSTILE, 2).write_text("Traceback\n<b>boom</b>\n")
    failure_of(study, HOSTILE, 2).write_text("failed (code 1)\n")
    page(".status", has_text="5 of 6 runs finished, 1 failed").wait_for()
    assert page(".going pre").inner_text() == "Traceback\n<b>boom</b>"
    assert page("img").count() == 0
    assert page.page.evaluate("() => window.hacked") is None
    write_json(study / "ablation.json", plan | {"tune": {"optimizer.lr": [0.1, 0.2]}})
    with run_directory.in_use(study):
        page(".status", has_text="tuning: 0 of 4 runs finished; then: 5 of 6").wait_for()
    assert page("body").evaluate("() => window.hacked ?? null") is None


WATCH = """() => {
  const canvas = document.querySelector(".plot canvas");
  window.seen = { frames: 0, blank: 0, rows: new Set(), heights: new Set(), shifts: 0 };
  new PerformanceObserver((list) => {
    for (const shift of list.getEntries()) window.seen.shifts += shift.value;
  }).observe({ type: "layout-shift" });
  const look = () => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    window.seen.frames += 1;
    window.seen.blank += data.every((value) => value === 0);
    window.seen.rows.add(document.querySelectorAll("tbody tr").length);
    window.seen.heights.add(document.querySelector("main").scrollHeight);
    requestAnimationFrame(look);
  };
  look();
}"""
"""Looks at each frame: is a plot blank, does the table lose rows, does anything move?"""


@pytest.mark.slow
def test_a_study_of_twelve_runs_is_refreshed_without_a_flicker(page, logs):
    running = [logs / "followed" / variant / "seed3" for variant in FOLLOWED]
    with ExitStack() as locks:
        for run in running:
            locks.enter_context(run_directory.in_use(run))

        def go_on(step: int) -> None:
            for run in running:
                log = log_of(logs / "followed", run.parent.name, 3)
                log.parent.mkdir(exist_ok=True)
                log.write_text(f"followed/{run.parent.name}  {step}/99  loss 2.5  0:01:00 left\n")
                with (run / "metrics.jsonl").open("a") as file:
                    file.write(json.dumps({"step": step, "loss/val": 3 - step / 99}) + "\n")

        go_on(11)
        page.open(study="followed")
        page(".status", has_text="9 of 12 runs finished, 3 running").wait_for()
        page(".going", has_text="11/99").wait_for()
        page("body").evaluate(WATCH)
        for step in (22, 33):
            go_on(step)
            page(".going", has_text=f"{step}/99").wait_for()
            page.settled()
        seen = page("body").evaluate(
            "() => ({...seen, rows: [...seen.rows], heights: [...seen.heights]})"
        )
    assert (seen["blank"], seen["shifts"], seen["rows"]) == (0, 0, [len(FOLLOWED)])
    assert seen["frames"] > 10
    assert len(seen["heights"]) == 1


def write_maps(directory: Path) -> None:
    weights = np.tril(np.full((1, 3, 3), 0.5, np.float32))
    layer = layer_map("L0", weights / weights.sum(-1, keepdims=True), np.tri(3, dtype=bool))
    record = AttentionRecord("probe", "self", "self", True, list("abc"), list("abc"), [layer])
    writer = EventFileWriter(str(directory), filename_suffix=".maps")
    summary = summaries.maps(record.tag, encode(record))
    writer.add_event(Event(step=10, wall_time=1.7e9, summary=summary))
    writer.close()


@pytest.mark.slow
def test_one_click_leads_to_the_maps_and_back(page, logs):
    for variant in ("base", "better"):
        write_maps(logs / f"small/{variant}/seed0")
    index = f"{page.address}data/plugin/attention/index"
    page.open(study="small", over="tokens")
    page.page.wait_for_function(
        "async (url) => (await (await fetch(url)).text()).split('attention/probe').length > 2",
        arg=index,
        polling=500,
    )
    page.row("better").hover()
    page('button[aria-label="maps: better"]').click()
    page.page.wait_for_function("() => location.hash.startsWith('#attention')")
    maps = page.page.frame_locator("iframe").nth(1)
    maps.locator(".stage[data-state=ready] .panel").wait_for()
    chosen = maps.locator(".panel h2 select").evaluate_all("all => all.map(one => one.value)")
    assert chosen == ["small/better/seed0", "small/base/seed0"]
    maps.get_by_role("button", name="← Ablations").click()
    page.page.wait_for_function("() => location.hash.startsWith('#ablations')")
    assert page.link()["over"] == ["tokens"]


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1920, True)])
def test_it_fits_both_widths_and_themes(browser, board, width, dark):
    page = Page(browser, board.address, width=width, dark=dark).open(study="small")
    ground = page("body").evaluate("body => getComputedStyle(body).backgroundColor")
    assert ground == ("rgb(48, 48, 48)" if dark else "rgb(255, 255, 255)")
    wide = page("html").evaluate("html => [html.scrollWidth, html.clientWidth]")
    assert wide[0] <= wide[1]
    scroll = page(".scroll").evaluate("box => [box.scrollWidth, box.clientWidth]")
    assert scroll[0] <= scroll[1], "no column is out of sight"
    page.page.close()


@pytest.mark.slow
def test_an_empty_log_directory_says_what_to_do(browser, tensorboard, tmp_path):
    (tmp_path / "logs").mkdir()
    with tensorboard("--logdir", str(tmp_path / "logs"), "--path_prefix=/some/where") as board:
        page = Page(browser, board.address.rstrip("/") + "/").open()
        assert "attnkit ablate" in page(".empty").inner_text()
        page.page.close()
