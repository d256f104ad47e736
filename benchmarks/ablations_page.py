"""How quick the Ablations page is: first paint, a change of metric or base, memory, the start.

Writes a study of 40 variants of 5 seeds, each with two curves of 1,000 points, starts TensorBoard
on it, and drives a headless Chromium. Times are medians of wall-clock milliseconds. On a busy
machine they say little; "cpu" is what a renderer process (it draws TensorBoard and the page) and
the server (it reads the event files for TensorBoard, too) spent, whatever else ran.

    python benchmarks/ablations_page.py --run runs/quickstart/base/seed0
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from dashboard import memory_of, spent_by, start_tensorboard
from playwright.sync_api import BrowserContext, Frame, Page, sync_playwright
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

READY = ".ablations[data-state=ready]"

# Chooses an option, and waits until the table has another heading or base and the frame is shown.
CHOOSE = """async ([label, value]) => {
  const list = document.querySelector(`select[aria-label=${label}]`);
  const table = document.querySelector("table");
  const changed = new Promise((done) => {
    const observer = new MutationObserver(() => {
      observer.disconnect();
      done();
    });
    observer.observe(table, { childList: true });
  });
  const before = performance.now();
  list.value = value;
  list.dispatchEvent(new Event("change"));
  await changed;
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
  return performance.now() - before;
}"""


def write_study(folder: Path, like: Path, variants: int, seeds: int, points: int) -> None:
    """Writes finished runs of random losses, with the files of a run that was trained."""
    random = np.random.default_rng(0)
    record = json.loads((like / "result.json").read_text())
    recipe = (like / "recipe.yaml").read_text()
    for v in range(variants):
        for seed in range(seeds):
            run = folder / f"variant{v:02}" / f"seed{seed}"
            run.mkdir(parents=True)
            names = (("name", folder.name), ("variant", run.parent.name), ("seed", seed))
            text = recipe
            for key, value in names:
                text = re.sub(rf"^{key}: .*$", f"{key}: {value}", text, flags=re.MULTILINE)
            (run / "recipe.yaml").write_text(text)
            shutil.copy(like / "environment.json", run)
            loss = 3 - 0.02 * v + 0.05 * random.normal()
            record["metrics"] = {
                "loss": loss,
                "bits_per_byte": loss / 2,
                "perplexity": np.exp(loss),
            }
            (run / "result.json").write_text(json.dumps(record))
            with (run / "events.out.tfevents.1.bench").open("wb") as file:
                writer = RecordWriter(file)
                writer.write(Event(file_version="brain.Event:2").SerializeToString())
                for i in range(points):
                    value = loss + 3 * np.exp(-i / 200) + 0.02 * random.normal()
                    for tag in ("loss/train", "loss/val"):
                        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
                        event = Event(step=10 * i, wall_time=1.7e9 + i, summary=summary)
                        writer.write(event.SerializeToString())


def open_page(context: BrowserContext, address: str) -> tuple[Page, float, float]:
    """Returns a page with its first paint done; the milliseconds since its address was given, with
    TensorBoard's own page; and those since TensorBoard has opened the Ablations page in it.
    """
    page = context.new_page()
    page.set_default_timeout(300_000)
    begin = time.perf_counter()
    page.goto(f"{address}#ablations")
    page.frame_locator("iframe").locator(READY).wait_for()
    whole = 1000 * (time.perf_counter() - begin)
    origins = [frame.evaluate("performance.timeOrigin") for frame in (page, frame_of(page))]
    return page, whole, whole - (origins[1] - origins[0])


def frame_of(page: Page) -> Frame:
    """The frame of the Ablations page."""
    return next(frame for frame in page.frames if "plugin_entry" in frame.url)


def start_costs() -> dict[str, float]:
    """CPU milliseconds that the plugin adds to TensorBoard's start, measured in fresh processes."""
    code = """
import time
from argparse import Namespace
import tensorboard.main, tensorboard.default, tensorboard.plugin_util
import tensorboard.backend.http_util, werkzeug
from attnkit.dashboard.loader import AttentionLoader
from tensorboard.plugins.base_plugin import TBContext
AttentionLoader().load(TBContext(data_provider=object())).get_plugin_apps()
begin = time.process_time()
from attnkit.ablation.page.loader import AblationsLoader
AblationsLoader().load(TBContext(flags=Namespace(logdir="."))).get_plugin_apps()
print(1000 * (time.process_time() - begin))
"""
    runs = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(5)]
    return {"cpu, beside the Attention page": statistics.median(runs)}


def measure(chromium: str, folder: Path, repeats: int) -> dict[str, Any]:
    """All numbers, by name."""
    results: dict[str, Any] = {"start of TensorBoard": start_costs()}
    times: dict[str, list[float]] = {}

    def record(name: str, value: float) -> None:
        times.setdefault(name, []).append(value)

    for _ in range(repeats):
        server, address = start_tensorboard(folder)
        profile = tempfile.mkdtemp(prefix="ablations-bench-")
        try:
            with sync_playwright() as playwright:
                context = playwright.chromium.launch_persistent_context(
                    profile,
                    executable_path=chromium,
                    args=["--no-sandbox"],
                    viewport={"width": 1920, "height": 1080},
                )

                def spent(since: dict[str, float] | None = None) -> dict[str, float]:
                    now = spent_by(profile, server.pid)  # noqa: B023
                    return {name: value - (since or {}).get(name, 0) for name, value in now.items()}

                def timed(name: str, choices: list[list[str]]) -> None:
                    before = spent()
                    for choice in choices:
                        record(name, frame.evaluate(CHOOSE, choice))  # noqa: B023
                        page.wait_for_timeout(300)  # noqa: B023
                    for kind, value in spent(before).items():
                        record(f"{name}, cpu of {kind}", value / len(choices))

                def opened(name: str) -> Page:
                    before = spent()
                    page, whole, own = open_page(context, address)  # noqa: B023
                    record(name, whole)
                    record(f"{name}, without TensorBoard's own page", own)
                    for kind, value in spent(before).items():
                        record(f"{name}, cpu of {kind}", value)
                    page.wait_for_timeout(2000)
                    return page

                page = opened("first paint, all files unread")
                frame = frame_of(page)
                names = ("bits_per_byte", "perplexity", "loss")
                timed("change of metric", [["Metric", name] for name in names])
                timed("change of base", [["Base", f"variant{i:02}"] for i in (3, 7, 20)])
                results["memory"] = memory_of(profile)
                page.close()
                for _ in range(3):
                    time.sleep(1)  # until the processes of the page before have ended
                    opened("first paint").close()
                context.close()
        finally:
            server.terminate()
            server.wait()
            shutil.rmtree(profile, ignore_errors=True)
    results["200 runs of 1,000 points"] = {
        name: statistics.median(values) for name, values in times.items()
    }
    return results


def main() -> None:
    """Prints the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--run", type=Path, required=True, help="a finished run, to be copied")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="path of Chromium")
    parser.add_argument("--repeats", type=int, default=3, help="fresh servers")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_study(Path(folder) / "large", arguments.run, variants=40, seeds=5, points=1000)
        results = measure(arguments.chromium, Path(folder), arguments.repeats)
    for name, values in results.items():
        unit = "MB" if name.startswith("memory") else "ms"
        print(name)
        for what, value in values.items():
            print(f"    {what:58} {value:8.1f} {unit}")


if __name__ == "__main__":
    main()
