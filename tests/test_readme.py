"""The README's examples run as they stand, and its picture of the folders is the folders."""

import json
import re
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from attnkit import build_attention
from attnkit.listeners.metric_files import TidyCsv
from attnkit.recipe import RecipeError, load_recipe
from attnkit.registry import ATTENTION, CALLBACKS, LOGGERS, load_plugin

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def example(word: str) -> str:
    found = [code for code in EXAMPLES if word in code]
    assert len(found) == 1, f"{len(found)} examples mention {word}"
    return found[0]


def run(code: str) -> dict:
    names: dict = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), names)
    return names


def test_every_mechanism_is_named():
    table = README.partition("what they have in common")[2].partition("## ")[0]
    # Other tests register mechanisms of their own.
    shipped = [n for n in ATTENTION.names() if ATTENTION.get(n).__module__.startswith("attnkit.")]
    assert sorted(re.findall("`(.+?)`", table)) == shipped


def test_every_example_is_tested():
    assert len(EXAMPLES) == 9


def test_mechanisms_in_own_code():
    names = run(example("cross_attention = "))
    assert names["x"].shape == (2, 100, 256)


def test_the_map_of_a_mechanism_that_forms_none():
    weights = run(example("attention_map(linear"))["weights"]
    assert weights.shape == (1, 4, 12, 12)
    assert weights.sum(dim=-1).sub(1).abs().max() < 1e-5
    assert weights.triu(1).abs().max() == 0


