"""The noise process against diffusers' own."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from fedphd_ray.diffusion.process import NoiseProcess, ProcessConfig, load_process
from fedphd_ray.errors import ConfigError, ModelFileError

IMAGES = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Constant(nn.Module):
    """Predicts the same everywhere, and remembers what it was asked."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value
        self.asked: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor) -> SimpleNamespace:
        self.asked.append((x, t))
        return SimpleNamespace(sample=torch.full_like(x, self.value))


def test_noising_is_diffusers() -> None:
    process, stock = NoiseProcess(ProcessConfig()), DDPMScheduler(num_train_timesteps=1000)
    generator = torch.Generator().manual_seed(1)
    noise, t = torch.randn(IMAGES.shape, generator=generator), torch.randint(1000, (64,), generator=generator)
    assert torch.allclose(process.add_noise(IMAGES, noise, t), stock.add_noise(IMAGES, noise, t), rtol=0, atol=1e-6)


def test_first_and_last_level_are_ddpms() -> None:
    """alpha_bar_0 = 1 - 1e-4; alpha_bar_999 = prod over t of (1 - beta_t), beta from 1e-4 to 0.02, = 4.0358e-5."""
    (first, _), (signal, sigma) = NoiseProcess(ProcessConfig()).levels([0, 999])
    assert first**2 == pytest.approx(1 - 1e-4, rel=1e-6)
    assert signal**2 == pytest.approx(4.0358e-5, rel=1e-3)
    assert signal**2 + sigma**2 == pytest.approx(1, rel=1e-6)


def test_variances_that_shrink_are_refused() -> None:
    with pytest.raises(ConfigError, match="noise grows"):
        ProcessConfig(beta_start=0.1, beta_end=0.01)


def test_the_loss_has_the_gradient_of_its_definition() -> None:
    """A network that predicts c everywhere: d/dc mean (c - eps)^2 = 2 (c - mean eps)."""
    c = nn.Parameter(torch.tensor(0.5))
    loss = NoiseProcess(ProcessConfig()).loss(
        lambda x, t: SimpleNamespace(sample=c.expand_as(x)),
        IMAGES,
        torch.Generator().manual_seed(4),  # type: ignore[arg-type]
    )
    loss.backward()
    mean = float(torch.randn(IMAGES.shape, generator=torch.Generator().manual_seed(4)).mean())
    assert c.grad is not None
    assert float(c.grad) == pytest.approx(2 * (0.5 - mean), abs=1e-5)


def test_loss_is_the_error_of_the_noise() -> None:
    """A network that predicts zero errs by the variance of the noise, 1; one that predicts 2 by 1 + 4."""
    process = NoiseProcess(ProcessConfig())
    images = IMAGES.repeat(20, 1, 1, 1)
    assert float(process.loss(Constant(0.0), images, torch.Generator().manual_seed(2))) == pytest.approx(1.0, abs=0.02)
    assert float(process.loss(Constant(2.0), images, torch.Generator().manual_seed(2))) == pytest.approx(5.0, abs=0.08)


def test_time_steps_are_uniform_and_noise_is_what_the_generator_says() -> None:
    process, network = NoiseProcess(ProcessConfig(num_timesteps=50)), Constant(0.0)
    generator = torch.Generator().manual_seed(3)
    for _ in range(100):
        process.loss(network, IMAGES, generator)
    t = torch.cat([t for _, t in network.asked])
    assert (int(t.min()), int(t.max())) == (0, 49)
    counts = torch.bincount(t, minlength=50).float()
    assert float(((counts - 128) ** 2 / 128).sum()) < 90  # chi-square, 49 degrees of freedom: 90 is beyond 0.9997
    again = Constant(0.0)
    process.loss(again, IMAGES, torch.Generator().manual_seed(3))
    assert torch.equal(again.asked[0][0], network.asked[0][0])


def test_the_saved_scheduler_brings_the_process_back(tmp_path: Path) -> None:
    config = ProcessConfig(num_timesteps=200, beta_start=1e-3, beta_end=0.05)
    NoiseProcess(config).ddim_scheduler().save_pretrained(tmp_path / "model" / "scheduler")
    (tmp_path / "model" / "unet").mkdir()
    for directory in (
        "",
        "model",
        "model/scheduler",
        "model/unet",
    ):
        found = load_process(tmp_path / directory)
        assert found is not None
        assert found.config == config
    assert load_process(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"beta_start": 1e-8}, r"process\.beta_start"),  # 1 - (1 - 1e-8) is 0 in float32
        ({"beta_end": 0.9}, "process"),  # nothing of the image is left
        ({"beta_start": 0.02, "beta_end": 0.01}, r"process\.beta_end"),
    ],
)
def test_processes_that_divide_by_zero_are_refused(change: dict[str, float], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        ProcessConfig(**change)


@given(st.integers(1, 3000), st.floats(1e-9, 0.1), st.floats(1e-9, 0.9))
@settings(max_examples=60, deadline=None)
def test_an_accepted_process_has_noise_and_signal_at_every_step(steps: int, start: float, end: float) -> None:
    try:
        process = NoiseProcess(ProcessConfig(num_timesteps=steps, beta_start=start, beta_end=end))
    except (ConfigError, ValidationError):
        return
    levels = process.levels(list(range(steps)))
    assert all(0 < value <= 1 for level in levels for value in level)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("prediction_type", '"flow"', "flow"),
        ("beta_schedule", '"sigmoid"', "sigmoid"),
        ("beta_end", "3.0", "beta_end: 3.0 instead of below 1"),
        ("trained_betas", "[0.1, 0.2]", "trained_betas"),
        ("rescale_betas_zero_snr", "true", "process.prediction: epsilon"),
        ("thresholding", "true", "thresholding"),
        ("clip_sample", "false", "clip_sample"),
        ("clip_sample_range", "2.0", "clip_sample_range"),
        ("_class_name", '"EulerDiscreteScheduler"', "_class_name"),
        ("num_train_timesteps", "1000000000", "100000"),
        ("num_train_timesteps", "0", "num_train_timesteps"),
        ("beta_start", "1e-8", "beta_start"),
        ("use_karras_sigmas", "true", "use_karras_sigmas"),
        ("num_train_timesteps", '"many"', "a whole number"),
        (None, "{", "expected"),
    ],
)
def test_a_scheduler_that_is_another_one_is_refused(tmp_path: Path, name: str | None, value: str, words: str) -> None:
    NoiseProcess(ProcessConfig()).ddim_scheduler().save_pretrained(tmp_path / "scheduler")
    file = tmp_path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: json.loads(value)}) if name else value)
    with pytest.raises(ModelFileError, match=words):
        load_process(tmp_path)


