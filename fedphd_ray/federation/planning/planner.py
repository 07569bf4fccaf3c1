"""Which planner a configuration asks for."""

from collections.abc import Sequence

from fedphd_ray.devices.profiles import Devices
from fedphd_ray.federation.planning.buffered import BufferedSchedule
from fedphd_ray.federation.planning.hierarchy import HierarchyConfig
from fedphd_ray.federation.planning.policies import Buffered
from fedphd_ray.federation.planning.schedule import Schedule, ScheduleConfig
from fedphd_ray.federation.planning.simulated import SynchronousSchedule


def planner(
    config: ScheduleConfig, hierarchy: HierarchyConfig, seed: int, prune_rounds: Sequence[int], devices: Devices | None
) -> Schedule:
    """The planner of rounds; without devices nobody is late, and times do not matter."""
    if devices is None:
        return Schedule(config, hierarchy, seed, prune_rounds)
    if isinstance(config.policy, Buffered):
        return BufferedSchedule(config, hierarchy, seed, prune_rounds, devices, config.policy)
    return SynchronousSchedule(config, hierarchy, seed, prune_rounds, devices, config.policy)
