"""The same bits wherever a federation runs: in one process, on any number of shared hosts, on a host per client."""

from functools import cache

import pytest
from federations import federate, tiny

from fedphd_ray.config import Config

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
@pytest.mark.parametrize("hosts", [1, 2, 3])
@pytest.mark.parametrize("name", ["fedphd", "fedavg"])
def test_pooled_hosts_give_the_bits_of_one_process(name: str, hosts: int) -> None:
    runtime = {"backend": "ray", "placement": "pooled", "hosts": hosts}
    outcome = federate(config(name, runtime=runtime))
    assert outcome.sha256 == reference(name)
    assert outcome.records[0].slots == hosts


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_host_per_client_gives_the_bits_of_one_process(name: str) -> None:
    outcome = federate(config(name, runtime={"backend": "ray", "placement": "dedicated"}))
    assert outcome.sha256 == reference(name)
    assert outcome.records[0].slots == 6


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("name", ["flat fedavg", "fedphd with kept moments"])
def test_automatic_placement_gives_the_bits_of_one_process(name: str) -> None:
    assert federate(config(name, runtime={"backend": "ray"})).sha256 == reference(name)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_ten_hosts_share_one_gpu() -> None:
    """Fractions of a GPU are scheduled (Ray's books hold one); the bits stay those of one process."""
    runtime = {"backend": "ray", "hosts": 10, "cpus_per_host": 0.1, "gpus_per_host": 0.1, "placement": "pooled"}
    outcome = federate(config("fedphd", runtime=runtime))
    assert outcome.records[0].slots == 10
    assert outcome.sha256 == reference("fedphd")


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(name: str) -> None:
    assert federate(config(name)).sha256 == reference(name)
    assert federate(config(name, seed=8)).sha256 != reference(name)


def test_strategies_differ() -> None:
    assert len({reference(name) for name in STRATEGIES}) == len(STRATEGIES)
