"""The fold and the two averages built on it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedphd_ray.federation.sums.aggregation import VectorSum, apply_update, fold, weighted_models
from fedphd_ray.federation.update import Update
from fedphd_ray.strategies.parts import Part
from fedphd_ray.tensors import CHUNK

ALL = (Part("model", (slice(0, 301),)),)


def vectors(num: int, size: int = 301) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(size, generator=generator) for _ in range(num)]


def test_fold_of_nothing_is_nothing() -> None:
    assert fold([]) is None


def test_fold_leaves_its_terms_alone() -> None:
    terms = vectors(3)
    copies = [term.clone() for term in terms]
    fold(terms)
    assert all(torch.equal(term, copy) for term, copy in zip(terms, copies, strict=True))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_a_fold_of_single_terms_has_the_bits_of_the_fold_of_all(sizes: list[int]) -> None:
    """A block summed on one host, or client by client at the edge, is the same sum: what placement relies on."""
    terms = iter(vectors(sum(sizes)))
    blocks = [[next(terms) for _ in range(size)] for size in sizes]
    on_hosts = fold(total for total in (fold(block) for block in blocks) if total is not None)
    at_edge = fold(fold(fold([term]) for term in block) for block in blocks)
    assert on_hosts is not None
    assert at_edge is not None
    assert torch.equal(on_hosts, at_edge)


@given(st.integers(1, 2 * CHUNK + 3), st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=3))
def test_adding_weighted_updates_has_the_bits_of_folding_their_products(size: int, weights: list[float]) -> None:
    """Whatever the number of pieces it is done in: products are rounded before they are added."""
    initial, *trained = vectors(len(weights) + 1, size)
    one_by_one, at_once = VectorSum(), VectorSum()
    terms = [(Update.whole(vector, initial), weight) for vector, weight in zip(trained, weights, strict=True)]
    for term in terms:
        one_by_one.add_weighted([term])
    at_once.add_weighted(terms)
    products = [(vector - initial) * weight for vector, weight in zip(trained, weights, strict=True)]
    expected = products[0].clone()
    for product in products[1:]:
        expected += product
    assert torch.equal(one_by_one.total, expected)
    assert torch.equal(at_once.total, expected)
    assert torch.equal(fold(products), expected)


def test_parts_of_updates_are_added_where_they_are() -> None:
    initial, first, second = torch.zeros(5), torch.ones(5), torch.full((5,), 2.0)
    head, tail = Part("head", (slice(0, 2),)), Part("tail", (slice(3, 5),))
    update = Update.whole(first, initial).only([head])
    assert update.vector.tolist() == [1, 1, 0, 0, 0]
    total = VectorSum()
    total.add_weighted([(update, 10.0)])
    total.add_weighted([(Update.whole(second, initial).only([head, tail]), 100.0)])
    assert total.total.tolist() == [210, 210, 0, 200, 200]
    assert Update.whole(first, initial).is_whole
    assert not update.is_whole
    rest = Part("rest", (slice(2, 3),))
    assert Update.whole(first, initial).only([head, rest, tail]).is_whole


def test_differences_that_were_taken_already_are_weighted_too() -> None:
    first, second = vectors(2)
    total = VectorSum()
    total.add_weighted([(Update(first, None, (slice(0, 301),)), 3.0), (Update(second, None, (slice(0, 301),)), None)])
    assert torch.equal(total.total, first * 3.0 + second)


def test_what_was_borrowed_is_not_written_into() -> None:
    total, first = VectorSum(), torch.ones(5)
    total.add(first)
    assert total.total is first
    with pytest.raises(AssertionError, match="borrowed"):
        total.add_weighted([(Update.whole(first, first), 1.0)])
    total.add(first)
    total.add(first)
    assert total.total.tolist() == [3.0] * 5
    assert first.tolist() == [1.0] * 5


def test_weighted_mean_of_updates_is_fedavg() -> None:
    base, (first, second) = vectors(1)[0], vectors(2)
    total = fold([30.0 * (first - base), 10.0 * (second - base)])
    assert total is not None
    expected = (30 * first.double() + 10 * second.double()) / 40
    assert torch.allclose(apply_update(base, total, ALL, [40.0]), expected.float(), atol=1e-6)


def test_updates_of_zero_change_no_bit() -> None:
    base = vectors(1)[0]
    total = fold([7.0 * torch.zeros_like(base), 3.0 * torch.zeros_like(base)])
    assert total is not None
    assert torch.equal(apply_update(base, total, ALL, [10.0]), base)
    assert torch.equal(weighted_models(base, [base.clone(), base.clone()], ALL, [[0.3, 0.7]]), base)


def test_weighted_models_is_their_weighted_sum() -> None:
    base, *models = vectors(4)
    expected = 0.2 * models[0] + 0.5 * models[1] + 0.3 * models[2]
    assert torch.allclose(weighted_models(base, models, ALL, [[0.2, 0.5, 0.3]]), expected, atol=1e-6)


def test_one_edge_at_the_cloud_is_that_edge_to_rounding() -> None:
    base, model = vectors(2)
    assert torch.allclose(weighted_models(base, [model], ALL, [[1.0]]), model, atol=1e-6)


def test_parts_are_averaged_over_those_who_report_them() -> None:
    base, total = torch.ones(5), torch.full((5,), 6.0)
    parts = (Part("first", (slice(0, 1), slice(3, 5))), Part("second", (slice(1, 2),)), Part("nobody's", (slice(2, 3),)))
    assert apply_update(base, total.clone(), parts, [2.0, 3.0, 0.0]).tolist() == [4.0, 3.0, 1.0, 4.0, 4.0]
    assert apply_update(base, total.clone(), parts, [2.0, 3.0, 0.0], scale=0.5).tolist() == [2.5, 2.0, 1.0, 2.5, 2.5]
    assert base.tolist() == [1.0] * 5
