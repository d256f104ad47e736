"""A speech run from recipe to commands: what it learns, leaves behind, prints, and refuses."""

import os
import re
import shutil
import wave

import numpy as np
import pytest
from typer.testing import CliRunner

from attnkit.cli.main import app
from attnkit.data.sound.formants import KNOWN, speak
from attnkit.data.sound.wav import RATE, wav_bytes
from attnkit.recipe import recipe_from_dict
from attnkit.runs import experiment
from attnkit.tasks.speech.transcriber import error_rates

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
SAID = "the mill"
HEADS = {"num_layers": 1, "attention": {"name": "multi_head", "num_heads": 2}}
KEYS = {
    "name": "two_sentences",
    "task": "speech",
    "tokenizer": "char",
    "model": {
        "max_seq_len": 64,
        "dim": 48,
        "encoder": HEADS,
        "decoder": HEADS,
        "cross": {"attention": {"name": "multi_head", "num_heads": 2}},
        "dropout": 0.0,
    },
    "optimizer": {"name": "muon", "lr": 0.01},
    "schedule": {"name": "cosine", "warmup_steps": 5},
    "trainer": {"max_steps": 50, "batch_tokens": 320, "precision": 32, "accelerator": "cpu"},
    "validation": {"every_n_steps": 50},
    "logging": {"every_n_steps": 20, "attention_maps": 2, "samples": 1, "probe_tokens": 64},
}


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Recordings of a few sentences by some voices, with a table."""
    made = tmp_path_factory.mktemp("recordings")
    lines = []
    # By their hash, "the king" is in the validation split and "at one" in the test split.
    for text in (SAID, "at two", "good evening", "the king", "at one"):
        for voice in KNOWN[:3]:
            name = f"{text.replace(' ', '_')}_{voice.name}.wav"
            (made / name).write_bytes(wav_bytes(speak(text, voice)[0]))
            lines.append(f"{name}\t{text}\n")
    (made / "transcripts.tsv").write_text("".join(lines))
    return made


@pytest.fixture(scope="module")
def result(folder, tmp_path_factory):
    data = {"name": "recordings", "folder": str(folder), "val_percent": 20, "test_percent": 20}
    runs = str(tmp_path_factory.mktemp("runs"))
    return experiment.run(recipe_from_dict({**KEYS, "data": data, "runs_dir": runs}))


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """A sentence of the training split as a stereo file of another rate."""
    file = tmp_path_factory.mktemp("said") / "said.wav"
    samples, _ = speak(SAID, KNOWN[0])
    kept = np.repeat(samples[::2], 2)  # two channels at half the rate
    with wave.open(str(file), "wb") as out:
        out.setparams((2, 2, RATE // 2, 0, "NONE", ""))
        out.writeframes((32767 * kept).astype("<i2").tobytes())
    return file, len(samples) / RATE


def test_it_writes_down_what_it_has_learned_and_when_it_was_said(result, said):
    file, seconds = said
    shown = invoke("transcribe", result.directory, file)
    assert shown.exit_code == 0, shown.output
    text, *lines = shown.stdout.splitlines()
    assert text == SAID
    assert [line.split()[2] for line in lines] == SAID.split()
    times = [float(number) for line in lines for number in line.split()[:2]]
    # Of so few sentences it learns no more about times. A word may begin in the frame in which the
    # one before ends.
    assert times[::2] == sorted(times[::2])
    assert times[1::2] == sorted(times[1::2])
    assert 0 <= times[0] < times[-1] <= seconds + 0.02
    assert shown.stderr.splitlines() == [
        f"{file}: 2 channels averaged",
        f"{file}: resampled from {RATE // 2} Hz to {RATE} Hz",
    ]
    both = invoke("transcribe", result.directory, file, file)
    assert both.stdout.startswith(f"{file}: {SAID}\n")


def test_it_reports_error_rates_and_no_times_of_words_that_nobody_knows(result, capsys):
    assert {name for name in result.metrics if "test" in name} == {
        "character_error_rate_test",
        "word_error_rate_test",
    }
    assert (result.directory / "hypotheses" / "test.txt").read_text().count("\n") == 3
    shown = invoke("evaluate", result.directory, "--data", "train")
    assert shown.exit_code == 0, shown.output
    assert re.search(r"character error rate +0\.00 %", shown.stdout)
    assert "boundaries" not in shown.stdout


def test_error_rates_are_edits_over_the_length_of_what_was_said():
    rates = error_rates(["the kin", "at one"], ["the king", "at two"])
    assert rates["character_error_rate"] == pytest.approx(100 * (1 + 3) / 14)
    assert rates["word_error_rate"] == pytest.approx(100 * 2 / 4)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")
def test_the_page_shows_and_plays_what_the_letters_look_at(result, said, tmp_path):
    """The spectrogram is above the map of cross-attention, and above no other."""
    from playwright.sync_api import sync_playwright

    page_file, picture = tmp_path / "maps.html", tmp_path / "map.png"
    text = f"{said[0]} ||| {SAID}"
    written = invoke(
        "attention", result.directory, "--text", text, "--out", page_file, "--out", picture,
        "--layer", 0, "--head", 0,
    )  # fmt: skip
    assert written.exit_code == 0, written.output
    assert (tmp_path / "map-decoder.cross.png").is_file()
    strip = "canvas => [...canvas.getContext('2d').getImageData(400, 24, 200, 40).data]"
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, problems = browser.new_page(device_scale_factor=1), []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(page_file.as_uri())
        shown = {}
        for site in ("decoder.cross", "decoder.self"):
            page.locator("select").first.select_option(label=f"{site} (text)")
            page.wait_for_selector(".stage[data-state=ready]")
            page.locator(".play-sound").wait_for(state="hidden" if "self" in site else "visible")
            shown[site] = np.array(page.locator("canvas.map").evaluate(strip)).reshape(-1, 4)
            if site == "decoder.cross":
                page.click(".play-sound")
                assert page.inner_text(".play-sound") == "Stop"
                page.click(".play-sound")
                assert page.inner_text(".play-sound") == "Play sound"
        browser.close()
    assert problems == []
    # Greys of all kinds, in a place where the other map has none of them.
    colours = {site: np.unique(pixels, axis=0) for site, pixels in shown.items()}
    grey = [tuple(colour) for colour in colours["decoder.cross"] if len(set(colour[:3])) == 1]
    assert len(grey) > 20
    assert len(colours["decoder.self"]) < len(grey)
