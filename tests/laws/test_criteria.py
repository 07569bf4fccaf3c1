"""Whichever channels go, the run is the same everywhere, and only the choice differs."""

import pytest
from federations import federate, tiny

from fedphd_ray.runtime.on_ray.backend import RayBackend
from fedphd_ray.runtime.policy.placement import Placement

CRITERIA = ("group_l2", "group_l1", "random")


def pruned_by(criterion: str):
    return tiny(pruning={"mode": "prune", "round": 2, "ratio": 0.5, "criterion": criterion})


def test_criteria_keep_other_channels_of_the_same_number() -> None:
    outcomes = [federate(pruned_by(criterion)) for criterion in CRITERIA]
    assert len({outcome.sha256 for outcome in outcomes}) == 3
    assert len({outcome.state.model.layout for outcome in outcomes}) == 1
    assert len({outcome.state.plan.to_json() for outcome in outcomes}) == 3


@pytest.mark.ray
@pytest.mark.parametrize("criterion", CRITERIA[1:])
def test_they_have_the_same_bits_on_ray(criterion: str, actor_pool) -> None:
    chosen = pruned_by(criterion)
    backend = RayBackend(chosen.build().host_setup(), Placement(2, False, ""), chosen.runtime, actor_pool)
    assert federate(chosen, backend).sha256 == federate(chosen).sha256
