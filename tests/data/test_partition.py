"""Every image belongs to exactly one client, nobody is left with nothing, and the paper's pairs come out."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import TypeAdapter, ValidationError

from fedphd_ray.data.partition import (
    Classes,
    Dirichlet,
    Iid,
    Natural,
    Partition,
    PartitionRule,
    Quantity,
    TwoLevel,
    counts_by_client,
    label_counts,
)
from fedphd_ray.errors import DataError
from fedphd_ray.population import ClientRows

PARTITIONS = [
    Iid(),
    Classes(classes_per_client=1),
    Classes(classes_per_client=3),
    Dirichlet(alpha=0.05),
    Dirichlet(alpha=1.0, min_images=3),
    Quantity(alpha=0.1),
    Quantity(alpha=2.0, min_images=2),
    Classes(classes_per_client=2, by_size=True),
    TwoLevel(groups=3),
    TwoLevel(groups=2, across=Classes(classes_per_client=5), within=Classes(classes_per_client=1)),
]
label_vectors = st.integers(1, 300).flatmap(lambda size: hnp.arrays(np.int64, size, elements=st.integers(0, 9)))


@pytest.mark.parametrize("partition", PARTITIONS, ids=repr)
@given(label_vectors, st.integers(1, 40), st.integers(0, 2**32))
def test_every_image_is_used_exactly_once(partition: Iid, labels: np.ndarray, num_clients: int, seed: int) -> None:
    minimum = getattr(partition, "min_images", 1)
    try:
        clients = partition.split(labels, 10, num_clients, np.random.default_rng(seed))
    except DataError:  # refused in words, the other way not to leave a client with nothing; only where there is no way
        if not (isinstance(partition, Classes | TwoLevel) or len(labels) < num_clients * minimum):
            raise
        return
    assert len(clients) == num_clients
    assert np.array_equal(np.sort(np.concatenate(clients)), np.arange(len(labels)))
    assert min(len(own) for own in clients) >= minimum
    assert all(np.array_equal(own, np.sort(own)) and own.dtype == np.int64 for own in clients)
    again = partition.split(labels, 10, num_clients, np.random.default_rng(seed))
    assert all(np.array_equal(a, b) for a, b in zip(clients, again, strict=True))


@pytest.mark.parametrize("partition", [Iid(), Dirichlet(alpha=0.05), Quantity(alpha=0.1)], ids=repr)
def test_enough_images_are_always_divided(partition: Iid) -> None:
    labels = np.arange(40) % 10
    for num_clients in (1, 39, 40):
        clients = partition.split(labels, 10, num_clients, np.random.default_rng(1))
        assert min(len(own) for own in clients) >= 1
    with pytest.raises(DataError, match=r"data\.num_clients"):
        partition.split(labels, 10, 41, np.random.default_rng(1))


def cifar_labels() -> np.ndarray:
    return np.random.default_rng(0).permutation(np.repeat(np.arange(10), 5000))


def test_the_papers_pairs() -> None:
    """20 clients of two classes: 4g to 4g+3 own g and g+5, 1,250 images of each."""
    labels = cifar_labels()
    clients = Classes(classes_per_client=2).split(labels, 10, 20, np.random.default_rng(2))
    for client, own in enumerate(clients):
        counts = label_counts(labels, own, 10)
        expected = np.zeros(10, dtype=np.int64)
        expected[[client // 4, client // 4 + 5]] = 1250
        assert np.array_equal(counts, expected)


@pytest.mark.parametrize(("num_clients", "images"), [(50, 1000), (100, 500)])
def test_the_papers_sizes(num_clients: int, images: int) -> None:
    clients = Classes(classes_per_client=2).split(cifar_labels(), 10, num_clients, np.random.default_rng(2))
    assert {len(own) for own in clients} == {images}


def test_every_client_has_its_number_of_classes() -> None:
    labels = cifar_labels()
    for classes in (1, 2, 3, 7, 10):
        clients = Classes(classes_per_client=classes).split(labels, 10, 30, np.random.default_rng(2))
        assert {int((label_counts(labels, own, 10) > 0).sum()) for own in clients} == {classes}


def test_images_that_would_belong_to_nobody_are_refused() -> None:
    with pytest.raises(DataError, match="has an owner"):
        Classes(classes_per_client=2).split(cifar_labels(), 10, 4, np.random.default_rng(2))
    with pytest.raises(DataError, match="at most the 10 classes"):
        Classes(classes_per_client=11).split(cifar_labels(), 10, 4, np.random.default_rng(2))


def test_a_class_without_images_leaves_nobody_empty_in_silence() -> None:
    labels = np.repeat(np.arange(9), 20)  # nothing of class 9, which client 9 alone would own
    with pytest.raises(DataError, match=r"10 clients, of whom 9 would have none"):
        Classes(classes_per_client=1).split(labels, 10, 10, np.random.default_rng(2))


@given(st.integers(2, 30), st.integers(2, 9), st.integers(0, 2**32))
def test_as_few_images_move_as_the_minimum_needs(num_clients: int, minimum: int, seed: int) -> None:
    """Against the division that no minimum has changed: the poor keep all they had and get what is missing, the richest give."""
    labels = np.zeros(num_clients * 20, dtype=np.int64)
    before = Quantity(alpha=1.0).split(labels, 1, num_clients, np.random.default_rng(seed))
    assume(min(len(own) for own in before) > 1)  # then the minimum of 1 has moved nothing
    after = Quantity(alpha=1.0, min_images=minimum).split(labels, 1, num_clients, np.random.default_rng(seed))
    givers = []
    for old, new in zip(before, after, strict=True):
        if len(old) < minimum:
            assert set(new) >= set(old)
            assert len(new) == minimum
        elif len(new) < len(old):
            assert set(new) < set(old)
            givers.append(len(new))
        else:
            assert np.array_equal(old, new)
    if givers:
        assert max(len(own) for own in after) <= min(givers) + 1


def test_partitions_are_chosen_by_name_and_checked() -> None:
    adapter: TypeAdapter[object] = TypeAdapter(Partition)
    assert adapter.validate_python({"name": "dirichlet", "alpha": 0.3}) == Dirichlet(alpha=0.3)
    assert adapter.validate_python({"name": "iid"}) == Iid()
    for wrong in (
        {"name": "even"},
        {"name": "iid", "alpha": 1},
        {"name": "quantity", "alpha": 0},
        {"name": "classes", "classes_per_client": 0},
    ):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)
    with pytest.raises(ValidationError):
        Dirichlet(alpha=float("inf"))


def test_the_ends_of_alpha() -> None:
    """At one end nearly every class has one owner, but for what fills the others up; at the other all have the same."""
    labels = cifar_labels()
    skewed, even = (
        np.array(
            [label_counts(labels, own, 10) for own in Dirichlet(alpha=alpha).split(labels, 10, 20, np.random.default_rng(3))]
        )
        for alpha in (1e-3, 1e6)
    )
    assert (skewed.max(0) > 4900).sum() >= 7
    assert np.abs(even - 250).max() <= 5


def test_alpha_rules_the_skew() -> None:
    labels = cifar_labels()

    def skew(alpha: float) -> float:
        clients = Dirichlet(alpha=alpha).split(labels, 10, 20, np.random.default_rng(3))
        shares = np.array([label_counts(labels, own, 10) / len(own) for own in clients])
        return float(np.linalg.norm(shares - 0.1, axis=1).mean())

    assert skew(0.05) > skew(0.5) > skew(5) > skew(500)
    assert skew(500) < 0.03

    def spread(alpha: float) -> float:
        return float(np.std([len(own) for own in Quantity(alpha=alpha).split(labels, 10, 20, np.random.default_rng(3))]))

    assert spread(0.1) > spread(1) > spread(100)


def test_two_arrays_hold_what_many_held() -> None:
    labels = np.arange(50) % 10
    clients = Dirichlet(alpha=0.3).split(labels, 10, 7, np.random.default_rng(3))
    rows = ClientRows.of(clients)
    assert len(rows) == 7
    assert rows.sizes.tolist() == [len(own) for own in clients]
    for client, own in enumerate(clients):
        assert np.array_equal(rows[client], own)
    assert np.array_equal(counts_by_client(labels, rows, 10), np.stack([label_counts(labels, own, 10) for own in clients]))


def test_larger_classes_get_more_clients() -> None:
    """The authors' CelebA: one class a client, 2, 8, 4 and 6 of 20 clients for its four classes."""
    counts = [14_878, 103_287, 30_986, 53_448]
    labels = np.repeat(np.arange(4), counts)
    clients = Classes(classes_per_client=1, by_size=True).split(labels, 4, 20, np.random.default_rng(0))
    assert np.bincount([labels[own[0]] for own in clients]).tolist() == [2, 8, 4, 6]
    assert all(len(np.unique(labels[own])) == 1 for own in clients)
    assert [min(map(len, clients)), max(map(len, clients))] == [7439, 12_911]


