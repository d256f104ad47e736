"""Kernels: ways to compute attention, pure functions of queries, keys and values.

reference   softmax(q kᵀ) v written out: the truth, for any mechanism; memory grows with T x S
cpu_bf16    the same products, with a backward pass written by hand (bfloat16 on a CPU, short)
sdpa        torch's fused scaled_dot_product_attention: memory grows with T
windowed    sdpa over chunks of queries, each with the few keys that its window reaches
flex        FlexAttention, compiled for the mask and the bias (GPU)

`choosing.py` says which one runs, and why.
"""

from attnkit.attention.kernels.call import Call, Kernel, Where, positions
from attnkit.attention.kernels.choosing import (
    KERNELS,
    Choice,
    attend,
    choose,
    only,
    run,
    verdicts,
)

__all__ = [
    "KERNELS",
    "Call",
    "Choice",
    "Kernel",
    "Where",
    "attend",
    "choose",
    "only",
    "positions",
    "run",
    "verdicts",
]
