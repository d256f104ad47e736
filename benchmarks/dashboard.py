"""How quick the Attention dashboard is: first paint, slider, long maps, memory, the server's start.

Writes runs of random maps, starts TensorBoard on them, and drives a headless Chromium. Times are
medians of wall-clock milliseconds; "drawn" ends when the script has drawn every panel, "shown" with
the frame after that. On a busy machine they say little; "cpu" is what a renderer process (it draws
TensorBoard and the dashboard) and the server spent on it, whatever else ran.

    python benchmarks/dashboard.py --chromium /usr/bin/chromium
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import BrowserContext, Frame, Page, sync_playwright
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from attnkit.tensorboard import summaries
from attnkit.tensorboard.attention_record import AttentionRecord, layer_map
from attnkit.tensorboard.map_format import encode

MEGABYTE = 2**20

# Moves the slider, and waits until every panel is drawn, then until the frame is shown.
MOVE = """async (index) => {
  const slider = document.querySelector("input[type=range]");
  const stage = document.querySelector(".stage");
  const ready = new Promise((done) => {
    let isBusy = false;
    new MutationObserver((changes, observer) => {
      isBusy ||= changes.some((change) => change.oldValue === "busy");
      if (!isBusy || stage.dataset.state !== "ready") return;
      observer.disconnect();
      done();
    }).observe(stage, { attributeFilter: ["data-state"], attributeOldValue: true });
  });
  const before = performance.now();
  slider.value = index;
  slider.dispatchEvent(new Event("input"));
  await ready;
  const drawn = performance.now() - before;
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
  return [drawn, performance.now() - before];
}"""


def write_run(directory: Path, tokens: int, steps: int, layers: int, heads: int) -> None:
    """Writes causal softmax maps of random scores that sharpen with the steps."""
    generator = np.random.default_rng(len(directory.name))
    scores = generator.normal(size=(layers, heads, tokens, tokens)).astype(np.float32)
    allowed = np.tri(tokens, dtype=bool)
    words = [f"word{i}" for i in range(tokens)]
    writer = EventFileWriter(str(directory), max_queue_size=1000, flush_secs=600)
    for step in range(steps):
        weights = np.exp(scores * (0.2 + 4 * step / steps)) * allowed
        weights /= weights.sum(axis=-1, keepdims=True)
        record = AttentionRecord(
            example="probe",
            site="self",
            kind="self",
            causal=True,
            query_tokens=words,
            key_tokens=words,
            layers=[layer_map(f"L{i}", weights[i], allowed) for i in range(layers)],
        )
        summary = summaries.maps(record.tag, encode(record))
        writer.add_event(Event(step=100 * step, wall_time=1.7e9 + step, summary=summary))
    writer.close()


def start_tensorboard(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """Starts a server and waits until it has read all runs; returns it and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--port", "0", "--logdir", str(folder)],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    line = next(line for line in process.stderr if " at http" in line)
    time.sleep(3)
    return process, line.split(" at ")[1].split(" ")[0]


def address_of(server: str, runs: list[str]) -> str:
    """The deep link that shows some runs."""
    return "&".join([f"{server}#attention", *(f"p.attention.run={run}" for run in runs)])


def plugin_frame(page: Page) -> Frame:
    """The frame of the dashboard, once all its panels are drawn."""
    page.frame_locator("iframe").locator(".stage[data-state=ready] > .panel").first.wait_for()
    return next(frame for frame in page.frames if "plugin_entry" in frame.url)


def first_paint(
    context: BrowserContext, server: str, runs: list[str], spent: Callable[[], dict[str, float]]
) -> dict[str, float]:
    """Milliseconds from the click on the tab, and from the request of TensorBoard's own page."""
    times: dict[str, list[float]] = {}

    def record(name: str, value: float) -> None:
        times.setdefault(name, []).append(value)

    for _ in range(5):
        page = context.new_page()
        begin = time.perf_counter()
        page.goto(address_of(server, runs))
        plugin_frame(page)
        record("from the address", 1000 * (time.perf_counter() - begin))
        page.close()
        page = context.new_page()
        page.goto(address_of(server, runs).replace("#attention", "#timeseries"))
        tab = page.get_by_text("Attention", exact=True).first
        tab.wait_for()
        page.wait_for_timeout(2500)
        begin, before = time.perf_counter(), spent()
        tab.click()
        plugin_frame(page)
        record("from the tab", 1000 * (time.perf_counter() - begin))
        for kind, milliseconds in spent().items():
            record(f"from the tab, cpu of {kind}", milliseconds - before.get(kind, 0))
        page.close()
    return {name: statistics.median(values) for name, values in times.items()}


