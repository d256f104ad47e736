"""Kills runs with SIGKILL at random moments, resumes them, and compares with runs never killed.

    python benchmarks/kill_and_resume.py --kills 100 --folders HERE ON_ANOTHER_FILE_SYSTEM

Each trial is `attnkit run RECIPE --resume auto` in a process of its own, killed at a moment drawn
uniformly from the whole run: loading data, training, validation, writing checkpoints, the end.
Every third one is killed a second time while it resumes. The process is a fork of one that has run
such a command, which saves four seconds of imports a trial; what it runs is the real command.

A resumed run must equal its twin that was never killed: every curve to the last bit, weights and
optimizer by hash, every step of every tag in the event files once, the same lines in metrics.csv
and metrics.jsonl, and no file more.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import itertools
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VARIANTS = {
    "plain": [],
    "dropout": ["model.dropout=0.2"],
    "accumulate": ["trainer.accumulate=3", "model.dropout=0.1"],
    "workers": ["trainer.num_workers=2"],
    "bf16": ["trainer.precision=bf16"],
    "linear": ["model.attention.name=linear"],
    "muon": ["optimizer=muon"],
    "translation": [
        "task=translation",
        "~model.num_layers",
        "~model.attention",
        "data={name: reverse, num_train: 64, num_val: 24, max_length: 6}",
        "tokenizer=word",
        "model={max_seq_len: 16, dim: 16, encoder: {num_layers: 1}, decoder: {num_layers: 1}}",
        "~trainer.batch_size",
        "trainer.batch_tokens=128",
        "translation={beam: 2, average: 2, decode_every: 20, decode_sentences: 6}",
    ],
}

RECIPE = """
name: killed
data: {name: text, files: [TEXT]}
tokenizer: char
model: {max_seq_len: 16, dim: 16, num_layers: 2, attention: {name: multi_head, num_heads: 2}}
optimizer: {name: adamw, lr: 0.01}
trainer: {max_steps: STEPS, batch_size: 4, precision: 32, accelerator: cpu}
validation: {every_n_steps: 10, max_tokens: 256}
checkpoint: {every_n_steps: 3, best: 2, keep_every: 12}
logging:
  {to: [tensorboard, csv, jsonl], every_n_steps: 4, attention_maps: 4, samples: 3, probe_tokens: 8}
"""


SPEED = r"speed/\w+\W+[\d.e+]+"
"""What no two runs have in common, in a line of a plain file."""


@dataclass
class Outcome:
    """What the trials came to."""

    kills: int = 0
    kills_while_resuming: int = 0
    before_the_first_checkpoint: int = 0
    after_the_end: int = 0
    failures: list[str] = field(default_factory=list)


def forked(arguments: Sequence[str], log: Path) -> int:
    """Starts `attnkit ARGUMENTS` in a fork of this process; returns its number."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        from attnkit.cli.main import app

        app(list(arguments))
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        import threading

        for thread in threading.enumerate():  # what an interpreter's end would wait for
            if thread is not threading.main_thread() and not thread.daemon:
                thread.join(20)
        os._exit(code)


