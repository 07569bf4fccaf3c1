"""The noise process: forward diffusion with a linear schedule, and the noise-prediction loss.

Ho, Jain, Abbeel: "Denoising Diffusion Probabilistic Models", NeurIPS 2020 (arXiv 2006.11239). The tables are diffusers'.
"""

import json
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from pydantic import Field, ValidationError, model_validator
from torch import Tensor, nn

from fedphd_ray.errors import ConfigError, ModelFileError
from fedphd_ray.files import MIB, read_text
from fedphd_ray.sections import Section
from fedphd_ray.validation import in_short

SCHEDULER_FILE = "scheduler_config.json"


Timesteps = Annotated[int, Field(ge=1, le=100_000)]
Beta = Annotated[float, Field(gt=0, lt=1)]


class ProcessConfig(Section):
    """Linear variance schedule; defaults are DDPM's.

    Attributes:
        num_timesteps: T.
        beta_start: variance of the first step.
        beta_end: variance of the last step.
    """

    num_timesteps: Timesteps = 1000
    beta_start: Beta = 1e-4
    beta_end: Beta = 0.02

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
        if not float(signal[-1]) > 1e-15:
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
            "beta_schedule": "linear",
            "prediction_type": "epsilon",
            "clip_sample": True,
        }


class NoiseProcess:
    """q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I)."""

    def __init__(self, config: ProcessConfig) -> None:
        self.config = config
        alpha_bar = config.alphas_cumprod()
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
        scheduler: DDIMScheduler = DDIMScheduler(**self.config.arguments(), timestep_spacing="trailing", set_alpha_to_one=True)
        return scheduler

    def _table(self, device: torch.device) -> Tensor:
        """Coefficients of signal and noise [2, T]; copied to a device once."""
        if device not in self._tables:
            self._tables[device] = self._tables[torch.device("cpu")].to(device)
        return self._tables[device]


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
    beta_schedule: Literal["linear"] = "linear"
    prediction_type: Literal["epsilon"] = "epsilon"
    trained_betas: None = None
    rescale_betas_zero_snr: Literal[False] = False
    clip_sample: Literal[True] = True
    clip_sample_range: Annotated[float, Field(ge=1.0, le=1.0)] = 1.0
    thresholding: Literal[False] = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0
    set_alpha_to_one: bool = True
    steps_offset: int = 0
    timestep_spacing: str = "leading"
    variance_type: str = "fixed_small"


def _read_config(path: Path) -> ProcessConfig:
    try:
        tree = json.loads(read_text(path, MIB))
        known = {key: value for key, value in tree.items() if key == "_class_name" or not key.startswith("_")}
        saved = _StoredScheduler.model_validate(known)
        return ProcessConfig(num_timesteps=saved.num_train_timesteps, beta_start=saved.beta_start, beta_end=saved.beta_end)
    except ValidationError as error:
        found = in_short(error, _StoredScheduler)
    except ConfigError as error:
        found = f"{error.where}: {error.found}"
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        found = str(error)
    raise ModelFileError(
        str(path),
        expected="a diffusers DDIM or DDPM scheduler with linear variances, noise prediction and samples clipped to [-1, 1]",
        found=found,
        remedy="use a model that this program saved, with its scheduler folder as it was",
    )
