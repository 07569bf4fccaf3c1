"""fedphd_ray: hierarchical federated training of diffusion models with structured pruning (FedPhD, arXiv 2507.06449), on Ray.

import fedphd_ray

run = fedphd_ray.run({"model": {...}, "schedule": {"rounds": 20}}, "runs/mine")
print(run.summary.fid, run.ledger.num_rows)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedphd_ray.api import Run, arrays, compare, configuration, resume, run
    from fedphd_ray.config import Config
    from fedphd_ray.data.partition import PartitionRule
    from fedphd_ray.diffusion.metrics import Metric
    from fedphd_ray.strategies.base import LocalMethod, LocalStart, Strategy

__version__ = "0.2.0"
__all__ = [
    "Config",
    "LocalMethod",
    "LocalStart",
    "Metric",
    "PartitionRule",
    "Run",
    "Strategy",
    "arrays",
    "compare",
    "configuration",
    "resume",
    "run",
]

_HOMES = {
    "Config": "config",
    "LocalMethod": "strategies.base",
    "LocalStart": "strategies.base",
    "Metric": "diffusion.metrics",
    "PartitionRule": "data.partition",
    "Strategy": "strategies.base",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for, when it is: torch takes seconds, and `fedphd --help` needs none of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'api')}"), name)
