"""Kernels: ways to compute attention, pure functions of queries, keys and values.

reference   softmax(q kᵀ) v written out: the truth, for any mechanism; memory grows with T x S
cpu_bf16    the same products, with a backward pass written by hand (bfloat16 on a CPU, short)
sdpa        torch's fused scaled_dot_product_attention: memory grows with T
windowed    sdpa over chunks of queries, each with the few keys that its window reaches
chunked     sdpa over chunks of queries, computed again in the backward pass: for biases and maps of
            a mechanism's own that would take the square of a long length
flex        FlexAttention, compiled for the mask and the bias (GPU)

`choosing.py` says which one runs, and why. Mechanisms with a state compute operations of their own,
which kernels of other packages may take over, see `outside.py`.
"""

from attnkit.attention.kernels.call import Call, Kernel, Where
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
    "register",
    "run",
    "verdicts",
]
