"""`attnkit compare`, as a person calls it."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from attnkit.cli.main import app


def call(*arguments):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def complaint(*arguments):
    """What a refused call says: one message on standard error, nothing else."""
    ended = call(*arguments)
    assert (ended.exit_code, ended.stdout) == (2, ""), ended.output
    assert ended.stderr.startswith("error: ")
    return ended.stderr.removeprefix("error: ").strip()


def test_the_table_is_printed_and_files_are_written(finished_study, tmp_path):
    outs = [tmp_path / f"table.{kind}" for kind in ("md", "csv", "json", "tex", "html", "png")]
    ended = call(finished_study, *(word for out in outs for word in ("--out", out)))
    assert ended.exit_code == 0, ended.output
    lines = ended.stdout.splitlines()
    assert lines[0] == "small: loss, lower is better"
    (better,) = (line for line in lines if line.startswith(" better"))
    assert better.split()[:8] == ["better", "0.8000", "±", "0.0126", "4", "-0.2000", "±", "0.0377"]
    assert "after Holm's correction for 2 comparisons" in ended.stdout
    assert ended.stderr.splitlines() == [f"wrote {out}" for out in outs]
    assert json.loads(outs[2].read_text())["base"] == "base"
    assert outs[5].read_bytes().startswith(b"\x89PNG")
    assert all(out.stat().st_size > 300 for out in outs)


def test_what_was_left_out_is_told(finished_study):
    (finished_study / "same/seed2/result.json").unlink()
    said = call(finished_study).stdout
    assert (
        f"left out: {finished_study}/same/seed2: unfinished: no result.json (attnkit resume" in said
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metric", "los"], "--metric los: no run has it; did you mean `loss`?"),
        (["--base", "bas"], "--base bas: no such variant; did you mean `base`?"),
        (["--out", "table.txt"], "--out table.txt: the name must end in .html, .png, .md"),
        (["--out", "none/table.md"], "--out none/table.md: the folder none does not exist"),
    ],
)
def test_bad_input_is_one_message_and_writes_nothing(
    finished_study, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert message in complaint(finished_study, "--out", "page.html", *options)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_that_is_there_is_replaced_on_demand_only(finished_study, tmp_path):
    out = tmp_path / "table.md"
    out.write_text("mine")
    assert "exists; choose another name, or add --overwrite" in complaint(
        finished_study, "--out", out
    )
    assert out.read_text() == "mine"
    assert call(finished_study, "--out", out, "--overwrite").exit_code == 0
    assert out.read_text().startswith("| variant |")


def test_it_loads_neither_torch_nor_lightning(finished_study, tmp_path):
    code = """
import sys
from attnkit.cli.main import app
app(sys.argv[1:], standalone_mode=False)
print([name for name in ("torch", "lightning", "tensorboard", "omegaconf") if name in sys.modules])
"""
    outs = [word for name in ("page.html", "table.png") for word in ("--out", str(tmp_path / name))]
    command = [sys.executable, "-c", code, "compare", str(finished_study), *outs]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
