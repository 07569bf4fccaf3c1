"""Clients that train a narrower network: cut out, trained, put back, and averaged over those who hold each coordinate."""

import math
from collections import Counter
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
import torch
from federations import DEEP, FLAT, Outcome, federate, method, outcome_of, sums_by_hop, tiny
from rich.console import Console

from fedphd_ray.config import Config
from fedphd_ray.devices.quantities import draw
from fedphd_ray.devices.wireless import bandwidth_for
from fedphd_ray.diffusion.unet import build_unet, initial_state
from fedphd_ray.errors import ConfigError
from fedphd_ray.federation.costs import Cost
from fedphd_ray.federation.prune import groups_at
from fedphd_ray.federation.submodels.slices import narrow_layout, num_slices, slice_plan, sub_network
from fedphd_ray.federation.submodels.widths import SubModels
from fedphd_ray.foresight.forecast import forecast
from fedphd_ray.records import BY_MAGNITUDE, ClientState, Kind, LocalOrder, PartialUpdate, Payload, Slice
from fedphd_ray.report.tables import describe, print_forecast
from fedphd_ray.runtime.driver.exchange import workload_of
from fedphd_ray.runtime.on_ray.actor_pool import ActorPool
from fedphd_ray.runtime.on_ray.backend import RayBackend
from fedphd_ray.runtime.policy.placement import Placement
from fedphd_ray.runtime.workers.client_host import ClientHost
from fedphd_ray.runtime.workers.edge_server import EdgeServer
from fedphd_ray.seeds import Purpose, numpy_rng
from fedphd_ray.tensors import Layout

DENSE = {"mode": "none", "round": None}
NARROW = {"widths": [0.5]}


def model_of(outcome: Outcome) -> np.ndarray:
    return outcome.state.model.vector


def begun(config: Config) -> np.ndarray:
    experiment = config.build()
    state = initial_state(experiment.spec, experiment.seed)
    return Layout.of(state).flatten(state).numpy()


@pytest.mark.parametrize("name", ["fedavg", "fedphd", "flat fedavg", "scaffold"])
def test_full_width_for_everybody_changes_nothing(name: str) -> None:
    assert federate(method(name, submodels={"widths": [1.0]})).sha256 == outcome_of(name).sha256


def test_widths_that_nobody_has_change_no_bit_of_a_flat_federation() -> None:
    """Everything is counted coordinate by coordinate then, and every count is the same."""
    wide = {"widths": [1.0, 0.5], "assignment": {"name": "shares", "shares": [1, 0]}}
    plain = federate(method("flat fedavg", pruning=DENSE))
    assert federate(method("flat fedavg", pruning=DENSE, submodels=wide)).sha256 == plain.sha256


@pytest.mark.parametrize("hierarchy", [FLAT, {"num_edges": 2, "cloud_period": 2}, DEEP], ids=["flat", "edges", "regions"])
def test_what_nobody_trains_stays_as_it_is(hierarchy: dict[str, object]) -> None:
    config = method("fedavg", pruning=DENSE, hierarchy=hierarchy, submodels=NARROW)
    experiment = config.build()
    places = sub_network(experiment.spec, (), Slice(0.5, 0)).places.long().numpy()
    before, after = begun(config), model_of(federate(config))
    held = np.zeros(len(before), bool)
    held[places] = True
    assert np.array_equal(before[~held], after[~held])
    assert (before[held] != after[held]).mean() > 0.99


def test_one_round_by_hand() -> None:
    """Coordinates of the slice are averaged over both clients, the others are those of the client that has all."""
    experiment = method("flat fedavg", pruning=DENSE, submodels={"widths": [1.0, 0.5]}).build()
    host = ClientHost(experiment.host_setup())
    state = initial_state(experiment.spec, experiment.seed)
    layout = Layout.of(state)
    vector = layout.flatten(state)
    order = LocalOrder(1, 0, 1.0, 0.0, slices={3: Slice(0.5, 0)})
    payload = federate(method("flat fedavg", pruning=DENSE, schedule={"rounds": 1, "clients_per_round": 1})).state.model
    payload = replace(payload, vector=vector.numpy())
    totals = [host.train(payload, order, [client], [None])[0] for client in (2, 3)]
    weights = [float(own.weights[0][0]) for own in totals]
    held = np.zeros(layout.num_params, bool)
    held[sub_network(experiment.spec, (), Slice(0.5, 0)).places.long().numpy()] = True
    first, second = (own.totals[Kind.MODEL] for own in totals)
    assert not second[~held].any()
    assert np.array_equal(totals[0].totals[Kind.COVERAGE], np.full(len(held), weights[0], np.float32))
    assert np.array_equal(totals[1].totals[Kind.COVERAGE], np.where(held, np.float32(weights[1]), 0))
    both = host.train(payload, order, [2, 3], [None, None])[0]
    expected = np.where(held, (first + second) / sum(weights), first / weights[0])
    assert np.allclose(both.totals[Kind.MODEL] / both.totals[Kind.COVERAGE], expected, atol=1e-7)


