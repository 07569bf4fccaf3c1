"""Importance against torch-pruning's own; the penalty's gradient against autograd."""

import pytest
import torch
import torch_pruning
from hypothesis import given, settings
from hypothesis import strategies as st

from fedphd_ray.diffusion.unet import build_unet, initial_state
from fedphd_ray.pruning.criteria import DiffPruning, Random, Taylor, gradient_scores
from fedphd_ray.pruning.groups import ChannelGroup, Member
from fedphd_ray.pruning.importance import (
    SparsityPenalty,
    group_l1_importance,
    group_l2_importance,
    importance_from,
)


@pytest.mark.parametrize(("p", "importance"), [(2, group_l2_importance), (1, group_l1_importance)])
def test_importance_is_that_of_torch_pruning(p, importance, specs, groups_of):
    """Same graph, `GroupMagnitudeImportance(p)` with its defaults, on every group."""
    spec = specs["digits"]
    state = initial_state(spec, 3)
    model = build_unet(spec)
    model.load_state_dict(state)
    graph = torch_pruning.DependencyGraph().build_dependency(model, (torch.zeros(1, 1, 8, 8), torch.ones(1, dtype=torch.int64)))
    score = torch_pruning.importance.GroupMagnitudeImportance(p=p)
    for group in groups_of["digits"]:
        layer = model.get_submodule(group.name)
        prune = graph.get_pruner_of_module(layer).prune_out_channels
        theirs = score(graph.get_pruning_group(layer, prune, list(range(group.num_channels))))
        ours = importance(group, state)
        assert ours.shape == (group.num_channels,)
        torch.testing.assert_close(ours, theirs.double(), rtol=1e-5, atol=0)


def test_taylor_is_that_of_torch_pruning(specs, groups_of):
    """Same graph, `GroupTaylorImportance` with its defaults, on every group; ours are not divided by their mean."""
    spec = specs["digits"]
    state, gradient = initial_state(spec, 3), initial_state(spec, 4)
    model = build_unet(spec)
    model.load_state_dict(state)
    for name, parameter in model.named_parameters():
        parameter.grad = gradient[name]
    graph = torch_pruning.DependencyGraph().build_dependency(model, (torch.zeros(1, 1, 8, 8), torch.ones(1, dtype=torch.int64)))
    score, groups = torch_pruning.importance.GroupTaylorImportance(), groups_of["digits"]
    ours = gradient_scores(Taylor(), groups, state, gradient).split([group.num_channels for group in groups])
    for group, own in zip(groups, ours, strict=True):
        layer = model.get_submodule(group.name)
        prune = graph.get_pruner_of_module(layer).prune_out_channels
        theirs = score(graph.get_pruning_group(layer, prune, list(range(group.num_channels))))
        torch.testing.assert_close(own / own.mean(), theirs, rtol=1e-4, atol=0)


def test_scores_by_gradients_by_hand():
    """Products: outputs (3, -8), (2, 0); inputs (2, -4), (0, 1); a norm -5 and 6; a bias, which does not count."""
    members = [("a.weight", 0, 0), ("a.bias", 0, 0), ("norm.weight", 0, 0), ("b.weight", 1, 1)]
    group = ChannelGroup("a", 2, 2, tuple(Member(*member) for member in members))
    state = {
        "a.weight": torch.tensor([[3.0, 4.0], [1.0, 0.0]]),
        "a.bias": torch.tensor([50.0, 60.0]),
        "norm.weight": torch.tensor([5.0, 6.0]),
        "b.weight": torch.tensor([[7.0, 2.0, 0.0], [7.0, 4.0, 1.0]]),
    }
    gradient = {
        "a.weight": torch.tensor([[1.0, -2.0], [2.0, 9.0]]),
        "a.bias": torch.tensor([9.0, 9.0]),
        "norm.weight": torch.tensor([-1.0, 1.0]),
        "b.weight": torch.tensor([[9.0, 1.0, 9.0], [9.0, -1.0, 1.0]]),
    }
    assert gradient_scores(Taylor(), [group], state, gradient).tolist() == [3 + 8 + 2 + 4, 2 + 0 + 0 + 1]
    assert gradient_scores(DiffPruning(), [group], state, gradient).tolist() == [9 + 64 + 5 + 4 + 16, 4 + 0 + 6 + 0 + 1]
    assert importance_from(torch.tensor([1.0, 2.0]), [group])(group, {}).tolist() == [1.0, 2.0]