def kill_after(child: int, seconds: float) -> bool:
    """Kills a child after a while; False if it had ended by itself."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(min(0.002, max(deadline - time.monotonic(), 0)))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def what_it_left(directory: Path) -> dict[str, Any]:
    """All that two equal runs have in common: curves as hexadecimal floats, hashes, files."""
    import torch
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from attnkit.storage.checkpoint_store import CheckpointStore

    shown = EventAccumulator(str(directory), {"scalars": 0, "images": 0, "tensors": 0}).Reload()
    tags = shown.Tags()
    curves = {
        tag: [(e.step, e.value.hex()) for e in shown.Scalars(tag)]
        for tag in tags["scalars"]
        if not tag.startswith("speed/")
    }
    steps = {tag: [e.step for e in shown.Scalars(tag)] for tag in tags["scalars"]}
    steps |= {tag: [e.step for e in shown.Tensors(tag)] for tag in tags["tensors"]}
    pictures = {
        tag: [
            (e.step, hashlib.sha256(e.encoded_image_string).hexdigest()) for e in shown.Images(tag)
        ]
        for tag in tags["images"]
    }
    duplicated = [
        (tag, step)
        for tag, found in steps.items()
        for step, count in Counter(found).items()
        if count > 1
    ]
    plain_files = {
        path.name: [re.sub(SPEED, "", line) for line in path.read_text().splitlines()]
        for path in (directory / "metrics.csv", directory / "metrics.jsonl")
    }
    store = CheckpointStore(directory / "checkpoints")
    verified = store.verified()
    hashes = {}
    for name in verified:
        checkpoint = torch.load(store.directory / name, weights_only=True)
        hashes[name] = tensors_hash([checkpoint["state_dict"], checkpoint["optimizer_states"]])
    files = sorted(
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if not path.name.startswith("events.out.")
    )
    unverified = sorted({p.name for p in store.directory.glob("*.ckpt")} - set(verified))
    return {
        "curves": curves,
        "steps": steps,
        "pictures": pictures,
        "plain_files": plain_files,
        "weights": hashes,
        "files": files,
        "duplicated": duplicated,
        "unverified": unverified,
    }


def tensors_hash(state: Any) -> str:
    """A hash over all numbers of nested dicts and lists of tensors."""
    digest = hashlib.sha256()

    def feed(value: Any) -> None:
        if hasattr(value, "numpy"):
            digest.update(value.contiguous().view(-1).float().numpy().tobytes())
        elif isinstance(value, dict):
            for key in value:
                digest.update(str(key).encode())
                feed(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                feed(item)
        else:
            digest.update(repr(value).encode())

    feed(state)
    return digest.hexdigest()


def run_here(arguments: Sequence[str], log: Path) -> None:
    """Runs `attnkit ARGUMENTS` in this process, which imports whatever such a run imports, and
    prepares its data.
    """
    from attnkit.cli.main import app

    with log.open("a") as file, redirect_stdout(file), redirect_stderr(file):
        app(list(arguments), standalone_mode=False)


def run_to_the_end(arguments: Sequence[str], log: Path) -> float:
    """Runs a command; returns its seconds.

    Raises:
        RuntimeError: if it fails.
    """
    started = time.monotonic()
    _, status = os.waitpid(forked(arguments, log), 0)
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"attnkit {' '.join(arguments)} failed:\n{log.read_text()[-3000:]}")
    return time.monotonic() - started


def trials(
    kills: int, folders: Sequence[Path], variants: Sequence[str], seed: int, steps: int
) -> Outcome:
    """Kills and resumes.

    Args:
        kills: how many runs are killed.
        folders: where runs go, in turn; they may lie on different file systems.
        variants: names out of `VARIANTS`, in turn.
        seed: of the moments.
        steps: of each run.
    """
    import torch

    torch.set_num_threads(1)  # before any fork: a pool of threads does not survive one
    drawn, outcome = random.Random(seed), Outcome()
    work = Path(tempfile.mkdtemp(prefix="kill_and_resume"))
    text = work / "animals.txt"
    words = random.Random(0)
    text.write_text("".join(f"{words.choice(['a cat', 'the dog'])} runs.\n" for _ in range(2000)))
    recipe = work / "killed.yaml"
    recipe.write_text(RECIPE.replace("TEXT", str(text)).replace("STEPS", str(steps)))
    expected: dict[str, tuple[dict[str, Any], float]] = {}
    try:
        for name in variants:
            arguments = ["run", str(recipe), *VARIANTS[name], f"variant={name}"]
            arguments.append(f"runs_dir={work / 'whole'}")
            if not expected:
                run_here(arguments, work / "log")
                gc.freeze()  # what the forks share need not be looked through in each
            seconds = run_to_the_end([*arguments, "--overwrite"], work / "log")
            left = what_it_left(work / "whole" / "killed" / name / "seed0")
            expected[name] = left, seconds
            print(f"{name}: {seconds:.2f} s, {len(left['curves']['loss/train'])} points, unkilled")
        for trial in itertools.count():
            if outcome.kills == kills:
                break
            name = variants[trial % len(variants)]
            folder = folders[trial % len(folders)] / f"trial{trial}"
            one_trial(trial, name, folder, recipe, expected[name], drawn, outcome)
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        gc.unfreeze()
        shutil.rmtree(work)
    return outcome


def one_trial(
    trial: int,
    name: str,
    folder: Path,
    recipe: Path,
    expected: tuple[dict[str, Any], float],
    drawn: random.Random,
    outcome: Outcome,
) -> None:
    """Kills one run, resumes it to its end, and compares; failures go to the outcome."""
    whole, seconds = expected
    folder.mkdir(parents=True)
    log = folder / "log"
    directory = folder / "killed" / name / "seed0"
    arguments = ["run", str(recipe), *VARIANTS[name], f"variant={name}", f"runs_dir={folder}"]
    arguments += ["--resume", "auto"]
    moment = drawn.uniform(0.0, seconds)
    again = drawn.uniform(0.0, seconds) if trial % 3 == 2 else None
    killed = kill_after(forked(arguments, log), moment)
    outcome.kills += killed
    outcome.after_the_end += not killed
    manifest = directory / "checkpoints" / "manifest.json"
    outcome.before_the_first_checkpoint += not manifest.exists()
    if again is not None:
        outcome.kills_while_resuming += kill_after(forked(arguments, log), again)
    try:
        run_to_the_end(arguments, log)
        left = what_it_left(directory)
        differing = [key for key in whole if left[key] != whole[key]]
    except Exception as error:
        differing = [f"{type(error).__name__}: {error}"]
    if differing:
        kept = Path(tempfile.gettempdir()) / f"failed_trial{trial}"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(folder, kept)
        outcome.failures.append(f"trial {trial} ({name}, {moment:.3f} s): {differing}; see {kept}")
    how = f"killed after {moment:.3f} s" if killed else "ended before it could be killed"
    verdict = "FAILED" if differing else "equal"
    print(f"kill {outcome.kills} (trial {trial}, {name}): {how}: {verdict}", flush=True)


def main() -> None:
    """Prints what the trials came to; exits with 1 if any failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--folders", type=Path, nargs="+", default=[Path(tempfile.gettempdir())])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=40, help="of each run")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folders = [Path(tempfile.mkdtemp(prefix="kills", dir=folder)) for folder in given.folders]
    try:
        outcome = trials(given.kills, folders, given.variants, given.seed, given.steps)
    finally:
        for folder in folders:
            shutil.rmtree(folder)
    for failure in outcome.failures:
        print(failure)
    print(
        f"{outcome.kills} runs killed ({outcome.kills_while_resuming} again while resuming, "
        f"{outcome.before_the_first_checkpoint} before their first checkpoint, "
        f"{outcome.after_the_end} had ended), {len(outcome.failures)} failures"
    )
    sys.exit(bool(outcome.failures))


if __name__ == "__main__":
    main()
