"""Time and memory of attention alone: forward and backward, eight heads of 64, float32.

Each measurement is a process of its own, so that its peak memory is its own; variants run in turn
(A B A B ...).

    python benchmarks/attention_kernels.py --threads 2
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch

from attnkit.attention.kernels import attend, only
from attnkit.masks import Causal, SlidingWindow

HEADS, WIDTH = 8, 64


def measure(kernel: str, mask_name: str, tokens: int, threads: int) -> None:
    """Prints seconds (median of three) and the peak memory added, in MiB, as JSON."""
    torch.set_num_threads(threads)
    mask = Causal() if mask_name == "causal" else SlidingWindow(window=64)
    q, k, v = (torch.randn(1, HEADS, tokens, WIDTH, requires_grad=True) for _ in range(3))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(4):
        started = time.perf_counter()
        with only(kernel):
            attend(q, k, v, mask).sum().backward()
        times.append(time.perf_counter() - started)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps({"seconds": statistics.median(times[1:]), "peak_mib": peak}))


def in_its_own_process(*arguments: str | int) -> dict[str, float]:
    """Runs `measure` in a fresh process."""
    command = [sys.executable, __file__, "--measure", *map(str, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Prints the growth of memory with length, and the window's ratio to masked SDPA."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        kernel, mask, tokens, threads = arguments.measure
        measure(kernel, mask, int(tokens), int(threads))
        return
    threads = arguments.threads
    print("causal, sdpa: peak memory added by forward and backward")
    for tokens in (1024, 2048, 4096, 8192):
        found = in_its_own_process("sdpa", "causal", tokens, threads)
        print(
            f"  {tokens:5d} tokens  {found['peak_mib']:7.1f} MiB  {1e3 * found['seconds']:8.1f} ms"
        )
    for tokens in (512, 2048, 4096):
        ratios = []
        for _ in range(arguments.pairs):
            dense = in_its_own_process("sdpa", "window", tokens, threads)
            windowed = in_its_own_process("windowed", "window", tokens, threads)
            ratios.append(dense["seconds"] / windowed["seconds"])
        print(
            f"window 64 at {tokens} tokens: masked sdpa takes {statistics.median(ratios):.1f} "
            f"times as long as windowed (min {min(ratios):.1f}, max {max(ratios):.1f})"
        )


if __name__ == "__main__":
    main()
