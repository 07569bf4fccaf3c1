"""What the pruning has left of a network, layer by layer, from the files of a run."""

import json
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from fedphd_ray.diffusion.unet import UNetConfig, UNetSpec, parameter_shapes
from fedphd_ray.errors import FedPhDError
from fedphd_ray.system.files import MIB, read_text, regular
from fedphd_ray.views.run_view import RunView

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"


class Width(NamedTuple):
    """Output channels of a layer before and after."""

    layer: str
    dense: int
    left: int


def widths(run: RunView) -> list[Width]:
    """Of every layer that was cut; empty where nothing was, or the run has delivered no whole model yet."""
    try:
        dense = _dense(run)
        left = _saved(run.directory / "model" / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, ValidationError, SafetensorError, FedPhDError):
        return []
    return [
        Width(name.removesuffix(".weight"), shape[0], left[name][0])
        for name, shape in dense.items()
        if name.endswith(".weight") and len(shape) > 1 and name in left and left[name][0] != shape[0]
    ]


def _dense(run: RunView) -> dict[str, tuple[int, ...]]:
    saved = json.loads(read_text(run.directory / "model" / CONFIG, MIB))
    classes = saved.get("num_class_embeds")
    config = UNetConfig.model_validate(dict(run.settings["model"]))
    spec = UNetSpec(config, int(saved["sample_size"]), int(saved["in_channels"]), None if classes is None else int(classes) - 1)
    return dict(parameter_shapes(spec))


def _saved(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes in a safetensors file: its header is enough."""
    with safe_open(regular(path), "numpy") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
