"""FedDiffuse: the parts, the tasks, and the traffic that was published."""

from dataclasses import replace

import numpy as np
import pytest
from federations import federate, shapes, tiny
from hypothesis import given
from hypothesis import strategies as st

from fedphd_ray.config import Config
from fedphd_ray.diffusion.unet import UNetConfig, UNetSpec, build_unet
from fedphd_ray.errors import ConfigError
from fedphd_ray.foresight.replay import Replay
from fedphd_ray.strategies import FedDiffuse
from fedphd_ray.strategies.feddiffuse import BOTTLENECK, DECODER, ENCODER
from fedphd_ray.tensors import Layout, as_tensor

MODES = ("full", "usplit", "ulatdec", "udec")
CIFAR = UNetSpec(
    UNetConfig(
        widths=(128, 256, 256, 256),
        layers_per_block=2,
        groups=32,
        attention=(False, True, False, False),
        dropout=0.1,
    ),
    image_size=32,
    channels=3,
)
SMALL = Layout(("conv_in.weight", "mid_block.weight", "up_blocks.weight"), ((1_280_326,), (1_000_769,), (715_220,)))
"""The parts of the paper's own network for 28x28 images: 42.7, 33.4 and 23.9 % of 2,996,315 parameters."""


def layout_of(spec: UNetSpec) -> Layout:
    return Layout.of(dict(build_unet(spec, device="meta").named_parameters()))


def config(mode: str, **changes: object) -> Config:
    """Flat, everybody in every round, one network throughout."""
    sections = {
        "strategy": {"name": "feddiffuse", "mode": mode},
        "hierarchy": {"num_edges": 0, "cloud_period": 1},
        "schedule": {"rounds": 3, "clients_per_round": 6},
        "pruning": {"mode": "none"},
    }
    return tiny(**{**sections, **changes})


def moved(mode: str, layout: Layout, rounds: int) -> int:
    """Bytes of a run of a network of this layout."""
    experiment = config(mode, schedule={"rounds": rounds, "clients_per_round": 6}).build()
    return sum(Replay(experiment, [layout], 0).replay()[0].values())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", [layout_of(CIFAR), SMALL], ids=["cifar", "small"])
def test_parts_cover_every_parameter_once(mode: str, layout: Layout) -> None:
    covered = np.zeros(layout.num_params, dtype=np.int64)
    for part in FedDiffuse(mode=mode).parts(layout):
        for piece in part.slices:
            covered[piece] += 1
    assert (covered == 1).all()


@given(cohort=st.lists(st.integers(0, 100), min_size=1, max_size=21, unique=True), seed=st.integers(0, 2**32 - 1))
def test_a_pair_reports_every_part_exactly_once(cohort: list[int], seed: int) -> None:
    tasks = FedDiffuse(mode="usplit").reported_parts(sorted(cohort), np.random.default_rng(seed))
    if len(cohort) == 1:
        assert tasks == {}
        return
    assert set(tasks) == set(cohort)
    reported = [name for names in tasks.values() for name in names]
    pairs = len(cohort) // 2
    assert reported.count(BOTTLENECK) == pairs + len(cohort) % 2
    assert reported.count(ENCODER) + reported.count(DECODER) == len(cohort)
    assert min(reported.count(ENCODER), reported.count(DECODER)) == pairs


@pytest.mark.parametrize(("mode", "saving"), [("full", 0.0), ("usplit", 0.25), ("ulatdec", 0.413), ("udec", 0.736)])
def test_published_savings_of_the_small_network(mode: str, saving: float) -> None:
    """15 rounds with all clients (the paper's setting): 25.0, 41.3 and 73.6 %."""
    assert 1 - moved(mode, SMALL, 15) / moved("full", SMALL, 15) == pytest.approx(saving, abs=5e-4)


@pytest.mark.parametrize(("mode", "saving"), [("usplit", 0.25), ("ulatdec", 0.294), ("udec", 0.375)])
def test_savings_on_the_cifar_network(mode: str, saving: float) -> None:
    """Per round, once every client has had its first download."""
    layout = layout_of(CIFAR)
    assert layout.num_params == 35_746_307
    later, full = (moved(name, layout, 3) - moved(name, layout, 2) for name in (mode, "full"))
    assert 1 - later / full == pytest.approx(saving, abs=5e-4)


@pytest.mark.parametrize("mode", MODES)
def test_ledger_is_the_closed_form(mode: str) -> None:
    chosen = config(mode)
    outcome = federate(chosen)
    layout = outcome.state.model.layout
    sizes = {part.name: part.num_params for part in FedDiffuse(mode="udec").parts(layout)}
    total, clients, rounds = layout.num_params, 6, 3
    down = {"ulatdec": sizes[BOTTLENECK] + sizes[DECODER], "udec": sizes[DECODER]}.get(mode, total)
    up = 2 * down if mode != "usplit" else total  # of a pair of clients
    expected = 4 * (clients * total + (rounds - 1) * clients * down + rounds * clients // 2 * up)
    assert sum(row.num_bytes for row in outcome.transfers) == expected


@pytest.mark.parametrize("mode", ["ulatdec", "udec"])
def test_private_parts_differ_and_shared_ones_do_not_travel_stale(mode: str) -> None:
    outcome = federate(config(mode))
    parts = FedDiffuse(mode=mode).parts(outcome.state.model.layout)
    fresh = federate(config(mode, schedule={"rounds": 1, "clients_per_round": 6}))
    kept = [as_tensor(state.vectors["private"]) for state in outcome.state.client_states.values()]
    for part in parts:
        for piece in part.slices:
            if part.private:
                assert not (kept[0][piece] == kept[1][piece]).all(), "clients train their own"
                assert (outcome.state.model.vector[piece] == fresh.state.model.vector[piece]).all(), "the cloud never saw it"
            else:
                assert not kept[0][piece].any(), "nothing is remembered that travels"
                assert not (outcome.state.model.vector[piece] == fresh.state.model.vector[piece]).all()


def test_a_single_client_splits_nothing() -> None:
    """One client of `usplit` reports everything: the bits of `full`."""
    one = {"data": shapes(1, {"name": "iid"}), "schedule": {"clients_per_round": 1}}
    split, full = (federate(config(mode, **one)) for mode in ("usplit", "full"))
    assert split.sha256 == full.sha256


def test_pruning_of_a_model_nobody_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="at_init"):
        config("udec", pruning={"mode": "prune", "round": 2, "ratio": 0.25})
    experiment = config("udec", pruning={"mode": "at_init", "ratio": 0.5}, schedule={"rounds": 1}).build()
    assert replace(experiment, name="x").pruning.mode == "at_init"
