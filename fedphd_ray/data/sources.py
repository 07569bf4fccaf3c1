"""Data sets. Each is its own configuration, and loads without a network."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from sklearn.datasets import load_digits

from fedphd_ray.data.cifar import Cifar10
from fedphd_ray.data.dataset import ImageDataset
from fedphd_ray.data.files import DataConfig
from fedphd_ray.data.folders import CelebA, ImageFolder
from fedphd_ray.data.idx import FashionMnist, Mnist
from fedphd_ray.data.npz import Npz
from fedphd_ray.data.parquet import Parquet
from fedphd_ray.data.shapes import draw_shapes
from fedphd_ray.errors import DataError
from fedphd_ray.settings.plugins import OrOwn
from fedphd_ray.system.saying import Say, unheard


class Digits(DataConfig):
    """scikit-learn's digits: 1,797 real handwritten digits of 8x8 grey pixels (from the UCI optical recognition data set)."""

    name: Literal["digits"] = "digits"

    def load(self, seed: int, say: Say = unheard) -> ImageDataset:
        """All images; the seed plays no part."""
        digits = load_digits()
        images = (digits.images / 8.0 - 1.0).astype(np.float32)[:, None]
        return ImageDataset("digits", images, digits.target.astype(np.int64), 10)


class Shapes(DataConfig):
    """Procedural colour images for scale tests: a class is a shape and a hue; place, size, angle and brightness vary.

    Attributes:
        num_images: N.
        num_classes: labels, as evenly filled as can be.
        image_size: pixels of a side.
    """

    name: Literal["shapes"]
    num_images: Annotated[int, Field(ge=1, le=1_000_000)] = 2000
    num_classes: Annotated[int, Field(ge=1, le=1000)] = 10
    image_size: Annotated[int, Field(ge=8, le=128)] = 16

    def load(self, seed: int, say: Say = unheard) -> ImageDataset:
        """Draws the images; the same seed draws the same ones."""
        images, labels = draw_shapes(self.num_images, self.num_classes, self.image_size, seed)
        return ImageDataset("shapes", images, labels, self.num_classes)


class Given(DataConfig):
    """Images that were handed over in Python."""

    name: Literal["given"]

    def load(self, seed: int, say: Say = unheard) -> ImageDataset:
        """Nobody else has them.

        Raises:
            DataError: always.
        """
        raise DataError(
            "data",
            expected="the images with which the run was begun",
            found="a configuration alone",
            remedy="fedphd_ray.run and fedphd_ray.resume take them: data=fedphd_ray.arrays(images, labels)",
        )


DataSource = Annotated[
    Digits | Shapes | Cifar10 | Mnist | FashionMnist | CelebA | ImageFolder | Parquet | Npz | Given,
    Field(discriminator="name"),
    OrOwn(DataConfig),
]
