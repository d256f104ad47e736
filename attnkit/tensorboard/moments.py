"""The steps at which costly things are logged: often at first, then seldom."""

from __future__ import annotations

MAX_MOMENTS = 200
"""TensorBoard keeps a random sample of a longer series, possibly without step 0."""


def log_moments(total_steps: int, count: int) -> list[int]:
    """Returns the steps at which to log: 0, then ever wider apart (by a ratio), and the last one.

    Args:
        total_steps: steps of the whole run; logging at `total_steps` is after the last one.
        count: how many moments, 2 to `MAX_MOMENTS`; a run with fewer steps gets them all.

    Raises:
        ValueError: if `count` is out of range or `total_steps` is negative.
    """
    if total_steps < 0:
        raise ValueError(f"total_steps is {total_steps}; a run has 0 or more steps")
    if not 2 <= count <= MAX_MOMENTS:
        raise ValueError(f"count is {count}; TensorBoard shows 2 to {MAX_MOMENTS} moments of a tag")
    steps = [0]
    while steps[-1] < total_steps and len(steps) < count:
        last, remaining = steps[-1], count - len(steps)
        # A new ratio each time spreads the early rounding over the remaining steps.
        ratio = (total_steps / max(last, 1)) ** (1 / remaining)
        step = total_steps if remaining == 1 else max(last + 1, round(last * ratio))
        steps.append(min(step, total_steps))
    return steps
