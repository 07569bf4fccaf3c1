"""Placement: decided by a pure function, refused with numbers."""

import pytest

from fedphd_ray.errors import ResourceError
from fedphd_ray.runtime.policy.placement import Demand, Node, RuntimeConfig, decide, shares, store_size

LAPTOP = Node(cpus=8, gpus=0, memory_bytes=16 * 2**30)
DEMAND = Demand(num_clients=20, clients_per_round=5, model_bytes=3_000_000)


def test_auto_starts_as_many_hosts_as_can_be_busy() -> None:
    placement = decide(RuntimeConfig(), [LAPTOP], DEMAND)
    assert (placement.num_hosts, placement.dedicated) == (5, False)
    assert decide(RuntimeConfig(), [Node(2, 0, 2**34)], DEMAND).num_hosts == 2


def test_memory_limits_too() -> None:
    small = Node(cpus=64, gpus=0, memory_bytes=int(3 * DEMAND.host_bytes / 0.8) + 1)
    assert decide(RuntimeConfig(), [small], DEMAND).num_hosts == 3


def test_fractions_of_gpus() -> None:
    gpu = Node(cpus=16, gpus=1, memory_bytes=2**36)
    config = RuntimeConfig(gpus_per_host=0.1, hosts=10)
    assert decide(config, [gpu], DEMAND).num_hosts == 10
    with pytest.raises(ResourceError, match="room for 10"):
        decide(config.model_copy(update={"hosts": 11}), [gpu], DEMAND)


def test_a_host_must_fit_on_one_node() -> None:
    nodes = [Node(3, 0, 2**34)] * 4
    assert decide(RuntimeConfig(cpus_per_host=2), nodes, DEMAND).num_hosts == 4
    with pytest.raises(ResourceError, match=r"runtime\.hosts"):
        decide(RuntimeConfig(cpus_per_host=4), nodes, DEMAND)
    with pytest.raises(ResourceError):
        decide(RuntimeConfig(gpus_per_host=1), nodes, DEMAND)


def test_dedicated_is_one_host_per_client_or_a_refusal_with_the_number() -> None:
    placement = decide(RuntimeConfig(placement="dedicated", cpus_per_host=0.25), [LAPTOP], DEMAND)
    assert (placement.num_hosts, placement.dedicated) == (20, True)
    with pytest.raises(ResourceError, match="room for 20 host processes"):
        decide(RuntimeConfig(placement="dedicated"), [LAPTOP], DEMAND)


def test_a_large_network_with_kept_moments_still_finds_room_for_hosts() -> None:
    """35.7 M parameters, 100 clients that keep moments: the store is capped, and what is left is what `plan` counts with."""
    memory, model = 24 * 2**30, 4 * 35_700_000
    demand = Demand(num_clients=100, clients_per_round=4, model_bytes=model, num_servers=2, store_bytes=100 * 3 * model)
    store = store_size(demand.store_bytes, memory)
    assert store == memory // 4
    assert decide(RuntimeConfig(), [Node(2, 0, memory - store)], demand).num_hosts == 2


def test_edges_take_memory_too() -> None:
    demand = Demand(num_clients=4, clients_per_round=4, model_bytes=2**30, num_servers=0)
    nodes = [Node(8, 0, 40 * 2**30)]
    without = decide(RuntimeConfig(), nodes, demand).num_hosts
    assert decide(RuntimeConfig(), nodes, demand.model_copy(update={"num_servers": 3})).num_hosts < without


def test_runs_side_by_side_share_the_room() -> None:
    nodes, demand = [Node(8, 0, 2**36)], Demand(num_clients=20, clients_per_round=4, model_bytes=2**20)
    assert shares(RuntimeConfig(), nodes, demand, 3) == (3, 2)
    assert shares(RuntimeConfig(), nodes, demand, 1) == (1, 4)  # more than train in a round have nothing to do
    assert shares(RuntimeConfig(hosts=3), nodes, demand, 5) == (2, 3)
    assert shares(RuntimeConfig(), nodes, demand, 100) == (8, 1)
    assert shares(RuntimeConfig(placement="dedicated", cpus_per_host=0.2), nodes, demand, 5) == (2, "auto")
    assert shares(RuntimeConfig(), [Node(0.5, 0, 2**36)], demand, 5) == (1, 1)  # too small for any: that run is refused