def test_two_levels_divide_twice() -> None:
    """Two groups of five classes each; within a group everybody has the same mixture."""
    labels = np.arange(4000) % 10
    rule = TwoLevel(groups=2, across=Classes(classes_per_client=5), within=Iid())
    clients = rule.split(labels, 10, 7, np.random.default_rng(0))
    present = [set(labels[own].tolist()) for own in clients]
    assert present[0] == present[1] == present[2] == present[3]
    assert present[4] == present[5] == present[6]
    assert (len(present[0]), len(present[4]), present[0] & present[4]) == (5, 5, set())
    with pytest.raises(DataError, match=r"data\.partition\.groups"):
        TwoLevel(groups=8).split(labels, 10, 7, np.random.default_rng(0))


def test_natural_clients_are_those_of_the_data() -> None:
    labels, owners = np.zeros(6, np.int64), np.array([4, 2, 4, 9, 2, 4])
    clients = Natural().split(labels, 1, 3, np.random.default_rng(0), owners)
    assert [own.tolist() for own in clients] == [[1, 4], [0, 2, 5], [3]]
    with pytest.raises(DataError, match=r"set data\.num_clients: 3"):
        Natural().split(labels, 1, 20, np.random.default_rng(0), owners)
    with pytest.raises(DataError, match=r"data\.client_column"):
        Natural().split(labels, 1, 3, np.random.default_rng(0))


