"""What a network asks of a client: known from its shapes alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fedphd_ray.diffusion.unet import UNetSpec, activation_bytes, build_unet
from fedphd_ray.pruning.groups import count_macs
from fedphd_ray.tensors import Shape

BYTES_PER_PARAMETER = 16  # weights, gradients and two moments, float32 each


@dataclass(frozen=True)
class Cost:
    """Of one architecture: MACs of one forward pass of one image, and bytes that training takes on a client."""

    macs: int
    memory_bytes: int

    @classmethod
    def of(cls, spec: UNetSpec, shapes: Mapping[str, Shape], images_at_once: int) -> "Cost":
        """Of a network of these shapes, through which so many images go at once."""
        num_params = sum(map(math.prod, shapes.values()))
        return cls(
            macs=count_macs(build_unet(spec, shapes, device="meta"), spec.image_size, spec.channels),
            memory_bytes=BYTES_PER_PARAMETER * num_params + activation_bytes(spec, images_at_once, shapes),
        )
