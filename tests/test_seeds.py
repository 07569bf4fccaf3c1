"""Keys of random numbers: NumPy's own entropy for the same numbers, however large they are."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedphd_ray.seeds import Purpose, seed_sequence

numbers = st.integers(0, 2**32 - 1) | st.integers(0, 2**70)


@given(numbers, st.sampled_from(Purpose), st.lists(numbers, max_size=3))
def test_a_key_is_what_numpy_makes_of_its_numbers(seed: int, purpose: Purpose, key: list[int]) -> None:
    ours = seed_sequence(seed, purpose, *key).generate_state(4, np.uint64)
    assert ours.tolist() == np.random.SeedSequence([seed, int(purpose), *key]).generate_state(4, np.uint64).tolist()
