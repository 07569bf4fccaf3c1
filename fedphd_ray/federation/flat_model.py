"""A network as two flat vectors."""

import torch
from torch import Tensor, nn

from fedphd_ray.pruning.groups import CLASS_TABLE
from fedphd_ray.tensors import Layout


class FlatModel:
    """A module whose parameters and gradients are views into two flat vectors [num_params].

    Loading a model, taking an update, clipping and the optimiser's step are then one operation each, without dictionaries. It is
    made once per process and architecture, with its optimiser: clients after another use the same memory.

    Args:
        module: its parameters are moved into the flat vector; it must have no buffers.
        compiled_batch: images in the batches for which `denoiser`, the module as it is trained, is compiled at its first call; 0
            for none. Other batches go through the module as it is.
        sampled_batch: the same of `sampler`, the module as it is sampled from.
    """

    def __init__(self, module: nn.Module, *, compiled_batch: int = 0, sampled_batch: int = 0) -> None:
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
        self.denoiser = self._compiled(compiled_batch) if compiled_batch else module
        self.sampler = self._compiled(sampled_batch) if sampled_batch else module
        self.optimizer: torch.optim.Optimizer | None = None
        weights = [name for name in views if "weight" in name and name != CLASS_TABLE]  # a class is no channel
        self.weights, self.weight_grads = [views[name] for name in weights], [grads[name] for name in weights]

    @property
    def vector(self) -> Tensor:
        """The parameters [num_params]; writing into it changes the module."""
        return self.flat.data

    @property
    def grad(self) -> Tensor:
        """The gradient [num_params]."""
        assert self.flat.grad is not None
        return self.flat.grad

    def _compiled(self, batch_size: int) -> nn.Module:
        from fedphd_ray.federation.compiled import Compiled  # noqa: PLC0415 - it takes seconds

        return Compiled(self.module, self.layout, self.flat, batch_size)
