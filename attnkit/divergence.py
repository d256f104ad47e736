"""The error of a training that went wrong for good."""


class DivergedError(Exception):
    """Training has left the finite numbers.

    Args:
        step: where it was noticed.
        where: what holds NaN or infinity, with its verb.
        remedy: what is left, and what to try.

    Attributes:
        step: as above.
        where: as above.
    """

    def __init__(self, step: int, where: str, remedy: str = "") -> None:
        said = f"training has diverged: at step {step:,} {where} NaN or infinity"
        super().__init__(f"{said}; {remedy}" if remedy else said)
        self.step = step
        self.where = where
