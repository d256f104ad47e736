"""The page in a real browser: it draws, sorts, answers the keyboard, and asks no one for anything.

Needs playwright and a Chromium: `chromium` on the path, or $CHROMIUM.
"""

import importlib.util
import os
import shutil
from xml.etree import ElementTree

import pytest

from attnkit.ablation.compare import compare_runs
from attnkit.ablation.comparison_page import page

CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None or importlib.util.find_spec("playwright") is None,
        reason="needs playwright and a Chromium",
    ),
]

HOSTILE = "<img src=x onerror=alert(1)>"


def test_the_page_can_be_read_sorted_and_pointed_at(finished_study, tmp_path):
    from playwright.sync_api import sync_playwright

    (finished_study / "same").rename(finished_study / HOSTILE)
    file = tmp_path / "page.html"
    file.write_text(page(compare_runs([finished_study])))
    said, asked = [], []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme="dark")
        shown.set_default_timeout(300_000)  # milliseconds; against hanging alone
        shown.on("console", lambda message: said.append(message.text))
        shown.on("pageerror", lambda error: said.append(str(error)))
        shown.on("dialog", lambda dialog: said.append(dialog.message))
        shown.on("request", lambda request: asked.append(request.url))
        shown.goto(file.as_uri())

        names = "tbody th .name"
        ready = ".ablations[data-state=ready]"
        shown.locator(ready).wait_for()
        assert shown.locator(names).all_inner_texts() == ["base", HOSTILE, "better"]
        shown.get_by_role("button", name="loss").first.click()
        shown.locator("th[aria-sort=ascending]").wait_for()
        assert shown.locator(names).first.inner_text() == "better"
        shown.get_by_role("button", name="loss").first.click()
        shown.locator("th[aria-sort=descending]").wait_for()
        assert shown.locator(names).last.inner_text() == "better"

        curves, costs = (shown.locator(".plot canvas").nth(i) for i in (0, 1))
        read, costs_read = (shown.locator(".read").nth(i) for i in (0, 1))
        assert "3 curves" in curves.get_attribute("aria-label")
        curves.focus()
        shown.keyboard.press("ArrowLeft")
        assert "step 5 base 2 (1.98 to 2.015, n=4)" in read.inner_text()
        assert "better 1.5" in read.inner_text()
        shown.get_by_label("over", exact=True).select_option("tokens")
        shown.locator(".plot canvas[aria-label*='over tokens']").wait_for()
        assert "tokens 640 base" in read.inner_text()  # 5 steps of 128
        shown.get_by_label("each seed").check()
        shown.locator(f"{ready} .plot canvas[aria-label*='15 curves']").wait_for()
        shown.get_by_label("each seed").uncheck()
        shown.locator("tbody tr", has_text="better").locator("input").uncheck()
        shown.locator(".plot canvas[aria-label*='2 curves']").wait_for()
        shown.locator("tbody tr", has_text="better").locator("input").check()

        costs.focus()
        for _ in range(3):
            shown.keyboard.press("ArrowRight")
        assert "better 0.8 (95 %:" in costs_read.inner_text()
        assert shown.locator("tr.pointed .name").inner_text() == "better"
        with shown.expect_download() as waiting:
            shown.get_by_role("button", name="SVG").first.click()
        drawing = ElementTree.parse(waiting.value.path())
        assert len(drawing.findall(".//{http://www.w3.org/2000/svg}path[@fill='none']")) > 3
        browser.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [file.as_uri()]


def test_the_curves_of_stopped_variants_are_thin_lines(halved_study, tmp_path):
    from playwright.sync_api import sync_playwright

    file = tmp_path / "page.html"
    file.write_text(page(compare_runs(halved_study)))
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 1280, "height": 900})
        shown.set_default_timeout(300_000)  # milliseconds; against hanging alone
        shown.goto(file.as_uri())
        shown.locator(".ablations[data-state=ready]").wait_for()
        assert "9 runs finished, 6 stopped by halving" in shown.locator("body").inner_text()
        row = shown.locator("tbody tr", has_text="bad")
        assert "not decided" in row.inner_text()
        assert row.locator(".square.halved").count() == 3
        label = shown.locator(".plot canvas").first.get_attribute("aria-label")
        assert "9 curves" in label  # three means, six seeds that were stopped
        bases = shown.get_by_label("Base").locator("option").all_inner_texts()
        assert bases == ["base", "good", "same"]
        browser.close()
