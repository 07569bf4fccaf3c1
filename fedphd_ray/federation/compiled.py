"""A network compiled as one function of its flat vector. Importing this takes seconds: whoever compiles nothing need not."""

from collections.abc import Callable
from typing import cast

import torch
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn
from torch._guards import TracingContext, tracing
from torch._inductor.compile_fx import compile_fx
from torch._subclasses import FakeTensorMode
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from fedphd_ray.tensors import Layout

Denoise = Callable[..., tuple[Tensor]]


class Compiled(nn.Module):
    """A denoiser that is compiled for batches of one size, at the first of them; others go through the module.

    A step then checks nothing and adds up one gradient, where a module has hundreds. It stays what it was at the first batch: for
    training or for evaluation, with gradients or without.

    Args:
        module: the network.
        layout: of its parameters.
        flat: their vector [num_params]; they are views of it.
        batch_size: images.
    """

    def __init__(self, module: nn.Module, layout: Layout, flat: nn.Parameter, batch_size: int) -> None:
        super().__init__()
        self._network, self._layout, self._flat, self._batch_size = module, layout, flat, batch_size
        self._denoise: Denoise | None = None

    @property
    def config(self) -> object:
        """The network's own."""
        return self._network.config

    def forward(self, images: Tensor, *inputs: Tensor) -> object:
        """As the module itself."""
        if len(images) != self._batch_size:
            return self._network(images, *inputs)
        if self._denoise is None:
            self._denoise = compiled(self._network, self._layout, self._flat, images, *inputs)
        return UNet2DOutput(sample=self._denoise(self._flat, images, *inputs)[0])


def compiled(module: nn.Module, layout: Layout, *example: Tensor) -> Denoise:
    """The module as a function of its flat vector and of its inputs, for inputs like the example.

    It is what `torch.compile` makes, without TorchDynamo: the module runs once with tensors that have no values, and what it did
    is the graph. That takes half a second, where reading its Python code takes ten. Kernels come out of inductor's cache, which
    hosts and runs share.
    """

    def denoise(flat: Tensor, *inputs: Tensor) -> tuple[Tensor]:
        return (functional_call(module, layout.views(flat), inputs).sample,)

    device = example[0].device.type
    mixed = torch.is_autocast_enabled(device)  # then it is traced below autocast: the casts are in the graph
    graph = make_fx(denoise, tracing_mode="fake", pre_dispatch=not mixed)(*example)
    for node in graph.graph.find_nodes(op="placeholder"):
        del node.meta["val"]  # it would hide that the vector wants a gradient
    options = {"cpp_wrapper": device == "cpu"}  # Python between kernels costs a CPU
    with torch.autocast(device, enabled=False), tracing(TracingContext(FakeTensorMode(shape_env=ShapeEnv()))):
        return cast(Denoise, compile_fx(graph, list(example), config_patches=options))
