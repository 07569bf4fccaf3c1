"""Seconds by phase."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up seconds by name, between one lap and the next. Phases may lie in each other; each counts its own whole time."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Times a block."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[phase] += time.perf_counter() - began

    def lap(self) -> dict[str, float]:
        """Seconds by phase since the last lap."""
        seconds = dict(self._seconds)
        self._seconds.clear()
        return seconds
