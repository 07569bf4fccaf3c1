"""One-shot pruning of the cloud's model: which channels go."""

from functools import lru_cache

from fedphd_ray.diffusion.unet import UNetSpec, build_unet
from fedphd_ray.pruning.groups import ChannelGroup, channel_groups
from fedphd_ray.pruning.plan import PrunePlan, make_plan
from fedphd_ray.records import Payload
from fedphd_ray.tensors import as_tensor


@lru_cache(maxsize=8)
def groups_of(spec: UNetSpec) -> tuple[ChannelGroup, ...]:
    """The coupled channels of a dense network; tracing it takes a second, and many runs have the same network."""
    return tuple(channel_groups(build_unet(spec, device="meta"), spec.image_size, spec.channels))


def plan_pruning(spec: UNetSpec, model: Payload, ratio: float) -> PrunePlan:
    """The plan for a dense model: in every group of coupled channels, those of largest group norm stay."""
    assert model.version == 0, "a model is pruned once"
    return make_plan(groups_of(spec), model.layout.views(as_tensor(model.vector)), ratio, version=model.version + 1)
