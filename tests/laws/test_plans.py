"""Plans that name any model and any moment: stale versions, factors, edges that are late, rounds in which nothing happens."""

from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from federations import FLAT, Outcome, Recorder, StoppedHereError, Until, federate, method
from numpy.typing import NDArray

from fedphd_ray.config import Config
from fedphd_ray.federation.channel.ledger import Ledger
from fedphd_ray.federation.planning.schedule import Schedule
from fedphd_ray.federation.sums.merge import MergeOrder, merged
from fedphd_ray.foresight.forecast import forecast
from fedphd_ray.plans import Aggregation, Contribution, Memory, RoundPlan
from fedphd_ray.records import EdgeStatistics, Kind, LocalOrder, Payload
from fedphd_ray.runtime.driver import run as runs
from fedphd_ray.runtime.driver.cloud import Cloud
from fedphd_ray.runtime.driver.observer import Observer
from fedphd_ray.runtime.experiment import Experiment
from fedphd_ray.runtime.on_ray.actor_pool import ActorPool
from fedphd_ray.runtime.on_ray.backend import RayBackend
from fedphd_ray.runtime.policy.placement import Placement
from fedphd_ray.runtime.storage.state import RunState
from fedphd_ray.runtime.workers.backend import Backend
from fedphd_ray.runtime.workers.client_host import ClientHost
from fedphd_ray.runtime.workers.local_backend import LocalBackend
from fedphd_ray.strategies import FedAvg
from fedphd_ray.tensors import Layout

PLACEMENTS = [Placement(2, False, ""), Placement(6, True, "")]
DENSE = {"pruning": {"mode": "none", "round": None}}


class Stale(Schedule):
    """In rounds 3 and 4 the last two clients of every edge started one and two rounds ago; they count a half and a quarter."""

    def plan(self, round, *known):
        plan = super().plan(round, *known)
        return plan if round < 3 else replace(plan, aggregations=tuple(map(self.late, plan.aggregations, [round] * 9)))

    def oldest_version(self, round: int, memory: Memory) -> int:
        return round - 2

    def late(self, aggregation: Aggregation, round: int) -> Aggregation:
        if aggregation.level:
            return aggregation
        *fresh, first, second = aggregation.contributions
        late = Contribution(first.sender, round - 1, 0.5), Contribution(second.sender, round - 2, 0.25)
        return replace(aggregation, contributions=(*fresh, *late))


class LateEdge(Schedule):
    """The second edge does not send in round 2; in round 3 it sends what it has made of round 2's model."""

    def plan(self, round, *known):
        plan = super().plan(round, *known)
        return replace(plan, aggregations=tuple(self.late(each, round) for each in plan.aggregations))

    def oldest_version(self, round: int, memory: Memory) -> int:
        return round - 1

    def late(self, aggregation: Aggregation, round: int) -> Aggregation:
        if aggregation.level == 1 and round == 2:
            return replace(aggregation, contributions=(Contribution(0),))
        if aggregation.level == 1 and round == 3:
            return replace(aggregation, contributions=(Contribution(0), Contribution(1, 2, 0.5)))
        return aggregation


class Nobody(Schedule):
    """Nobody is there in rounds 1 and 3."""

    def plan(self, round, *known):
        plan = super().plan(round, *known)
        none = tuple(replace(each, contributions=()) for each in plan.aggregations if not each.level)
        return (
            plan if round in (2, 4) else replace(plan, aggregations=(*none, *(each for each in plan.aggregations if each.level)))
        )


class Curious(Schedule):
    """Of the clients that are drawn, those take part of whom nothing is known, and the two with the greatest last losses."""

    def plan(self, round, strategy, population, edges, memory, workload):
        plan = super().plan(round, strategy, population, edges, memory, workload)
        losses = memory.get("losses", np.full(6, np.inf))
        drawn = sorted(plan.edge_of, key=lambda client: -losses[client])
        chosen = {client for place, client in enumerate(drawn) if place < 2 or np.isinf(losses[client])}

        def some(each: Aggregation) -> Aggregation:
            kept = tuple(one for one in each.contributions if one.sender in chosen)
            return each if each.level else replace(each, contributions=kept)

        return replace(plan, aggregations=tuple(map(some, plan.aggregations)))

    def remember(self, plan, memory, reports, population):
        losses = memory.get("losses", np.full(6, np.inf)).copy()
        for report in reports:
            losses[report.client] = report.loss
        return {"losses": losses}


