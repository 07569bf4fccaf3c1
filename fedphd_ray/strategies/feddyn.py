"""FedDyn: a linear term per client makes the local optima agree with the global one.

Acar, Zhao, Matas Navarro, Mattina, Whatmough, Saligrama: "Federated Learning Based on Dynamic Regularization", ICLR 2021
(arXiv 2111.04263).
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor

from fedphd_ray.strategies.base import Aggregate, LocalEnd, LocalMethod, LocalStart, Strategy

DUAL, SERVER = "dual", "feddyn_h"


class FedDyn(Strategy):
    """Clients go down on f_i(y) - <g_i, y> + alpha / 2 ||y - x||^2 and keep g_i; the server keeps h. Traffic is FedAvg's.

    Attributes:
        alpha: strength of the regularisation.
    """

    flat_only: ClassVar[bool] = True
    takes_sums: ClassVar[bool] = True

    name: Literal["feddyn"] = "feddyn"
    alpha: PositiveFloat = 0.1

    @property
    def keeps_state(self) -> bool:
        """g_i."""
        return True

    def local_method(self, start: LocalStart) -> LocalMethod:
        """The client half."""
        return _Dynamic(start, self.alpha)

    def client_weight(self, num_samples: int, num_steps: int) -> float:
        """The paper's mean over the cohort is not weighted."""
        return 1.0

    def initial_server(self, num_params: int) -> dict[str, Tensor]:
        """H = 0."""
        return {SERVER: torch.zeros(num_params)}

    def server_step(self, aggregate: Aggregate, server: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """H - (alpha / N) sum (y_i - x), and mean(y_i) - h / alpha."""
        moved = (aggregate.mean - aggregate.base) * aggregate.weight  # weights are 1: the sum over the cohort
        h = server[SERVER] - moved * (self.alpha / aggregate.num_clients)
        return aggregate.mean - h / self.alpha, {SERVER: h}


class _Dynamic(LocalMethod):
    def __init__(self, start: LocalStart, alpha: float) -> None:
        super().__init__(start)
        self._alpha = alpha
        dual = start.kept.get(DUAL)
        self._dual = torch.zeros_like(start.received) if dual is None else dual

    def correct(self, grad: Tensor, vector: Tensor) -> None:
        """- g_i + alpha (y - x)."""
        grad.sub_(self._dual).add_(vector - self.start.received, alpha=self._alpha)

    def end(self, vector: Tensor, num_steps: int) -> LocalEnd:
        """g_i - alpha (y - x)."""
        return LocalEnd(kept={DUAL: self._dual - (vector - self.start.received) * self._alpha})