@pytest.mark.filterwarnings("ignore")  # a user's own plain trainer warns of workers and steps
def test_the_callback_in_somebody_elses_module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(example("class Mine"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (file,) = tmp_path.rglob("events.out.*")
    events = EventAccumulator(str(file), size_guidance={"images": 0}).Reload()
    (tag,) = events.Tags()["images"]
    steps = [image.step for image in events.Images(tag)]
    assert (steps[0], steps[-1], len(steps)) == (0, 20, 5)


def test_a_whole_run(tmp_path, monkeypatch, capsys):
    """In small; what the recipe itself says is tried in `contracts/test_recipes.py`."""
    recipe = tmp_path / "small.yaml"
    quickstart = ROOT / "recipes/language_modeling/quickstart.yaml"
    recipe.write_text(f"extends: {quickstart}\nmodel: {{dim: 32, num_layers: 1}}\n")
    code = example("trained.generate").replace(
        "recipes/language_modeling/quickstart.yaml", str(recipe)
    )
    monkeypatch.chdir(tmp_path)
    names = run(code)
    assert names["result"].record["steps"] == 20
    assert (tmp_path / names["result"].directory / "result.json").is_file()
    assert capsys.readouterr().out


def test_the_error_is_the_one_that_is_printed(tmp_path, monkeypatch):
    (shown,) = re.findall(r"^bad\.yaml:.*$", README, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text("extends: quickstart\nmodel:\n  dim: 32\n  num_haeds: 8\n")
    with pytest.raises(RecipeError) as refused:
        load_recipe("bad.yaml")
    begun, dots, rest = shown.partition("...")
    assert (dots, rest) == ("...", "")
    assert str(refused.value).startswith(begun)


def test_the_plugin(tmp_path):
    import torch

    (tmp_path / "my_attention.py").write_text(example("softcap"), encoding="utf-8")
    load_plugin("my_attention.py", tmp_path)
    attention = build_attention({"name": "softcap", "cap": 2.0}, 16)
    q, k = torch.randn(2, 1, 4, 5, 4).mul(100).unbind()
    assert attention.scores(q, k).abs().max() <= 2.0


def test_the_logger(tmp_path):
    (tmp_path / "slack.py").write_text(example("Slack"), encoding="utf-8")
    load_plugin("slack.py", tmp_path)
    posted = []

    class Channel(BaseHTTPRequestHandler):
        def do_POST(self):
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Channel) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        logger = LOGGERS.build(
            {"name": "slack", "webhook": f"http://127.0.0.1:{server.server_port}"}
        )
        logger.scalars({"loss/train": 1.0}, 1)
        logger.scalars({"loss/val": 2.5}, 3)
        thread.join()
    assert posted == [{"text": "step 3: 2.5000"}]
    del LOGGERS._classes["slack"]


def test_the_callback(tmp_path, monkeypatch):
    from attnkit import load_run
    from attnkit.recipe import recipe_from_dict
    from attnkit.runs import experiment

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(CALLBACKS, "_classes", dict(CALLBACKS._classes))
    Path("weight_norm.py").write_text(example("WeightNorm"), encoding="utf-8")
    keys = {
        "name": "norms",
        "plugins": ["weight_norm.py"],
        "callbacks": [{"name": "weight_norm", "num_moments": 3}],
        "task": "synthetic",
        "data": {"name": "parity", "length": 6},
        "model": {"max_seq_len": 8, "dim": 8, "num_layers": 1},
        "trainer": {"max_steps": 4, "batch_size": 4, "accelerator": "cpu"},
        "logging": {"every_n_steps": 1, "attention_maps": 0, "samples": 0},
    }
    run = load_run(experiment.run(recipe_from_dict(keys)).directory)
    assert run.curves["weights/norm"].steps.tolist() == [0, 1, 4]


def test_curves_for_pandas(tmp_path, monkeypatch):
    pandas = pytest.importorskip("pandas")
    folder = tmp_path / "runs/quickstart/base/seed0"
    logger = TidyCsv(folder)
    for step in range(3):
        logger.scalars({"loss/train": 1.0 - step, "loss/val": 2.0 - step}, step)
    logger.finish("success")
    drawn = []
    monkeypatch.setattr(pandas.Series, "plot", lambda series: drawn.append(series.tolist()))
    monkeypatch.chdir(tmp_path)
    run(example("pandas"))
    assert drawn == [[2.0, 1.0, 0.0]]


def test_the_task(tmp_path, monkeypatch):
    """A teacher of a few steps, and a run that imitates it."""
    from attnkit import load_run
    from attnkit.recipe import recipe_from_dict
    from attnkit.registry import TASKS
    from attnkit.runs import experiment

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TASKS, "_classes", {name: TASKS.get(name) for name in TASKS.names()})
    Path("distillation.py").write_text(example("kl_div"), encoding="utf-8")
    Path("text.txt").write_text("the cat sat on the mat.\n" * 200)
    keys = {
        "name": "teacher",
        "data": {"name": "text", "files": "text.txt"},
        "model": {"max_seq_len": 16, "dim": 16, "num_layers": 1},
        "trainer": {"max_steps": 2, "batch_size": 4, "precision": 32, "accelerator": "cpu"},
        "logging": {"every_n_steps": 1, "attention_maps": 0, "samples": 0},
    }
    teacher = experiment.run(recipe_from_dict(keys))
    section = {"teacher": str(teacher.directory), "weight": 2.0}
    own = {"task": "distillation", "plugins": ["distillation.py"], "distillation": section}
    result = experiment.run(recipe_from_dict({**keys, **own, "name": "student"}))
    curves = load_run(result.directory).curves
    parts = [curves[f"loss/train_{name}"].values for name in ("smoothed", "distillation")]
    assert sum(parts) == pytest.approx(curves["loss/train"].values, rel=1e-5)
    assert parts[1][0] != parts[0][0]
    assert result.metrics["perplexity"] > 1


def test_the_picture_names_what_is_there():
    block = next(b for b in README.split("```") if b.strip().startswith("recipes/language"))
    package = [line for line in block.splitlines() if line.startswith("  ")]
    named = set()
    for line in package:
        if line.startswith("    "):
            continue
        named |= set(re.findall(r"(?:^  |   )([a-z_]+(?:\.py|/))(?= )", line))
    present = {
        path.name + ("/" if path.is_dir() else "")
        for path in (ROOT / "attnkit").iterdir()
        if not path.name.startswith("__")
    }
    assert named == present