def test_a_slice_is_a_network_cut_by_hand() -> None:
    """The first half of the channels of each norm group of a convolution, in and out; and the network runs."""
    experiment = tiny(pruning=DENSE).build()
    state = initial_state(experiment.spec, 1)
    layout = Layout.of(state)
    sub = sub_network(experiment.spec, (), Slice(0.5, 0))
    small = sub.layout.views(sub.cut(layout.flatten(state)))
    name = "down_blocks.0.resnets.0.conv1.weight"
    kept = [0, 1, 4, 5, 8, 9, 12, 13]
    assert torch.equal(small[name], state[name][kept][:, kept])
    assert torch.equal(small["conv_out.weight"], state["conv_out.weight"][:, kept])
    rolled = sub_network(experiment.spec, (), Slice(0.5, 3))
    kept = [0, 3, 4, 7, 8, 11, 12, 15]
    assert torch.equal(rolled.layout.views(rolled.cut(layout.flatten(state)))[name], state[name][kept][:, kept])
    with torch.random.fork_rng():
        unet = build_unet(experiment.spec, sub.layout.by_name)
    unet.load_state_dict(small)
    assert unet.eval()(torch.zeros(1, 3, 8, 8), 5).sample.shape == (1, 3, 8, 8)


def test_growing_is_the_inverse_of_cutting() -> None:
    spec = tiny(pruning=DENSE).build().spec
    sub = sub_network(spec, (0.25,), Slice(0.7, 0))
    small = torch.arange(1.0, sub.layout.num_params + 1)
    onto = -torch.ones(sub.whole)
    assert torch.equal(sub.cut(sub.grown(small)), small)
    assert (sub.grown(small) != 0).sum() == len(small)
    assert (sub.grown(small, onto) == -1).sum() == sub.whole - len(small)
    before = ClientState({"a": onto.numpy(), "c": onto.numpy()}, {"step": 1.0}, 1)
    after = sub.grown_state(ClientState({"a": small.numpy()}, {"step": 2.0}, 1), before)
    assert after is not None
    assert np.array_equal(after.vectors["a"], sub.grown(small, onto).numpy())
    assert set(after.vectors) == {"a"}  # what a method keeps no more is gone
    assert sub.cut_state(after).vectors["a"].tolist() == small.tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize("ratios", [(), (0.25,)], ids=["dense", "pruned"])
def test_a_rolling_window_trains_all_channels_equally_often(ratios: tuple[float, ...]) -> None:
    spec = tiny(pruning=DENSE).build().spec
    groups = groups_at(spec, ratios)
    turn = int(np.lcm.reduce([group.block for group in groups]))
    plans = [slice_plan(spec, ratios, Slice(0.7, shift)) for shift in range(turn)]
    for index, group in enumerate(groups):
        times = Counter(channel for plan in plans for channel in plan.cuts[index].kept)
        assert set(times) == set(range(group.num_channels))
        assert len(set(times.values())) == 1


def test_a_run_rolls_its_windows() -> None:
    shifts = [{own.shift for own in plan.slices.values()} for plan in outcome_of("fedrolex").plans]
    assert shifts == [{0}, {1}, {2}, {3}]


@pytest.mark.parametrize("name", ["heterofl", "fedrolex", "fedphd with sub-models"])
def test_plan_knows_every_byte(name: str) -> None:
    assert forecast(method(name).build()).bytes_by_hop == sums_by_hop(outcome_of(name))


