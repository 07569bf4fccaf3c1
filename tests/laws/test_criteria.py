"""Whichever channels go, and by whose word, the run is the same everywhere, and only the choice differs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from federations import DEEP, FLAT, Outcome, federate, first_sendings, method, sums_by_hop, tiny

from fedphd_ray.config import Config
from fedphd_ray.diffusion.unet import build_unet
from fedphd_ray.errors import ConfigError
from fedphd_ray.federation.flat_model import FlatModel
from fedphd_ray.federation.prune import groups_at, groups_of, plan_pruning
from fedphd_ray.federation.training.batches import Examples
from fedphd_ray.foresight.forecast import forecast
from fedphd_ray.pruning.importance import importance_from
from fedphd_ray.runtime.on_ray.backend import RayBackend
from fedphd_ray.runtime.policy.placement import Placement
from fedphd_ray.tensors import as_tensor

OF_WEIGHTS = ("group_l2", "group_l1", "random")
OF_GRADIENTS = ("taylor", "diff_pruning")
SHORT = {"process": {"num_timesteps": 8}}  # `diff_pruning` may go through all of them
WIDE = {"widths": [32, 48], "groups": 4}
DENSE = {"pruning": {"mode": "none", "round": None}}


def pruned_by(criterion: str, **sections: object) -> Config:
    pruning = {"mode": "prune", "round": 2, "ratio": 0.5, "criterion": criterion, "scored_images": 6, "least_loss": 0.7}
    return tiny(pruning=pruning, **(SHORT | sections))


def asked(outcome: Outcome) -> list[tuple[int, str, int]]:
    """Round, hop and bytes of every message with scores."""
    return [(row.round, str(row.hop), row.num_bytes) for row in outcome.transfers if row.kind == "importance"]


def test_criteria_keep_other_channels_of_the_same_number() -> None:
    outcomes = [federate(pruned_by(criterion)) for criterion in OF_WEIGHTS + OF_GRADIENTS]
    assert len({outcome.sha256 for outcome in outcomes}) == 5
    assert len({outcome.state.model.layout for outcome in outcomes}) == 1
    assert len({outcome.state.plan.to_json() for outcome in outcomes}) == 5


@pytest.mark.ray
@pytest.mark.parametrize("criterion", ["random", *OF_GRADIENTS])
def test_they_have_the_same_bits_on_ray(criterion: str, actor_pool) -> None:
    chosen = pruned_by(criterion)
    backend = RayBackend(chosen.build().host_setup(), Placement(2, False, ""), chosen.runtime, actor_pool)
    there, here = federate(chosen, backend), federate(chosen)
    assert there.sha256 == here.sha256
    assert sorted(first_sendings(there.transfers)) == sorted(first_sendings(here.transfers))


@pytest.mark.parametrize("criterion", OF_GRADIENTS)
@pytest.mark.parametrize("hierarchy", [{}, FLAT, DEEP], ids=["edges", "flat", "regions"])
def test_scores_travel_in_the_round_of_the_pruning_only(criterion: str, hierarchy: dict[str, object]) -> None:
    """A number of four bytes per prunable channel, from every client and from every node over clients; `plan` knows."""
    config = pruned_by(criterion, strategy={"name": "fedavg"}, hierarchy=hierarchy)
    outcome, channels = federate(config), sum(group.num_channels for group in groups_of(config.build().spec))
    rows = asked(outcome)
    assert {(round, size) for round, _, size in rows} == {(2, 4 * channels)}
    ends = {"client_to_cloud": 4} if hierarchy is FLAT else {"client_to_edge": 4}
    assert {hop: sum(own == hop for _, own, _ in rows) for hop in ends} == ends
    assert any(hop != "client_to_edge" for _, hop, _ in rows)
    assert forecast(config.build()).bytes_by_hop == sums_by_hop(outcome)


def test_a_second_pruning_asks_again_of_what_is_left() -> None:
    pruning = {"mode": "prune", "round": None, "rounds": [2, 4], "ratio": 0.25, "criterion": "taylor"}
    config = tiny(pruning=pruning, schedule={"rounds": 6}, model=WIDE)
    outcome, spec = federate(config), config.build().spec
    sizes = {round: size for round, _, size in asked(outcome)}
    assert sizes == {
        round: 4 * sum(group.num_channels for group in groups_at(spec, ratios)) for round, ratios in {2: (), 4: (0.25,)}.items()
    }
    assert outcome.state.model.version == 2
    assert forecast(config.build()).bytes_by_hop == sums_by_hop(outcome)


STEEPEST = """
from typing import ClassVar

