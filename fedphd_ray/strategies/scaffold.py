"""SCAFFOLD: control variates take the drift of each client out of its steps.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh: "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML 2020
(arXiv 1910.06378). All controls begin at zero.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor

from fedphd_ray.records import Kind
from fedphd_ray.strategies.base import Aggregate, LocalEnd, LocalMethod, LocalStart, Strategy

CONTROL = Kind.CONTROL


class Scaffold(Strategy):
    """Each step goes along g - c_i + c; the model and the control variate travel both ways.

    Attributes:
        option: how a client renews its control c_i. `full_gradient` is the paper's option I, the gradient at the received model
            over all of its images (one more pass). `drift` is option II, c_i - c + (x - y) / (K lr), which is the mean gradient
            only where a step is minus lr times a gradient: with plain SGD, unclipped. `mean_gradient` is that mean itself, taken
            over the raw gradients of the round: the same as option II for plain SGD, and right for Adam too.
        server_learning_rate: eta_g, of the step along the clients' mean update.
    """

    server_sends: ClassVar[tuple[Kind, ...]] = (CONTROL,)
    clients_send: ClassVar[tuple[Kind, ...]] = (CONTROL,)
    flat_only: ClassVar[bool] = True

    name: Literal["scaffold"] = "scaffold"
    option: Literal["mean_gradient", "full_gradient", "drift"] = "mean_gradient"
    server_learning_rate: PositiveFloat = 1.0

    @property
    def keeps_state(self) -> bool:
        """c_i."""
        return True

    def local_method(self, start: LocalStart) -> LocalMethod:
        """The method of the chosen option."""
        methods = {"mean_gradient": _MeanGradient, "full_gradient": _FullGradient, "drift": _Drift}
        return methods[self.option](start)

    def client_weight(self, num_samples: int, num_steps: int) -> float:
        """The paper's mean over the cohort is not weighted."""
        return 1.0

    def initial_server(self, num_params: int) -> dict[str, Tensor]:
        """Begins with c = 0."""
        return {CONTROL: torch.zeros(num_params)}

    def server_step(self, aggregate: Aggregate, server: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """X + eta_g (mean - x), and c + (1 / N) sum (c_i+ - c_i)."""
        model = aggregate.mean
        if self.server_learning_rate != 1.0:
            model = torch.lerp(aggregate.base, aggregate.mean, self.server_learning_rate)
        control = server[CONTROL]
        if CONTROL in aggregate.beside:
            control = control + aggregate.beside[CONTROL] / aggregate.num_clients
        return model, {CONTROL: control}


class _Controlled(LocalMethod):
    """Steps along g - c_i + c; subclasses say what c_i becomes."""

    def __init__(self, start: LocalStart) -> None:
        super().__init__(start)
        self._server = start.beside[CONTROL]
        own = start.kept.get(CONTROL)
        self._own = torch.zeros_like(self._server) if own is None else own
        self._shift = self._server - self._own

    def correct(self, grad: Tensor, vector: Tensor) -> None:
        """Gives g - c_i + c."""
        grad.add_(self._shift)

    def end(self, vector: Tensor, num_steps: int) -> LocalEnd:
        """Sends c_i+ - c_i, keeps c_i+; without a step there is nothing new."""
        renewed = self.renewed(vector, num_steps) if num_steps else self._own.clone()
        return LocalEnd({CONTROL: renewed - self._own}, {CONTROL: renewed})

    def renewed(self, vector: Tensor, num_steps: int) -> Tensor:
        """c_i+."""
        raise NotImplementedError


class _MeanGradient(_Controlled):
    def __init__(self, start: LocalStart) -> None:
        super().__init__(start)
        self._sum = torch.zeros_like(start.received)

    def correct(self, grad: Tensor, vector: Tensor) -> None:
        """Remembers the raw gradient."""
        self._sum.add_(grad)
        super().correct(grad, vector)

    def renewed(self, vector: Tensor, num_steps: int) -> Tensor:
        """The mean raw gradient of the round."""
        return self._sum / num_steps


class _FullGradient(_Controlled):
    def __init__(self, start: LocalStart) -> None:
        super().__init__(start)
        self._gradient = start.full_gradient()

    def renewed(self, vector: Tensor, num_steps: int) -> Tensor:
        """Option I."""
        return self._gradient


class _Drift(_Controlled):
    def renewed(self, vector: Tensor, num_steps: int) -> Tensor:
        """Option II."""
        return self._own - self._server + (self.start.received - vector) / (num_steps * self.start.learning_rate)
