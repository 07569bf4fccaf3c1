"""The terminal, whatever it is: closed, of few letters, or none at all."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Literal, TextIO

from rich.console import Console

IN_ASCII = str.maketrans({"→": "->", "·": ".", "±": "+-", "…": "...", "×": "x", "—": "-", "–": "-", "’": "'"})


class Stream:
    """Standard output or error as it is at the moment of writing; never the reason why a run ends.

    What its encoding lacks is written with the nearest ASCII. When whoever reads has gone (`| head -1`), nothing more is written.

    Args:
        name: which.
    """

    def __init__(self, name: Literal["stdout", "stderr"]) -> None:
        self._name = name

    @property
    def encoding(self) -> str:
        """Of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Writes what can be written."""
        try:
            text.encode(self.encoding)
        except (UnicodeEncodeError, LookupError):
            text = text.translate(IN_ASCII).encode("ascii", "replace").decode()
        with self._forgiven():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flushes what can be flushed."""
        with self._forgiven():
            self._stream.flush()

    def isatty(self) -> bool:
        """Whether a person looks at it."""
        return bool(self._stream.isatty())

    def fileno(self) -> int:
        """Of the stream."""
        return int(self._stream.fileno())

    @property
    def _stream(self) -> TextIO:
        """The stream itself, where a live panel has put something in its place that writes here."""
        stream = getattr(sys, self._name)
        real: TextIO = getattr(stream, "rich_proxied_file", stream)
        return real

    @contextlib.contextmanager
    def _forgiven(self) -> Iterator[None]:
        try:
            yield
        except OSError:  # a closed pipe, or a terminal that was closed
            self._to_nowhere()

    def _to_nowhere(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def console(name: Literal["stdout", "stderr"]) -> Console:
    """For people."""
    return Console(file=Stream(name))  # type: ignore[arg-type]  # as much of a stream as rich asks for
