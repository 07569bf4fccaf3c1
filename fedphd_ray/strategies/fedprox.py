"""FedProx: a proximal term holds local training near the received model.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith: "Federated Optimization in Heterogeneous Networks", MLSys 2020 (arXiv 1812.06127).
"""

from typing import Literal

from pydantic import NonNegativeFloat
from torch import Tensor

from fedphd_ray.strategies.base import LocalMethod, LocalStart, Strategy


class FedProx(Strategy):
    """FedAvg with mu / 2 ||y - x||^2 (squared, over the whole model) added to every client's loss.

    Attributes:
        mu: strength; 0 is FedAvg.
    """

    name: Literal["fedprox"] = "fedprox"
    mu: NonNegativeFloat = 0.01

    def local_method(self, start: LocalStart) -> LocalMethod:
        """Adds the term's gradient."""
        return _Proximal(start, self.mu)


class _Proximal(LocalMethod):
    def __init__(self, start: LocalStart, mu: float) -> None:
        super().__init__(start)
        self._mu = mu

    def correct(self, grad: Tensor, vector: Tensor) -> None:
        """Mu (y - x): the exact gradient of the term, without a pass of its own."""
        grad.add_(vector - self.start.received, alpha=self._mu)
