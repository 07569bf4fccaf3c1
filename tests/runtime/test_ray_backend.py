"""What the Ray backend says when something goes wrong."""

from dataclasses import replace

import numpy as np
import pytest
from federations import federate, tiny

from fedphd_ray.errors import ResourceError, RunFailedError
from fedphd_ray.runtime.actor_pool import ActorPool
from fedphd_ray.runtime.placement import Placement, RuntimeConfig
from fedphd_ray.runtime.ray_backend import RayBackend


@pytest.mark.ray
def test_an_error_of_a_client_arrives_whole(actor_pool: ActorPool) -> None:
    """Images of two channels do not fit the network: the message names client, edge and round, and shows the error itself."""
    config = tiny(runtime={"backend": "ray"})
    setup = config.build().host_setup()
    broken = replace(setup, images=np.repeat(setup.images, 2, axis=1))
    backend = RayBackend(broken, Placement(1, False, ""), config.runtime, actor_pool)
    with pytest.raises(RunFailedError, match=r"client/\d on edge/\d in round 1 failed(.|\n)*channels"):
        federate(config, backend)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_actors_that_find_no_place_are_told_of_at_the_deadline() -> None:
    with (
        ActorPool(RuntimeConfig(cpus_per_host=64, start_timeout_seconds=2)) as pool,
        pytest.raises(ResourceError, match="1 still waiting"),
    ):
        pool.ensure(1, 0)
