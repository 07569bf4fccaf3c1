"""The noise process: forward diffusion, what the network predicts of it, and the loss.

Ho, Jain, Abbeel: "Denoising Diffusion Probabilistic Models", NeurIPS 2020 (arXiv 2006.11239). The tables are diffusers'.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from pydantic import Field, PositiveFloat, ValidationError, model_validator
from torch import Tensor, nn

from fedphd_ray.errors import ConfigError, ModelFileError
from fedphd_ray.settings.sections import Section
from fedphd_ray.settings.validation import in_short
from fedphd_ray.system.files import MIB, read_text

SCHEDULER_FILE = "scheduler_config.json"


Timesteps = Annotated[int, Field(ge=1, le=100_000)]
Beta = Annotated[float, Field(gt=0, lt=1)]


Schedule = Literal["linear", "cosine", "scaled_linear"]
Prediction = Literal["epsilon", "v", "x0"]
_SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2", "scaled_linear": "scaled_linear"}
_PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}
"""Our words and diffusers'."""


class ProcessConfig(Section):
    """Variances of the noise, and what the network is trained to predict; defaults are DDPM's.

    Attributes:
        num_timesteps: T.
        beta_start: variance of the first step.
        beta_end: variance of the last step.
        schedule: how variances grow between them: `linear`, `scaled_linear` (their square roots do), or `cosine` (Nichol and
            Dhariwal 2021, arXiv 2102.09672), which has no start and end of its own.
        zero_terminal_snr: rescale them so that nothing of the image is left at the last step (Lin et al. 2024, arXiv 2305.08891).
        prediction: the noise (`epsilon`), the image (`x0`), or the velocity `v` (Salimans and Ho 2022, arXiv 2202.00512).
        min_snr_gamma: weigh each time step by min(SNR, gamma) (Hang et al. 2023, arXiv 2303.09556); null for equal weights of
            what is predicted.
    """

    num_timesteps: Timesteps = 1000
    beta_start: Beta = 1e-4
    beta_end: Beta = 0.02
    schedule: Schedule = "linear"
    zero_terminal_snr: bool = False
    prediction: Prediction = "epsilon"
    min_snr_gamma: PositiveFloat | None = None

    @model_validator(mode="after")
    def _noise_grows(self) -> Self:
        if self.beta_end < self.beta_start:
            raise ConfigError(
                "process.beta_end",
                expected=f"beta_start = {self.beta_start:g} at least: noise grows",
                found=f"{self.beta_end:g}",
            )
        signal, noise = self.alphas_cumprod().sqrt(), (1 - self.alphas_cumprod()).sqrt()
        if not float(noise[0]) > 0:
            raise ConfigError(
                "process.beta_start",
                expected="at least 1e-7: the sampler divides by the noise of the first step, which float32 must tell from none",
                found=f"{self.beta_start:g}",
            )
        if self.zero_terminal_snr and self.prediction == "epsilon":
            raise ConfigError(
                "process.prediction",
                expected="v or x0 where process.zero_terminal_snr is true: from pure noise, noise tells nothing of the image",
                found="epsilon",
            )
        if self.prediction == "epsilon" and not float(signal[-1]) > 1e-15:
            raise ConfigError(
                "process",
                expected="something of the image to be left at the last time step: the sampler divides by it",
                found=f"a share of {float(signal[-1]):.0e} after {self.num_timesteps} steps",
                remedy="lower process.beta_end or process.num_timesteps",
            )
        return self

    def alphas_cumprod(self) -> Tensor:
        """Products of 1 - beta up to each time step, float32 [T]."""
        products: Tensor = DDPMScheduler(**self.arguments()).alphas_cumprod
        return products

    def arguments(self) -> dict[str, object]:
        """For diffusers' schedulers."""
        return {
            "num_train_timesteps": self.num_timesteps,
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
            "beta_schedule": _SCHEDULES[self.schedule],
            "rescale_betas_zero_snr": self.zero_terminal_snr,
            "prediction_type": _PREDICTIONS[self.prediction],
            "clip_sample": True,
        }


