"""The noise process: forward diffusion with a linear schedule, and the noise-prediction loss.

Ho, Jain, Abbeel: "Denoising Diffusion Probabilistic Models", NeurIPS 2020 (arXiv 2006.11239). The tables are diffusers'.
"""

from pathlib import Path
from typing import Annotated

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn


class ProcessConfig(BaseModel):
    """Linear variance schedule; defaults are DDPM's.

    Attributes:
        num_timesteps: T.
        beta_start: variance of the first step.
        beta_end: variance of the last step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_timesteps: PositiveInt = 1000
    beta_start: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 0.02


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
        return signal * images + sigma * noise

    def ddim_scheduler(self) -> DDIMScheduler:
        """The deterministic sampler (Song et al. 2021) with steps at tau = linspace(-1, T-1, S+1)[1:], ending at x_0 itself."""
        return DDIMScheduler(**self._arguments(), timestep_spacing="trailing", set_alpha_to_one=True)

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
    """The process that a saved model was trained with, from its `scheduler/` below a model or a run directory; else DDPM's."""
    for folder in (directory / "scheduler", directory / "model" / "scheduler"):
        if (folder / "scheduler_config.json").is_file():
            saved = DDIMScheduler.from_pretrained(folder).config
            fields = {"num_timesteps": saved.num_train_timesteps, "beta_start": saved.beta_start, "beta_end": saved.beta_end}
            return NoiseProcess(ProcessConfig(**fields))
    return NoiseProcess(ProcessConfig())
