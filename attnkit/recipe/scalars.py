"""The meaning of unquoted words in a recipe, and the words about which YAML readers disagree.

YAML 1.1 reads `no` as false, `012` as ten and `12:30` as 750, and takes `1e-3` for text; YAML 1.2
does none of that. attnkit follows YAML 1.2, and refuses words about which the two disagree.
"""

from __future__ import annotations

import re

Scalar = str | int | float | bool | None

_NULLS = {"", "~", "null", "Null", "NULL"}
_BOOLEANS = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_YES = {"yes", "Yes", "YES", "on", "On", "ON"}
_NO = {"no", "No", "NO", "off", "Off", "OFF"}

_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)")
_BASED = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9]+(:[0-5]?[0-9])+(\.[0-9]*)?")
_LONGEST_NUMBER = 40


class ScalarTrap(ValueError):
    """An unquoted word whose meaning depends on the reader; the message says what to write."""


def read_plain(text: str) -> Scalar:
    """Returns what an unquoted word means: null, a boolean, a number or text.

    Raises:
        ScalarTrap: if YAML 1.1 and 1.2 disagree about it, or a number is too long.
    """
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text in _YES | _NO:
        meant = "true" if text in _YES else "false"
        raise ScalarTrap(
            f"`{text}` is {meant} to some YAML readers and text to others; "
            f"write {meant}, or '{text}' in quotes for the text"
        )
    if _LEADING_ZERO.fullmatch(text):
        raise ScalarTrap(
            f"`{text}` is octal to some YAML readers and decimal to others; "
            f"write {text.lstrip('+-0_') or '0'}, or '{text}' in quotes for the text"
        )
    if _SEXAGESIMAL.fullmatch(text):
        raise ScalarTrap(
            f"`{text}` is a number in base 60 to some YAML readers and text to others; "
            f"write the number itself, or '{text}' in quotes for the text"
        )
    if len(text) > _LONGEST_NUMBER and (_FLOAT.fullmatch(text) or _BASED.fullmatch(text)):
        raise ScalarTrap(f"a number of {len(text)} characters; write at most {_LONGEST_NUMBER}")
    if _WHOLE.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, base=0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _SPECIAL_FLOAT.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def needs_quotes(text: str) -> bool:
    """True if `text`, written without quotes, would be read as something else."""
    try:
        return read_plain(text) != text
    except ScalarTrap:
        return True
