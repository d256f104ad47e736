"""Explanations of a text, as files."""

import json
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from attnkit.cli.main import app
from attnkit.runs import experiment
from attnkit.tasks.trained_run import load_run
from attnkit.understanding.explanation import Explanation

CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)


def data_of(text):
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found)


def test_the_page_tells_what_the_induction_head_says(small_run, induction_circuit, tmp_path):
    run = load_run(small_run.directory)
    run = replace(run, model=induction_circuit(run.tokenizer.vocab_size))
    (file,) = Explanation.of(run, "dog d").save(tmp_path / "page.html")
    text = file.read_text()
    data = data_of(text)["moment"]
    assert data["tokens"] == list("dog d")
    names = [part["name"] for part in data["parts"]]
    head = names.index("L1H0")
    assert data["words"][head][-1][0][0] == "o"
    assert data["next"]["tokens"] == list("og do")  # at the end, the model's choice
    effects = np.array(data["next"]["effects"])
    assert effects[:, -1].argmax() == head
    assert [of["name"] for of in data["lens"]] == ["embedding", "layer 0", "layer 1"]
    assert data["lens"][-1]["ranks"]["next"][-1] == 1
    assert "default-src 'none'" in text


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium: install it, or set $CHROMIUM")
def test_the_page_in_a_browser(small_run, induction_circuit, tmp_path):
    """What it shows sums to the logits; pointing at a head tells its proposal; both themes."""
    playwright = pytest.importorskip("playwright.sync_api")
    run = load_run(small_run.directory)
    run = replace(run, model=induction_circuit(run.tokenizer.vocab_size))
    (file,) = Explanation.of(run, "dog d").save(tmp_path / "page.html")
    tokens = torch.tensor([run.tokenizer.encode("dog d").ids])
    with torch.no_grad():
        logits = run.model(tokens, torch.zeros_like(tokens))[0]
    wanted = [*tokens[0, 1:].tolist(), int(logits[-1].argmax())]
    over_mean = logits[range(5), wanted] - logits.mean(dim=-1)
    problems = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(color_scheme="light")
        page.set_default_timeout(300_000)  # milliseconds; against hanging alone
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text))
        page.goto(file.as_uri())
        stacks = page.locator(".token")
        for token, expected in enumerate(over_mean.tolist()):
            stacks.nth(token).click()
            assert page.locator(".token[aria-selected=true]").count() == 1
            rows = page.locator("section").first.locator("tr").all_text_contents()
            shown = float(rows[-1].removeprefix("sum").replace("\N{MINUS SIGN}", "-"))
            assert shown == pytest.approx(expected, abs=0.006)
        # At the second `d`, the induction head proposes what followed the first one.
        page.mouse.move(0, 0)
        stacks.nth(4).locator(".stack .of-head").first.hover()
        told = page.locator(".reading").text_content()
        assert told.startswith("L1H0 at d: +")
        assert re.search(r"on the logit of o\b.* points to o \+", told)
        page.mouse.down()
        page.mouse.up()
        assert page.locator(".reading").text_content() == told
        page.locator(".bars").focus()
        page.keyboard.press("ArrowLeft")
        chosen = stacks.evaluate_all("all => all.findIndex(one => one.ariaSelected === 'true')")
        assert chosen == 3
        colours = """() => [document.body, document.querySelector(".stack .of-head")].map(
            one => getComputedStyle(one).backgroundColor)"""
        light = page.evaluate(colours)
        page.emulate_media(color_scheme="dark")
        page.locator("html[data-theme=dark]").wait_for()
        dark = page.evaluate(colours)
        assert light[0] == "rgb(255, 255, 255)"
        assert all(one != other for one, other in zip(light, dark, strict=True))
        browser.close()
    assert problems == []


def test_figure_and_numbers(small_run, tmp_path):
    run = load_run(small_run.directory)
    found = Explanation.of(run, "the dog sees")
    picture, numbers = found.save(tmp_path / "a.png", tmp_path / "a.npz")
    with Image.open(picture) as opened:
        assert opened.size[0] > 400
    arrays = np.load(numbers)
    assert arrays["tokens"].tolist() == list("the dog sees")
    summed = arrays["effects"].sum(axis=0)
    logits = arrays["logits"]
    wanted = logits[range(12), arrays["next_tokens"]] - logits.mean(axis=-1)
    np.testing.assert_allclose(summed, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--text", ""], "--text is empty"),
        (["--text", "the", "--out", "a.gif"], "a.gif"),
    ],
)
def test_what_cannot_be_explained_is_refused(small_run, arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(app, ["explain", str(small_run.directory), *arguments])
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert words in ended.stderr
    assert not list(tmp_path.iterdir())


def test_the_command(small_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(app, ["explain", str(small_run.directory), "--text", "the cat ü"])
    assert ended.exit_code == 0, ended.output
    assert ended.stdout == "wrote explanation.html\n"
    assert "'ü'" in ended.stderr


def test_a_translation(small, tmp_path):
    run = load_run(experiment.run(small(task="translation")).directory)
    found = Explanation.of(run, "a b c ||| c b a")
    assert "L0 cross H0" in [part.name for part in found.stream.parts]
    data = data_of(found.save(tmp_path / "a.html")[0].read_text())["moment"]
    assert [text.strip() for text in data["next"]["tokens"][:3]] == ["c", "b", "a"]
