"""The tour: its texts, its pages in a browser, and the command that trains and writes it."""

import os
import shutil
from importlib import resources

import pytest
import yaml
from typer.testing import CliRunner

from attnkit.cli.main import app
from attnkit.pages.offline import offline_page
from attnkit.recipe import load_recipe
from attnkit.understanding.tour.ideas import IDEAS, Training, trainings

CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)
PACKAGE = "attnkit.understanding.tour"
WORDS = yaml.safe_load(resources.files(PACKAGE).joinpath("words.yaml").read_text("utf-8"))


def keys_of(tree):
    return {(key, *rest) for key, value in tree.items() for rest in keys_of(value)} if isinstance(
        tree, dict
    ) else {()}  # fmt: skip


def test_both_languages_say_everything():
    assert keys_of(WORDS["en"]) == keys_of(WORDS["ko"])
    assert list(WORDS["en"]["ideas"]) == [idea.name for idea in IDEAS]


@pytest.mark.parametrize("training", trainings(), ids=lambda training: training.command)
def test_the_recipes_are_good(training):
    load_recipe(training.recipe, list(training.changes))


def test_own_changes_replace_those_of_the_tour():
    training = Training("translation/reverse", ("trainer.max_steps=400", "seed=1"))
    changed = training.changed(["trainer.max_steps=2"])
    assert changed.command == "attnkit run translation/reverse seed=1 trainer.max_steps=2"


def made_up():
    """A page whose numbers are made up."""
    weights = [[1.0, 0.0], [0.25, 0.75]]
    maps = [{"name": f"L0 H{head}", "weights": weights} for head in range(2)]
    site = {"queries": ["The", "<b>"], "keys": ["The", "<b>"], "maps": maps, "allowed": None}
    site["allowed"] = [[1, 0], [1, 1]]
    on = {"command": "attnkit run on", "loss": 2.5, "site": site, "prompt": "The", "text": " end"}
    off = {**on, "command": "attnkit run off", "loss": 3.5, "site": None}
    special = {
        "added": {"guesses": [["The", " end", 0.5]]},
        "cross": {"exact": 98.7, "lines": [["a b", "b a"]]},
        "state": {"memory": 20480},
    }
    ideas = []
    for idea in IDEAS:
        more = special.get(idea.name, {})
        ideas.append({"name": idea.name, "on": {**on, **more}, "off": {**off, **more}})
    return offline_page(PACKAGE, "tour.js", title="tour", data={"words": WORDS, "ideas": ideas})


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium: install it, or set $CHROMIUM")
def test_every_page_in_both_languages_and_its_switch(tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    (tmp_path / "tour.html").write_text(made_up(), encoding="utf-8")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(locale="en-US")
        page.set_default_timeout(300_000)  # milliseconds; against hanging alone
        problems = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text))
        page.goto((tmp_path / "tour.html").as_uri())
        for idea in IDEAS:
            words = WORDS["en"]["ideas"][idea.name]
            assert page.locator("h2").inner_text() == words["title"]
            assert "on: 2.50" in page.locator("dl").inner_text()
            assert page.locator(".map td.masked").count() == 1
            assert page.locator("code").inner_text() == "attnkit run on"
            page.locator(".heads button").nth(1).click()
            assert page.locator(".heads [aria-pressed=true]").inner_text() == "L0 H1"
            page.locator(".switch button").nth(1).click()
            assert page.locator(".without").inner_text() == words["without"]
            assert WORDS["en"]["no_map"] in page.locator("main").inner_text()
            assert page.locator("code").inner_text() == "attnkit run off"
            page.locator("header button").click()
            korean = WORDS["ko"]["ideas"][idea.name]
            assert page.locator("h2").inner_text() == korean["title"]
            assert page.locator(".without").inner_text() == korean["without"]
            assert page.evaluate("document.documentElement.lang") == "ko"
            page.locator("header button").click()
            if idea is not IDEAS[-1]:
                page.locator(".steps button").nth(1).click()
        assert page.locator(".steps button").nth(1).is_disabled()
        assert "20 KiB" in page.locator("dl").inner_text()
        page.keyboard.press("ArrowLeft")
        assert page.locator("h2").inner_text() == WORDS["en"]["ideas"]["order"]["title"]
        browser.close()
    assert problems == []


@pytest.mark.slow
def test_the_command_trains_and_writes_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["trainer.max_steps=2", "trainer.accelerator=cpu"]
    ended = CliRunner().invoke(app, ["tour", *options])
    assert ended.exit_code == 0, ended.output
    assert f"{len(trainings())} of {len(trainings())}" in ended.output
    text = (tmp_path / "tour.html").read_text(encoding="utf-8")
    for training in trainings():
        assert training.changed(options).command in text
    # Finished runs are used again; the page is not replaced unasked.
    assert CliRunner().invoke(app, ["tour", *options]).exit_code == 2
    assert CliRunner().invoke(app, ["tour", *options, "--overwrite"]).exit_code == 0


def test_a_mistake_in_a_key_is_told_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(app, ["tour", "trainer.max_stepz=2"])
    assert ended.exit_code == 2
    assert "max_stepz" in ended.output
    assert not list(tmp_path.iterdir())
