"""The same bits wherever a federation runs: in one process, on any number of shared hosts, on a host per client."""

from functools import cache

import pytest
from federations import federate, tiny

from fedphd_ray.config import Config
from fedphd_ray.runtime.actor_pool import ActorPool
from fedphd_ray.runtime.placement import Placement
from fedphd_ray.runtime.ray_backend import RayBackend

STRATEGIES = {
    "fedphd": {"strategy": {"name": "fedphd"}},
    "fedavg": {"strategy": {"name": "fedavg"}},
    "flat fedavg": {"strategy": {"name": "fedavg"}, "hierarchy": {"num_edges": 0, "cloud_period": 1}},
    "fedphd with kept moments": {"local": {"optimizer_state": "per_client"}},
}
PLACEMENTS = {
    "one shared host": Placement(1, dedicated=False, reason=""),
    "two shared hosts": Placement(2, dedicated=False, reason=""),
    "three shared hosts": Placement(3, dedicated=False, reason=""),
    "a host per client": Placement(6, dedicated=True, reason=""),
}


def config(name: str, **changes: object) -> Config:
    return tiny(**{**STRATEGIES[name], **changes})


@cache
def reference(name: str) -> str:
    """The digest of the in-process twin."""
    return federate(config(name)).sha256


@pytest.mark.ray
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", STRATEGIES)
def test_every_placement_gives_the_bits_of_one_process(name: str, placement: str, actor_pool: ActorPool) -> None:
    chosen = config(name)
    backend = RayBackend(chosen.build().host_setup(), PLACEMENTS[placement], chosen.runtime, actor_pool)
    outcome = federate(chosen, backend)
    assert outcome.records[0].slots == PLACEMENTS[placement].num_hosts
    assert outcome.sha256 == reference(name)


@pytest.mark.ray
def test_ten_dedicated_hosts_share_one_gpu(actor_pool: ActorPool) -> None:
    """Fractions of a GPU are scheduled (Ray's books hold one); the bits stay those of one process."""
    chosen = config("fedphd", data={"name": "digits", "num_clients": 10, "partition": {"name": "dirichlet", "alpha": 0.3}})
    backend = RayBackend(chosen.build().host_setup(), Placement(10, True, ""), chosen.runtime, actor_pool)
    assert federate(chosen, backend).sha256 == federate(chosen).sha256


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_automatic_placement_gives_the_bits_of_one_process() -> None:
    """With actors of its own, started by the run and ended with it."""
    chosen = config("fedphd", runtime={"backend": "ray", "cpus_per_host": 1})
    assert federate(chosen).sha256 == reference("fedphd")


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(name: str) -> None:
    assert federate(config(name)).sha256 == reference(name)
    assert federate(config(name, seed=8)).sha256 != reference(name)


def test_strategies_differ() -> None:
    assert len({reference(name) for name in STRATEGIES}) == len(STRATEGIES)
