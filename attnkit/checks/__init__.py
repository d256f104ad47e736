"""Laws that every mechanism must obey, and the proof that it does."""

from attnkit.checks.card import Card, Line, check
from attnkit.checks.case import Broken, Case, DoesNotApply
from attnkit.checks.laws import LAWS, Law
from attnkit.checks.pytest_laws import laws_of

__all__ = ["LAWS", "Broken", "Card", "Case", "DoesNotApply", "Law", "Line", "check", "laws_of"]