def test_the_ledger_has_the_sizes_of_the_slices() -> None:
    experiment = method("heterofl").build()
    widths = [narrowing.widths for narrowing in experiment.narrowings if narrowing is not None]
    assert set(widths[0].tolist()) == {1.0, 0.7}
    for row in outcome_of("heterofl").transfers:
        if row.source.startswith("client") and row.kind == Kind.MODEL:
            ratios = experiment.pruning.ratios[: row.version]
            width = float(widths[row.version][int(row.source.partition("/")[2])])
            assert row.num_params == narrow_layout(experiment.spec, ratios, width).num_params
    shared = [row for row in outcome_of("heterofl").transfers if row.kind == Kind.COVERAGE]
    assert {(str(row.hop), row.codec, row.num_bytes) for row in shared} == {("edge_to_cloud", "float64", 16)}


PHONES = {
    "classes": [
        {"name": name, "macs_per_second": 1e9, "memory_gib": memory, "download_mbit": 50, "upload_mbit": 10}
        for name, memory in (("large", 1.0), ("small", 0.0042), ("tiny", 0.0001))
    ],
    "dropout": {"training": 0.2, "upload": 0.2},
}


@pytest.mark.parametrize("policy", [{"name": "wait"}, {"name": "buffered", "size": 2}], ids=["wait", "buffered"])
def test_devices_train_what_they_can_hold(policy: dict[str, object]) -> None:
    config = method(
        "fedavg",
        data={"name": "shapes", "image_size": 8, "num_images": 120, "num_clients": 12, "partition": {"name": "iid"}},
        devices=PHONES,
        submodels={"widths": [1.0, 0.7], "assignment": {"name": "memory"}},
        pruning={"ratio": 0.25},
        schedule={"policy": policy},
    )
    experiment = config.build()
    dense, pruned = (narrowing.widths for narrowing in experiment.narrowings if narrowing is not None)
    assert experiment.devices is not None
    kinds = np.array(experiment.devices.kinds)
    assert set(dense[kinds == "large"]) == {1.0}
    assert set(dense[kinds == "tiny"]) == {0.0}
    assert set(dense[kinds == "small"]) == {0.7}
    assert (pruned >= dense).all()
    outcome = federate(config)
    asked = {client for plan in outcome.plans for client in plan.asked}
    assert asked <= set(np.flatnonzero(dense))
    assert {0.7} == {own.width for plan in outcome.plans for own in plan.slices.values()}
    assert any(row.lost for row in outcome.transfers)
    assert forecast(experiment).bytes_by_hop == sums_by_hop(outcome)


def test_a_narrow_client_is_sooner_done() -> None:
    """As its MACs and bytes say."""
    config = tiny(devices={"preset": "phones"}, pruning=DENSE, submodels={"widths": [1.0, 0.5]}, strategy={"name": "fedavg"})
    experiment, whole = config.build(), config.model_copy(update={"submodels": None}).build()
    narrowing = experiment.narrowings[0]
    assert narrowing is not None
    slow, fast = (next(iter(forecast(each).simulated.client_seconds.values())) for each in (whole, experiment))  # type: ignore[union-attr]
    assert np.array_equal(slow[narrowing.widths == 1], fast[narrowing.widths == 1])
    assert (fast[narrowing.widths < 1] < slow[narrowing.widths < 1]).all()
    small = narrowing.networks[0.5]
    assert small.cost.macs < 0.5 * experiment.costs[0].macs
    assert small.cost.memory_bytes < experiment.costs[0].memory_bytes


