"""Sentences for whoever follows a command."""

from collections.abc import Callable

Say = Callable[[str], None]
"""Told, in a sentence, what happens, takes time or was left out."""


def unheard(_: str) -> None:
    """For whoever does not want to be told."""
