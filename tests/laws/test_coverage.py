"""A weight for every coordinate: clients that train a part of the network only, averaged where they overlap."""

from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from federations import DEEP, FLAT, Outcome, Recorder, StoppedHereError, Until, federate, method
from torch import Tensor

from fedphd_ray.federation.channel.ledger import Ledger
from fedphd_ray.federation.sums.aggregation import apply_update, covered_models
from fedphd_ray.federation.sums.merge import MergeOrder, sent_up_in_vain
from fedphd_ray.foresight.forecast import forecast
from fedphd_ray.records import EdgeStatistics, Kind, LocalOrder, Payload
from fedphd_ray.runtime.driver import run as runs
from fedphd_ray.runtime.driver.cloud import Cloud
from fedphd_ray.runtime.driver.observer import Observer
from fedphd_ray.runtime.experiment import Experiment
from fedphd_ray.runtime.on_ray.actor_pool import ActorPool
from fedphd_ray.runtime.on_ray.backend import RayBackend
from fedphd_ray.runtime.policy.placement import Placement
from fedphd_ray.runtime.workers.client_host import ClientHost
from fedphd_ray.runtime.workers.local_backend import LocalBackend
from fedphd_ray.strategies.base import LocalEnd, LocalMethod, LocalStart, Strategy
from fedphd_ray.tensors import Layout


