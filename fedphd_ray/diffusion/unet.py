"""The denoiser: diffusers' U-Net, described by a few numbers, dense or with the shapes that pruning left."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Annotated, Any, Self

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from pydantic import Field, model_validator
from torch import Tensor, nn

from fedphd_ray.diffusion.labels import blank_labels
from fedphd_ray.diffusion.pretrained import Pretrained, keys_of
from fedphd_ray.diffusion.pruned_unet import Dropout, Epsilon, Layers, PrunedUNet2DModel, Size, assemble, load_unet, stock_shapes
from fedphd_ray.errors import ConfigError
from fedphd_ray.seeds import Purpose, global_torch_seed
from fedphd_ray.settings.sections import Section
from fedphd_ray.system.files import absolute
from fedphd_ray.tensors import Shape

__all__ = [
    "Bottleneck",
    "PrunedUNet2DModel",
    "UNet2DModel",
    "UNetConfig",
    "UNetSpec",
    "activation_bytes",
    "blind_blocks",
    "build_unet",
    "initial_state",
    "load_unet",
    "parameter_shapes",
]


class UNetConfig(Section):
    """Widths and kinds of the layers; the image's size comes from the data.

    Attributes:
        widths: channels per resolution level, the full resolution first. The time embedding has four times the first.
        layers_per_block: residual blocks per level on the way down (one more on the way up).
        groups: of every GroupNorm.
        attention: per level, whether each residual block is followed by self-attention. The block in the middle always has it.
        dropout: probability inside residual blocks.
        head_dim: channels per attention head; null for one head of all channels.
        norm_eps: of every GroupNorm.
        class_conditional: the network is told each image's label, and can be asked for a class.
        pretrained: directory of a saved model (diffusers' U-Net, a pipeline, or a run of this program) to begin from, dense or
            pruned. The keys above, but for `dropout`, follow from it.
    """

    widths: Annotated[tuple[Size, ...], Field(min_length=1, max_length=16)]
    layers_per_block: Layers = 1
    groups: Size = 8
    attention: tuple[bool, ...]
    dropout: Dropout = 0.0
    head_dim: Size | None = 8
    norm_eps: Epsilon = 1e-5
    class_conditional: bool = False
    pretrained: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _follow_from_pretrained(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        listed = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        if not isinstance(directory := listed.get("pretrained"), str):
            return listed
        try:
            listed["pretrained"] = directory = absolute(directory)
        except ValueError as error:
            raise ConfigError("model.pretrained", expected="a directory", found=str(error)) from None
        stored = keys_of(directory)
        for key, value in stored.items():
            if key in listed and listed[key] != value:
                raise ConfigError(
                    f"model.{key}",
                    expected=f"{value}, as model.pretrained has it",
                    found=str(listed[key]),
                    remedy="leave it out: it follows from the saved model",
                )
        return stored | listed

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if len(self.attention) != len(self.widths):
            raise ConfigError(
                "model.attention",
                expected=f"one true or false per level of widths, {len(self.widths)}",
                found=str(len(self.attention)),
                remedy="give both the same length",
            )
        for width in self.widths:
            if width % self.groups:
                raise ConfigError(
                    "model.widths",
                    expected=f"multiples of groups ({self.groups})",
                    found=str(width),
                    remedy="change the width, or set groups to a divisor of all widths",
                )
            if width == self.groups:
                raise ConfigError(
                    "model.widths",
                    expected=f"more channels than groups ({self.groups})",
                    found=f"{width}: a norm of one channel subtracts its mean, which is all that the time step added, so the "
                    "network could not tell one noise level from another",
                    remedy=f"widen it, or set groups to a smaller divisor of the widths, {max(1, width // 2)} at most",
                )
        for width in {w for w, attends in zip(self.widths, self.attention, strict=True) if attends} | {self.widths[-1]}:
            if self.head_dim is not None and width % self.head_dim:
                raise ConfigError(
                    "model.widths",
                    expected=f"multiples of head_dim ({self.head_dim}) where there is attention (the last level always has it)",
                    found=str(width),
                    remedy="change the width, or set head_dim to a divisor of it",
                )
        return self


@dataclass(frozen=True)
class UNetSpec:
    """A network for images [B, channels, image_size, image_size].

    Attributes:
        config: its layers.
        image_size: pixels of a side.
        channels: of the images.
        num_classes: of the labels that the network is told; None where it is told none.
        pretrained: the saved network that it begins from, if any: its shapes are those of architecture 0.
    """

    config: UNetConfig
    image_size: int
    channels: int
    num_classes: int | None = None
    pretrained: Pretrained | None = None

    @classmethod
    def of(cls, config: UNetConfig, image_size: int, channels: int, num_classes: int | None = None) -> Self:
        """With the saved network that the configuration names read, for images of so many classes.

        Raises:
            UserError: it cannot be read, or is for other images.
        """
        pretrained = None if config.pretrained is None else Pretrained.read(config.pretrained)
        if pretrained is not None and (own := dict(pretrained.arguments)["in_channels"]) != channels:
            raise ConfigError(
                "model.pretrained",
                expected=f"a model of images with {channels} channels, as the data has",
                found=f"one of {own}",
                remedy="start from another model, or take other data",
            )
        told = num_classes if config.class_conditional else None
        if pretrained is not None and told is not None and (own := dict(pretrained.arguments)["num_class_embeds"]) != told + 1:
            raise ConfigError(
                "model.pretrained",
                expected=f"a network with {told + 1} class embeddings: the data's {told} classes, and one for none",
                found=f"one with {own}",
                remedy="start from another model, or take other data",
            )
        return cls(config, image_size, channels, told, pretrained)

    def __post_init__(self) -> None:
        factor = 1 << (len(self.config.widths) - 1)
        if self.image_size % factor:
            raise ConfigError(
                "model.widths",
                expected=f"an image size divisible by {factor}: each of the {len(self.config.widths)} levels halves it",
                found=f"{self.image_size} pixels",
                remedy="give fewer widths, or resize the images",
            )

    def stock_kwargs(self) -> dict[str, object]:
        """Arguments of diffusers' `UNet2DModel` for the dense network."""
        config = self.config
        given = {} if self.pretrained is None else dict(self.pretrained.arguments)
        told = {} if self.num_classes is None else {"num_class_embeds": self.num_classes + 1}
        own = {
            "sample_size": self.image_size,
            "in_channels": self.channels,
            "out_channels": self.channels,
            "block_out_channels": config.widths,
            "layers_per_block": config.layers_per_block,
            "down_block_types": tuple("AttnDownBlock2D" if attends else "DownBlock2D" for attends in config.attention),
            "up_block_types": tuple("AttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(config.attention)),
            "norm_num_groups": config.groups,
            "norm_eps": config.norm_eps,
            "dropout": config.dropout,
            "attention_head_dim": config.head_dim,
        }
        return given | told | own


def build_unet(spec: UNetSpec, shapes: Mapping[str, Shape] | None = None, *, device: torch.device | str = "cpu") -> UNet2DModel:
    """The network with parameters of the given shapes, all zero: the caller loads a state into it.

    Args:
        spec: the dense network.
        shapes: parameter name -> shape, as a pruning plan leaves them; None for the dense network.
        device: `meta` gives a skeleton without memory, enough for counting and tracing.

    Returns:
        In training mode, with parameters only and no buffers: a `UNet2DModel` if all shapes are dense, else a
        `PrunedUNet2DModel`.
    """
    shapes = parameter_shapes(spec) if shapes is None else shapes
    return assemble(spec.stock_kwargs(), shapes, device, pruned=shapes != _dense_shapes(spec))


@lru_cache(maxsize=32)
def parameter_shapes(spec: UNetSpec) -> Mapping[str, Shape]:
    """Parameter name -> shape of the network that training begins with, in the order of its state."""
    return _dense_shapes(spec) if spec.pretrained is None else MappingProxyType(dict(spec.pretrained.shapes))


@lru_cache(maxsize=32)
def _dense_shapes(spec: UNetSpec) -> Mapping[str, Shape]:
    return MappingProxyType(stock_shapes(spec.stock_kwargs()))


def blind_blocks(spec: UNetSpec, shapes: Mapping[str, Shape]) -> list[str]:
    """Residual blocks of these shapes that cannot see the time step.

    Its embedding is added to each channel before `norm2`, the same everywhere in the image; a norm of one channel per group
    subtracts each channel's mean, and the embedding with it.
    """
    return [
        name.removesuffix(".norm2.weight")
        for name, shape in shapes.items()
        if name.endswith(".norm2.weight") and shape[0] == spec.config.groups
    ]


def initial_state(spec: UNetSpec, seed: int) -> dict[str, Tensor]:
    """The pretrained parameters, or a random dense network (PyTorch's default for each layer), the same for the same seed."""
    if spec.pretrained is not None:
        return spec.pretrained.state()
    with global_torch_seed(seed, Purpose.INITIAL_MODEL):
        model = UNet2DModel(**spec.stock_kwargs())
    assert not list(model.buffers())
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def activation_bytes(spec: UNetSpec, batch_size: int, shapes: Mapping[str, Shape] | None = None) -> int:
    """What training keeps of a forward pass for the backward pass, in a dense or a pruned network; counted without computing."""
    model, counted = build_unet(spec, shapes, device="meta"), 0
    parameters = {id(parameter) for parameter in model.parameters()}

    def count(saved: Tensor) -> Tensor:
        nonlocal counted
        counted += 0 if id(saved) in parameters else saved.nbytes
        return saved

    with torch.autograd.graph.saved_tensors_hooks(count, lambda saved: saved):
        images = torch.empty(batch_size, spec.channels, spec.image_size, spec.image_size, device="meta")
        model(images, torch.zeros(batch_size, dtype=torch.int64, device="meta"), *blank_labels(model, batch_size, "meta"))
    return counted


class Bottleneck(nn.Module):
    """A U-Net up to its bottleneck, sharing its parameters; the decoder is not computed.

    Args:
        unet: dense or pruned.
    """

    def __init__(self, unet: UNet2DModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, noisy: Tensor, t: Tensor) -> Tensor:
        """Activations [B, channels, h, w] after the middle block, for x_t [B, C, H, W] and t [B]."""
        unet = self.unet
        embedding = unet.time_embedding(unet.time_proj(t).to(noisy.dtype))
        hidden: Tensor = unet.conv_in(noisy)
        for block in unet.down_blocks:
            hidden, _ = block(hidden, embedding)
        assert unet.mid_block is not None
        activations: Tensor = unet.mid_block(hidden, embedding)
        return activations
