"""The page in a real browser: it draws, sorts, answers the keyboard, and asks no one for anything.

Needs playwright and a Chromium: `chromium` on the path, or $CHROMIUM.
"""

import importlib.util
import os
import shutil

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

        names = "tbody th"
        assert shown.locator(names).all_inner_texts() == ["base", HOSTILE, "better"]
        shown.get_by_role("button", name="loss").first.click()
        assert shown.locator(names).first.inner_text() == "better"
        shown.get_by_role("button", name="loss").first.click()
        assert shown.locator(names).last.inner_text() == "better"

        assert shown.locator("#curves path.line").count() == 3
        shown.locator("#curves svg").focus()
        shown.keyboard.press("ArrowLeft")
        assert "step 5:" in shown.locator("#curves-read").inner_text()
        assert "better 1.5" in shown.locator("#curves-read").inner_text()
        shown.select_option("#curves-x", "tokens")
        shown.locator("#curves svg").focus()
        shown.keyboard.press("ArrowLeft")
        assert "tokens 640:" in shown.locator("#curves-read").inner_text()  # 5 steps of 128
        shown.locator("#legend button", has_text="better").click()
        assert shown.locator("#curves path.line").count() == 2

        shown.locator("#costs g.point").nth(2).focus()
        assert "better: loss 0.8 (95 %:" in shown.locator("#costs-read").inner_text()
        assert shown.locator("tr.pointed th").inner_text() == "better"
        browser.close()
    assert said == []
    assert asked == [file.as_uri()]
