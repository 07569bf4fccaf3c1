"""Quantities that differ from device to device: a number for all, or a distribution that is drawn from once per device."""

from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fedphd_ray.errors import ConfigError
from fedphd_ray.settings.sections import Section

Positive = Annotated[float, Field(gt=0, le=1e18)]


class Uniform(Section):
    """Anything from `low` to `high`."""

    distribution: Literal["uniform"]
    low: Positive
    high: Positive

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low > self.high:
            raise ConfigError("low", expected=f"at most high = {self.high:g}", found=f"{self.low:g}")
        return self

    def draw(self, rng: np.random.Generator, num: int) -> NDArray[np.float64]:
        """So many values."""
        return rng.uniform(self.low, self.high, num)


class LogNormal(Section):
    """Half of the devices below `median`; `sigma` is the standard deviation of the logarithm (0.7: a factor of two)."""

    distribution: Literal["log_normal"]
    median: Positive
    sigma: Annotated[float, Field(ge=0, le=4)]

    def draw(self, rng: np.random.Generator, num: int) -> NDArray[np.float64]:
        """So many values."""
        return np.asarray(self.median * np.exp(self.sigma * rng.standard_normal(num)))


class Zipf(Section):
    """`largest` / rank^`exponent`, ranks 1 to `ranks` with equal probability: few are large, and most are alike small."""

    distribution: Literal["zipf"]
    largest: Positive
    exponent: Annotated[float, Field(gt=0, le=8)] = 1.0
    ranks: Annotated[int, Field(ge=1, le=1_000_000)] = 10

    def draw(self, rng: np.random.Generator, num: int) -> NDArray[np.float64]:
        """So many values."""
        return np.asarray(self.largest / rng.integers(1, self.ranks + 1, num) ** self.exponent)


Distribution = Annotated[Uniform | LogNormal | Zipf, Field(discriminator="distribution")]
Quantity = Positive | Distribution
QuantityOrNone = Annotated[float, Field(ge=0, le=1e18)] | Distribution
"""Where 0 has a meaning: no latency."""


def draw(quantity: Quantity, rng: np.random.Generator, num: int) -> NDArray[np.float64]:
    """One value per device [num]."""
    return np.full(num, float(quantity)) if isinstance(quantity, int | float) else quantity.draw(rng, num)