def planned(schedule: type[Schedule], config: Config) -> Experiment:
    experiment = config.build()
    made = schedule(config.schedule, config.hierarchy, config.seed, experiment.pruning.rounds)
    experiment.__dict__["schedule"] = made  # where the cached property keeps its own
    return experiment


CASES = {
    "stale": (Stale, method("flat fedavg", **DENSE, schedule={"clients_per_round": 5})),
    "stale over edges": (Stale, method("fedavg", schedule={"rounds": 4, "clients_per_round": 6}, pruning={"round": 3})),
    "a late edge": (LateEdge, method("fedphd", **DENSE, hierarchy={"cloud_period": 1})),
    "what was reported": (Curious, method("fedavg", **DENSE, schedule={"rounds": 6})),
    "nobody": (Nobody, method("fedphd with kept moments")),
    "nobody, private parts": (Nobody, method("feddiffuse usplit", **DENSE, strategy={"name": "feddiffuse", "mode": "udec"})),
}


@cache
def in_one_process(case: str) -> Outcome:
    return federate(planned(*CASES[case]))


@pytest.mark.ray
@pytest.mark.parametrize("placement", PLACEMENTS, ids=["pooled", "dedicated"])
@pytest.mark.parametrize("case", CASES)
def test_any_plan_has_the_same_bits_everywhere(case: str, placement: Placement, actor_pool: ActorPool) -> None:
    experiment = planned(*CASES[case])
    backend = RayBackend(experiment.host_setup(), placement, experiment.runtime, actor_pool)
    assert federate(experiment, backend).sha256 == in_one_process(case).sha256


def test_plans_follow_what_clients_have_reported() -> None:
    """All are asked first; then of the four drawn the two with the greatest last losses; and it is so after a resume (above)."""
    records = in_one_process("what was reported").records
    assert len(records[0].participants) == 4
    assert [len(record.participants) for record in records[3:]] == [2, 2, 2]
    fixed = federate(CASES["what was reported"][1])
    assert fixed.sha256 != in_one_process("what was reported").sha256


@pytest.mark.parametrize("case", [case for case in CASES if case != "what was reported"])  # that cannot be foretold
def test_the_forecast_of_any_plan_is_its_ledger(case: str) -> None:
    moved: Counter[str] = Counter()
    for row in in_one_process(case).transfers:
        moved[str(row.hop)] += row.num_bytes
    assert forecast(planned(*CASES[case])).bytes_by_hop == moved


@pytest.mark.parametrize("case", CASES)
def test_any_plan_goes_on_after_any_round(case: str, tmp_path: Path) -> None:
    """Former models are in the checkpoint, and are cut with the others."""
    schedule, config = CASES[case]
    config = config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update={"every": 1, "keep": 1})})
    for after in (1, 2, 3):
        with pytest.raises(StoppedHereError):
            runs.run(planned(schedule, config), tmp_path / str(after), Until(after))
        assert (
            runs.resume(planned(schedule, config), tmp_path / str(after), Recorder()).model_sha256 == in_one_process(case).sha256
        )


def states_of(experiment: Experiment, backend: Backend) -> list[RunState]:
    states: list[RunState] = []
    with Observer(experiment, backend, ledger=Ledger(), reporter=Recorder()) as observer:
        observer.observe = lambda state, trace: states.append(state)  # type: ignore[method-assign]
        cloud = Cloud(experiment, backend, observer)
        cloud.run(cloud.begin())
    return states


