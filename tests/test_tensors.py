"""The flat vector: where each parameter lies in it, and that nothing is lost on the way in or out."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import composite

from fedphd_ray.tensors import Layout, digest


@composite
def states(draw):
    """Parameters with 0 to 4 dimensions, one of them at least of length 1 now and then."""
    shapes = draw(st.lists(st.lists(st.integers(1, 4), max_size=4), min_size=1, max_size=5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    return {f"p{i}": torch.randn(shape, generator=generator) for i, shape in enumerate(shapes)}


@given(states())
def test_a_state_comes_out_as_it_went_in(state):
    layout = Layout.of(state)
    vector = layout.flatten(state)
    views = layout.views(vector)
    assert vector.shape == (layout.num_params,)
    assert digest(views) == digest(state)
    assert torch.equal(layout.flatten(views), vector)
    assert all(torch.equal(views[name], state[name]) for name in state)


@given(states())
def test_views_are_the_vectors_own_memory(state):
    layout = Layout.of(state)
    vector = torch.zeros(layout.num_params)
    for name, view in layout.views(vector).items():
        view.copy_(state[name])
    assert torch.equal(vector, layout.flatten(state))


def test_convolutions_lie_channels_last():
    """Out, height, width, in: what torch calls channels last, so that a convolution takes the view without a copy."""
    weight = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    layout = Layout.of({"conv": weight, "linear": torch.arange(6.0).view(2, 3)})
    vector = layout.flatten({"conv": weight, "linear": torch.arange(6.0).view(2, 3)})
    assert vector[:3].tolist() == weight[0, :, 0, 0].tolist()
    assert vector[-6:].tolist() == [0, 1, 2, 3, 4, 5]
    view = layout.views(vector)["conv"]
    assert view.is_contiguous(memory_format=torch.channels_last)
