"""Runs that several files look at, the small recipe that they are made from, and TensorBoard."""

import os
import random
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from attnkit.ablation.launchers.base import Ended, Job, Launcher
from attnkit.cli.main import app
from attnkit.recipe import Recipe, recipe_from_dict
from attnkit.registry import ATTENTION, MASKS, POSITIONS
from attnkit.runs import experiment

SMALL_MODEL = {
    "max_seq_len": 16,
    "dim": 16,
    "num_layers": 2,
    "attention": {"name": "multi_head", "num_heads": 2},
}


ONE_LAYER = {"num_layers": 1, "attention": {"name": "multi_head", "num_heads": 2}}
PAIR_MODEL = {
    "dim": 16,
    "encoder": ONE_LAYER,
    "decoder": ONE_LAYER,
    "cross": {"attention": {"name": "multi_head", "num_heads": 2}},
}
SMALL_TASKS = {
    "translation": {
        "data": {"name": "reverse", "num_train": 64, "num_val": 24, "max_length": 6},
        "tokenizer": "word",
        "model": {**PAIR_MODEL, "max_seq_len": 16},
        "trainer": {"max_steps": 6, "batch_tokens": 128, "precision": 32, "accelerator": "cpu"},
        "translation": {"beam": 2, "average": 2, "decode_sentences": 6},
    },
    "speech": {
        "data": {"name": "made_speech", "num_train": 12, "num_val": 2},
        "tokenizer": "char",
        "model": {**PAIR_MODEL, "max_seq_len": 120},
        "trainer": {"max_steps": 6, "batch_tokens": 240, "precision": 32, "accelerator": "cpu"},
        "speech": {"average": 2, "decode_sentences": 2},
    },
    "synthetic": {
        "data": {"name": "reverse", "length": 8, "num_eval": 20, "test_lengths": [6]},
        "tokenizer": None,
    },
}
"""What other tasks have instead in their small recipes; None: nothing."""


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some 20,000 characters that a small model can learn something about."""
    words = random.Random(0)
    subjects, verbs = ["the cat", "a dog", "my bird", "one fish"], ["sees", "likes", "eats"]
    lines = [
        f"{words.choice(subjects)} {words.choice(verbs)} {words.choice(subjects)}."
        for _ in range(1000)
    ]
    file = tmp_path_factory.mktemp("text") / "animals.txt"
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture(scope="session")
def small_keys(text_file: Path) -> dict:
    """A recipe of a second: everything is written, though little of it."""
    return {
        "name": "small",
        "data": {"name": "text", "files": str(text_file)},
        "tokenizer": "char",
        "model": SMALL_MODEL,
        "optimizer": {"name": "adamw", "lr": 0.01},
        "trainer": {"max_steps": 6, "batch_size": 8, "precision": 32, "accelerator": "cpu"},
        "validation": {"every_n_steps": 3, "max_tokens": 256},
        "logging": {"every_n_steps": 1, "attention_maps": 0, "samples": 0},
    }


@pytest.fixture
def small(short_samples, small_keys: dict, tmp_path: Path) -> Callable[..., Recipe]:
    """`small("model.dim=32")`: the small recipe, whose runs go to the test's own folder; with
    `task="translation"` that of another task.
    """

    def make(*overrides: str, task: str = "language_modeling") -> Recipe:
        keys = {"task": task, **small_keys, **SMALL_TASKS.get(task, {})}
        keys = {name: value for name, value in keys.items() if value is not None}
        return recipe_from_dict({**keys, "runs_dir": str(tmp_path / "runs")}, overrides)

    return make


@pytest.fixture(scope="session")
def small_run(
    short_samples, small_keys: dict, tmp_path_factory: pytest.TempPathFactory
) -> experiment.Result:
    """A finished run of the small recipe; to be read, not to be changed."""
    keys = {**small_keys, "runs_dir": str(tmp_path_factory.mktemp("small"))}
    return experiment.run(recipe_from_dict(keys))


@pytest.fixture(scope="session")
def real_run(short_samples, made_once: Callable) -> experiment.Result:
    """300 steps on real text, with all that is logged by default: the quickstart with two layers
    of width 64. To be read, not to be changed.
    """
    shakespeare = Path(os.environ.get("ATTNKIT_DATA", ""), "tinyshakespeare", "input.txt")
    keys = {
        "name": "real",
        "data": "tiny_shakespeare" if shakespeare.is_file() else "stdlib_docs",
        "tokenizer": "char",
        "model": {
            "dim": 64,
            "num_layers": 2,
            "attention": {"name": "multi_head", "num_heads": 4},
            "position": "rotary",
        },
        "optimizer": {"name": "adamw", "lr": 5e-3},
        "schedule": {"name": "cosine", "warmup_steps": 50},
        "trainer": {"max_steps": 300, "batch_size": 24, "accelerator": "cpu"},
        "validation": {"every_n_steps": 100},
        "logging": {"every_n_steps": 50, "attention_maps": 8, "samples": 3},
    }

    def train(folder: Path) -> experiment.Result:
        return experiment.run(recipe_from_dict({**keys, "runs_dir": str(folder)}))

    return made_once("real", train)


@pytest.fixture
def plugin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, to write plugins into; what they register is gone afterwards."""
    monkeypatch.chdir(tmp_path)
    registries = ATTENTION, MASKS, POSITIONS
    for registry in registries:
        registry.names()
    before, modules = [dict(registry._classes) for registry in registries], set(sys.modules)
    yield tmp_path
    for registry, classes in zip(registries, before, strict=True):
        registry._classes = classes
    for name in set(sys.modules) - modules:
        if name.startswith("attnkit_plugin_"):
            del sys.modules[name]


