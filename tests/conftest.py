"""Stricter than production: Ray without authentication, no user's caches, one torch thread, global generators poisoned."""

import os

os.environ["RAY_AUTH_MODE"] = "disabled"  # before anything imports ray
os.environ["RAY_DEDUP_LOGS"] = "0"
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - hosts must not starve beside other test processes
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
os.environ["RAY_allow_out_of_band_object_ref_serialization"] = "0"  # noqa: SIM112 - Ray spells it so
os.environ.pop("RAY_ADDRESS", None)

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import settings

if TYPE_CHECKING:
    from fedphd_ray.runtime.on_ray.actor_pool import ActorPool


# The same examples every time: what a change breaks is what it broke. `make soak` looks for new ones. No test depends on how fast
# a machine is.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("searching", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


@pytest.hookimpl(tryfirst=True)  # before xdist, which writes the groups into the names
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several test processes, all tests that need Ray run in one of them: there is one session."""
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """The promise above is easily lost between versions of pytest and xdist, and then everything just takes twice as long."""
    if "PYTEST_XDIST_WORKER" in os.environ and item.get_closest_marker("ray"):
        assert item.nodeid.endswith("@ray"), "Ray tests are spread over processes"


@pytest.fixture(scope="session", autouse=True)
def _one_cache_for_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Feature networks are trained once per session, in a directory of the session's own."""
    before = os.environ.get("FEDPHD_CACHE_DIR")
    os.environ["FEDPHD_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["FEDPHD_CACHE_DIR"]
    else:
        os.environ["FEDPHD_CACHE_DIR"] = before


@pytest.fixture(autouse=True)
def _poisoned_generators() -> Iterator[None]:
    """Global generators must not decide anything: they start somewhere else in every test, and nobody may move them."""
    torch.set_num_threads(1)
    torch.seed()
    np.random.seed(None)
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    yield
    assert torch.equal(torch_before, torch.get_rng_state()), "the test moved torch's global generator"
    assert np.array_equal(numpy_before, np.random.get_state()[1]), "the test moved NumPy's global generator"


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray session for all tests, with a GPU that exists only in Ray's books."""
    import ray  # noqa: PLC0415 - after its environment, and only where it is needed

    ray.init(
        address="local",
        num_cpus=4,
        num_gpus=1,
        object_store_memory=200 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="WARNING",
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def actor_pool(ray_cluster: None) -> "Iterator[ActorPool]":
    """Six client hosts that share one GPU (a sixth each), and edge servers, for all federations of the session.

    Starting them takes a minute on two cores, and more beside other work: no test depends on how long.
    """
    from fedphd_ray.runtime.on_ray.actor_pool import ActorPool  # noqa: PLC0415
    from fedphd_ray.runtime.policy.placement import RuntimeConfig  # noqa: PLC0415

    with ActorPool(RuntimeConfig(cpus_per_host=0.1, gpus_per_host=0.16, start_timeout_seconds=900)) as pool:
        pool.ensure(6, ("edge/0", "edge/1"))
        yield pool