def slider(page: Page, steps: int, spent: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Milliseconds of a step that was never fetched, and of one that was."""
    frame = plugin_frame(page)
    page.wait_for_timeout(500)
    times: dict[str, float] = {}
    indices = range(1, steps - 3, 4)
    for kind in ("cold", "warm"):
        before = spent()
        moves = [frame.evaluate(MOVE, index) for index in indices]
        after = spent()
        for i, what in enumerate(("drawn", "shown")):
            times[f"{kind}, {what}"] = statistics.median(move[i] for move in moves)
        for process, milliseconds in after.items():
            each = (milliseconds - before.get(process, 0)) / len(indices)
            times[f"{kind}, cpu of {process}"] = each
        page.wait_for_timeout(1500)
    return times


def memory_of(browser_name: str) -> dict[str, float]:
    """Megabytes of the processes of this script's Chromium (proportional set size)."""
    sizes: dict[str, float] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if browser_name not in command:
                continue
            rollup = (process / "smaps_rollup").read_text()
        except (OSError, UnicodeDecodeError):
            continue
        kilobytes = int(rollup.split("Pss:")[1].split()[0])
        kind = "renderer" if "--type=renderer" in command else "other processes"
        sizes[kind] = sizes.get(kind, 0) + kilobytes / 1024
    return sizes | {"all": sum(sizes.values())}


def spent_by(browser_name: str, server: int) -> dict[str, float]:
    """CPU milliseconds so far of the renderers of this script's Chromium, and of the server."""
    spent = {"renderer": 0.0, "server": 0.0}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            fields = (process / "stat").read_text().rpartition(")")[2].split()
        except (OSError, UnicodeDecodeError):
            continue
        milliseconds = 10 * (int(fields[11]) + int(fields[12]))
        if browser_name in command and "--type=renderer" in command:
            spent["renderer"] += milliseconds
        elif int(process.name) == server or int(fields[1]) == server:
            spent["server"] += milliseconds
    return spent


def start_costs() -> dict[str, float]:
    """CPU milliseconds that the plugin adds to TensorBoard's start, measured in fresh processes."""
    code = """
import time
import tensorboard.main, tensorboard.default, tensorboard.plugin_util
import tensorboard.backend.http_util, werkzeug
begin = time.process_time()
from attnkit.dashboard.loader import AttentionLoader
from tensorboard.plugins.base_plugin import TBContext
AttentionLoader().load(TBContext(data_provider=object())).get_plugin_apps()
print(1000 * (time.process_time() - begin))
"""
    runs = [
        float(subprocess.check_output([sys.executable, "-c", code], stderr=subprocess.DEVNULL))
        for _ in range(5)
    ]
    return {"cpu": statistics.median(runs)}


def measure(chromium: str, folder: Path) -> dict[str, Any]:
    """All numbers, by name."""
    runs = [f"run{i}" for i in range(4)]
    for run in runs:
        write_run(folder / run, tokens=32, steps=60, layers=6, heads=8)
    write_run(folder / "long", tokens=256, steps=6, layers=6, heads=8)
    server, address = start_tensorboard(folder)
    profile = tempfile.mkdtemp(prefix="dashboard-bench-")
    results: dict[str, Any] = {"start of TensorBoard": start_costs()}

    def spent() -> dict[str, float]:
        return spent_by(profile, server.pid)

    try:
        with sync_playwright() as playwright:
            context = playwright.chromium.launch_persistent_context(
                profile,
                executable_path=chromium,
                args=["--no-sandbox"],
                viewport={"width": 1920, "height": 1080},
            )
            page = context.new_page()
            page.goto(f"{address}#timeseries")
            page.wait_for_timeout(3000)
            results["memory, TensorBoard alone"] = memory_of(profile)
            page.close()
            results["first paint, 4 runs"] = first_paint(context, address, runs, spent)
            page = context.new_page()
            page.goto(address_of(address, runs))
            results["slider, 4 runs"] = slider(page, 60, spent)
            results["memory, 4 runs scrubbed"] = memory_of(profile)
            page.close()
            page = context.new_page()
            page.goto(address_of(address, ["run0"]))
            frame = plugin_frame(page)
            page.goto(address_of(address, ["long"]))
            page.wait_for_timeout(1000)
            frame = plugin_frame(page)
            moves = [frame.evaluate(MOVE, index) for index in (0, 2, 4, 1, 3)]
            results["256 tokens, 8 heads, 6 layers, cold"] = {
                "drawn": statistics.median(move[0] for move in moves),
                "shown": statistics.median(move[1] for move in moves),
            }
            results["memory, 256 tokens"] = memory_of(profile)
            context.close()
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(profile, ignore_errors=True)
    return results


def main() -> None:
    """Prints the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="path of Chromium")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(arguments.chromium, Path(folder))
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    for name, values in results.items():
        unit = "MB" if name.startswith("memory") else "ms"
        print(name)
        for what, value in values.items():
            print(f"    {what:36} {value:8.1f} {unit}")


if __name__ == "__main__":
    main()
