"""The noise process: forward diffusion with a linear schedule, and the noise-prediction loss.

Ho, Jain, Abbeel: "Denoising Diffusion Probabilistic Models", NeurIPS 2020 (arXiv 2006.11239). The tables are diffusers'.
"""

from pathlib import Path
from typing import Annotated, Self

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from pydantic import Field, PositiveInt, ValidationError, model_validator
from torch import Tensor, nn

from fedphd_ray.errors import ModelFileError
from fedphd_ray.sections import Section

SCHEDULER_FILE = "scheduler_config.json"


class ProcessConfig(Section):
    """Linear variance schedule; defaults are DDPM's.

    Attributes:
        num_timesteps: T.
        beta_start: variance of the first step.
        beta_end: variance of the last step.
    """

    num_timesteps: PositiveInt = 1000
    beta_start: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 0.02

    @model_validator(mode="after")
    def _noise_grows(self) -> Self:
        if self.beta_end < self.beta_start:
            raise ValueError(f"beta_end ({self.beta_end}) must not be smaller than beta_start ({self.beta_start})")
        return self


class NoiseProcess:
    """q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I)."""

    def __init__(self, config: ProcessConfig) -> None:
        self.config = config
        alpha_bar = DDPMScheduler(**self._arguments()).alphas_cumprod
        self._tables = {torch.device("cpu"): torch.stack([alpha_bar.sqrt(), (1 - alpha_bar).sqrt()])}

    def loss(self, denoiser: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
        """Noise-prediction error, a scalar (Ho et al. 2020, eq. 14): ||eps - eps_theta(x_t, t)||^2, mean over all entries.

        Args:
            denoiser: called as (x_t [B, C, H, W], t [B]), returns an object with `.sample` [B, C, H, W].
            images: x_0 [B, C, H, W] in [-1, 1].
            generator: on the CPU; first the noise is drawn, then t, uniform in {0, ..., T-1}.
        """
        noise = torch.randn(images.shape, generator=generator).to(images.device)
        t = torch.randint(self.config.num_timesteps, (len(images),), generator=generator).to(images.device)
        predicted = denoiser(self.add_noise(images, noise, t), t).sample
        return nn.functional.mse_loss(predicted, noise)

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
        scheduler: DDIMScheduler = DDIMScheduler(**self._arguments(), timestep_spacing="trailing", set_alpha_to_one=True)
        return scheduler

    def _table(self, device: torch.device) -> Tensor:
        """Coefficients of signal and noise [2, T]; copied to a device once."""
        if device not in self._tables:
            self._tables[device] = self._tables[torch.device("cpu")].to(device)
        return self._tables[device]

    def _arguments(self) -> dict[str, object]:
        return {
            "num_train_timesteps": self.config.num_timesteps,
            "beta_start": self.config.beta_start,
            "beta_end": self.config.beta_end,
            "beta_schedule": "linear",
            "prediction_type": "epsilon",
            "clip_sample": True,
        }


def load_process(directory: Path) -> NoiseProcess:
    """The process that a saved model was trained with, from its `scheduler/` below a model or a run directory; else DDPM's.

    Raises:
        ModelFileError: the file is unreadable, or describes a process that this module does not have.
    """
    for folder in (directory / "scheduler", directory / "model" / "scheduler"):
        if (folder / SCHEDULER_FILE).is_file():
            return NoiseProcess(_read_config(folder))
    return NoiseProcess(ProcessConfig())


def _read_config(folder: Path) -> ProcessConfig:
    try:
        saved = DDIMScheduler.load_config(folder)
        if (kind := (saved["beta_schedule"], saved["prediction_type"])) != ("linear", "epsilon"):
            raise ValueError(f"{kind[0]} schedule, prediction of {kind[1]}")
        return ProcessConfig(
            num_timesteps=saved["num_train_timesteps"], beta_start=saved["beta_start"], beta_end=saved["beta_end"]
        )
    except (OSError, ValueError, TypeError, KeyError, ValidationError) as error:
        raise ModelFileError(
            str(folder / SCHEDULER_FILE),
            expected="a diffusers scheduler with linear variances and noise prediction",
            found=str(error),
            remedy="use a model that this program saved, with its scheduler folder as it was",
        ) from error
