"""Kernels: ways to compute attention, pure functions of queries, keys and values.

reference   softmax(q kᵀ) v written out, correct for any mechanism; memory grows with T x S
cpu_bf16    the same products, with a hand-written backward pass (bfloat16 on a CPU, short inputs)
sdpa        torch's fused scaled_dot_product_attention: memory grows with T
windowed    sdpa over chunks of queries, each with the few keys within its window
chunked     sdpa over chunks of queries, recomputed in the backward pass: for biases and own maps
            whose memory would grow with the square of the length
flex        FlexAttention, compiled for the mask and the bias (GPU)

`choosing.py` decides which one runs. Mechanisms with a state compute their own operations, which
kernels of other packages may replace, see `outside.py`.
"""

from attnkit.attention.kernels.call import Call, Kernel, Where, positions
from attnkit.attention.kernels.choosing import (
    KERNELS,
    Choice,
    attend,
    choose,
    offer,
    only,
    run,
    verdicts,
)
from attnkit.attention.kernels.outside import (
    Operation,
    OutsideKernel,
    Request,
    computed_outside,
    operation,
    register,
)

__all__ = [
    "KERNELS",
    "Call",
    "Choice",
    "Kernel",
    "Operation",
    "OutsideKernel",
    "Request",
    "Where",
    "attend",
    "choose",
    "computed_outside",
    "offer",
    "only",
    "operation",
    "positions",
    "register",
    "run",
    "verdicts",
]
