"""Pruned networks: diffusers' U-Net with narrower layers, put together from shapes, saved and loaded without pickle.

On disk a network is what diffusers writes: `config.json` and safetensors. The configuration of a pruned one is that of the dense
network it came from, and the safetensors header says how narrow each layer has become.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import safetensors.torch
import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.models.upsampling import Upsample2D
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from fedphd_ray.diffusion.labels import blank_labels
from fedphd_ray.errors import ModelFileError
from fedphd_ray.settings.sections import Section
from fedphd_ray.settings.validation import in_short
from fedphd_ray.system.files import MIB, read_regular, read_text
from fedphd_ray.tensors import Shape

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
FORMAT_VERSION = 1
HEADER_BYTES = 16 * 2**20  # names and shapes in a safetensors file

# Bounds keep a configuration from a stranger from building a network that never ends.
Size = Annotated[int, Field(ge=1, le=1 << 16)]
Layers = Annotated[int, Field(ge=1, le=64)]
Epsilon = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Dropout = Annotated[float, Field(ge=0.0, lt=1.0)]


class PrunedUNet2DModel(UNet2DModel):
    """A `UNet2DModel` with channels removed: same layers, same names, narrower. Its `config` is the dense network's.

    `save_pretrained` is the stock one.
    """

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> "PrunedUNet2DModel":  # type: ignore[override]  # no hub, no options
        """Opens a directory written by `save_pretrained`, in evaluation mode; `ModelFileError` if it is none."""
        model = load_unet(Path(directory))
        if not isinstance(model, cls):
            raise ModelFileError(str(directory), expected="a pruned network", found="a stock one", remedy="use `load_unet`")
        return model


def load_unet(directory: str | Path) -> UNet2DModel:
    """Opens a saved network, stock or pruned, in evaluation mode on the CPU. Reads JSON and safetensors only, runs no code.

    Args:
        directory: of the model itself, or a run directory (with `model/`), or a diffusers pipeline (with `unet/`).

    Raises:
        ModelFileError: nothing there, or not a U-Net, or damaged, or shapes that fit no network.
    """
    folder = model_folder(Path(directory))
    config = read_config(folder)
    try:
        most_bytes = config.most_weight_bytes()
        state = _read_tensors(folder / WEIGHTS_FILE, most_bytes)
        model = config.build({name: tuple(value.shape) for name, value in state.items()})
    except _FOREIGN as error:
        raise ModelFileError(
            str(folder / WEIGHTS_FILE),
            expected=f"the parameters of the network in {CONFIG_FILE}",
            found=str(error).partition("\n")[0],
            remedy="save the model again; the two files may come from different models",
        ) from error
    model.load_state_dict(state)
    model.eval()
    return model


# What building or tracing a network of impossible sizes raises, in diffusers and in torch.
_FOREIGN = (ValueError, TypeError, AssertionError, RuntimeError, ZeroDivisionError, IndexError, KeyError)


class StoredConfig(Section):
    """`config.json` as far as it is believed: the arguments of `UNet2DModel`, of known kinds and sane sizes."""

    class_name: Literal["UNet2DModel", "PrunedUNet2DModel"] = Field(alias="_class_name")
    format_version: Literal[1] = 1
    sample_size: Size | tuple[Size, Size] | None = None
    in_channels: Size = 3
    out_channels: Size = 3
    center_input_sample: bool = False
    time_embedding_type: Literal["positional", "learned"] = "positional"
    time_embedding_dim: Size | None = None
    freq_shift: Literal[0, 1] = 0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[Literal["DownBlock2D", "AttnDownBlock2D"], ...]
    mid_block_type: Literal["UNetMidBlock2D"] | None = "UNetMidBlock2D"
    up_block_types: tuple[Literal["UpBlock2D", "AttnUpBlock2D"], ...]
    block_out_channels: Annotated[tuple[Size, ...], Field(min_length=1, max_length=16)]
    layers_per_block: Layers = 2
    mid_block_scale_factor: Epsilon = 1.0
    downsample_padding: Literal[0, 1] = 1
    downsample_type: Literal["conv", "resnet"] = "conv"
    upsample_type: Literal["conv", "resnet"] = "conv"
    dropout: Dropout = 0.0
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = "silu"
    attention_head_dim: Size | None = 8
    norm_num_groups: Size = 32
    attn_norm_num_groups: Size | None = None
    norm_eps: Epsilon = 1e-5
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    add_attention: bool = True
    class_embed_type: None = None
    num_class_embeds: Annotated[int, Field(ge=2, le=1 << 16)] | None = None
    num_train_timesteps: Size | None = None

    def arguments(self) -> dict[str, object]:
        """Those of `UNet2DModel`."""
        return self.model_dump(exclude={"class_name", "format_version"})

    def most_weight_bytes(self) -> int:
        """What the weights of such a network can take, in eight bytes each; a pruned one takes less. Raises as `build`."""
        dense = stock_shapes(self.arguments())
        return 8 * sum(math.prod(shape) for shape in dense.values()) + HEADER_BYTES

    def build(self, shapes: Mapping[str, Shape]) -> UNet2DModel:
        """The network with parameters of these shapes; raises one of `_FOREIGN` where there is no such network."""
        kwargs = self.arguments()
        pruned = self.class_name == "PrunedUNet2DModel"
        dense = stock_shapes(kwargs)
        if odd := sorted(dense.keys() ^ shapes.keys()):
            raise ValueError(f"missing or unknown parameters, among them {odd[0]}")
        for name, shape in shapes.items():
            full = dense[name]
            # Only channels go, the first two axes; kernels keep their size.
            narrower = pruned and len(shape) == len(full) and shape[2:] == full[2:]
            if shape != full and not (narrower and all(0 < a <= b for a, b in zip(shape, full, strict=True))):
                raise ValueError(f"{name} of shape {shape} instead of {full}")
        if pruned:  # layers may be narrower than the dense ones but must still fit each other: try, without memory
            assert isinstance(self.sample_size, int), f"sample_size {self.sample_size}"
            image = torch.zeros(1, self.in_channels, self.sample_size, self.sample_size, device="meta")
            skeleton, step = assemble(kwargs, shapes, "meta", pruned=True), torch.zeros(1, dtype=torch.int64, device="meta")
            with torch.no_grad():
                output = skeleton(image, step, *blank_labels(skeleton, 1, "meta")).sample
            assert output.shape[1] == self.out_channels, f"{output.shape[1]} output channels instead of {self.out_channels}"
        return assemble(kwargs, shapes, "cpu", pruned=pruned)


def stock_shapes(kwargs: Mapping[str, object]) -> dict[str, Shape]:
    """Parameter name -> shape of diffusers' `UNet2DModel(**kwargs)`, without building it in memory."""
    return {name: tuple(parameter.shape) for name, parameter in _skeleton(UNet2DModel, kwargs).named_parameters()}


