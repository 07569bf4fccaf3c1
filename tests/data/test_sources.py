"""The data sets are what they say, and the same every time."""

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from fedphd_ray.data.dataset import ImageDataset
from fedphd_ray.data.partition import Classes
from fedphd_ray.data.sources import DataSource, Digits, Shapes
from fedphd_ray.errors import DataError


def test_digits_are_the_real_ones() -> None:
    digits = Digits().load(0)
    assert digits.images.shape == (1797, 1, 8, 8)
    assert (digits.images.min(), digits.images.max()) == (-1.0, 1.0)
    assert np.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert digits.content_hash == Digits().load(1).content_hash


def test_shapes_are_drawn_from_the_seed() -> None:
    config = Shapes(name="shapes", num_images=300, num_classes=12, image_size=16)
    first, again, other = config.load(1), config.load(1), config.load(2)
    assert first.content_hash == again.content_hash != other.content_hash
    assert first.images.shape == (300, 3, 16, 16)
    assert first.images.min() >= -1
    assert first.images.max() <= 1
    assert np.bincount(first.labels).tolist() == [25] * 12
    assert len(np.unique(first.images.reshape(300, -1), axis=0)) == 300


@pytest.mark.parametrize("num_classes", [1, 3, 10, 25])
def test_classes_of_shapes_can_be_told_apart(num_classes: int) -> None:
    """The nearest neighbour among other images is nearly always of the same class: a class is a shape and a hue."""
    data = Shapes(name="shapes", num_images=num_classes * 80, num_classes=num_classes, image_size=12).load(5)
    flat = data.images.reshape(len(data), -1)
    distance = (flat**2).sum(1)[:, None] + (flat**2).sum(1)[None] - 2 * flat @ flat.T
    np.fill_diagonal(distance, np.inf)
    assert (data.labels[distance.argmin(1)] == data.labels).mean() > 0.9


def test_what_is_no_image_data_set_is_refused() -> None:
    images, labels = np.zeros((2, 1, 8, 8), np.float32), np.array([0, 1])
    ImageDataset("fine", images, labels, 2)
    for wrong in (
        (images[..., :4], labels, 2),
        (images.astype(np.float64), labels, 2),
        (images, labels[:1], 2),
        (images, labels, 1),
    ):
        with pytest.raises(DataError):
            ImageDataset("wrong", *wrong)


def test_the_hash_is_of_the_content() -> None:
    images, labels = np.zeros((2, 1, 8, 8), np.float32), np.array([0, 1])
    reference = ImageDataset("a", images, labels, 2).content_hash
    assert ImageDataset("b", images.copy(), labels.copy(), 2).content_hash == reference
    assert ImageDataset("a", images[:, :, ::-1], labels, 2).content_hash == reference  # all zeros, only strided otherwise
    others = (images + 1, labels, 2), (images, labels[::-1], 2), (images, labels, 3), (images[:, :, :4, :4], labels, 2)
    assert len({reference, *(ImageDataset("a", *other).content_hash for other in others)}) == 5


def test_sources_are_chosen_by_name() -> None:
    adapter: TypeAdapter[object] = TypeAdapter(DataSource)
    assert adapter.validate_python({"name": "digits"}) == Digits(num_clients=20, partition=Classes(classes_per_client=2))
    assert isinstance(adapter.validate_python({"name": "shapes", "num_images": 10}), Shapes)
    for wrong in ({"name": "digit"}, {"name": "digits", "num_images": 10}, {"name": "shapes", "image_size": 4}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)


def test_sizes_across_chunks() -> None:
    data = Shapes(name="shapes", num_images=5000, num_classes=7, image_size=8).load(0)
    assert len(data) == 5000
    assert np.isfinite(data.images).all()
    assert float(data.images[4096:].std()) > 0.1


GOOD = np.zeros((4, 3, 8, 8), np.float32)
LABELS = np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (GOOD + 255, LABELS, r"values in \[-1, 1\](.|\n)*255 to 255(.|\n)*images / 127.5 - 1"),
        (GOOD + np.nan, LABELS, r"values in \[-1, 1\]"),
        (GOOD.astype(np.float64), LABELS, "float32(.|\n)*float64"),
        (GOOD.transpose(0, 2, 3, 1), LABELS, "transpose the channels"),
        (GOOD[:, :, :4], LABELS, "square images"),
        (GOOD[0], LABELS, "square images"),
        (GOOD[:0], LABELS[:0], "at least one image"),
        (GOOD, LABELS[:3], "labels int64"),
        (GOOD, LABELS.astype(np.int32), "labels int64"),
        (GOOD, LABELS + 1, "labels from 0 to 1(.|\n)*1 to 2"),
    ],
)
def test_images_of_the_users_own_are_refused_with_the_remedy(images: np.ndarray, labels: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=words):
        ImageDataset("mine", images, labels, 2)
