"""Features of pretrained networks: figures are their formulas' with any network, and weights of strangers run nothing."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from fedphd_ray.data.sources import Shapes
from fedphd_ray.diffusion.extractors import ClassifierFeatures, EfficientNetFeatures, Extractor, InceptionFeatures, real_features
from fedphd_ray.diffusion.features import FeatureNetwork, train_feature_network
from fedphd_ray.diffusion.inception import InceptionV3
from fedphd_ray.diffusion.metrics import PrecisionRecall
from fedphd_ray.diffusion.quality import QualityMeter
from fedphd_ray.errors import ConfigError
from fedphd_ray.tensors import signed

SHAPES = Shapes(name="shapes", num_images=60, image_size=16).load(0)


def empty_inception() -> InceptionV3:
    with torch.device("meta"):
        return InceptionV3()


def random_weights() -> dict[str, Tensor]:
    """Weights that keep activations of order one."""
    generator, weights = torch.Generator().manual_seed(1), {}
    for name, value in empty_inception().state_dict().items():
        if not value.is_floating_point():
            weights[name] = torch.zeros_like(value, device="cpu")
            continue
        drawn = torch.rand(value.shape, generator=generator)
        if name.endswith(("running_var", "bn.weight")):
            weights[name] = 0.5 + drawn
        else:
            weights[name] = (drawn - 0.5) * (1 if value.ndim == 1 else (24 / value[0].numel()) ** 0.5)
    return weights


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the format that torch-fidelity and pytorch-fid publish."""
    path = tmp_path_factory.mktemp("weights") / "weights-inception-2015-12-05-6726825d.pth"
    torch.save(random_weights(), path)
    return path


@pytest.fixture(scope="module")
def classifier() -> FeatureNetwork:
    return train_feature_network(SHAPES.images, SHAPES.labels, 10)


@pytest.fixture(scope="module", params=["classifier", "efficientnet_lite0", "inception"])
def extractor(request: pytest.FixtureRequest, classifier: FeatureNetwork, inception_weights: Path) -> Extractor:
    chosen = {
        "classifier": ClassifierFeatures(),
        "efficientnet_lite0": EfficientNetFeatures(name="efficientnet_lite0"),
        "inception": InceptionFeatures(name="inception", weights=str(inception_weights)),
    }[request.param]
    chosen.require()
    return chosen.extractor(classifier)


def test_inception_is_the_published_one(inception_weights: Path) -> None:
    """The figures are those of torch-fidelity 0.4.0's FeatureExtractorInceptionV3 with the same weights and images."""
    network = empty_inception().eval()
    network.load_state_dict(torch.load(inception_weights, weights_only=True), assign=True)
    pixels = (torch.arange(2 * 3 * 20 * 20) * 37 % 256).to(torch.uint8).view(2, 3, 20, 20)
    with torch.no_grad():
        features = network(pixels)[:, 127::256]  # some of every branch of the last block
    first = [4.142416, 0.468988, 0.584487, 0.0, 0.51368, 22.584431, 1.13087, 9.073275]
    second = [4.043342, 0.438669, 0.538511, 0.0, 0.498612, 22.385614, 1.178604, 9.185806]
    assert features.numpy() == pytest.approx(np.array([first, second]), rel=1e-4)


def images(first: int, last: int) -> Tensor:
    return signed(torch.from_numpy(SHAPES.images[first:last])) / 2 + 0.5


