"""A saved network from which training begins."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from torch import Tensor

from fedphd_ray.diffusion.pruned_unet import load_unet, model_folder, read_config
from fedphd_ray.errors import ModelFileError
from fedphd_ray.tensors import Shape, digest


@dataclass(frozen=True)
class Pretrained:
    """What a directory holds.

    Attributes:
        directory: as `load_unet` takes it.
        sha256: of the model's parameters.
        arguments: of `UNet2DModel`, for the dense network.
        shapes: names and shapes of the parameters, which may be pruned.
    """

    directory: str
    sha256: str
    arguments: tuple[tuple[str, object], ...]
    shapes: tuple[tuple[str, Shape], ...]

    @classmethod
    def read(cls, directory: str) -> Self:
        """Looks at a saved network; `ModelFileError` if it is none."""
        arguments = read_config(model_folder(Path(directory))).arguments()
        state = _state(directory)
        shapes = tuple((name, tuple(value.shape)) for name, value in state.items())
        return cls(directory, digest(state), tuple(arguments.items()), shapes)

    def state(self) -> dict[str, Tensor]:
        """The parameters.

        Raises:
            ModelFileError: they are not those that `read` saw.
        """
        state = _state(self.directory)
        if digest(state) != self.sha256:
            raise ModelFileError(self.directory, expected="the model that was there a moment ago", found="another one")
        return state


def keys_of(directory: str) -> dict[str, object]:
    """The keys of `model` that a saved network's configuration settles; `ModelFileError` where they cannot say it."""
    folder = model_folder(Path(directory))
    stored = read_config(folder)
    downwards, upwards = (
        tuple(kind.startswith("Attn") for kind in kinds) for kinds in (stored.down_block_types, reversed(stored.up_block_types))
    )
    if downwards != upwards or stored.mid_block_type is None or stored.in_channels != stored.out_channels:
        raise ModelFileError(
            str(folder),
            expected="a U-Net with attention on the same levels down and up, a middle block, and as many channels out as in",
            found=f"{stored.down_block_types}, {stored.mid_block_type}, {stored.up_block_types}, "
            f"{stored.in_channels} channels in and {stored.out_channels} out",
            remedy="start from another model",
        )
    return {
        "widths": stored.block_out_channels,
        "layers_per_block": stored.layers_per_block,
        "groups": stored.norm_num_groups,
        "attention": downwards,
        "head_dim": stored.attention_head_dim,
        "norm_eps": stored.norm_eps,
        "class_conditional": stored.num_class_embeds is not None,
    }


def _state(directory: str) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in load_unet(directory).named_parameters()}