def test_stale_contributions_by_hand() -> None:
    """To the bit: base + sum f_i n_i (trained_i - started_i) / sum f_i n_i, summed block by block."""
    experiment = planned(*CASES["stale"])
    states = states_of(experiment, LocalBackend(experiment.host_setup()))
    plan: RoundPlan = experiment.schedule.plan(3, experiment.strategy, experiment.population, states[2].edge_statistics)
    assert [each.version for each in plan.at(0)[0].contributions] == [None, None, None, 2, 1]
    host, weight, products = ClientHost(experiment.host_setup()), 0.0, list[NDArray[np.float32]]()
    for sender, version, factor in plan.at(0)[0].contributions:
        started = states[2 if version is None else version - 1].model  # after round r - 1 is at the beginning of round r
        order = LocalOrder(3, 0, 1.0, 0.0, factors={sender: factor})
        partial, _ = host.train(started, order, [sender], [None])
        products.append(partial.totals[Kind.MODEL])
        weight += factor * experiment.population.num_samples[sender]
    first = products[0] + products[1]  # blocks of two: a new one where the model differs
    total = ((first + products[2]) + products[3]) + products[4]
    expected = states[2].model.vector + total / np.float32(weight)
    assert np.array_equal(states[3].model.vector, expected)
    fresh = federate(CASES["stale"][1])
    assert not np.array_equal(fresh.state.model.vector, states[4].model.vector)


def test_models_are_kept_until_no_plan_needs_them() -> None:
    experiment = planned(*CASES["stale"])
    states = states_of(experiment, LocalBackend(experiment.host_setup()))
    assert [sorted(state.past) for state in states] == [[], [1], [1, 2], [1, 2, 3], [2, 3, 4]]
    plain = CASES["stale"][1].build()
    assert [state.past for state in states_of(plain, LocalBackend(plain.host_setup()))] == [{}] * 5


def test_children_that_started_from_former_models_by_hand() -> None:
    rng = np.random.default_rng(0)
    layout = Layout(("w",), ((6,),))
    now, before, fresh, late = (Payload(rng.normal(size=6).astype(np.float32), layout, 0) for _ in range(4))
    nothing = EdgeStatistics.empty(2)
    order = MergeOrder(1, 0, 0, (0, 1), np.array([0.75, 0.25]), (0, 1), (nothing, nothing), 0)
    got = merged(order, [now, before], [fresh, late], FedAvg()).vector
    moved = np.float32(0.75) * (fresh.vector - now.vector) + np.float32(0.25) * (late.vector - before.vector)
    assert np.array_equal(got, now.vector + moved)


def test_a_late_edge_keeps_its_model_and_is_not_sent_another() -> None:
    outcome = in_one_process("a late edge")
    rows = Counter((row.round, str(row.hop), row.source, row.destination) for row in outcome.transfers if row.kind == "model")
    assert rows[2, "edge_to_cloud", "edge/0", "cloud"] == 1
    assert rows[2, "edge_to_cloud", "edge/1", "cloud"] == 0
    assert rows[3, "cloud_to_edge", "cloud", "edge/0"] == 1
    assert rows[3, "cloud_to_edge", "cloud", "edge/1"] == 0
    assert rows[3, "edge_to_cloud", "edge/1", "cloud"] == 1
    assert rows[4, "cloud_to_edge", "cloud", "edge/1"] == 1
    assert outcome.sha256 != federate(CASES["a late edge"][1]).sha256


@pytest.mark.parametrize("case", ["nobody", "nobody, private parts"])
def test_in_a_round_that_nobody_takes_part_in_nothing_happens(case: str) -> None:
    outcome = in_one_process(case)
    assert {row.round for row in outcome.transfers} == {2, 4}
    assert [len(record.participants) for record in outcome.records] == [0, 4, 0, 4]
    assert [np.isnan(record.loss) for record in outcome.records] == [True, False, True, False]
    experiment = planned(*CASES[case])
    states = states_of(experiment, LocalBackend(experiment.host_setup()))
    assert states[1] == replace(states[0], round=1)
    assert [state.syncs for state in states] == [0, 0, 1, 1, 2]
    assert np.array_equal(states[3].model.vector, states[2].model.vector)
    assert not np.array_equal(states[4].model.vector, states[3].model.vector)


def test_flat_rounds_without_anybody_are_nothing_too() -> None:
    outcome = federate(planned(Nobody, method("flat fedavg", **DENSE, hierarchy=FLAT)))
    assert {row.round for row in outcome.transfers} == {2, 4}
    assert outcome.state.syncs == 2
