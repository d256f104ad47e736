"""attnkit attention: the maps of a run on any text, as files."""

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from attnkit.attention.maps import attention_maps
from attnkit.cli.main import app
from attnkit.trained_run import load_run

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


@pytest.mark.parametrize(
    ("out", "text", "message"),
    [
        ("maps.txt", TEXT, "the name must end in .html, .png, .npz"),
        ("taken.png", TEXT, "taken.png exists already; name another file, or say --overwrite"),
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