def assemble(
    kwargs: Mapping[str, object], shapes: Mapping[str, Shape], device: torch.device | str, *, pruned: bool
) -> UNet2DModel:
    """`UNet2DModel(**kwargs)` with parameters of the given shapes, all zero, in training mode."""
    model = _skeleton(PrunedUNet2DModel if pruned else UNet2DModel, kwargs)
    if pruned:
        model.register_to_config(format_version=FORMAT_VERSION)
    for path, module in model.named_modules():
        for name in [name for name, _ in module.named_parameters(recurse=False)]:
            setattr(module, name, nn.Parameter(torch.zeros(shapes[f"{path}.{name}"], device=device)))
        if isinstance(module, nn.Conv2d):
            module.out_channels, module.in_channels = module.weight.shape[:2]
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.GroupNorm):
            module.num_channels = len(module.weight)
        elif isinstance(module, nn.Embedding):
            module.num_embeddings, module.embedding_dim = module.weight.shape
    for module in model.modules():  # widths that diffusers keeps a second time, next to the layers
        if isinstance(module, Downsample2D | Upsample2D) and isinstance(module.conv, nn.Conv2d):
            module.out_channels, module.channels = module.conv.out_channels, module.conv.in_channels
        elif isinstance(module, Attention):
            module.inner_dim, module.query_dim = module.to_q.weight.shape
            module.inner_kv_dim, module.cross_attention_dim = module.to_k.weight.shape
            module.out_dim = module.query_dim
            module.scale = (module.inner_dim // module.heads) ** -0.5
    assert not list(model.buffers())
    model.train()
    return model


def _skeleton(cls: type[UNet2DModel], kwargs: Mapping[str, object]) -> UNet2DModel:
    with torch.device("meta"):
        model: UNet2DModel = cls(**kwargs)
    return model


def model_folder(directory: Path) -> Path:
    """Where the files of a model lie, given its own directory, a run directory, or a pipeline; `ModelFileError` if nowhere."""
    for folder in (directory, directory / "model", directory / "unet"):
        if (folder / CONFIG_FILE).is_file():
            return folder
    raise ModelFileError(
        str(directory),
        expected=f"a model: {CONFIG_FILE} and {WEIGHTS_FILE}, here or in model/ or unet/",
        found="no such directory" if not directory.is_dir() else f"no {CONFIG_FILE}",
        remedy="give the run directory of a finished run, or its model directory",
    )


def read_config(folder: Path) -> StoredConfig:
    """The configuration of a saved network; `ModelFileError` if it is none."""
    path = folder / CONFIG_FILE
    try:
        content = json.loads(read_text(path, MIB))
        # Keys of diffusers' own book-keeping start with an underscore, too.
        return StoredConfig.model_validate({k: v for k, v in content.items() if k == "_class_name" or not k.startswith("_")})
    except ValidationError as error:
        found = in_short(error, StoredConfig)
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        found = f"unreadable ({error})"
    raise ModelFileError(str(path), expected="the configuration of a U-Net", found=found, remedy="save the model again")


def _read_tensors(path: Path, most_bytes: int) -> dict[str, Tensor]:
    try:
        state = {name: value.float() for name, value in safetensors.torch.load(read_regular(path, most_bytes)).items()}
    except FileNotFoundError:
        found = "no such file"
    except (SafetensorError, OSError, ValueError) as error:
        found = f"damaged ({error})"
    else:
        odd = [name for name, value in state.items() if not bool(value.isfinite().all())]
        if not odd:
            return state
        found = f"values that are not finite in {len(odd)} of them, the first is {odd[0]}: its training has diverged"
    remedy = "copy or save the model again; pickled weights (.bin, .pt) are not opened"
    raise ModelFileError(str(path), expected="the weights as safetensors", found=found, remedy=remedy)
