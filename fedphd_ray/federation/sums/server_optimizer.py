"""Optimisers at the cloud: the change that an aggregation asks for is taken as a gradient. They combine with any strategy.

Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan: "Adaptive Federated Optimization", ICLR 2021 (arXiv 2003.00295);
momentum: Hsu, Qi, Brown, 2019 (arXiv 1909.06335).
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from fedphd_ray.settings.sections import Section

MOMENTUM, SECOND_MOMENT = "server_momentum", "server_second_moment"
Decay = Annotated[float, Field(ge=0, lt=1)]


class FedAvgM(Section):
    """v <- beta v + delta; x <- x + eta v. With beta = 0 and eta = 1 the aggregate is taken as it is."""

    name: Literal["fedavgm"] = "fedavgm"
    momentum: Decay = 0.9
    learning_rate: PositiveFloat = 1.0

    def step(self, delta: Tensor, kept: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """What is added to the model [num_params] for the change `delta`, and what is kept for the next time."""
        velocity = delta if MOMENTUM not in kept else kept[MOMENTUM] * self.momentum + delta
        return velocity * self.learning_rate, {MOMENTUM: velocity}


class FedAdam(Section):
    """m <- b1 m + (1 - b1) delta; v <- b2 v + (1 - b2) delta^2; x <- x + eta m / (sqrt(v) + tau). No bias correction (the paper).

    m begins at 0 and v at tau^2, the least that the paper's Algorithm 2 allows.

    Attributes:
        momentum: b1.
        second_momentum: b2.
        learning_rate: eta, about the largest change of one parameter in one step.
        tau: adaptivity; where changes are much smaller than it, the step is eta / tau times the change. Not below 1e-4:
            parameters that hardly move would jump by eta.
    """

    name: Literal["fedadam"] = "fedadam"
    momentum: Decay = 0.9
    second_momentum: Decay = 0.99
    learning_rate: PositiveFloat = 1e-2
    tau: Annotated[float, Field(ge=1e-4)] = 1e-3

    def step(self, delta: Tensor, kept: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """What is added to the model [num_params] for the change `delta`, and what is kept for the next time."""
        mean = torch.lerp(delta, kept.get(MOMENTUM, torch.zeros_like(delta)), self.momentum)
        before = kept.get(SECOND_MOMENT, torch.full_like(delta, self.tau**2))
        square = torch.lerp(delta.square(), before, self.second_momentum)
        return mean / (square.sqrt() + self.tau) * self.learning_rate, {MOMENTUM: mean, SECOND_MOMENT: square}


ServerOptimizer = Annotated[FedAvgM | FedAdam, Field(discriminator="name")]
