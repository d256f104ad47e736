"""The maps of a run on any text: in Python, in a notebook, and as files."""

import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from attnkit.attention.maps import attention_maps
from attnkit.attention_page.canvases import FigureError
from attnkit.attention_page.figure import Panel, draw_file, visible
from attnkit.attention_page.modes import ModeError, in_mode
from attnkit.cli.main import app
from attnkit.storage.run_directory import RunDirectoryError
from attnkit.tasks.trained_run import load_run
from attnkit.tensorboard.attention_record import AttentionRecord, layer_map
from attnkit.tensorboard.images import colour
from attnkit.tensorboard.palettes import MASKED, PALETTE, SEQUENTIAL_LEVELS

TEXT = "to be or not"


def call(*arguments):
    return CliRunner().invoke(app, ["attention", *map(str, arguments)])


def test_the_numbers_are_the_models_own_maps(small_run, tmp_path):
    files = [tmp_path / name for name in ("maps.npz", "maps.png", "maps.html")]
    outs = [word for file in files for word in ("--out", file)]
    ended = call(small_run.directory, "--text", TEXT, *outs)
    assert ended.exit_code == 0, ended.output
    assert ended.stdout.split("\n")[:3] == [f"wrote {file}" for file in files]
    run = load_run(small_run.directory)
    tokens = torch.tensor([run.tokenizer.encode(TEXT).ids])
    with np.load(files[0]) as saved:
        for i, own in enumerate(attention_maps(run.model, tokens)):
            assert np.array_equal(saved[f"self/L{i}"], own.weights[0].numpy())
        assert len(saved["self/query_tokens"]) == tokens.shape[1]
    with Image.open(files[1]) as picture:
        assert picture.width > 100
    assert "Attention: " in files[2].read_text(encoding="utf-8")


def test_a_long_text_is_cut_and_an_unknown_letter_told(small_run, tmp_path):
    ended = call(small_run.directory, "--text", "♞" + TEXT * 100, "--out", tmp_path / "maps.npz")
    assert ended.exit_code == 0, ended.output
    longest = load_run(small_run.directory).model.max_seq_len
    assert f"the model reads the first {longest}" in ended.stderr
    assert "vocabulary lacks '♞'" in ended.stderr
    with np.load(tmp_path / "maps.npz") as saved:
        assert saved["self/L0"].shape[-1] == longest


