"""Clients' looks: drawn by the seed, the same every round, and what they say."""

import math

import numpy as np
import pytest
import torch
from federations import federate, reference, shapes, tiny

from fedphd_ray.data.looks import FeatureSkew, Look
from fedphd_ray.errors import ConfigError

PLAIN = {"brightness": 1.0, "hue": 0.0, "rotation": 0.0, "noise": 0.0, "client": 3, "seed": 1}


def look(**change: float) -> Look:
    return Look(**{**PLAIN, **change})  # type: ignore[arg-type]


def pictures(channels: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, channels, 8, 8)).astype(np.uint8))


def test_looks_are_drawn_once_and_shared_by_groups() -> None:
    skew = FeatureSkew(brightness=0.5, hue_degrees=90, rotation_degrees=20, noise=0.1)
    drawn = [skew.look(client, 7) for client in range(200)]
    assert drawn[3] == skew.look(3, 7) != skew.look(3, 8)
    assert all(0.5 <= one.brightness <= 1.5 and abs(one.hue) <= math.pi / 2 and 0 <= one.noise <= 0.1 for one in drawn)
    assert np.std([one.brightness for one in drawn]) == pytest.approx(0.5 / math.sqrt(3), rel=0.15)
    grouped = skew.model_copy(update={"groups": 2})
    assert grouped.look(0, 7).hue == grouped.look(4, 7).hue != grouped.look(1, 7).hue


def test_looks_at_two_levels() -> None:
    """A group's look, and its clients' looks about it."""
    skew = FeatureSkew(brightness=0.5, hue_degrees=90, groups=4, own_share=0.25)
    hues = np.array([[skew.look(client, 7).hue for client in range(group, 800, 4)] for group in range(4)])
    whole = FeatureSkew(brightness=0.5, hue_degrees=90, groups=4)
    centres = np.array([whole.look(group, 7).hue for group in range(4)])
    assert hues.mean(1) == pytest.approx(0.75 * centres, abs=0.05)
    assert hues.std(1) == pytest.approx(np.full(4, 0.25 * math.pi / 2 / math.sqrt(3)), rel=0.15)
    assert np.abs(hues).max() <= math.pi / 2
    assert skew.look(5, 7) == skew.look(5, 7) != skew.look(1, 7)
    alone = FeatureSkew(brightness=0.5, hue_degrees=90, groups=4, own_share=1.0)
    assert abs(np.corrcoef([alone.look(client, 7).hue for client in range(400)], np.tile(centres, 100))[0, 1]) < 0.2
    with pytest.raises(ConfigError, match="groups"):
        FeatureSkew(brightness=0.5, own_share=0.5)


def test_without_deviations_images_are_what_they_were() -> None:
    images = pictures()
    assert torch.equal(look().of(images), images)
    floats = images.float() / 127.5 - 1
    assert torch.allclose(look(noise=1e-9).of(floats), floats, atol=1e-6)


def test_brightness_is_a_factor_and_stays_in_range() -> None:
    images = pictures()
    assert (look(brightness=0.5).of(images).int() - images * 0.5).abs().max() <= 0.5
    assert look(brightness=2.0).of(images).max() == 255


def test_hue_goes_round_and_leaves_grey_alone() -> None:
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).reshape(1, 3, 1, 1)
    assert look(hue=2 * math.pi / 3).of(red).flatten().tolist() == [0, 255, 0]
    grey = torch.full((1, 3, 2, 2), 90, dtype=torch.uint8)
    assert torch.equal(look(hue=1.0).of(grey), grey)
    assert torch.equal(look(hue=1.0).of(pictures(1)), pictures(1))


def test_a_quarter_turn() -> None:
    images = pictures()
    assert torch.equal(look(rotation=math.pi / 2).of(images), torch.rot90(images, 1, (2, 3)))


def test_noise_is_the_clients_own_and_the_same_every_time() -> None:
    images = torch.full((50, 3, 8, 8), 128, dtype=torch.uint8)
    noisy = look(noise=0.1).of(images)
    assert noisy.float().std() == pytest.approx(25.5, rel=0.03)
    assert torch.equal(noisy, look(noise=0.1).of(images))
    assert not torch.equal(noisy, look(noise=0.1, client=4).of(images))


def test_a_federation_of_looks() -> None:
    plain = shapes(6, {"name": "classes", "classes_per_client": 2})
    none, some = ({"brightness": size, "rotation_degrees": 30 * size} for size in (0.0, 0.5))
    assert federate(tiny(data=plain | {"feature_skew": none})).sha256 == reference("fedphd")
    skewed = federate(tiny(data=plain | {"feature_skew": some})).sha256
    assert skewed == federate(tiny(data=plain | {"feature_skew": some})).sha256 != reference("fedphd")
