"""A network as two flat vectors."""

from typing import cast

import torch
from torch import Tensor, nn

from fedphd_ray.tensors import Layout


class FlatModel:
    """A module whose parameters and gradients are views into two flat vectors [num_params].

    Loading a model, taking an update, clipping and the optimiser's step are then one operation each, without dictionaries. It is
    made once per process and architecture, with its optimiser: clients after another use the same memory.

    Args:
        module: its parameters are moved into the flat vector; it must have no buffers.
        compiled: whether `denoiser`, the module as it is trained, is compiled at its first call.
    """

    def __init__(self, module: nn.Module, *, compiled: bool = False) -> None:
        parameters = dict(module.named_parameters())
        assert not list(module.buffers()), "a model with buffers cannot be one vector of parameters"
        self.module = module
        self.layout = Layout.of(parameters)
        first = next(iter(parameters.values()))
        self.flat = nn.Parameter(self.layout.flatten(parameters, first.dtype).to(first.device))
        self.flat.grad = torch.zeros_like(self.flat)
        views, grads = self.layout.views(self.flat.data), self.layout.views(self.flat.grad)
        for name, parameter in parameters.items():
            parameter.data = views[name]
            parameter.grad = grads[name]
        self.denoiser = cast(nn.Module, torch.compile(module)) if compiled else module
        self.optimizer: torch.optim.Optimizer | None = None
        self.weights = [views[name] for name in views if "weight" in name]
        self.weight_grads = [grads[name] for name in grads if "weight" in name]

    @property
    def vector(self) -> Tensor:
        """The parameters [num_params]; writing into it changes the module."""
        return self.flat.data

    @property
    def grad(self) -> Tensor:
        """The gradient [num_params]."""
        assert self.flat.grad is not None
        return self.flat.grad
