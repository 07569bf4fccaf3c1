"""One-shot pruning of the cloud's model: which channels go."""

from fedphd_ray.diffusion.unet import UNetSpec, build_unet
from fedphd_ray.pruning.groups import channel_groups
from fedphd_ray.pruning.plan import PrunePlan, make_plan
from fedphd_ray.records import Payload
from fedphd_ray.tensors import as_tensor


def plan_pruning(spec: UNetSpec, model: Payload, ratio: float) -> PrunePlan:
    """The plan for a dense model: in every group of coupled channels, those of largest group norm stay."""
    assert model.version == 0, "a model is pruned once"
    groups = channel_groups(build_unet(spec, device="meta"), spec.image_size, spec.channels)
    return make_plan(groups, model.layout.views(as_tensor(model.vector)), ratio, version=model.version + 1)