def test_figures_are_their_formulas(extractor: Extractor, classifier: FeatureNetwork) -> None:
    """The oracle works in float64 with numpy and scipy, from the same features."""
    meter = QualityMeter(SHAPES.images[:24], classifier, extractor, metrics=[PrecisionRecall()])
    report = meter.evaluate(images(16, 32), 1)
    with torch.no_grad():
        a, b = (extractor(images(*part)).double().numpy() for part in ((0, 24), (16, 32)))
        logits = extractor.logits(extractor(images(16, 32))).double().numpy()
    x, y = ((rows - rows.mean(0)) / np.sqrt(len(rows) - 1) for rows in (a, b))
    gap, root = a.mean(0) - b.mean(0), scipy.linalg.svdvals(x @ y.T).sum()  # of the trace of (cov a cov b)^(1/2), if singular too
    assert report.fid == pytest.approx(gap @ gap + (x**2).sum() + (y**2).sum() - 2 * root, rel=1e-5)
    kernels = {key: (x @ y.T / a.shape[1] + 1) ** 3 for key, x, y in (("aa", a, a), ("bb", b, b), ("ab", a, b))}
    own = sum((kernels[key].sum() - np.trace(kernels[key])) / (n * (n - 1)) for key, n in (("aa", 24), ("bb", 16)))
    assert report.kid == pytest.approx(own - 2 * kernels["ab"].mean(), rel=1e-6, abs=1e-9)
    assert report.metrics["precision"] == pytest.approx(np.mean([(distances(b, a) <= radii(a)).any(1)]))
    assert report.metrics["recall"] == pytest.approx(np.mean([(distances(a, b) <= radii(b)).any(1)]))
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    divergence = (shares * (np.log(shares) - np.log(shares.mean(0)))).sum(1).mean()
    assert report.metrics["class_score"] == pytest.approx(np.exp(divergence), rel=1e-5)
    assert report.features == extractor.name


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a[:, None] - b[None], axis=2)


def radii(a: np.ndarray) -> np.ndarray:
    """To the third nearest other one; a hair more, because an image lies on its own copy's sphere."""
    return np.sort(distances(a, a), axis=1)[:, 3] * (1 + 1e-7)


def test_an_image_counts_as_its_file_would(extractor: Extractor, classifier: FeatureNetwork) -> None:
    """Pretrained networks see bytes, as the literature's figures are taken of PNG files; and grey in three channels."""
    if extractor is classifier:
        pytest.skip("the data's own classifier sees what the sampler drew")
    exact = (images(0, 4) * 255).round() / 255
    moved = (exact + 0.3 / 255 * torch.rand(exact.shape, generator=torch.Generator().manual_seed(0)) - 0.1 / 255).clamp(0, 1)
    assert torch.equal(extractor(exact), extractor(moved))
    grey = exact[:, :1]
    assert torch.equal(extractor(grey), extractor(grey.repeat(1, 3, 1, 1)))


def test_real_images_pass_the_network_once(extractor: Extractor, tmp_path: Path) -> None:
    calls = []

    class Counted:
        name, num_features, batch_size = extractor.name, extractor.num_features, 8

        def __call__(self, batch: Tensor) -> Tensor:
            calls.append(len(batch))
            return extractor(batch)

        def logits(self, features: Tensor) -> Tensor:
            return extractor.logits(features)

        def state_dict(self) -> dict[str, Tensor]:
            return dict(extractor.state_dict())

    first = real_features(SHAPES.images[:8], Counted(), tmp_path)
    assert calls == [8]
    assert torch.equal(real_features(SHAPES.images[:8], Counted(), tmp_path), first)
    assert calls == [8]
    assert not torch.equal(real_features(SHAPES.images[8:16], Counted(), tmp_path), first)
    assert calls == [8, 8]
    cached = min(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    cached.write_bytes(cached.read_bytes()[:-7])
    assert torch.equal(real_features(SHAPES.images[:8], Counted(), tmp_path), first)
    assert calls == [8, 8, 8]


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('the file was run')",)


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "pickle", "malicious", "another network", "truncated"])
def test_weights_that_are_none_are_refused(kind: str, tmp_path: Path, inception_weights: Path) -> None:
    path = tmp_path / "weights.pth"
    match kind:
        case "folder":
            path.mkdir()
        case "empty":
            path.touch()
        case "text":
            path.write_text("weights")
        case "pickle":
            path.write_bytes(pickle.dumps([1, 2]))
        case "malicious":
            torch.save({"fc.weight": Malicious()}, path)
        case "another network":
            torch.save({"weight": torch.zeros(3)}, path)
        case "truncated":
            path.write_bytes(inception_weights.read_bytes()[:50_000])
    with pytest.raises(ConfigError, match=r"evaluation.features.weights") as caught:
        InceptionFeatures(name="inception", weights=str(path)).require()
    assert len(str(caught.value).splitlines()) == 4


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ConfigError, match=r"pip install 'fedphd-ray\[efficientnet\]'"):
        EfficientNetFeatures(name="efficientnet_lite0").require()
