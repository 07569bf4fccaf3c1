"""The same bits wherever a federation runs: in one process, on any number of shared hosts, on a host per client."""

import pytest
from federations import METHODS, federate, method, reference, shapes

from fedphd_ray.runtime.on_ray.actor_pool import ActorPool
from fedphd_ray.runtime.on_ray.backend import RayBackend
from fedphd_ray.runtime.policy.placement import Placement

PLACEMENTS = {
    "two shared hosts": Placement(2, dedicated=False, reason=""),
    "a host per client": Placement(6, dedicated=True, reason=""),
}


@pytest.mark.ray
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", METHODS)
def test_every_placement_gives_the_bits_of_one_process(name: str, placement: str, actor_pool: ActorPool) -> None:
    chosen = method(name)
    backend = RayBackend(chosen.build().host_setup(), PLACEMENTS[placement], chosen.runtime, actor_pool)
    outcome = federate(chosen, backend)
    assert outcome.records[0].slots == PLACEMENTS[placement].num_hosts
    assert outcome.sha256 == reference(name)


@pytest.mark.ray
@pytest.mark.parametrize("hosts", [1, 3])
@pytest.mark.parametrize("name", ["fedphd", "fedavg"])
def test_any_number_of_shared_hosts_gives_the_bits_of_one_process(name: str, hosts: int, actor_pool: ActorPool) -> None:
    chosen = method(name)
    backend = RayBackend(chosen.build().host_setup(), Placement(hosts, False, ""), chosen.runtime, actor_pool)
    assert federate(chosen, backend).sha256 == reference(name)


@pytest.mark.ray
def test_six_dedicated_hosts_share_one_gpu(actor_pool: ActorPool) -> None:
    """Fractions of a GPU are scheduled (Ray's books hold one); the bits stay those of one process."""
    chosen = method("fedphd", data=shapes(6, {"name": "dirichlet", "alpha": 0.3}))
    backend = RayBackend(chosen.build().host_setup(), Placement(6, True, ""), chosen.runtime, actor_pool)
    assert federate(chosen, backend).sha256 == federate(chosen).sha256


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    assert federate(method(name)).sha256 == reference(name)


@pytest.mark.parametrize("name", ["fedphd", "fedavg"])
def test_another_seed_gives_other_bits(name: str) -> None:
    assert federate(method(name, seed=8)).sha256 != reference(name)
