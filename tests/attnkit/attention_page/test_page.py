"""The page: one file, no network, and tokens that are text whatever they say."""

import base64
import json
import os
import re
import shutil

import numpy as np
import pytest

from attnkit.attention_page.modes import in_mode
from attnkit.attention_page.page import page
from attnkit.tensorboard.attention_record import AttentionRecord, layer_map

CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)
HOSTILE = ["</script><script>alert(1)</script>", "<!--", "{{style}}", '"\\', "\u202eabc"]


def made():
    rng = np.random.default_rng(0)
    weights = np.tril(rng.random((2, 5, 5))).astype(np.float32)
    weights /= weights.sum(axis=-1, keepdims=True)
    allowed = np.tril(np.ones((5, 5), dtype=bool))
    layer = layer_map("L0", weights, allowed)
    record = AttentionRecord("text", "self", "self", True, HOSTILE, HOSTILE, [layer])
    return weights, page([record], "a <b> title")


def data_of(text):
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found)


def test_tokens_and_weights_come_back_exactly():
    weights, text = made()
    data = data_of(text)
    (record,) = data["records"]
    assert record["queries"] == HOSTILE
    (layer,) = record["layers"]
    numbers = np.frombuffer(base64.b64decode(layer["weights"]), dtype="<f4").reshape(2, 5, 5)
    assert np.array_equal(numbers, weights)
    assert data["title"] == "a <b> title"


def test_nothing_in_a_token_is_markup():
    _, text = made()
    assert text.count("<script") == text.count("</script>") == 3
    assert "<!--" not in text
    assert "<title>Attention: a &lt;b&gt; title</title>" in text


def test_it_needs_no_network():
    _, text = made()
    assert not re.search(r"(?:src|href)=|@import|url\(|XMLHttpRequest", text)
    assert "default-src 'none'" in text


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium: install it, or set $CHROMIUM")
def test_the_file_shows_the_maps_in_a_browser(tmp_path):
    """From a disk and inside a notebook's frame, whose origin is nobody's."""
    playwright = pytest.importorskip("playwright.sync_api")
    weights, text = made()
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    frame = text.replace("&", "&amp;").replace('"', "&quot;")
    (tmp_path / "notebook.html").write_text(
        f'<meta charset="utf-8"><iframe srcdoc="{frame}" sandbox="allow-scripts" '
        'style="width: 900px; height: 700px"></iframe>',
        encoding="utf-8",
    )
    said, asked = [], []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page(color_scheme="dark")
        shown.set_default_timeout(300_000)  # milliseconds; against hanging alone
        shown.on("console", lambda message: said.append(message.text))
        shown.on("pageerror", lambda error: said.append(str(error)))
        shown.on("dialog", lambda dialog: said.append(dialog.message))
        shown.on("request", lambda request: asked.append(request.url))
        for name in ("page", "notebook"):
            shown.goto((tmp_path / f"{name}.html").as_uri())
            inside = shown if name == "page" else shown.frame_locator("iframe")
            inside.locator(".stage[data-state=ready] .thumbnail").nth(1).click()
            inside.locator(".zoom .grid").focus()
            for key in ("ArrowDown", *["ArrowDown"] * 3, "ArrowRight"):
                shown.keyboard.press(key)
            cell = inside.locator(".zoom [role=gridcell]")
            cell.filter(has_text=f": {weights[1, 3, 1]:.3f}").wait_for(state="attached")
            assert inside.locator("h3").first.text_content() == "L0 · head 1"
            assert inside.locator("[role=tab]:visible").all_text_contents() == [
                "Matrix",
                "Lines",
                "Tokens",
            ]
        assert shown.evaluate("document.documentElement.scrollHeight") > 0
        browser.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


THUMBNAILS = """all => all.map(canvas => {
  const { width, height } = canvas;
  return [...canvas.getContext("2d").getImageData(0, 0, width, height).data];
})"""


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium: install it, or set $CHROMIUM")
def test_rollout_is_that_of_python_and_left_out_where_it_would_block_the_page(tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")

    def record(size, allowed):
        rng = np.random.default_rng(0)
        layers = []
        for index in range(3):
            weights = (rng.random((1, size, size)) * allowed).astype(np.float32)
            weights /= weights.sum(axis=-1, keepdims=True)
            layers.append(layer_map(f"L{index}", weights, allowed))
        words = [f"t{i}" for i in range(size)]
        return AttentionRecord("text", "self", "self", size == 40, words, words, layers)

    window = np.tri(40, dtype=bool) & ~np.tri(40, k=-8, dtype=bool)  # each layer reaches further
    short, long = record(40, window), record(440, np.ones((440, 440), dtype=bool))
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page()
        shown.set_default_timeout(300_000)  # milliseconds; against hanging alone
        for name, one in (("short", short), ("long", long)):
            file = tmp_path / f"{name}.html"
            file.write_text(page([one], name), encoding="utf-8")
            shown.goto(file.as_uri())
            shown.locator(".stage[data-state=ready] .thumbnail").first.wait_for()
            shown.keyboard.press("m")
            shown.locator(".problem").filter(has_text="Value lengths").wait_for()
            shown.keyboard.press("m")
            if one is long:
                told = shown.locator(".problem").filter(has_text="3 layers of 440 tokens")
                assert told.text_content().startswith("Rollout is not computed")
                break
            shown.locator(".facts").filter(has_text="heads averaged").wait_for()
            pixels = shown.locator(".thumbnail canvas").evaluate_all(THUMBNAILS)
            for found, layer in zip(pixels, in_mode(short, "rollout").layers, strict=True):
                found = np.array(found).reshape(40, 40, 4)
                assert np.array_equal(found[..., 3] > 0, layer.allowed)
                brightest = found[..., :3].sum(axis=-1).argmax(axis=-1)
                weights = layer.weights[0]
                assert (weights[range(40), brightest] >= weights.max(axis=-1) - 0.01).all()
        browser.close()