def covering_method(*, everything: bool = False) -> Strategy:
    """FedAvg of parts. Its classes are made here: so they go to workers, which do not know of this module, with their code."""

    class Thirds(LocalMethod):
        """Depending on where it went a client covers the first two thirds, or the last two; a tenth of everything nobody."""

        def end(self, vector: Tensor, num_steps: int) -> LocalEnd:
            size, covered = len(vector), torch.zeros_like(vector)
            first = float(vector.sum() - self.start.received.sum()) > 0
            covered[size // 10 : 2 * size // 3] = 1.0 if first else 0.0
            covered[size // 3 :] = 0.5 if first else 1.0
            return LocalEnd(beside={Kind.COVERAGE: torch.ones_like(vector) if everything else covered})

    class Covering(Strategy):
        clients_send: ClassVar[tuple[Kind, ...]] = (Kind.COVERAGE,)

        def local_method(self, start: LocalStart) -> LocalMethod:
            return Thirds(start)

    return Covering()


DENSE = {"pruning": {"mode": "none", "round": None}}
CASES = {
    "flat": method("fedavg", **DENSE, hierarchy=FLAT),
    "edges": method("fedavg"),
    "regions": method("fedavg", **DENSE, hierarchy=DEEP),
}


def covering(case: str, *, everything: bool = False) -> Experiment:
    return replace(CASES[case].build(), strategy=covering_method(everything=everything))


@cache
def in_one_process(case: str) -> Outcome:
    return federate(covering(case))


@pytest.mark.ray
@pytest.mark.parametrize("placement", [Placement(2, False, ""), Placement(6, True, "")], ids=["pooled", "dedicated"])
@pytest.mark.parametrize("case", CASES)
def test_it_has_the_same_bits_everywhere(case: str, placement: Placement, actor_pool: ActorPool) -> None:
    experiment = covering(case)
    backend = RayBackend(experiment.host_setup(), placement, experiment.runtime, actor_pool)
    assert federate(experiment, backend).sha256 == in_one_process(case).sha256


@pytest.mark.parametrize("case", CASES)
def test_its_forecast_is_its_ledger(case: str) -> None:
    moved: Counter[str] = Counter()
    for row in in_one_process(case).transfers:
        moved[str(row.hop)] += row.num_bytes
    assert forecast(covering(case)).bytes_by_hop == moved
    assert {str(row.hop).partition("_to_")[0] for row in in_one_process(case).transfers if row.kind == "coverage"} >= {"client"}
    assert not [row for row in in_one_process(case).transfers if row.kind == "coverage" and row.source == "cloud"]


def test_one_flat_round_by_hand() -> None:
    """base + sum w_i c_i (y_i - x) / sum w_i c_i, coordinate by coordinate; what nobody covers stays, to the bit."""
    experiment = covering("flat")
    states = []
    backend = LocalBackend(experiment.host_setup())
    with Observer(experiment, backend, ledger=Ledger(), reporter=Recorder()) as observer:
        observer.observe = lambda state, trace: states.append(state)  # type: ignore[method-assign]
        cloud = Cloud(experiment, backend, observer)
        cloud.run(cloud.begin())
    base, seen = states[0].model, states[0].edge_statistics
    plan = experiment.schedule.plan(1, experiment.strategy, experiment.population, seen)
    host = ClientHost(experiment.host_setup())
    parts = [host.train(base, LocalOrder(1, 0, 1.0, 0.0), [client], [None])[0].totals for client in plan.edge_of]
    kinds = (Kind.MODEL, Kind.COVERAGE)
    total, mass = ((parts[0][kind] + parts[1][kind]) + (parts[2][kind] + parts[3][kind]) for kind in kinds)
    assert set(np.unique(mass > 0)) == {False, True}
    moved = np.divide(total, mass, out=np.zeros_like(total), where=mass > 0)
    expected = np.where(mass > 0, base.vector + moved, base.vector)
    assert np.array_equal(states[1].model.vector, expected)
    assert np.array_equal(states[1].model.vector[: len(mass) // 10], base.vector[: len(mass) // 10])


def test_covering_everything_is_fedavg_bit_for_bit() -> None:
    plain = federate(CASES["flat"])
    assert federate(covering("flat", everything=True)).sha256 == plain.sha256


@pytest.mark.parametrize("case", ["edges", "regions"])
def test_covering_everything_over_tiers_is_fedavg(case: str) -> None:
    """To rounding, and over several rounds of a cycle: coverage adds up until a model is sent."""
    config = CASES[case]
    plain, covered = federate(config), federate(covering(case, everything=True))
    assert plain.state.model.layout == covered.state.model.layout
    assert np.abs(plain.state.model.vector - covered.state.model.vector).max() < 1e-4


def test_coordinates_count_as_they_are_covered() -> None:
    base = torch.tensor([1.0, 1.0, 1.0, -0.0])
    models = [torch.tensor([3.0, 3.0, 9.0, 9.0]), torch.tensor([5.0, 9.0, 5.0, 9.0])]
    shares = [torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([0.5, 0.0, 1.0, 0.0])]
    got = covered_models(base, models, [base, base], np.array([0.5, 0.5]), shares)
    assert torch.allclose(got, torch.tensor([1 + (2 + 0.5 * 4) / 1.5, 3.0, 5.0, 0.0]))
    assert torch.signbit(got)[3]  # nobody has touched it
    scaled = apply_update(base, torch.tensor([2.0, 0.0, 4.0, 0.0]), (), (), 0.5, torch.tensor([2.0, 0.0, 1.0, 0.0]))
    assert torch.equal(scaled, torch.tensor([1.5, 1.0, 3.0, -0.0]))


@pytest.mark.parametrize("case", CASES)
def test_it_goes_on_from_any_round(case: str, tmp_path: Path) -> None:
    """What edges have covered so far is in the checkpoint."""
    for after in (1, 2, 3):
        experiment = covering(case)
        experiment = replace(experiment, checkpoint=experiment.checkpoint.model_copy(update={"every": 1, "keep": 1}))
        with pytest.raises(StoppedHereError):
            runs.run(experiment, tmp_path / str(after), Until(after))
        assert runs.resume(experiment, tmp_path / str(after), Recorder()).model_sha256 == in_one_process(case).sha256


def test_what_a_dead_node_was_sent_is_counted_with_its_coverage() -> None:
    """From a child under which somebody has trained; one without has nothing beside its model."""
    experiment = covering("regions")
    layout = Layout(("w",), ((5,),))
    sized, nothing = Payload(np.zeros(5, np.float32), layout, 0), EdgeStatistics.empty(2)
    seen = (replace(nothing, weight=3.0), nothing)
    order = MergeOrder(1, 0, 0, (0, 1), np.array([1.0, 0.0]), (0, 0), seen, 0)
    rows = sent_up_in_vain(order, sized, 2, experiment.strategy, experiment.topology, experiment.codecs)
    sent = Counter((row.attempt, row.source, str(row.kind)) for row in rows)
    whole = [("edge/0", "model"), ("edge/0", "coverage"), ("edge/1", "model")]
    assert sent == Counter((attempt, *each) for attempt in (0, 1) for each in whole)
