"""Where one kernel becomes faster than another: the numbers by which kernels are chosen.

All were measured, forward and backward. Before you change one, measure on the machine at hand:
`attnkit show NAME --measure --tokens N ...`.
"""

from __future__ import annotations

CPU_BF16_KEYS = 256
"""CPU, bfloat16: up to this many keys, sdpa's backward is slower than the written-out products."""

# CPU with two cores, float32, 8 heads of 64, window 64: 512 tokens and more
# (benchmarks/attention_kernels.py).
CPU_WINDOWS = 4
"""CPU: times the reach of a window from which its chunks beat one call with a mask tensor."""

# One H200, torch 2.11, bfloat16, 16 heads of 64, batch 1, 4,096 tokens; milliseconds:
#
#                      sdpa    flex    windowed
#   causal             0.56    0.92
#   window 256         1.43    1.14    1.87
#   window 64          1.35    0.86    1.96
#   causal & document  1.33    0.62
#   alibi              3.95    1.24
#   prefix             1.25    1.17
#   window & alibi     3.90    none    2.03
#   relative_bias      34.5    none
#
# and at 16,384: causal 4.41 sdpa, 9.17 flex; window 256 16.8 sdpa, 2.21 windowed (flex ran there
# uncompiled and was not measured). Command: `gpu_bench.py kernels 4096 16384`, commit 5b15580.
FLEX_KEYS = 1024
"""GPU: below, FlexAttention's compilation and its block mask cost more than they save."""

FLEX_QUERIES = 128
"""GPU: a block of FlexAttention has this many queries."""

GPU_WINDOW_KEYS = 8192
"""GPU: from here on chunks of a window are the fastest that was measured."""

GPU_BIASED_WINDOW_KEYS = 2048
"""GPU: the same for a window with a bias, which would be a tensor of all pairs."""

GPU_WINDOWS = 8
"""GPU: times the reach of a window from which they are."""

WHOLE_MAP_BYTES = 2**30
"""Where a bias or the steps of a map would take more than this for all pairs, they are computed in
chunks of queries, and again in the backward pass."""

CHUNK_BYTES = 2**27
"""What a chunk of queries may take."""
