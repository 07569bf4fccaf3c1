"""Keyed randomness: every draw is a pure function of (seed, purpose, round, client).

No generator is ever taken from global state or advanced by whoever comes first, so a retried client, another placement or a
resumed run draws the same numbers.
"""

import enum
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


class Purpose(enum.IntEnum):
    """What a stream of random numbers is for. The values are part of what makes runs repeatable: never renumber."""

    PARTITION = 1
    INITIAL_MODEL = 2
    COHORT = 3
    EDGE_CHOICE = 4
    LOCAL_TRAINING = 5
    SAMPLING = 6
    DATASET = 7
    FEATURE_NETWORK = 8
    EVALUATION = 9
    REPORTED_PARTS = 10
    PRUNING = 11
    DEVICES = 12
    AVAILABILITY = 13
    DROPOUT = 14
    LOOKS = 15
    CODEC = 16
    SUBMODELS = 17
    IMPORTANCE = 18


def seed_sequence(seed: int, purpose: Purpose, *key: int) -> np.random.SeedSequence:
    """The root of one stream; `key` is usually (round,) or (round, client), non-negative integers."""
    words = [seed, int(purpose), *key]
    # NumPy makes such an array of a list of small numbers itself, in twice the time of all the rest.
    return np.random.SeedSequence(np.array(words, np.uint32) if max(words) < 2**32 else words)


def numpy_rng(seed: int, purpose: Purpose, *key: int) -> np.random.Generator:
    """A NumPy generator for one stream."""
    return np.random.Generator(np.random.PCG64(seed_sequence(seed, purpose, *key)))


def torch_seed(seed: int, purpose: Purpose, *key: int) -> int:
    """A 63-bit seed for `torch.manual_seed` or `torch.Generator.manual_seed`."""
    return int(seed_sequence(seed, purpose, *key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def torch_generator(seed: int, purpose: Purpose, *key: int) -> torch.Generator:
    """A CPU generator for one stream. Draw on the CPU and move: the numbers are then the same on every device."""
    return torch.Generator().manual_seed(torch_seed(seed, purpose, *key))


@contextmanager
def global_torch_seed(seed: int, purpose: Purpose, *key: int) -> Iterator[None]:
    """Seeds torch's global generators for code that takes no generator (dropout, initialisation), and restores them after.

    Not by `torch.manual_seed`: where there is no GPU, that formats a stack trace for each kind of device there could be.
    """
    generators = [torch.default_generator, *(torch.cuda.default_generators if torch.cuda.is_initialized() else ())]
    before = [generator.get_state() for generator in generators]
    number = torch_seed(seed, purpose, *key)
    for generator in generators:
        generator.manual_seed(number)
    try:
        yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)
