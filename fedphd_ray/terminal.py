"""What the commands print: results on stdout, everything beside them on stderr."""

import contextlib
from collections.abc import Iterator

import rich.markup

from fedphd_ray.report.console import console as console_of

console = console_of("stdout")
errors = console_of("stderr")


def say(line: str) -> None:
    """A sentence, not broken into lines: paths and commands in it are copied."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def note(line: str) -> None:
    """Something beside the results."""
    errors.print(line, highlight=False, markup=False, soft_wrap=True)


@contextlib.contextmanager
def at_work(on: str) -> Iterator[None]:
    """Says at once what is going on, since imports alone take seconds: on a terminal in a line that goes again."""
    if errors.is_terminal and not errors.is_dumb_terminal:
        with errors.status(rich.markup.escape(on)):
            yield
    else:
        note(on)
        yield
