"""The lengths from which one kernel is faster than another, used to choose kernels.

All were measured, forward and backward. Before changing one, measure on the target machine:
`attnkit show NAME --measure --tokens N ...`.
"""

from __future__ import annotations

CPU_BF16_KEYS = 256
"""CPU, bfloat16: up to this many keys, sdpa's backward is slower than the written-out products."""

# CPU with two cores, float32, 8 heads of 64, window 64: 512 tokens and more
# (benchmarks/attention_kernels.py).
CPU_WINDOWS = 4
"""CPU: multiple of a window's reach from which chunks beat one call with a mask tensor."""

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
"""GPU: number of queries in a block of FlexAttention."""

GPU_WINDOW_KEYS = 8192
"""GPU: length from which chunks of a window were the fastest."""

GPU_BIASED_WINDOW_KEYS = 2048
"""GPU: the same for a window with a bias, which would need a tensor of all pairs."""

GPU_WINDOWS = 8
"""GPU: the smallest multiple of a window's reach for that."""

WHOLE_MAP_BYTES = 2**30
"""Size of a bias or map of all pairs from which it is computed in chunks of queries, and again in
the backward pass.
"""

CHUNK_BYTES = 2**27
"""Memory of one chunk of queries."""