def test_importance_by_hand():
    """Two outputs of one layer, inputs 1.. of another: squared norms (9+16, 1) and (4, 5), mean (14.5, 3), of mean 8.75."""
    group = ChannelGroup("a", 2, 2, (Member("a.weight", 0, 0), Member("a.bias", 0, 0), Member("b.weight", 1, 1)))
    b = torch.tensor([[7.0, 2.0, 1.0], [7.0, 0.0, 2.0]])
    state = {"a.weight": torch.tensor([[3.0, 4.0], [1.0, 0.0]]), "a.bias": torch.tensor([50.0, 60.0]), "b.weight": b}
    expected = torch.tensor([14.5 / 8.75, 3.0 / 8.75], dtype=torch.float64)
    torch.testing.assert_close(group_l2_importance(group, state), expected)


def test_random_importance_is_keyed():
    """By seed, architecture and group; weights play no part."""
    group, other = (ChannelGroup(name, 4, 4, (Member("a.weight", 0, 0),)) for name in "ab")
    keys = [(0, 1, group), (1, 1, group), (0, 2, group), (0, 1, other)]
    scores = [Random().importance(seed, version)(own, {"a.weight": torch.zeros(4, 1)}) for seed, version, own in keys]
    assert len({tuple(one.tolist()) for one in scores}) == 4
    assert torch.equal(scores[0], Random().importance(0, 1)(group, {}))


def test_importance_of_nothing_is_zero_not_nan():
    group = ChannelGroup("a", 3, 3, (Member("a.weight", 0, 0),))
    assert group_l2_importance(group, {"a.weight": torch.zeros(3, 2)}).tolist() == [0.0, 0.0, 0.0]


def test_both_forms_by_hand():
    """Rows (3, 4) and (0, 0), a norm weight of -2: channel form 5 + 0 + 2, layer form 5 + 2. Biases do not count."""
    state = {"a.weight": torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "norm.weight": torch.tensor([-2.0]), "a.bias": torch.ones(9)}
    assert float(SparsityPenalty("channel").value(state)) == 7.0
    assert float(SparsityPenalty("layer").value(state)) == 7.0
    state["a.weight"] = torch.tensor([[3.0, 4.0], [0.0, 12.0]])
    assert float(SparsityPenalty("channel").value(state)) == 19.0
    assert float(SparsityPenalty("layer").value(state)) == 15.0


@pytest.mark.parametrize("form", ["channel", "layer"])
@pytest.mark.parametrize("name", ["tiny", "digits"])
def test_the_gradient_is_that_of_the_penalty(form, name, specs):
    weights = {key: value.clone() for key, value in initial_state(specs[name], 5).items() if "weight" in key}
    leaves = {key: value.clone().requires_grad_() for key, value in weights.items()}
    (1e-2 * SparsityPenalty(form).value(leaves)).backward()
    grads = [torch.full_like(value, 0.5) for value in weights.values()]
    SparsityPenalty(form).add_gradient(list(weights.values()), grads, 1e-2)
    for grad, leaf in zip(grads, leaves.values(), strict=True):
        torch.testing.assert_close(grad, leaf.grad + 0.5)


@pytest.mark.parametrize("form", ["channel", "layer"])
def test_zero_weights_get_no_gradient(form):
    weights, grads = [torch.zeros(2, 3, 1, 1), torch.zeros(4)], [torch.ones(2, 3, 1, 1), torch.ones(4)]
    SparsityPenalty(form).add_gradient(weights, grads, 1.0)
    assert all(torch.equal(grad, torch.ones_like(grad)) for grad in grads)


@settings(max_examples=50, deadline=None)
@given(
    form=st.sampled_from(["channel", "layer"]),
    values=st.lists(st.floats(-(2.0**60), 2.0**60, width=32), min_size=6, max_size=6),
    strength=st.floats(1e-6, 1.0),
)
def test_the_gradient_of_a_norm_is_never_longer_than_its_strength(form, values, strength):
    weight, grad = torch.tensor(values).view(2, 3), torch.zeros(2, 3)
    SparsityPenalty(form).add_gradient([weight], [grad], strength)
    lengths = grad.flatten(1).norm(dim=1) if form == "channel" else grad.norm()
    assert bool((lengths <= strength * 1.001).all())
    assert bool((grad * weight >= 0).all())


def test_it_works_in_place_on_views_of_one_vector():
    flat, grad = torch.arange(1.0, 9.0), torch.zeros(8)
    weights, grads = [flat[:4].view(2, 2), flat[4:]], [grad[:4].view(2, 2), grad[4:]]
    SparsityPenalty("channel").add_gradient(weights, grads, 1.0)
    assert torch.equal(flat, torch.arange(1.0, 9.0))
    torch.testing.assert_close(grad, torch.tensor([5**-0.5, 2 * 5**-0.5, 0.6, 0.8, 1, 1, 1, 1]))
