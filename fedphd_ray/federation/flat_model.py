"""A network as two flat vectors."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.types import GuardFilterEntry
from torch.func import functional_call

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
    """

    def __init__(self, module: nn.Module, *, compiled_batch: int = 0) -> None:
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
        self.denoiser = _Compiled(self, compiled_batch) if compiled_batch else module
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


class _Compiled(nn.Module):
    """A model compiled as one function of its flat vector.

    A step then checks one parameter and adds up one gradient, where a module has hundreds of each. Compiling takes long: it is
    done for one batch size only.
    """

    def __init__(self, model: FlatModel, batch_size: int) -> None:
        super().__init__()
        module, layout = model.module, model.layout

        def denoise(flat: Tensor, *inputs: Tensor) -> object:
            return functional_call(module, layout.views(flat), inputs)

        on_cpu = model.vector.device.type == "cpu"
        options: dict[str, Any] = {"guard_filter_fn": _of_arguments, "cpp_wrapper": on_cpu}  # Python between kernels costs a CPU
        self._model, self._batch_size = model, batch_size
        self._denoise = torch.compile(  # type: ignore[call-overload]  # torch's overloads leave `isolate_recompiles` out
            denoise, fullgraph=True, dynamic=False, isolate_recompiles=True, options=options
        )

    def forward(self, images: Tensor, *inputs: Tensor) -> object:
        """As the module itself."""
        if len(images) != self._batch_size:
            return self._model.module(images, *inputs)
        denoised: object = self._denoise(self._model.flat, images, *inputs)
        return denoised


def _of_arguments(guards: Sequence[GuardFilterEntry]) -> list[bool]:
    """What is checked before a step: what it is called with, and torch's own state. The module is ours, and stays as it is."""
    return [
        not guard.name or (guard.guard_type == "TENSOR_MATCH" and not isinstance(guard.value, nn.Parameter)) for guard in guards
    ]
