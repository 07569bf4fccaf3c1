"""What can be seen on a GPU only."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from federations import federate, method, shapes

from fedphd_ray.diffusion.unet import build_unet
from fedphd_ray.runtime.on_ray.actor_pool import ActorPool
from fedphd_ray.runtime.on_ray.backend import RayBackend
from fedphd_ray.runtime.policy.placement import Placement
from fedphd_ray.runtime.workers.device import claim_device

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


EIGHTH: dict[str, object] = {"placement": "pooled", "gpus_per_host": 0.125, "cpus_per_host": 0.1}


@pytest.mark.ray
def test_the_same_bits_for_one_two_and_eight_hosts_on_a_card(actor_pool: ActorPool) -> None:
    chosen = method("fedphd", data=shapes(10, {"name": "dirichlet", "alpha": 0.3}), runtime=EIGHTH)
    setup = chosen.build().host_setup()
    digests = {
        federate(chosen, RayBackend(setup, Placement(hosts, False, ""), chosen.runtime, actor_pool)).sha256 for hosts in (1, 2, 8)
    }
    assert len(digests) == 1


def test_device_memory_is_back_at_its_base_after_a_run(tmp_path: Path) -> None:
    config = method("fedphd", runtime=EIGHTH | {"backend": "ray", "hosts": 4})
    (tmp_path / "gpu.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    before, _ = torch.cuda.mem_get_info()
    command = [sys.executable, "-m", "fedphd_ray", "run", str(tmp_path / "gpu.yaml"), "--out", str(tmp_path / "run")]
    subprocess.run(command, check=True, timeout=300)
    after, _ = torch.cuda.mem_get_info()
    assert before - after < 2**20


@pytest.mark.parametrize("compiled", [False, True])
def test_mixed_precision_trains(compiled: bool) -> None:
    local = {"precision": "bfloat16", "compile": compiled}
    outcome = federate(method("fedphd", runtime={"gpus_per_host": 1.0}, local=local))
    assert all(math.isfinite(record.loss) for record in outcome.records)


def test_a_share_is_a_limit() -> None:
    """A process that wants more than its share is told so, instead of taking it from its neighbours."""
    device = claim_device(0.01, deterministic=True)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(torch.cuda.get_device_properties(0).total_memory // 50, dtype=torch.uint8, device=device)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_the_network_has_only_deterministic_kernels() -> None:
    """One step backward through the tiny network raises if it has an operation without one."""
    device = claim_device(1.0, deterministic=True)
    spec = method("fedphd").build().spec
    unet = build_unet(spec, device=device)
    images = torch.zeros(2, spec.channels, spec.image_size, spec.image_size, device=device)
    unet(images, torch.tensor([1, 2], device=device)).sample.sum().backward()
