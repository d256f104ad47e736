"""The one error of this layer."""


class DataError(Exception):
    """Data, or an option about data, is not what it should be.

    The message is for the person who wrote the recipe: it names the file, the recipe's key or the
    number, and the remedy.
    """
