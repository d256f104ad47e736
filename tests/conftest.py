"""What all tests share: one thread, where real texts and prepared data lie, and how many processes
they take.
"""

import gc
import logging
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock

from attnkit.hardware.process import available_cores

MOST_PROCESSES = 4
"""Each imports torch and Lightning, which takes seconds and most of a gigabyte."""

gc.disable()  # until all tests are found: what is made until then stays
torch.set_num_threads(1)  # small tensors: more cost time, and sums depend on their number
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the same for the commands that tests start
os.environ.pop("COLUMNS", None)  # xdist gives its processes one
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a shell's background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what tests start must hear Ctrl-C


WARNINGS = (
    "error",
    # TensorBoard's own copy of it, imported with its web server.
    "ignore:html5lib's sanitizer is deprecated:DeprecationWarning",
    # torch's compiler, of Python 3.13.0 alone.
    "ignore:Guards may run slower on Python 3.13.0:RuntimeWarning",
)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Makes warnings errors, from the collection on. In pyproject.toml they would be that already
    while pytest starts, and any plugin that warns then would stop it.
    """
    for line in WARNINGS:
        session.config.addinivalue_line("filterwarnings", line)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Hides the GPU from a test, its fixtures and the commands that it starts: a test means a CPU,
    unless it is marked `gpu`.
    """
    with pytest.MonkeyPatch.context() as patch:
        if item.get_closest_marker("gpu") is None:
            patch.setenv("CUDA_VISIBLE_DEVICES", "")
            patch.setattr(torch.cuda, "is_available", lambda: False)
            patch.setattr(torch.cuda, "device_count", lambda: 0)
            patch.setattr(torch.backends.mps, "is_available", lambda: False)
        return (yield)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Processes for `-n auto`: the whole suite takes a core each; a few files are faster in one."""
    cores = available_cores()
    if config.args != config.getini("testpaths") or cores == 1:
        return 0
    # Each begins with a part of the files, whose fixtures it then makes alone, and helps out later.
    config.option.dist = "worksteal"
    return min(cores, MOST_PROCESSES)


FAMILIES = frozenset(
    (
        *("multi_head", "multi_head_latent", "forgetting", "multi_token", "cross_layer"),
        *("linear", "delta_net", "mamba2", "linformer"),
    )
)
"""A mechanism of each kind: what they override, cache, carry and share."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves the long tests of mechanisms beyond `FAMILIES` to the slow lane, but for the laws that
    a run asks about short sequences.
    """
    for item in items:
        if item.get_closest_marker("each_mechanism") is None:
            continue
        params = item.callspec.params  # pyright: ignore[reportAttributeAccessIssue]
        name = params.get("name", params.get("like"))
        law = params.get("a_law")
        is_quick = law is not None and law.quick and law.each != "length"
        if name not in FAMILIES and not is_quick:
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """Leaves modules and tests out of garbage collection: each run that a test makes would look
    through these million objects.
    """
    gc.enable()
    gc.freeze()


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with real data sets; skips the test where nobody named one."""
    folder = os.environ.get("ATTNKIT_DATA")
    if not folder:
        pytest.skip("needs real data: set ATTNKIT_DATA to the folder that holds it")
    return Path(folder)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of a test session see, and nobody else."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(autouse=True, scope="session")