from torch import Tensor

from fedphd_ray.pruning.criteria import Criterion


class Steepest(Criterion):
    asks_clients: ClassVar[bool] = True

    def of_products(self, products: Tensor) -> Tensor:
        return products.abs().sum(1)
"""


@pytest.mark.ray
def test_one_of_your_own_asks_the_clients_too(actor_pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what `taylor` says; on hosts, too, that do not know its module."""
    (tmp_path / "steep.py").write_text(STEEPEST)
    monkeypatch.syspath_prepend(str(tmp_path))
    own = pruned_by("steep:Steepest")
    assert own.settings()["pruning"]["criterion"] == {"name": "steep:Steepest"}
    expected = federate(pruned_by("taylor")).sha256
    assert federate(own).sha256 == expected
    backend = RayBackend(own.build().host_setup(), Placement(2, False, ""), own.runtime, actor_pool)
    assert federate(own, backend).sha256 == expected


@pytest.mark.parametrize("criterion", OF_GRADIENTS)
def test_the_cloud_goes_by_the_mean_of_what_clients_say(criterion: str) -> None:
    """Recomputed from the model that round 2 began with: every client's scores, weighted by its images."""
    config = pruned_by(criterion, strategy={"name": "fedavg"}, hierarchy=FLAT)
    once = tiny(**DENSE, **SHORT, strategy={"name": "fedavg"}, hierarchy=FLAT, schedule={"rounds": 1})
    start, outcome, setup = federate(once).state.model, federate(config), config.build().host_setup()
    scorer, model = setup.scorer(), FlatModel(build_unet(setup.spec))
    assert scorer is not None
    assert outcome.state.plan is not None
    total = torch.zeros(sum(group.num_channels for group in groups_of(setup.spec)))
    for client in outcome.plans[1].edge_of:
        rows = torch.from_numpy(setup.ownership.rows[client])
        examples = Examples(as_tensor(setup.images)[rows])
        total += len(rows) * scorer.scores(model, 0, as_tensor(start.vector), examples, (2, client))
    plan = plan_pruning(setup.spec, start, 0.5, None, importance_from(total, groups_of(setup.spec)))
    assert [cut.kept for cut in plan.cuts] == [cut.kept for cut in outcome.state.plan.cuts]


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"pruning": {"mode": "at_init", "round": None, "criterion": "taylor"}}, "nobody has been asked yet"),
        ({"pruning": {"criterion": "taylor"}, "submodels": {"widths": [1.0, 0.5]}}, "not every client has every channel"),
    ],
)
def test_what_nobody_can_be_asked_is_refused(sections: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny(**sections)


def test_where_nobody_could_be_asked_channels_stay_by_their_weights() -> None:
    """Edges hold what they learnt in round 1, and nobody is there in round 2: no scores are not equal scores."""
    device = {"name": "a", "macs_per_second": 1e9, "download_mbit": 9, "upload_mbit": 9}
    outcomes = []
    for criterion in ("taylor", "group_l2"):
        experiment = pruned_by(criterion, hierarchy={"cloud_period": 4}, devices={"classes": [device]}).build()
        assert experiment.devices is not None
        present = lambda round, regions: np.full(6, round != 2)  # noqa: E731
        object.__setattr__(experiment.devices, "present", present)
        outcomes.append(federate(experiment))
    assert not outcomes[0].plans[1].asked
    assert outcomes[0].state.plan == outcomes[1].state.plan


def test_a_client_whose_training_fails_has_no_say() -> None:
    """Its message never leaves."""
    config = method("fedavg", pruning={"criterion": "taylor", "mode": "prune"}, faults=[{"kind": "nan", "round": 2, "client": 0}])
    outcome = federate(config)
    assert any("client/0" in failure for failure in outcome.state.failures)
    assert not any(row.kind == "importance" and row.source == "client/0" for row in outcome.transfers)
