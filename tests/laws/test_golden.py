"""A change of bits, or of bytes, is a decision: it says why, and records the digests anew (`python tests/golden.py --write`)."""

import platform

import pytest
from federations import METHODS
from golden import MORE, computed, recorded


@pytest.mark.skipif(platform.machine() != "x86_64", reason="recorded with the kernels of x86-64 processors")
def test_digests_are_the_recorded_ones() -> None:
    found, expected = computed(), recorded()
    assert set(expected) == set(METHODS) | set(MORE)
    changed = {name: (expected[name], found[name]) for name in expected if found[name] != expected[name]}
    assert not changed