KINDS = [
    ProcessConfig(schedule=schedule, zero_terminal_snr=zero, prediction=prediction)
    for schedule in ("linear", "cosine", "scaled_linear")
    for zero in (False, True)
    for prediction in ("epsilon", "v", "x0")
    if not (zero and prediction == "epsilon")
]


def in_words(config: ProcessConfig) -> str:
    return f"{config.schedule}-{config.prediction}{'-zero' * config.zero_terminal_snr}"


@pytest.mark.parametrize("config", KINDS, ids=in_words)
def test_every_kind_is_diffusers_and_comes_back_from_its_scheduler(config: ProcessConfig, tmp_path: Path) -> None:
    process, names = NoiseProcess(config), {"cosine": "squaredcos_cap_v2"}
    stock = DDIMScheduler(
        beta_schedule=names.get(config.schedule, config.schedule),
        beta_start=1e-4,
        beta_end=0.02,
        rescale_betas_zero_snr=config.zero_terminal_snr,
    )
    noise, t = torch.randn(IMAGES.shape, generator=torch.Generator().manual_seed(1)), torch.arange(64) * 1000 // 64
    assert torch.allclose(process.add_noise(IMAGES, noise, t), stock.add_noise(IMAGES, noise, t), rtol=0, atol=1e-6)
    generator = torch.Generator().manual_seed(2)
    noise, t = torch.randn(IMAGES.shape, generator=generator), torch.randint(1000, (64,), generator=generator)
    target = {"epsilon": noise, "v": stock.get_velocity(IMAGES, noise, t), "x0": IMAGES}
    expected = float(target[config.prediction].square().mean())
    assert float(process.loss(Constant(0.0), IMAGES, torch.Generator().manual_seed(2))) == pytest.approx(expected, rel=1e-5)
    process.ddim_scheduler().save_pretrained(tmp_path / "scheduler")
    found = load_process(tmp_path)
    assert found is not None
    assert found.config == config


@pytest.mark.parametrize("prediction", ["epsilon", "v", "x0"])
def test_min_snr_weighs_the_error_of_the_image(prediction: str) -> None:
    """A network that errs by a known error of the image at every step: the loss is its mean times min(SNR, gamma)."""
    process = NoiseProcess(ProcessConfig(prediction=prediction, min_snr_gamma=5.0))
    drawn, generator = torch.Generator().manual_seed(2), torch.Generator().manual_seed(2)
    torch.randn(IMAGES.shape, generator=drawn)  # the noise comes first
    t = torch.randint(1000, (64,), generator=drawn)
    signal, sigma = (torch.tensor(process.levels(t.tolist())).T)[:, :, None, None, None]
    wrong = IMAGES + 0.1  # what the network takes for the image

    def network(x: Tensor, _: Tensor) -> SimpleNamespace:
        eps = (x - signal * wrong) / sigma
        return SimpleNamespace(sample={"epsilon": eps, "v": signal * eps - sigma * wrong, "x0": wrong}[prediction])

    expected = float((0.01 * (signal / sigma).square().clamp(max=5.0)).mean())
    assert float(process.loss(network, IMAGES, generator)) == pytest.approx(expected, rel=1e-3)  # type: ignore[arg-type]


@pytest.mark.parametrize("config", KINDS, ids=in_words)
def test_the_image_comes_back_from_what_is_predicted(config: ProcessConfig) -> None:
    process, noise = NoiseProcess(config), torch.randn(IMAGES.shape, generator=torch.Generator().manual_seed(1))
    for step in (0, 500, 999):
        ((signal, sigma),) = process.levels([step])
        noisy = signal * IMAGES + sigma * noise
        predicted = {"epsilon": noise, "v": signal * noise - sigma * IMAGES, "x0": IMAGES}[config.prediction]
        image = process.denoised(noisy, predicted, signal, sigma)
        assert torch.allclose(image, IMAGES, rtol=0, atol=1e-4 if signal > 1e-3 or config.prediction != "epsilon" else 2e-2)


def test_pure_noise_says_nothing_of_the_image() -> None:
    with pytest.raises(ConfigError, match=r"process\.prediction\n(.|\n)*v or x0(.|\n)*epsilon"):
        ProcessConfig(zero_terminal_snr=True)
    assert NoiseProcess(ProcessConfig(zero_terminal_snr=True, prediction="v")).levels([999]) == [(0.0, 1.0)]