class Own(PartitionRule):
    """Whatever a test says."""

    parts: tuple[tuple[float, ...], ...]

    def split(
        self, labels: np.ndarray, num_classes: int, num_clients: int, rng: np.random.Generator, owners: np.ndarray | None = None
    ) -> list[np.ndarray]:
        return [np.array([int(row) if row == int(row) else row for row in part]) for part in self.parts]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (((0, 1), (2, 3), (4, 0)), "belong to nobody, to several"),
        (((0, 1), (2, 3), (4,)), "belong to nobody, to several"),
        (((0, 1), (2, 3), (4, 6)), "do not exist"),
        (((0, 1), (2, 3), (-1, 4)), "do not exist"),
        (((0, 1, 2), (3, 4, 5), ()), "nothing for client 2"),
        (((0, 1, 2), (3, 4, 5)), "2 parts"),
        (((0, 1), (2, 3), (4.5, 5)), "no lists of whole numbers"),
    ],
)
def test_a_rule_of_ones_own_must_divide(parts: tuple[tuple[float, ...], ...], words: str) -> None:
    with pytest.raises(DataError, match="6 images, each with one of 3 clients") as refusal:
        Own(parts=parts).divide(np.zeros(6, np.int64), 1, 3, np.random.default_rng(0))
    assert words in str(refusal.value)


def test_a_rule_of_ones_own_may_name_rows_in_any_order() -> None:
    rows = Own(parts=((3, 0), (5, 2, 1), (4,))).divide(np.zeros(6, np.int64), 1, 3, np.random.default_rng(0))
    assert [rows[client].tolist() for client in range(3)] == [[0, 3], [1, 2, 5], [4]]
    assert rows.rows.dtype == np.int64
    within = TwoLevel(groups=1, within=Own(parts=((0, 1), (2, 3)))).divide(np.zeros(4, np.int64), 1, 2, np.random.default_rng(0))
    assert within.sizes.tolist() == [2, 2]
