"""The same bits wherever a federation runs: in one process, on any number of shared hosts, on a host per client."""

from functools import cache

import pytest
import ray
from federations import federate, tiny

from fedphd_ray.config import Config
from fedphd_ray.runtime.ray_backend import RayBackend
from fedphd_ray.runtime.run import start_backend

STRATEGIES = {
    "fedphd": {"strategy": {"name": "fedphd"}},
    "fedavg": {"strategy": {"name": "fedavg"}},
    "flat fedavg": {"strategy": {"name": "fedavg"}, "hierarchy": {"num_edges": 0, "cloud_period": 1}},
    "fedphd with kept moments": {"local": {"optimizer_state": "per_client"}},
}


def config(name: str, **changes: object) -> Config:
    return tiny(**{**STRATEGIES[name], **changes})


@cache
def reference(name: str) -> str:
    """The digest of the in-process twin."""
    return federate(config(name)).sha256


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("name", ["fedphd", "fedavg"])
def test_any_number_of_shared_hosts_gives_the_bits_of_one_process(name: str) -> None:
    chosen = config(name, runtime={"backend": "ray", "placement": "pooled", "hosts": 3})
    with start_backend(chosen.build(), lambda line: None) as started:
        assert isinstance(started.backend, RayBackend)
        for hosts in (3, 2, 1):
            for surplus in started.backend._hosts[hosts:]:
                ray.kill(surplus)
            del started.backend._hosts[hosts:]
            outcome = federate(chosen, started.backend)
            assert outcome.records[0].slots == hosts
            assert outcome.sha256 == reference(name)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_host_per_client_gives_the_bits_of_one_process() -> None:
    five = {"name": "digits", "num_clients": 5, "partition": {"name": "dirichlet", "alpha": 0.3}}
    chosen = config("fedavg", data=five, runtime={"backend": "ray", "placement": "dedicated"})
    outcome = federate(chosen)
    assert outcome.records[0].slots == 5
    assert outcome.sha256 == federate(config("fedavg", data=five)).sha256


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_ten_dedicated_hosts_share_one_gpu() -> None:
    """Fractions of a GPU are scheduled (Ray's books hold one); the bits stay those of one process."""
    ten = {"name": "digits", "num_clients": 10, "partition": {"name": "classes", "classes_per_client": 2}}
    runtime = {"backend": "ray", "cpus_per_host": 0.1, "gpus_per_host": 0.1, "placement": "dedicated"}
    outcome = federate(config("fedphd", data=ten, runtime=runtime))
    assert outcome.records[0].slots == 10
    assert outcome.sha256 == federate(config("fedphd", data=ten)).sha256


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("name", ["flat fedavg", "fedphd with kept moments"])
def test_automatic_placement_gives_the_bits_of_one_process(name: str) -> None:
    chosen = config(name, runtime={"backend": "ray", "cpus_per_host": 2})
    assert federate(chosen).sha256 == reference(name)


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(name: str) -> None:
    assert federate(config(name)).sha256 == reference(name)
    assert federate(config(name, seed=8)).sha256 != reference(name)


def test_strategies_differ() -> None:
    assert len({reference(name) for name in STRATEGIES}) == len(STRATEGIES)
