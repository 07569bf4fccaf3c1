"""Networks and their channel groups, traced once. Tracing and counting work on skeletons without memory."""

import pytest

from fedphd_ray.diffusion.unet import UNetConfig, UNetSpec, build_unet
from fedphd_ray.pruning.groups import channel_groups

_CIFAR = UNetConfig(widths=(128, 256, 256, 256), attention=(False, True, False, False), groups=32, layers_per_block=2)
_CELEBA = UNetConfig(
    widths=(128, 256, 256, 256, 512), attention=(False, False, True, False, False), groups=32, layers_per_block=2
)
SPECS = {
    "tiny": UNetSpec(UNetConfig(widths=(8, 16), attention=(False, True), groups=2, head_dim=4), 8, 1),
    "digits": UNetSpec(UNetConfig(widths=(32, 64), attention=(False, True)), 8, 1),
    "cifar": UNetSpec(_CIFAR, 32, 3),
    "cifar64": UNetSpec(_CIFAR, 64, 3),
    "celeba": UNetSpec(_CELEBA, 64, 3),
}


@pytest.fixture(scope="session")
def specs():
    return SPECS


@pytest.fixture(scope="session")
def groups_of():
    return {name: channel_groups(build_unet(spec, device="meta"), spec.image_size, spec.channels) for name, spec in SPECS.items()}