@pytest.fixture
def read(capsys, monkeypatch):
    """What was printed, on a terminal wide enough for no line to be broken."""
    monkeypatch.setenv("COLUMNS", "400")
    return lambda: capsys.readouterr().out


@pytest.fixture
def numbers():
    """`numbers(text, label)`: the numbers in the first line that begins with a label."""

    def find(text: str, label: str) -> list[float]:
        line = next(line for line in text.splitlines() if line.strip().startswith(label))
        words = line.strip().removeprefix(label).replace(",", "").replace("%", "").split()
        return [float(word) for word in words if word.replace(".", "").isdigit()]

    return find


class TensorBoard:
    """A TensorBoard of its own process, as a user starts it."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tensorboard.main", "--port", "0", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.address = self._address()

    def _address(self) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if " at http" in line:
                return line.split(" at ")[1].split(" ")[0]
        raise RuntimeError("TensorBoard did not start")

    def get(self, path: str) -> bytes:
        """What the server answers, relative to its address."""
        with urllib.request.urlopen(self.address + path, timeout=300) as answer:
            return answer.read()

    def wait_for(self, path: str, holds: Callable[[bytes], bool], seconds: float = 300) -> bytes:
        """Asks until the answer is as wanted: TensorBoard reads event files in the background."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                content = self.get(path)
            except urllib.error.HTTPError:
                content = b""
            if holds(content):
                return content
            time.sleep(0.1)
        raise TimeoutError(f"{path} did not become what was wanted")

    def stop(self) -> None:
        """Ends the process that was started here."""
        self.process.terminate()
        self.process.communicate(timeout=300)


@pytest.fixture(scope="session")
def tensorboard() -> Callable[..., AbstractContextManager[TensorBoard]]:
    """`with tensorboard("--logdir", folder) as board:` runs a TensorBoard while the block lasts."""
    return running


@contextmanager
def running(*arguments: str) -> Iterator[TensorBoard]:
    """What the fixture `tensorboard` returns."""
    board = TensorBoard(*arguments)
    try:
        yield board
    finally:
        board.stop()


class InProcess(Launcher):
    """Runs each job in this process: what a trial does, without four seconds of imports."""

    def __init__(self) -> None:
        super().__init__(1)
        self.waiting: list[Job] = []
        self.started: list[str] = []
        self.unchecked: list[str] = []

    def start(self, jobs: Sequence[Job]) -> None:
        self.waiting.extend(jobs)

    def ended(self, seconds: float) -> list[Ended]:
        if not self.waiting:
            return []
        job = self.waiting.pop(0)
        self.started.append(job.key)
        self.unchecked += [job.key] * ("--no-check" in job.arguments)
        assert job.arguments[:3] == ("-P", "-m", "attnkit")
        ended = CliRunner().invoke(app, list(job.arguments[3:]))
        job.log.write_text(ended.output)
        return [Ended(job.key, ended.exit_code, neighbours=0.0)]

    def stop(self) -> None:
        self.waiting.clear()

    kill = close = stop

    def describe(self) -> str:
        return "here"


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> InProcess:
    """Takes the place of what a recipe names; `started` are the keys of the jobs, in order."""
    launcher = InProcess()
    for place in ("ablation.run_study", "ablation.ranking.rank"):
        monkeypatch.setattr(f"attnkit.{place}.build_launcher", lambda plan: launcher)
    return launcher
