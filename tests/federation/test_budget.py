"""The ratio that keeps to a budget: the smallest one, or a word of what there can be."""

import re
from pathlib import Path

import pytest
from federations import federate, sums_by_hop, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from fedphd_ray.config import load_config
from fedphd_ray.diffusion.unet import UNetConfig, UNetSpec
from fedphd_ray.errors import ConfigError, PruningError
from fedphd_ray.federation.budget import _Left, within_budget
from fedphd_ray.foresight.forecast import forecast
from fedphd_ray.pruning.policy import Budget, PruningConfig

EXAMPLES = Path(__file__).parents[2] / "examples"
SPEC = UNetSpec.of(UNetConfig(widths=(32, 48), groups=4, attention=(False, True)), 8, 1, 10)


def pruning(budget: Budget, **keys: object) -> PruningConfig:
    return PruningConfig(**({"mode": "prune", "round": 2, "budget": budget} | keys))  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None)
@given(st.floats(0.2, 0.95), st.sampled_from([(2,), (2, 4)]))
def test_the_ratio_is_the_smallest_that_keeps_to_it(share: float, rounds: tuple[int, ...]) -> None:
    asked = pruning(Budget(params=share), round=None, rounds=rounds)
    found = within_budget(SPEC, asked)
    left, steps = _Left(SPEC, asked), round(10_000 * found.ratio)
    assert found.ratios == (found.ratio,) * len(rounds)
    assert left.share_of_params(steps) <= share < left.share_of_params(steps - 1)


def test_macs_and_both() -> None:
    """The stricter one decides."""
    params, macs = within_budget(SPEC, pruning(Budget(params=0.6))), within_budget(SPEC, pruning(Budget(macs=0.4)))
    assert 0 < params.ratio < macs.ratio
    assert within_budget(SPEC, pruning(Budget(params=0.6, macs=0.4))).ratio == macs.ratio
    assert _Left(SPEC, macs).share_of_macs(round(10_000 * macs.ratio)) <= 0.4


def test_the_papers_network_at_the_papers_size() -> None:
    """35,746,307 parameters to 20,131,203 are 56.3 %, by a quarter of the channels."""
    spec = UNetSpec.of(load_config(EXAMPLES / "paper_cifar10.yaml").model, 32, 3, 10)
    asked = pruning(Budget(params=20_131_203 / 35_746_307))
    found = within_budget(spec, asked)
    assert 0 < found.ratio <= 0.25
    assert _Left(spec, asked).share_of_params(round(10_000 * found.ratio)) == pytest.approx(20_131_203 / 35_746_307)


def test_what_cannot_be_is_refused_with_what_can() -> None:
    with pytest.raises(ConfigError, match="of the parameters and") as caught:
        within_budget(SPEC, pruning(Budget(params=0.001)))
    found = re.search(r"by (0\.\d+)", str(caught.value))
    assert found is not None
    left, largest = _Left(SPEC, pruning(Budget(params=0.001))), round(10_000 * float(found[1]))
    assert left.can_be(largest)
    assert not left.can_be(largest + 1)
    with pytest.raises(PruningError):
        left.share_of_params(largest + 1)


def test_a_run_keeps_to_it() -> None:
    config = tiny(pruning={"mode": "prune", "round": 2, "budget": {"params": 0.5}}, model={"widths": [32, 48], "groups": 4})
    outcome, cost = federate(config), forecast(config.build())
    assert outcome.state.model.layout.num_params == cost.pruned.params <= 0.5 * cost.dense.params
    assert sums_by_hop(outcome) == cost.bytes_by_hop


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"budget": {}}, "params, macs, or both"),
        ({"budget": {"params": 0.5}, "again": [{"round": 3, "ratio": 0.3}]}, "whose ratio follows from it"),
        ({"rounds": [2, 3]}, "either all rounds, or the first one and more"),
        ({"mode": "none", "round": None, "rounds": [2]}, "where pruning.mode is none"),
        ({"round": None, "rounds": [3, 2]}, "rounds that follow the one before"),
        ({"round": None, "rounds": [2, 4]}, r"come before the last one \(schedule.rounds = 4\)"),
        ({"mode": "at_init", "round": None, "rounds": [2]}, "none where pruning.mode is at_init"),
    ],
)
def test_what_contradicts_itself_is_refused(keys: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny(pruning=keys)
