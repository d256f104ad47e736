"""The static site of a study."""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from typer.testing import CliRunner

from attnkit.ablation.compare import compare_runs
from attnkit.ablation.publish import publish
from attnkit.ablation.tables import grid
from attnkit.cli.main import app
from attnkit.errors import DataError
from attnkit.listeners.event_file import EventFile
from attnkit.tensorboard.attention_record import AttentionRecord, layer_map


class Reader(HTMLParser):
    """Collects the links and the cells of a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.cells, self._in_cell = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name == "href"]
        self._in_cell = tag == "td"
        self.cells += [""] * self._in_cell

    def handle_data(self, data):
        if self._in_cell:
            self.cells[-1] += data

    def handle_endtag(self, tag):
        self._in_cell &= tag != "td"


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_site_has_the_table_and_each_link_leads_somewhere(study_of_the_session, tmp_path):
    index = publish(str(study_of_the_session), str(tmp_path / "site"))
    assert index == tmp_path / "site/index.html"
    read = Reader(index.read_text())
    files = files_of(tmp_path / "site")
    assert files == {
        "index.html", "study.html", "comparison.json", "comparison.csv",
        *(f"recipes/{name}.yaml" for name in ("base", "better", "same")),
        *(f"environments/{name}.json" for name in ("base", "better", "same")),
    }  # fmt: skip
    assert set(read.links) == files - {"index.html"}
    expected = grid(compare_runs(study_of_the_session))
    assert [cell for cell in read.cells if cell and "recipe" not in cell] == [
        word for row in expected.rows for word in row
    ]
    assert "attnkit run &#x27;recipes/better.yaml&#x27; seed=3" in index.read_text()
    numbers = json.loads((tmp_path / "site/comparison.json").read_text())
    assert [row["variant"] for row in numbers["variants"]] == ["base", "better", "same"]
    assert not (tmp_path / "site.part").exists()


def test_the_last_maps_of_a_run_become_a_page(make_run, tmp_path):
    directory = make_run("base", 0)
    logger = EventFile(directory, trial_id="base")
    for step in (0, 10):
        weights = np.array([[[1, 0], [0.5, 0.5]]], dtype=np.float32)
        layers = (layer_map(f"L{step}", weights),)
        logger.maps(
            AttentionRecord("probe", "self", "self", True, ("a", "b"), ("a", "b"), layers), step
        )
    logger.finish("success")
    index = publish(make_run.root / "small", tmp_path / "site")
    assert "attention/base.html" in Reader(index.read_text()).links
    page = (tmp_path / "site/attention/base.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    (record,) = data["records"]
    assert (record["tag"], record["queries"]) == ("attention/probe/self", ["a", "b"])
    assert [layer["name"] for layer in record["layers"]] == ["L10"]


def test_names_are_text_and_places_are_left_out(make_run, tmp_path):
    data = {"train": {"path": "/home/someone/text", "tokens": 3}}
    make_run("<b>bold&'x'", 0, data=data)
    site = publish(make_run.root / "small", tmp_path / "site").parent
    index = (site / "index.html").read_text()
    assert "<b>" not in index
    links = Reader(index).links
    assert "recipes/%3Cb%3Ebold%26%27x%27.yaml" in links
    (environment,) = (site / "environments").iterdir()
    assert json.loads(environment.read_text())["data"] == {"train": {"tokens": 3}}


def test_an_existing_site_is_replaced_on_request_only(study_of_the_session, tmp_path):
    site = tmp_path / "site"
    publish(study_of_the_session, site)
    (site / "old.txt").write_text("old")
    command = ["publish", str(study_of_the_session), str(site)]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2
    assert "exists; choose another folder, or add --overwrite" in refused.output
    assert (site / "old.txt").exists()
    done = CliRunner().invoke(app, [*command, "--overwrite", "--base", "same"])
    assert done.exit_code == 0, done.output
    assert f"wrote {site / 'index.html'}" in done.output
    assert not (site / "old.txt").exists()
    assert json.loads((site / "comparison.json").read_text())["base"] == "same"


def test_a_folder_that_is_no_site_is_never_removed(study_of_the_session, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("x")
    with pytest.raises(DataError, match="is not a site"):
        publish(study_of_the_session, tmp_path / "mine", overwrite=True)
    assert files_of(tmp_path) == {"mine/thesis.txt"}


def test_a_site_is_of_one_study(study_of_the_session, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(study_of_the_session, tmp_path / "runs" / name)
    with pytest.raises(DataError, match="several studies; give the folder of one"):
        publish(tmp_path / "runs", tmp_path / "site")
    assert not (tmp_path / "site").exists()
