"""Two promises about studies: the cores are kept busy, and nothing is lost when one is killed.

    python benchmarks/ablation.py busy --folder FOLDER
    python benchmarks/ablation.py kill --kills 10 --folder FOLDER

`busy` runs a study of twelve trials with two workers. Its whole time, from the command to its end,
is compared with the sum of the trials' own times divided by two: once with their processes' times,
from start to result, once with their training times alone as `result.json` has them.

`kill` runs a study of three trials, two at a time, kills the launcher with SIGKILL at a moment
drawn uniformly from the whole of it (planning, starting, training, the end), and runs the same
command again until it ends by itself; then the numbers of all trials must be those of a study that
nobody killed, to the last bit, and nothing may still run.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

RECIPE = """
data: {name: stdlib_docs}
tokenizer: char
model: {max_seq_len: 64, dim: 64, num_layers: 2, attention: {name: multi_head, num_heads: 4}}
optimizer: {name: adamw, lr: 3.0e-3}
trainer: {max_steps: STEPS, batch_size: 16, precision: 32, accelerator: cpu}
validation: {every_n_steps: EVERY, max_tokens: 4096}
logging: {every_n_steps: 50, attention_maps: 0, samples: 0}
ablation:
  vary: {model.attention.name: [NAMES]}
  seeds: SEEDS
  workers: 2
"""


def recipe(folder: Path, names: str, steps: int, seeds: int) -> Path:
    """Writes the study's recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "study.yaml"
    words = {"NAMES": names, "STEPS": steps, "EVERY": max(steps // 4, 1), "SEEDS": seeds}
    text = RECIPE
    for word, value in words.items():
        text = text.replace(word, str(value))
    file.write_text(text)
    return file


def start(file: Path, runs: Path) -> subprocess.Popen[bytes]:
    """Starts the study; its words go to a log beside its runs."""
    runs.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "attnkit", "ablate", str(file), f"runs_dir={runs}"]
    with (runs / "launcher.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def results(runs: Path) -> dict[str, dict]:
    """What each trial came to."""
    files = sorted((runs / "study").glob("*/seed*/result.json"))
    return {str(file.parent.relative_to(runs)): json.loads(file.read_text()) for file in files}


def numbers(runs: Path) -> dict[str, dict[str, str]]:
    """The metrics of each trial, to the last bit."""
    return {
        trial: {name: value.hex() for name, value in record["metrics"].items()}
        for trial, record in results(runs).items()
    }


def process_seconds(runs: Path) -> list[float]:
    """From the start of each trial's process, which makes its log, to its result."""
    times = []
    for log in (runs / "study/.trials").glob("*.log"):
        variant, _, seed = log.stem.rpartition(".")
        # The time of birth, for which Python has no name on Linux.
        born = float(subprocess.check_output(["stat", "-c", "%.3W", str(log)]))
        end = (runs / "study" / variant / seed / "result.json").stat().st_mtime
        times.append(end - born)
    return times


def busy(folder: Path, steps: int) -> None:
    """Twelve trials with two workers."""
    shutil.rmtree(folder, ignore_errors=True)
    file = recipe(folder, "multi_head, multi_query, linear", steps, seeds=4)
    began = time.perf_counter()
    assert start(file, folder / "runs").wait() == 0
    whole = time.perf_counter() - began
    found = results(folder / "runs")
    assert len(found) == 12
    own = {
        "processes, from start to result": sum(process_seconds(folder / "runs")) / 2,
        "training and validation alone": sum(each["seconds"] for each in found.values()) / 2,
    }
    print(f"12 trials of {steps} steps, two workers: {whole:.1f} s in all")
    for what, seconds in own.items():
        print(f"  sum of {what} / 2: {seconds:.1f} s; the study took {whole / seconds - 1:+.1%}")


def kill(folder: Path, kills: int, steps: int, seed: int) -> None:
    """A killed study against one that was not."""
    shutil.rmtree(folder, ignore_errors=True)
    file = recipe(folder, "multi_head, multi_query, linear", steps, seeds=1)
    began = time.perf_counter()
    assert start(file, folder / "undisturbed").wait() == 0
    whole = time.perf_counter() - began
    expected = numbers(folder / "undisturbed")
    assert len(expected) == 3
    print(f"undisturbed: {whole:.1f} s")
    draw = random.Random(seed)
    same = 0
    for n in range(kills):
        runs = folder / f"killed{n}"
        moment = draw.uniform(0, whole)
        launcher = start(file, runs)
        time.sleep(moment)
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()
        there = len(results(runs))
        again = start(file, runs)
        code = again.wait()
        equal = code == 0 and numbers(runs) == expected
        same += equal
        left = orphans(runs)
        words = "the same table" if equal else f"DIFFERENT (code {code})"
        print(f"killed after {moment:5.1f} s with {there} of 3 done: {words}; {left} orphans")
    print(f"{same} of {kills} ended with the same table")


def orphans(runs: Path) -> int:
    """Processes that still run a trial of this study."""
    count = 0
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            count += str(runs).encode() in entry.read_bytes()
        except OSError:
            continue
    return count


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("busy", "kill"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.what == "busy":
        busy(given.folder, given.steps)
    else:
        kill(given.folder, given.kills, given.steps, given.seed)


if __name__ == "__main__":
    main()
