"""Clients whose images look different: another camera, another light. A client's look is drawn once, by the seed."""

import math
from dataclasses import dataclass
from typing import Annotated, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from fedphd_ray.errors import ConfigError
from fedphd_ray.seeds import Purpose, numpy_rng, torch_generator
from fedphd_ray.settings.sections import Section
from fedphd_ray.tensors import signed


class FeatureSkew(Section):
    """How far looks may be from what the images are. The figures of a run compare with the images as they are.

    Attributes:
        brightness: factor on the distance from black, from 1 - b to 1 + b.
        hue_degrees: rotation of the colours about the grey axis, either way; grey images have none.
        rotation_degrees: of the image, either way, about its centre.
        noise: largest standard deviation of noise, in parts of the range from black to white; the same every round.
        groups: clients c with the same c modulo so many (hospitals, regions) share a look; null gives each its own.
        own_share: how far a client's look may be from its group's: 0 is the group's, 1 is all its own.
    """

    brightness: Annotated[float, Field(ge=0, le=1)] = 0.0
    hue_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    groups: PositiveInt | None = None
    own_share: Annotated[float, Field(ge=0, le=1)] = 0.0

    @model_validator(mode="after")
    def _groups_to_be_apart_from(self) -> Self:
        if self.own_share and self.groups is None:
            raise ConfigError(
                "data.feature_skew.own_share",
                expected="0 without data.feature_skew.groups: every look is a client's own then",
                found=f"{self.own_share:g}",
            )
        return self

    def look(self, client: int, seed: int) -> "Look":
        """A client's."""
        key = client if self.groups is None else client % self.groups
        drawn = numpy_rng(seed, Purpose.LOOKS, key).uniform(-1, 1, 4)
        if self.own_share:
            own = numpy_rng(seed, Purpose.LOOKS, client, 2).uniform(-1, 1, 4)
            drawn = (1 - self.own_share) * drawn + self.own_share * own
        light, hue, turn, grain = drawn
        return Look(
            brightness=1 + self.brightness * float(light),
            hue=math.radians(self.hue_degrees * float(hue)),
            rotation=math.radians(self.rotation_degrees * float(turn)),
            noise=self.noise * abs(float(grain)),
            client=client,
            seed=seed,
        )


@dataclass(frozen=True)
class Look:
    """What is done to a client's images: angles in radians, the rest as in `FeatureSkew`."""

    brightness: float
    hue: float
    rotation: float
    noise: float
    client: int
    seed: int

    def of(self, images: Tensor) -> Tensor:
        """Images [n, C, H, W] as the client sees them, bytes or float32 as they were given."""
        if (self.brightness, self.hue, self.rotation, self.noise) == (1.0, 0.0, 0.0, 0.0):
            return images
        seen = signed(images).add(1).mul(0.5 * self.brightness)
        if self.hue and seen.shape[1] == 3:
            seen = torch.einsum("ij,njhw->nihw", _about_grey(self.hue).to(seen), seen)
        if self.rotation:
            cosine, sine = math.cos(self.rotation), math.sin(self.rotation)
            turn = torch.tensor([[cosine, -sine, 0.0], [sine, cosine, 0.0]]).to(seen).expand(len(seen), 2, 3)
            grid = torch.nn.functional.affine_grid(turn, list(seen.shape), align_corners=False)
            seen = torch.nn.functional.grid_sample(seen, grid, padding_mode="border", align_corners=False)
        if self.noise:
            generator = torch_generator(self.seed, Purpose.LOOKS, self.client, 1)
            seen = seen + self.noise * torch.randn(seen.shape, generator=generator).to(seen)
        seen = seen.clamp(0, 1)
        return (255 * seen).round().to(torch.uint8) if images.dtype == torch.uint8 else seen.mul(2).sub(1)


def _about_grey(angle: float) -> Tensor:
    """The rotation [3, 3] of colours about the grey axis."""
    cosine, third = math.cos(angle), (1 - math.cos(angle)) / 3
    side = math.sin(angle) / math.sqrt(3)
    return torch.tensor(
        [
            [cosine + third, third - side, third + side],
            [third + side, cosine + third, third - side],
            [third - side, third + side, cosine + third],
        ]
    )
