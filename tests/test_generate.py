"""Models as they come from elsewhere: sampled, or refused by name."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from federations import Recorder, tiny
from made_files import stock
from PIL import Image

from fedphd_ray.data.sources import Shapes
from fedphd_ray.diffusion.process import NoiseProcess, ProcessConfig
from fedphd_ray.errors import ConfigError, DataError, ModelFileError
from fedphd_ray.generate import generate, judge, named_features
from fedphd_ray.runtime import evaluation
from fedphd_ray.runtime.driver import run as runs


@pytest.mark.parametrize(("size", "shape"), [(8, (2, 1, 8, 8)), ((8, 12), (2, 1, 8, 12))])
def test_square_and_oblong_models_are_sampled(size: object, shape: tuple[int, ...], tmp_path: Path) -> None:
    said: list[str] = []
    images = generate(stock(tmp_path, sample_size=size), 2, 0, 2, said.append)
    assert images.shape == shape
    assert "no scheduler lies with" in said[0]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"sample_size": None}, "sample_size: null"),
        ({"sample_size": 9}, "9 x 9"),
        ({"sample_size": (8, 9)}, "8 x 9"),
        ({"out_channels": 2}, "out_channels: 2"),
        ({"in_channels": 4, "out_channels": 4}, "in_channels: 4"),
    ],
)
def test_models_that_cannot_be_sampled_are_refused_by_name(changes: dict[str, object], word: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=word):
        generate(stock(tmp_path, **changes), 2, 0, 2, print)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    import safetensors.torch  # noqa: PLC0415

    path = stock(tmp_path) / "diffusion_pytorch_model.safetensors"
    state = safetensors.torch.load(path.read_bytes())
    state["conv_in.bias"] = torch.full_like(state["conv_in.bias"], torch.nan)
    path.write_bytes(safetensors.torch.save(state))
    with pytest.raises(ModelFileError, match=r"not finite in 1 of them, the first is conv_in\.bias"):
        generate(tmp_path, 2, 0, 2, print)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a pruned model that is no stock model, with a noise process of its own."""
    out = tmp_path_factory.mktemp("runs") / "run"
    config = tiny(process={"num_timesteps": 300, "beta_end": 0.05})
    runs.run(config.build(), out, Recorder(), config_yaml=config.to_yaml())
    return out


def test_a_models_own_noise_process_lies_with_it_wherever_it_is_opened(finished: Path) -> None:
    assert "own class only" in json.loads((finished / "summary.json").read_text())["stock_export"]
    said: list[str] = []
    first, second = (generate(directory, 3, 0, 5, said.append) for directory in (finished, finished / "model"))
    assert torch.equal(first, second)
    assert not said
    (finished / "model/scheduler").rename(finished / "aside")
    try:
        assert not torch.equal(first, generate(finished, 3, 0, 5, said.append))
    finally:
        (finished / "aside").rename(finished / "model/scheduler")
    assert "DDPM's noise process is assumed" in said[0]
    assert NoiseProcess(ProcessConfig()).config.num_timesteps == 1000


@pytest.mark.parametrize("folder", ["", "model"])
def test_a_runs_model_is_judged_against_its_own_data(finished: Path, folder: str) -> None:
    said: list[str] = []
    assert judge(finished / folder, None, 4, 0, 2, said.append).quality.num_samples == 4  # shapes in colour, not digits
    assert not said
    with pytest.raises(DataError, match="data it was trained on"):
        judge(finished / folder, "digits", 4, 0, 2, said.append)


def test_a_model_without_a_run_says_what_it_is_judged_against(tmp_path: Path) -> None:
    said: list[str] = []
    judge(stock(tmp_path / "somewhere"), None, 4, 0, 2, said.append)
    assert "judged against digits" in said[0]


def test_pictures_are_judged_like_samples(finished: Path, tmp_path: Path) -> None:
    """The training images themselves, written as PNG: nothing is better than they are."""
    data = Shapes(name="shapes", num_images=120, num_classes=10, image_size=8).load(7)
    for row, image in enumerate(data.images):
        pixels = ((image.transpose(1, 2, 0) / 2 + 0.5) * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{row:03d}.png")
    judged = judge(tmp_path, str(finished / "config.yaml"), 1000, 0, 2, print)
    assert judged.what == "120 pictures"
    assert judged.quality.fid < 0.01
    figures = judged.quality.metrics
    assert (figures["precision"], figures["recall"]) == (1.0, 1.0)
    assert figures["class_score"] > 7
    with pytest.raises(DataError, match="--split"):
        judge(tmp_path, str(finished / "config.yaml"), 1000, 0, 2, print, "test")


def test_held_out_images_are_compared_with_and_never_learnt_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "test"):
        for label, folder in enumerate("abc"):
            (tmp_path / split / folder).mkdir(parents=True)
            for row in range(4 if split == "train" else 2):
                Image.new("L", (8, 8), 60 * label + 10 * row + (split == "test")).save(tmp_path / split / folder / f"{row}.png")
    config = tmp_path / "config.yaml"
    tree = tiny().model_dump(mode="json")
    tree["data"] = {"name": "image_folder", "path": str(tmp_path), "num_clients": 6}
    config.write_text(yaml.safe_dump(tree))
    learnt, compared = [], []
    real_features, real_meter = evaluation.load_feature_network, evaluation.QualityMeter
    monkeypatch.setattr(
        evaluation, "load_feature_network", lambda images, *rest: learnt.append(len(images)) or real_features(images, *rest)
    )
    monkeypatch.setattr(
        evaluation, "QualityMeter", lambda images, *rest: compared.append(len(images)) or real_meter(images, *rest)
    )
    for split in (None, "train", "test"):
        judge(stock(tmp_path / "model"), str(config), 4, 0, 2, print, split)
    assert learnt == [12, 12, 12]
    assert compared == [12, 12, 6]


def test_a_model_is_judged_in_the_features_that_are_named(finished: Path) -> None:
    judged = judge(finished, None, 6, 0, 2, print, features=named_features("efficientnet_lite0"))
    assert judged.quality.features == "efficientnet-lite0"
    assert judge(finished, None, 6, 0, 2, print).quality.features == "shapes-classifier"
    for wrong in ("inception", "classifier:x", "dinov2", ""):
        with pytest.raises(ConfigError, match="--features"):
            named_features(wrong)


@pytest.mark.parametrize("kind", ["clients", "file"])
def test_what_is_no_whole_model_is_told_so_by_both_commands(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "run"
    if kind == "file":
        place.write_text("seed: 1")
    else:
        (place / "clients/client-000").mkdir(parents=True)
    expected = {"clients": "a whole model", "file": "`fedphd run` trains"}[kind]
    with pytest.raises(ModelFileError, match=expected):
        generate(place, 2, 0, 2, print)
    with pytest.raises(ModelFileError, match=expected):
        judge(place, "digits", 2, 0, 2, print)
