"""Errors whose message is meant for the user. Imports only the standard library."""


class UserError(Exception):
    """An error that the user can act on.

    The message names the file, the recipe key or the number at fault, and the remedy. A command
    prints it without a traceback and exits with `exit_code`.
    """

    exit_code = 2


class DataError(UserError):
    """Data, or an option about data, is missing or invalid."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, from another model, or cannot be written."""


class DivergedError(UserError):
    """Training produced NaN or infinity and cannot continue.

    Args:
        step: step at which it was noticed.
        where: what is not finite, with a verb, such as `the loss is`.
        remedy: the last checkpoint, and what to try.

    Attributes:
        step: as above.
        where: as above.
    """

    exit_code = 3

    def __init__(self, step: int, where: str, remedy: str = "") -> None:
        message = f"training has diverged: at step {step:,} {where} not finite"
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.step = step
        self.where = where
