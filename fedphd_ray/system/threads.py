"""Torch's threads in this process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """So many threads within: sums inside operators depend on it, and processes that share cores must not all take them all."""
    import torch  # noqa: PLC0415 - see `wait_passively`

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def wait_passively() -> None:
    """Has threads of one operator sleep while they wait for one another; to be called before torch is imported.

    By default they spin. That is a little faster on an idle machine, but where another process has one of the cores, the others
    spin until it comes back: drawing 250 digits beside two busy processes takes 37 s so, and 1.2 s when they sleep.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
