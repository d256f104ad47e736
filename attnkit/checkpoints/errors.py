"""What is raised when a checkpoint cannot be written or believed."""


class CheckpointError(Exception):
    """A checkpoint that is missing, damaged, of another model, or cannot be written; the message
    says what to do.
    """
