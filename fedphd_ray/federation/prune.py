"""One-shot pruning of the cloud's model: which channels go."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from fedphd_ray.diffusion.unet import UNetSpec, blind_blocks, build_unet, parameter_shapes
from fedphd_ray.errors import PruningError
from fedphd_ray.pruning.groups import ChannelGroup, channel_groups
from fedphd_ray.pruning.importance import Importance, group_l2_importance
from fedphd_ray.pruning.plan import PrunePlan, largest_ratio, make_plan, uniform_plan
from fedphd_ray.records import Payload
from fedphd_ray.tensors import Shape, as_tensor


@lru_cache(maxsize=8)
def groups_of(spec: UNetSpec) -> tuple[ChannelGroup, ...]:
    """The coupled channels of a dense network; tracing it takes a second, and many runs have the same network."""
    return tuple(channel_groups(build_unet(spec, device="meta"), spec.image_size, spec.channels))


@lru_cache(maxsize=8)
def groups_at(spec: UNetSpec, ratios: tuple[float, ...]) -> tuple[ChannelGroup, ...]:
    """The coupled channels of the network that prunings by these ratios leave; which channels stay does not matter for that."""
    groups = groups_of(spec)
    for version, ratio in enumerate(ratios, start=1):
        groups = uniform_plan(groups, ratio, version).groups_left()
    return groups


def shapes_at(spec: UNetSpec, ratios: tuple[float, ...]) -> Mapping[str, Shape]:
    """The shapes of its parameters, by name."""
    return pruned_shapes(spec, *ratios)[-1].by_name if ratios else parameter_shapes(spec)


def num_channels(spec: UNetSpec, ratios: tuple[float, ...]) -> int:
    """Length of the plan that led there: the prunable channels of the dense network; 0 without a pruning."""
    return pruned_shapes(spec, *ratios)[-1].num_channels if ratios else 0


def plan_pruning(
    spec: UNetSpec, model: Payload, ratio: float, before: PrunePlan | None = None, importance: Importance = group_l2_importance
) -> PrunePlan:
    """The plan for a model: in every group of coupled channels, the most important ones stay.

    Args:
        spec: of the dense network.
        model: as it is now.
        ratio: of the channels that are left.
        before: how the dense network became this one; None for the dense network itself.
        importance: of the channels.
    """
    groups = groups_of(spec) if before is None else before.groups_left()
    return make_plan(groups, model.layout.views(as_tensor(model.vector)), ratio, model.version + 1, importance)


@dataclass(frozen=True)
class PrunedShapes:
    """What pruning leaves of a network, known before there are weights.

    Attributes:
        by_name: parameter name -> shape.
        num_channels: prunable channels, the length of a plan.
        effective_ratio: share of them that goes: whole channels go from every block, so it is at least the ratio asked for.
    """

    by_name: Mapping[str, Shape]
    num_channels: int
    effective_ratio: float


@lru_cache(maxsize=32)
def pruned_shapes(spec: UNetSpec, *ratios: float) -> tuple[PrunedShapes, ...]:
    """What every plan of these ratios leaves: after the first pruning, after the second, ...

    Raises:
        PruningError: one would empty a layer, or leave a residual block that cannot see the time step.
    """
    left: list[PrunedShapes] = []
    whole: PrunePlan | None = None
    for version, ratio in enumerate(ratios, start=1):
        plan = uniform_plan(groups_of(spec) if whole is None else whole.groups_left(), ratio, version)
        whole = plan if whole is None else whole.then(plan)
        shapes = whole.shapes(parameter_shapes(spec))
        _require_sight(spec, shapes, ratio)
        left.append(PrunedShapes(shapes, whole.num_channels, whole.effective_ratio))
    return tuple(left)


def _require_sight(spec: UNetSpec, shapes: Mapping[str, Shape], ratio: float) -> None:
    if blind := blind_blocks(spec, shapes):
        block = min(spec.config.widths) // spec.config.groups
        bound = largest_ratio(block, 2)
        raise PruningError(
            "pruning.ratio",
            expected=f"at most {bound:g}, so that each norm of {block} channels keeps two"
            if bound > 0
            else "norms of three channels or more, so that two can stay",
            found=f"{ratio}, which leaves one in {len(blind)} residual blocks, among them {blind[0]}: such a norm subtracts all "
            "that the time step added, and the network could not tell one noise level from another",
            remedy="lower the ratio, make the network wider, or set model.groups to a smaller divisor of the widths",
        )
