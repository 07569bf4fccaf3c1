"""The feature network knows its data, is the same every time, and is kept where that can be done."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from fedphd_ray.data.sources import Digits, Shapes
from fedphd_ray.diffusion import features
from fedphd_ray.diffusion.features import FeatureNetwork, load_feature_network, train_feature_network
from fedphd_ray.system.cache import default_cache_dir

DIGITS = Digits().load(0)


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "STEPS", 3)


def accuracy(network: FeatureNetwork, images: np.ndarray, labels: np.ndarray) -> float:
    return float((network.classify(torch.from_numpy(images / 2 + 0.5)).argmax(1).numpy() == labels).mean())


def same(a: FeatureNetwork, b: FeatureNetwork) -> bool:
    return a.state_dict().keys() == b.state_dict().keys() and all(
        torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items()
    )


def test_it_knows_the_digits() -> None:
    network = load_feature_network(DIGITS.images, DIGITS.labels, 10, default_cache_dir())
    assert accuracy(network, DIGITS.images, DIGITS.labels) >= 0.98


def test_it_generalises() -> None:
    """Trained on four fifths, it knows the rest."""
    held_out = np.arange(len(DIGITS)) % 5 == 0
    network = train_feature_network(DIGITS.images[~held_out], DIGITS.labels[~held_out], 10)
    assert accuracy(network, DIGITS.images[held_out], DIGITS.labels[held_out]) >= 0.95


def test_features_have_one_scale() -> None:
    """About mean 0 and variance 1 over the data, each; so FID and KID are not the affair of a few directions."""
    network = load_feature_network(DIGITS.images, DIGITS.labels, 10, default_cache_dir())
    values = network(torch.from_numpy(DIGITS.images / 2 + 0.5))
    assert values.shape == (1797, network.num_features) == (1797, 32)
    assert float(values.mean(0).abs().max()) < 0.5
    assert float(values.std(0).min()) > 0.3
    assert float(values.std(0).max()) < 2


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (12, 3), (16, 3), (32, 3), (64, 3), (128, 3)])
def test_images_of_all_sizes(size: int, channels: int) -> None:
    with torch.device("meta"):
        network = FeatureNetwork(channels, size, 7).eval()
        images = torch.zeros(2, channels, size, size)
    assert network(images).shape == (2, 32)
    assert network.classify(images).shape == (2, 7)


@pytest.mark.usefixtures("few_steps")
def test_training_leaves_no_trace_and_takes_none() -> None:
    """Threads, gradient mode and global generators (see conftest) stay; none of them changes a bit of the result."""
    data = Shapes(name="shapes", num_images=30, image_size=16).load(0)
    data.images.setflags(write=False)  # as they come from the object store
    first = train_feature_network(data.images, data.labels, 10)
    torch.set_num_threads(2)
    with torch.no_grad():
        second = train_feature_network(data.images, data.labels, 10)
        assert not torch.is_grad_enabled()
    assert torch.get_num_threads() == 2
    assert same(first, second)
    assert not first.training
    assert not any(parameter.requires_grad for parameter in first.parameters())


@pytest.mark.usefixtures("few_steps")
def test_the_cache_is_used(tmp_path: Path) -> None:
    images, labels = DIGITS.images[:100], DIGITS.labels[:100]
    first = load_feature_network(images, labels, 10, tmp_path / "new")
    (path,) = (tmp_path / "new").iterdir()
    written = path.stat().st_mtime_ns
    again = load_feature_network(images, labels, 10, tmp_path / "new")
    assert path.stat().st_mtime_ns == written
    assert same(first, again)
    assert not again.training
    for other in ((images[1:], labels[1:]), (images, labels[::-1].copy()), (-images, labels)):
        load_feature_network(*other, 10, tmp_path / "new")
    assert len(list((tmp_path / "new").iterdir())) == 4


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("harm", ["short", "empty", "text", "another network", "another shape", "pipe"])
def test_a_broken_cache_is_mended(tmp_path: Path, harm: str) -> None:
    images, labels = DIGITS.images[:100], DIGITS.labels[:100]
    first = load_feature_network(images, labels, 10, tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    if harm == "another shape":
        load_feature_network(images, labels, 11, tmp_path)
        (other,) = set(tmp_path.iterdir()) - {path}
        other.replace(path)
    elif harm == "pipe":
        path.unlink()
        os.mkfifo(path)
    else:
        broken = {"short": whole[:-10], "empty": b"", "text": b"not a tensor", "another network": whole.replace(b"head", b"tail")}
        path.write_bytes(broken[harm])
    assert same(first, load_feature_network(images, labels, 10, tmp_path))
    assert path.read_bytes() == whole


@pytest.mark.usefixtures("few_steps")
def test_no_cache_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    networks = [
        load_feature_network(DIGITS.images[:50], DIGITS.labels[:50], 10, where)
        for where in (None, Path("/proc/none"), tmp_path / "file", tmp_path / "file" / "below")
    ]
    assert all(same(networks[0], other) for other in networks)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDPHD_CACHE_DIR", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "own"
    monkeypatch.delenv("FEDPHD_CACHE_DIR")
    assert default_cache_dir() == tmp_path / "xdg" / "fedphd_ray"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == tmp_path / ".cache" / "fedphd_ray"
    for home in ("/proc/none", "", "relative"):
        monkeypatch.setenv("HOME", home)
        assert os.access(default_cache_dir().parent, os.W_OK)