class NoiseProcess:
    """q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I)."""

    def __init__(self, config: ProcessConfig) -> None:
        self.config = config
        alpha_bar = config.alphas_cumprod()
        self._tables = {torch.device("cpu"): torch.stack([alpha_bar.sqrt(), (1 - alpha_bar).sqrt()])}

    def loss(self, denoiser: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
        """Prediction error, a scalar (Ho et al. 2020, eq. 14): ||eps - eps_theta(x_t, t)||^2, mean over all entries.

        Likewise of v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0 or of x_0, where that is predicted; with min-SNR weights of
        the time steps where those are asked for.

        Args:
            denoiser: called as (x_t [B, C, H, W], t [B]), returns an object with `.sample` [B, C, H, W].
            images: x_0 [B, C, H, W] in [-1, 1].
            generator: on the CPU; first the noise is drawn, then t, uniform in {0, ..., T-1}.
        """
        return self._error(denoiser, images, *self._draw(images, generator))

    def pieces(self, images: Tensor, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, "DrawnLoss"]]:
        """A batch in pieces of at most `size` images, each with its loss, whose noise is that of the whole batch."""
        noise, t = self._draw(images, generator)
        for piece, own_noise, own_t in zip(images.split(size), noise.split(size), t.split(size), strict=True):
            yield piece, DrawnLoss(self._error, own_noise, own_t)

    def loss_at(self, noise: Tensor, t: int) -> "DrawnLoss":
        """The loss of images [B, C, H, W] at one time step, with this noise."""
        return DrawnLoss(self._error, noise, torch.full((len(noise),), t, device=noise.device))

    def _draw(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Noise [B, C, H, W] and time steps [B]."""
        noise = torch.randn(images.shape, generator=generator).to(images.device)
        return noise, torch.randint(self.config.num_timesteps, (len(images),), generator=generator).to(images.device)

    def _error(self, denoiser: nn.Module, images: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        predicted = denoiser(self.add_noise(images, noise, t), t).sample
        target = self._target(images, noise, t)
        if self.config.min_snr_gamma is None:
            return nn.functional.mse_loss(predicted, target)
        errors = (predicted - target).square().flatten(1).mean(1)
        weighted: Tensor = self._weights(t, self.config.min_snr_gamma) * errors
        return weighted.mean()

    def _target(self, images: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network is to predict [B, C, H, W]."""
        if self.config.prediction == "epsilon":
            return noise
        if self.config.prediction == "x0":
            return images
        signal, sigma = self._table(images.device)[:, t].view(2, -1, 1, 1, 1)
        velocity: Tensor = signal * noise - sigma * images
        return velocity

    def _weights(self, t: Tensor, gamma: float) -> Tensor:
        """Of the squared error of what is predicted, so that that of the image weighs min(SNR, gamma) [B]."""
        signal, sigma = self._table(t.device)[:, t]
        snr = (signal / sigma).square()
        unit = {"epsilon": snr, "v": snr + 1, "x0": torch.ones_like(snr)}[self.config.prediction]
        weights: Tensor = snr.clamp(max=gamma) / unit
        return weights

    def denoised(self, noisy: Tensor, predicted: Tensor, signal: float, sigma: float) -> Tensor:
        """x_0 [B, C, H, W] as the network's output says it, of x_t = signal * x_0 + sigma * noise."""
        if self.config.prediction == "epsilon":
            return (noisy - sigma * predicted) / signal
        if self.config.prediction == "x0":
            return predicted
        return signal * noisy - sigma * predicted

    def add_noise(self, images: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t [B, C, H, W] for t [B]."""
        signal, sigma = self._table(images.device)[:, t].view(2, -1, 1, 1, 1)
        noised: Tensor = signal * images + sigma * noise
        return noised

    def levels(self, times: list[int]) -> list[tuple[float, float]]:
        """(sqrt(alpha_bar_t), sqrt(1 - alpha_bar_t)) of each of the given time steps, for a sampler."""
        signal, sigma = self._tables[torch.device("cpu")][:, times].tolist()
        return list(zip(signal, sigma, strict=True))

    def ddim_scheduler(self) -> DDIMScheduler:
        """What `DDIMPipeline` needs to sample as `sampling.sample_chunk` does: the same noise, uniform steps, x_0 clipped.

        The pipeline recomputes the noise after clipping only if called with `use_clipped_model_output=True`, and its time steps
        are those of this project only where the number of steps divides T.
        """
        scheduler: DDIMScheduler = DDIMScheduler(**self.config.arguments(), timestep_spacing="trailing", set_alpha_to_one=True)
        return scheduler

    def _table(self, device: torch.device) -> Tensor:
        """Coefficients of signal and noise [2, T]; copied to a device once."""
        if device not in self._tables:
            self._tables[device] = self._tables[torch.device("cpu")].to(device)
        return self._tables[device]


@dataclass(frozen=True)
class DrawnLoss:
    """The loss of some images with noise that is drawn already."""

    error: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
    noise: Tensor
    t: Tensor

    def __call__(self, denoiser: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
        """As `NoiseProcess.loss`, but for the generator, which is left alone."""
        return self.error(denoiser, images, self.noise, self.t)


def load_process(directory: Path) -> NoiseProcess | None:
    """The process that a saved model was trained with, from the scheduler that lies with it; None where there is none.

    Args:
        directory: a run directory, a model, a diffusers pipeline, or the `unet/` folder of one.

    Raises:
        ModelFileError: the file is unreadable, or describes a process that this module does not have.
    """
    folders = [directory / "scheduler", directory / "model" / "scheduler", directory]
    if directory.resolve().name == "unet":
        folders.append(directory.resolve().parent / "scheduler")
    for folder in folders:
        if (folder / SCHEDULER_FILE).exists():
            return NoiseProcess(_read_config(folder / SCHEDULER_FILE))
    return None


class _StoredScheduler(Section):
    """A diffusers scheduler, as far as it describes the noise process and what is predicted.

    What only says how to sample (spacing of the steps, the last step, the variance of a stochastic step) is read and not used:
    the sampler here is its own. Whatever else changes images is refused unless it has the one value that this process has.
    """

    class_name: Literal["DDIMScheduler", "DDPMScheduler"] = Field(alias="_class_name")
    num_train_timesteps: Timesteps = 1000
    beta_start: Beta = 1e-4
    beta_end: Beta = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    trained_betas: None = None
    rescale_betas_zero_snr: bool = False
    clip_sample: Literal[True] = True
    clip_sample_range: Annotated[float, Field(ge=1.0, le=1.0)] = 1.0
    thresholding: Literal[False] = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0
    set_alpha_to_one: bool = True
    steps_offset: int = 0
    timestep_spacing: str = "leading"
    variance_type: str = "fixed_small"

    def process(self) -> ProcessConfig:
        """In our words."""
        (schedule,) = (ours for ours, theirs in _SCHEDULES.items() if theirs == self.beta_schedule)
        (prediction,) = (ours for ours, theirs in _PREDICTIONS.items() if theirs == self.prediction_type)
        known = {"num_timesteps": self.num_train_timesteps, "zero_terminal_snr": self.rescale_betas_zero_snr}
        names = {"schedule": schedule, "prediction": prediction}
        return ProcessConfig.model_validate(known | names | {"beta_start": self.beta_start, "beta_end": self.beta_end})


def _read_config(path: Path) -> ProcessConfig:
    try:
        tree = json.loads(read_text(path, MIB))
        known = {key: value for key, value in tree.items() if key == "_class_name" or not key.startswith("_")}
        saved = _StoredScheduler.model_validate(known)
        return saved.process()
    except ValidationError as error:
        found = in_short(error, _StoredScheduler)
    except ConfigError as error:
        found = f"{error.where}: {error.found}"
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        found = str(error)
    raise ModelFileError(
        str(path),
        expected="a diffusers DDIM or DDPM scheduler with variances by formula and samples clipped to [-1, 1]",
        found=found,
        remedy="use a model that this program saved, with its scheduler folder as it was",
    )