def shared_cache(shared_folder: Path) -> Iterator[Path]:
    """Keeps prepared data out of the user's own cache; all tests but those of the data share it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNKIT_CACHE", str(shared_folder / "cache"))
        yield shared_folder / "cache"


@pytest.fixture(scope="session")
def write_shard() -> Callable[..., Path]:
    """`write_shard(path, tokens)` writes tokens as FineWeb is handed on; `version=2` and the like
    change a number of the header.
    """

    def write(path: Path, tokens: np.ndarray, **changes: int) -> Path:
        header = {"magic": 20240520, "version": 1, "count": len(tokens)} | changes
        first = np.array([*header.values()] + [0] * 253, "<i4")
        path.write_bytes(first.tobytes() + tokens.astype("<u2").tobytes())
        return path

    return write


@pytest.fixture
def in_small(tmp_path: Path, write_shard: Callable[..., Path]) -> Callable[[Any], list[str]]:
    """`in_small(recipe)`: keys with which it takes two steps and writes everything, on a text of a
    few lines: no download, and no validation over megabytes.
    """

    def keys_for(recipe: Any) -> list[str]:
        text = tmp_path / "text.txt"
        text.write_text("Now is the winter of our discontent.\n" * 60)
        other = tmp_path / "text.txtx"
        other.write_text(text.read_text())
        pair = f"[{text}, {other}]"
        of_text = [f"data={{name: text, files: {text}}}", "model.max_seq_len=16"]
        of_task = {
            "language_modeling": [*of_text, "trainer.batch_size=4"],
            "masked_language_modeling": [*of_text, "trainer.batch_size=4"],
            "translation": [
                f"data={{name: parallel_files, train: {pair}, val: {pair}}}",
                "model.max_seq_len=48",
                "trainer.batch_tokens=96",
            ],
            "speech": [
                "data.num_train=8",
                "data.num_val=2",
                "model.max_seq_len=120",
                "trainer.batch_tokens=320",
            ],
            "synthetic": ["data.num_eval=8", "trainer.batch_size=4"],
        }
        if recipe.tokenizer.name == "given":  # the data is tokens, not text
            shard = write_shard(tmp_path / "tokens.bin", np.arange(400) * 121)
            write_shard(tmp_path / "val.bin", np.arange(400) * 125)
            of_task[recipe.task][0] = (
                f"data={{name: token_shards, train: {shard}, val: {tmp_path}/val.bin}}"
            )
            of_task[recipe.task] += ["trainer.accumulate=2"]
        keys = [
            *of_task[recipe.task],
            f"runs_dir={tmp_path / 'runs'}",
            "model.dim=48",
            "trainer.max_steps=2",
            "validation.max_tokens=64",
            "logging.attention_maps=2",
            "logging.samples=2",
        ]
        if recipe.tokenizer.name == "bpe":
            keys.append("tokenizer={name: bpe, vocab_size: 280}")
        if recipe.ablation is not None:
            keys.append("~ablation")
        return keys

    return keys_for


@pytest.fixture(scope="session")
def short_samples() -> Iterator[None]:
    """Runs end with a text of 80 tokens instead of 300, which is half of what a small run takes."""
    # Loads Lightning: only for those who train.
    from attnkit.tasks.language_modeling import task as language_modeling

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language_modeling, "FINAL_SAMPLE_TOKENS", 80)
        yield


@pytest.fixture
def tiny_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of 20 tokens while a run trains and 40 at its end, where nobody looks at them."""
    # Loads Lightning: only for those who train.
    from attnkit.tasks.language_modeling import task as language_modeling

    monkeypatch.setattr(language_modeling, "SAMPLE_TOKENS", 20)
    monkeypatch.setattr(language_modeling, "FINAL_SAMPLE_TOKENS", 40)


@pytest.fixture
def stop_in_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`stop_in_step(4)`: the run that trains next is told to end while it takes its fifth step."""
    from attnkit.training.task import Task

    plain = Task.on_before_backward

    def arrange(step: int) -> None:
        def hook(self: Any, loss: Any) -> None:
            plain(self, loss)
            if self.global_step == step:
                monkeypatch.setattr(Task, "on_before_backward", plain)
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(Task, "on_before_backward", hook)

    return arrange


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """What runs with `trainer.compile=true` have compiled: for each graph whether it is one for
    training. The graphs run as they are; one that cannot be made whole fails the test.
    """
    from attnkit.training import compiled

    made: list[bool] = []

    def keep(graph: Any, inputs: Any) -> Any:
        made.append(torch.is_grad_enabled())
        return graph.forward

    def refuse(self: Any, error: Exception) -> Any:
        raise error

    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)  # pytest keeps it all
    monkeypatch.setattr(compiled, "BACKEND", keep)
    monkeypatch.setattr(compiled.Compiled, "_without_what_breaks", refuse)
    torch._dynamo.reset()
    yield made
    torch._dynamo.reset()


@pytest.fixture(scope="session")
def made_once(shared_folder: Path) -> Callable[[str, Callable[[Path], Any]], Any]:
    """`made_once("name", make)`: what `make` returned when it was called with a new folder, by the
    first process that asked.
    """

    def find(name: str, make: Callable[[Path], Any]) -> Any:
        made = shared_folder / f"{name}.pickle"
        with FileLock(f"{made}.lock"):
            if not made.exists():
                content = make(shared_folder / name)
                made.write_bytes(pickle.dumps(content))
        return pickle.loads(made.read_bytes())

    return find