def test_rollout_and_value_lengths_are_those_of_the_model(small_run, tmp_path):
    """Against numpy, from the weights of the model."""
    run = load_run(small_run.directory)
    model = run.model
    maps = run.attention(TEXT)
    tokens = torch.tensor([run.tokenizer.encode(TEXT).ids])
    T = tokens.shape[1]
    rolled = np.eye(T)
    with torch.no_grad():
        seen = []
        for layer in model.layers:
            layer.attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        model(tokens)
    for index, (layer, x) in enumerate(zip(model.layers, seen, strict=True)):
        weights = np.stack([maps.weights(index, head) for head in (0, 1)]).astype(float)
        rolled = (weights.mean(axis=0) / 2 + np.eye(T) / 2) @ rolled
        np.testing.assert_allclose(maps.weights(index, mode="rollout"), rolled, atol=1e-6)
        attention = layer.attention
        values = (x[0].detach().numpy() @ attention.value.weight.detach().numpy().T).reshape(
            T, 2, 8
        )
        out = attention.output.weight.detach().numpy().reshape(16, 2, 8)
        for head in (0, 1):
            lengths = np.linalg.norm(values[:, head] @ out[:, head].T, axis=-1)
            found = maps.weights(index, head, mode="values")
            np.testing.assert_allclose(found, weights[head] * lengths, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(rolled.sum(axis=-1), 1)
    files = tmp_path / "maps.npz", tmp_path / "maps.svg"
    outs = [word for file in files for word in ("--out", file)]
    ended = call(small_run.directory, "--text", TEXT, "--mode", "rollout", *outs)
    assert ended.exit_code == 0, ended.output
    with np.load(files[0]) as saved:
        np.testing.assert_allclose(saved["self/L1"], rolled[None], atol=1e-6)
    figure = files[1].read_text(encoding="utf-8")
    assert "Rollout: heads averaged" in figure
    assert "layer 1, mean of heads" in figure
    assert "head 0" not in figure


def test_where_a_mode_is_not_defined():
    def record(*norms, **changes):
        rows = np.tri(3, dtype=np.float32)[None] / np.arange(1, 4, dtype=np.float32)[:, None]
        layers = [
            layer_map(f"L{i}", rows, np.tri(3, dtype=bool), norm) for i, norm in enumerate(norms)
        ]
        keys = {"site": "self", "kind": "self"} | changes
        words = ["a", "b", "c"]
        return AttentionRecord("text", keys["site"], keys["kind"], True, words, words, layers)

    for one, sites, mode, words in (
        (record("signed"), ["self"], "rollout", "the rows of L0 do not sum to 1"),
        (
            record("rows", site="decoder.self"),
            ["decoder.self", "decoder.cross"],
            "rollout",
            "cross",
        ),
        (record("rows", site="decoder.cross", kind="cross"), [], "rollout", "cross-attention of"),
        (record("rows"), ["self"], "values", "`values` is not defined for L0"),
        (record("rows"), ["self"], "other", "unknown mode 'other'"),
    ):
        with pytest.raises(ModeError, match=re.escape(words)):
            in_mode(one, mode, sites)
    partly = in_mode(record("rows", "unnormalised", "rows"), "rollout", ["self"])
    assert [layer.name for layer in partly.layers] == ["L0"]
    assert "Not defined from L1 on" in partly.note


@pytest.mark.parametrize(
    ("out", "text", "message"),
    [
        ("maps.txt", TEXT, "the name must end in .html, .png, .svg, .pdf, .npz"),
        ("taken.png", TEXT, "taken.png exists; choose another name, or add --overwrite"),
        ("no_folder/maps.png", TEXT, "does not exist"),
        ("maps.png", "", "--text is empty; give it at least one character"),
    ],
)
def test_what_cannot_be_written_is_one_message(small_run, tmp_path, out, text, message):
    (tmp_path / "taken.png").write_text("mine")
    ended = call(small_run.directory, "--text", text, "--out", tmp_path / out)
    assert ended.exit_code == 2, ended.output
    assert message in ended.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["taken.png"]
    assert (tmp_path / "taken.png").read_text() == "mine"


EYE = np.eye(4, dtype=np.float32)[None]
ALLOWED = np.tril(np.ones((4, 4), dtype=bool))
WORDS = ["the", " cat", "\n", ""]


def svg_of(weights, allowed=ALLOWED, **options):
    rows = [[Panel(layer_map("L0", weights, allowed), 0)]]
    return draw_file(".svg", rows, WORDS, WORDS, title="a & b", **options).decode()


def fills(svg):
    return set(re.findall(r'fill="(#[0-9a-f]{6})" shape', svg))


def hexadecimal(index):
    return "#" + bytes(PALETTE[index]).hex()


def test_a_figure_names_its_tokens_and_its_colours():
    svg = svg_of(EYE, subtitle="multi_head, layer 0")
    texts = re.findall(r">([^<>]+)</text>", svg)
    assert texts[0] == "a &amp; b"
    for word in ("the", "␣cat", "\\n", "[]"):
        assert texts.count(word) == 2, word  # along both axes
    assert any(text.startswith("multi_head, layer 0") for text in texts)
    assert "the row's largest" in [text.replace("&#x27;", "'") for text in texts]
    assert "masked" in texts
    assert hexadecimal(MASKED) in fills(svg)


def test_an_even_row_is_bright_by_row_and_dark_by_one():
    even = np.full((1, 4, 4), 0.25, dtype=np.float32)
    bright, quarter = hexadecimal(SEQUENTIAL_LEVELS - 1), hexadecimal(SEQUENTIAL_LEVELS // 4)
    maps = {scale: svg_of(even, None, scale=scale).split("the row")[-1] for scale in ("row", "one")}
    assert maps["row"].count(f'fill="{bright}"') == 1
    assert "a uniform row is bright" in svg_of(even, None)
    assert "a uniform row is bright" not in svg_of(even, None, scale="one")
    assert quarter in fills(svg_of(even, None, scale="one"))


def test_a_picture_shows_the_weights(tmp_path):
    rows = [[Panel(layer_map("L0", EYE, ALLOWED), 0)]]
    (tmp_path / "a.png").write_bytes(draw_file(".png", rows, WORDS, WORDS, title="t"))
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    bright = (picture == PALETTE[SEQUENTIAL_LEVELS - 1]).all(-1)
    side = 2 * 28  # points of a cell, twice in pixels
    assert bright.sum() == pytest.approx(4 * side * side, rel=0.05)
    grey = (picture == PALETTE[MASKED]).all(-1)
    assert grey.sum() == pytest.approx(6 * side * side, rel=0.1)


def test_a_pdf_and_a_plot_are_matplotlibs(small_run, tmp_path):
    pytest.importorskip("matplotlib", reason="the extra `figures` is not installed")
    maps = load_run(small_run.directory).attention(TEXT)
    (file,) = maps.save(tmp_path / "a.pdf")
    assert file.read_bytes().startswith(b"%PDF")
    own = maps.weights(0, 1)
    images = [axes.images[0].get_array() for axes in maps.plot(0, 1).axes]
    (drawn,) = [np.asarray(image) for image in images if image.shape[:2] == own.shape]
    expected = PALETTE[colour(own, np.tril(np.ones(own.shape, dtype=bool)))]
    assert np.array_equal(drawn, expected)


def test_without_matplotlib_the_message_says_what_to_install(small_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(FigureError, match=r"pip install 'attnkit\[figures\]'"):
        load_run(small_run.directory).attention(TEXT).plot()
    ended = call(small_run.directory, "--text", TEXT, "--out", tmp_path / "a.pdf")
    assert ended.exit_code == 2
    assert "pip install" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_notebook_shows_the_page_offline(small_run):
    maps = load_run(small_run.directory).attention(TEXT)
    shown = maps._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert 'sandbox="allow-scripts allow-downloads"' in shown
    assert shown.count("<") == 2  # all of the page is escaped
    assert repr(maps) == ("<TextMaps of small / base / seed0; self: 2 x 2 maps of 12 x 12 tokens>")


def test_a_layer_and_a_head_are_chosen_and_checked(small_run, tmp_path):
    maps = load_run(small_run.directory).attention(TEXT)
    assert np.array_equal(maps.weights(0, 1), maps["self"].layers[0].weights[1])
    with pytest.raises(KeyError, match="this model has self"):
        maps["cross"]
    ended = call(*(small_run.directory, "--text", TEXT, "--out", tmp_path / "a.png", "--layer", 9))
    assert ended.exit_code == 2
    assert "layer must be from 0 to 1, got 9" in ended.stderr


def test_what_a_run_logged_and_gave_is_at_hand(small_run, tmp_path):
    run = load_run(small_run.directory)
    assert run.result["metrics"]["loss"] == small_run.metrics["loss"]
    assert run.curves["loss/val"].steps.tolist() == [3, 6]
    assert len(run.curves["loss/train"].values) == 6
    assert "\n" not in repr(run)
    assert "small / base / seed0" in repr(run)
    (small_run.directory / "result.json").rename(tmp_path / "result.json")
    try:
        with pytest.raises(RunDirectoryError, match="it is written when the run has finished"):
            _ = run.result
    finally:
        (tmp_path / "result.json").rename(small_run.directory / "result.json")


@pytest.mark.parametrize(
    ("token", "shown"),
    [(" a", "␣a"), ("\t", "\\t"), ("\u202eabc", "\\u202eabc"), ("", "[]"), ("고양이", "고양이")],
)
def test_tokens_are_visible(token, shown):
    assert visible(token) == shown
