"""What the Ray backend says when something goes wrong."""

from dataclasses import replace

import numpy as np
import pytest
from federations import federate, tiny

from fedphd_ray.errors import ResourceError, RunFailedError
from fedphd_ray.runtime.placement import Placement
from fedphd_ray.runtime.ray_backend import RayBackend


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_an_error_of_a_client_arrives_whole() -> None:
    """Images of two channels do not fit the network: the message names client, edge and round, and shows the error itself."""
    config = tiny(runtime={"backend": "ray"})
    setup = config.build().host_setup()
    broken = replace(setup, images=np.repeat(setup.images, 2, axis=1))
    backend = RayBackend(broken, Placement(1, False, ""), config.runtime)
    try:
        with pytest.raises(RunFailedError, match=r"client/\d on edge/\d in round 1 failed(.|\n)*channels"):
            federate(config, backend)
    finally:
        backend.close()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_actors_that_find_no_place_are_told_of_before_the_deadline() -> None:
    config = tiny(runtime={"backend": "ray", "cpus_per_host": 3, "start_timeout_seconds": 20})
    with pytest.raises(ResourceError, match="still waiting"):
        RayBackend(config.build().host_setup(), Placement(2, False, ""), config.runtime)