def test_nothing_beside_a_model_goes_down_that_clients_sent() -> None:
    """A region keeps what its edges have covered; over a lossy link its edges are given its model alone."""
    config = method(
        "fedavg", pruning=DENSE, hierarchy=DEEP, submodels={"widths": [1.0, 0.5]}, communication={"region_to_edge": "bfloat16"}
    )
    outcome = federate(config)
    down = {str(row.kind) for row in outcome.transfers if row.hop == "region_to_edge"}
    assert down == {"model"}
    assert forecast(config.build()).bytes_by_hop == sums_by_hop(outcome)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"submodels": {"widths": [0.5, 1.0]}}, ["widest first", "0.5, 1"]),
        ({"submodels": {"widths": [1.0, 0.3]}}, ["two channels of every norm group", "0.3", "down_blocks.0.resnets.0"]),
        ({"submodels": {"widths": [1.0, 0.1]}}, ["leave every norm group a channel", "0.1"]),
        ({"submodels": {"widths": [0.5]}, "pruning": {"mode": "prune", "ratio": 0.25}}, ["after pruning by 0.25", "0.5"]),
        ({"submodels": {"widths": [1.0], "assignment": {"name": "memory"}}}, ["submodels.assignment", "devices", "memory"]),
        ({"submodels": {"widths": [1.0, 0.5], "assignment": {"name": "shares", "shares": [1]}}}, ["each of the 2 widths"]),
        ({"submodels": {"widths": [1.0, 0.5], "assignment": {"name": "shares", "shares": [0, 0]}}}, ["one of them above 0"]),
        ({"submodels": {"scheme": "rolling", "widths": [0.5]}, "strategy": {"name": "moon"}}, ["submodels.scheme", "moon"]),
    ],
)
def test_what_cannot_be_is_refused(sections: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as refusal:
        tiny(**({"pruning": DENSE} | sections)).build()
    for word in words:
        assert word in str(refusal.value)


def test_widths_are_drawn_by_share_and_seed() -> None:
    own = {"widths": [1.0, 0.5], "assignment": {"name": "shares", "shares": [0.2, 0.8]}}
    data = {"name": "shapes", "image_size": 8, "num_images": 1000, "num_clients": 1000, "partition": {"name": "iid"}}
    drawn = [
        tiny(seed=seed, data=data, pruning=DENSE, submodels=own).build().narrowings[0].widths  # type: ignore[union-attr]
        for seed in (1, 1, 2)
    ]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert 0.15 < (drawn[0] == 1).mean() < 0.25


def test_a_method_with_control_vectors_sends_them_in_the_slice() -> None:
    outcome = federate(method("scaffold", pruning=DENSE, submodels={"widths": [1.0, 0.5]}))
    sizes = {row.num_params for row in outcome.transfers if row.kind == Kind.CONTROL}
    assert len(sizes) == 2
    assert np.isfinite(outcome.state.model.vector).all()


def test_what_is_asked_of_all_is_what_is_asked_of_each() -> None:
    """Work, bytes and memory by client and as arrays; each as the client's own network says."""
    experiment = tiny(pruning=DENSE, submodels={"widths": [1.0, 0.5]}, strategy={"name": "fedavg"}).build()
    run = federate(method("fedavg", pruning=DENSE, schedule={"rounds": 1})).state
    load = workload_of(experiment, run, run.round + 1)
    narrowing = experiment.narrowings[0]
    assert narrowing is not None
    down, up = load.bytes_of_all()
    for client, width in enumerate(narrowing.widths.tolist()):
        cost = Cost.of(experiment.spec, narrow_layout(experiment.spec, (), width).by_name, experiment.local.images_at_once)
        size = 4 * narrow_layout(experiment.spec, (), width).num_params
        assert down[client] == load.download_bytes(client, width) == size
        assert up[client] == load.upload_bytes(width, None) == size
        assert load.work_of_all[client] == load.work(client, width) == 3 * cost.macs * experiment.training_images[client]
        assert load.memory_of_all[client] == cost.memory_bytes


def test_a_weight_for_each_slice_tells_who_covers_what() -> None:
    """Norm groups of 4 and of 8 channels have windows that repeat after 8 rounds; the whole network is one more."""
    spec = tiny(pruning=DENSE).build().spec
    assert {group.block for group in groups_at(spec, ())} == {4, 8, 64}
    rolling, nested = ({"scheme": scheme, "widths": [1.0, 0.75, 0.5]} for scheme in ("rolling", "nested"))
    assert num_slices(spec, (), SubModels.model_validate(rolling)) == 1 + 2 * 64
    assert num_slices(spec, (), SubModels.model_validate(nested)) == 3


def test_plan_shows_who_trains_what() -> None:
    """Also where some can train nothing, and take no time."""
    config = method(
        "fedavg", devices=PHONES, submodels={"widths": [1.0, 0.7], "assignment": {"name": "memory"}}, pruning={"ratio": 0.25}
    )
    console = Console(file=StringIO(), width=160)
    experiment = config.build()
    print_forecast(console, forecast(experiment), describe(experiment), "", "")
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert "nested sub-models of widths 1, 0.7" in told
    assert "Sub-models after pruning, nested" in told
    assert "none: too small" in told
    assert "45,702" not in told.partition("Sub-models after pruning")[0]
    assert "45,702" in told  # parameters of the pruned slice
    plans = federate(config).plans
    own = Counter((plan.round > 2, plan.width(client)) for plan in plans for client in plan.edge_of)
    assert {(bool(version), width): times for (version, width), times in forecast(experiment).trained.items()} == own


RADIO = {
    "name": "wireless",
    "deadline_seconds": 1.0,
    "bandwidth_mhz": 10,
    "channel_mhz": {"distribution": "log_normal", "median": 20, "sigma": 0.7},
}


def wireless(**changes: object) -> Config:
    own = {"widths": [1.0, 0.75, 0.5], "assignment": RADIO | changes}
    return method("fedavg", pruning=DENSE, devices={"preset": "phones"}, submodels=own, schedule={"rounds": 6})


MASKED = {"scheme": "masked", "widths": [1.0, 0.3]}


def test_a_mask_keeps_the_largest_and_moves_nothing_else() -> None:
    """What is left out is zero at the client, has no update, no moment, and stays as it was at the edge."""
    local = {"optimizer_state": "per_client"}
    experiment = method("flat fedavg", pruning=DENSE, submodels=MASKED, local=local).build()
    host = ClientHost(experiment.host_setup())
    state = initial_state(experiment.spec, experiment.seed)
    layout = Layout.of(state)
    vector = layout.flatten(state)
    payload = Payload(vector.numpy(), layout, 0)
    order = LocalOrder(1, 0, 1.0, 0.0, slices={3: Slice(0.3, BY_MAGNITUDE)})
    partial, (kept,) = host.train(payload, order, [3], [None])
    num = math.ceil(0.3 * len(vector))
    covered = partial.totals[Kind.COVERAGE] > 0
    assert int(covered.sum()) == num
    assert np.abs(vector.numpy())[covered].min() >= np.abs(vector.numpy())[~covered].max()
    assert not partial.totals[Kind.MODEL][~covered].any()
    assert (partial.totals[Kind.MODEL][covered] != 0).mean() > 0.99
    assert kept is not None
    assert not kept.vectors["exp_avg"][~covered].any()
    old = replace(kept, vectors={name: np.ones_like(own) for name, own in kept.vectors.items()})  # moments from another mask
    again, _ = host.train(payload, replace(order, round=2), [3], [old])
    assert not again.totals[Kind.MODEL][~covered].any()
    cut = replace(old, vectors={name: own * covered for name, own in old.vectors.items()})
    same, _ = host.train(payload, replace(order, round=2), [3], [cut])
    assert np.array_equal(again.totals[Kind.MODEL], same.totals[Kind.MODEL])  # they move nothing while it trains
    sizes = {str(row.kind): row.num_bytes for row in partial.transfers if row.destination.startswith("client")}
    assert sizes == {"model": 4 * num, "mask": -(-len(vector) // 8)}
    assert [row.num_bytes for row in partial.transfers if row.source.startswith("client")] == [4 * num]


def test_masks_are_averaged_over_those_who_kept_a_weight_and_the_cloud_takes_whole_models() -> None:
    config = method("fedavg", pruning=DENSE, submodels=MASKED)
    experiment, outcome = config.build(), federate(config)
    assert forecast(experiment).bytes_by_hop == sums_by_hop(outcome)
    assert {str(row.kind) for row in outcome.transfers} == {"model", "mask"}
    narrowing = experiment.narrowings[0]
    assert narrowing is not None
    assert narrowing.networks[0.3].cost.memory_bytes == experiment.costs[0].memory_bytes
    one, other = np.array([1.0, 2.0, 3.0], np.float32), np.array([3.0, 6.0, 5.0], np.float32)
    base, mask = Payload(np.zeros(3, np.float32), Layout(("w",), ((3,),)), 0), np.array([1.0, 0.0, 1.0], np.float32)
    total = {Kind.MODEL: one * mask + other, Kind.COVERAGE: mask + 1}
    partial = PartialUpdate(total, ((1.0,), (1.0,)), np.array([2]), (), (), 0.0, 0.0)
    _, after = EdgeServer("edge/0", 1).aggregate(0, base, [1], experiment.strategy, True, partial)
    assert after.vector.tolist() == [2.0, 6.0, 4.0]


def test_masks_meet_a_deadline_too() -> None:
    own = {"scheme": "masked", "widths": [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1], "assignment": RADIO}
    config = method("fedavg", pruning=DENSE, devices={"preset": "phones"}, submodels=own, schedule={"rounds": 6})
    outcome = federate(config)
    assert len({own.width for plan in outcome.plans for own in plan.slices.values()}) > 1
    flights = [flight for plan in outcome.plans for flight in plan.flights]
    assert max(flight.ended - flight.started for flight in flights) <= 1.0 + 1e-9
    assert forecast(config.build()).bytes_by_hop == sums_by_hop(outcome)


@pytest.mark.parametrize(
    "sections",
    [
        {"strategy": {"name": "scaffold"}, "hierarchy": FLAT},
        {"strategy": {"name": "feddiffuse", "mode": "usplit"}},
        {"strategy": {"name": "moon"}},
        {"communication": {"from_clients": {"codec": "int8", "error_feedback": True}}},
    ],
)
def test_masks_go_with_one_model_alone(sections: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="masks go with methods that send one model"):
        tiny(**({"strategy": {"name": "fedavg"}, "pruning": DENSE, "submodels": MASKED} | sections))


def test_clients_of_a_radio_channel_are_in_time() -> None:
    """As wide as they can be: a client's next wider network would be late over the bandwidth that it has."""
    config = wireless()
    experiment, outcome = config.build(), federate(config)
    devices, narrowing = experiment.devices, experiment.narrowings[0]
    assert devices is not None
    assert narrowing is not None
    load = workload_of(experiment, federate(method("fedavg", pruning=DENSE, schedule={"rounds": 1})).state, 2)
    seen = Counter(own.width for plan in outcome.plans for own in plan.slices.values())
    assert seen[0.75] > 2
    for plan in outcome.plans:
        for flight in plan.flights:
            client, width = flight.client, plan.width(flight.client)
            assert flight.ended - flight.started <= 1.0 + 1e-9
            sending = 8 * load.upload_bytes(width, None) / plan.upload_rates[client]
            assert flight.arrived - flight.trained == pytest.approx(sending + devices.latency[client])
            if width < 1:
                wider = 1.0 if width == 0.75 else 0.75
                fixed = 2 * devices.latency[client] + 8 * load.download_bytes(client, 1.0) / devices.download[client]
                training = load.work(client, wider) / devices.speed[client]
                assert fixed + training + 8 * load.upload_bytes(wider, None) / plan.upload_rates[client] > 1.0
    assert forecast(experiment).bytes_by_hop == sums_by_hop(outcome)


def test_bandwidth_is_shared_by_the_clients_of_an_edge() -> None:
    config = wireless()
    experiment, outcome = config.build(), federate(config)
    channel = 1e6 * draw(experiment.submodels.assignment.channel_mhz, numpy_rng(experiment.seed, Purpose.SUBMODELS), 6)  # type: ignore[union-attr]
    for plan in outcome.plans:
        for edge in (0, 1):
            own = [client for client, chosen in plan.edge_of.items() if chosen == edge]
            rates = np.array([plan.upload_rates[client] for client in own])
            assert bandwidth_for(rates, channel[own]).sum() <= 10e6 * (1 + 1e-9)


def test_who_cannot_be_in_time_is_not_asked() -> None:
    outcome = federate(wireless(deadline_seconds=0.35))
    asked = [len(plan.asked) for plan in outcome.plans]
    assert min(asked) < 4
    assert max(asked) > 0
    nobody = federate(wireless(deadline_seconds=0.01))
    assert not any(plan.asked for plan in nobody.plans)
    assert not nobody.transfers


@pytest.mark.ray
@pytest.mark.parametrize("placement", [Placement(2, False, ""), Placement(6, True, "")], ids=["pooled", "dedicated"])
@pytest.mark.parametrize("assignment", ["wireless", "memory"])
def test_same_bits_everywhere(assignment: str, placement: Placement, actor_pool: ActorPool) -> None:
    own = {"widths": [1.0, 0.7], "assignment": {"name": "memory"}}
    buffered = {"policy": {"name": "buffered", "size": 2}}
    config = (
        wireless()
        if assignment == "wireless"
        else method("fedavg", devices=PHONES, submodels=own, pruning={"ratio": 0.25}, schedule=buffered)
    )
    experiment = config.build()
    backend = RayBackend(experiment.host_setup(), placement, experiment.runtime, actor_pool)
    there, here = federate(experiment, backend), federate(config)
    assert there.sha256 == here.sha256
    assert sorted(there.transfers) == sorted(here.transfers)
    assert [plan.sim_seconds for plan in there.plans] == [plan.sim_seconds for plan in here.plans]


def test_a_radio_channel_wants_rounds() -> None:
    with pytest.raises(ConfigError, match="goes without rounds"):
        method(
            "fedavg",
            pruning=DENSE,
            devices={"preset": "phones"},
            submodels={"widths": [1.0], "assignment": RADIO},
            schedule={"policy": {"name": "buffered", "size": 2}},
        )
