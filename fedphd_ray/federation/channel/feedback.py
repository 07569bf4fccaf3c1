"""Error feedback: clients keep what their uploads have left out, and add it to the next (Stich et al. 2018)."""

from dataclasses import replace

import torch
from torch import Tensor

from fedphd_ray.federation.channel.communication import Codecs
from fedphd_ray.federation.local_config import LocalConfig
from fedphd_ray.records import ClientState
from fedphd_ray.strategies import Strategy
from fedphd_ray.tensors import Layout, as_numpy, as_tensor
from fedphd_ray.topology import Topology

RESIDUAL = "residual"


def clients_keep(local: LocalConfig, strategy: Strategy, codecs: Codecs, topology: Topology) -> bool:
    """Whether clients keep anything between rounds: moments, what their method keeps, or residuals."""
    return local.keeps_moments or strategy.keeps_state or codecs.keeps_residual(topology.from_client)


def residual_of(state: ClientState | None, layout: Layout, device: torch.device) -> Tensor:
    """What a client's uploads have left out so far [num_params]: nothing before the first."""
    if state is None or RESIDUAL not in state.vectors:
        return torch.zeros(layout.num_params, device=device)
    return as_tensor(state.vectors[RESIDUAL]).to(device)


def with_residual(state: ClientState | None, residual: Tensor | None, version: int) -> ClientState | None:
    """What a client keeps otherwise, and its residual, if clients keep one."""
    if residual is None:
        return state
    kept = ClientState({}, {}, version) if state is None else state
    return replace(kept, vectors={**kept.vectors, RESIDUAL: as_numpy(residual)})
