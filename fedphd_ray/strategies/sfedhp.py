"""sFedHP: clients, edges and the cloud each have a model of their own, held together by proximal terms, and kept sparse.

Liu, Wang, Shao, Li: "Sparse Federated Learning with Hierarchical Personalized Models", IEEE IoT Journal 2024 (arXiv 2203.13517).
What its abstract says is here (client, edge, cloud; Moreau envelopes; a smooth l1 norm; fewer bytes); which level carries which
term, and the steps, are a reconstruction after pFedMe (Dinh, Tran, Nguyen, NeurIPS 2020).

    cloud w    edge i: v, p <- w at the beginning of a cycle; in every round of it
        client j   t_j <- p, then local steps along grad l(t) + lambda1 (t - p) + gamma1 tanh(t / rho)
        edge i     p <- p - eta_e [lambda1 (p - mean_j t_j) + lambda2 (p - v) + gamma2 tanh(p / rho)]
                   v <- v - eta lambda2 (v - p)
    and the edge sends v. The cloud: w <- (1 - beta) w + beta mean_i v_i.

Small weights become zero on the wire by `communication: {from_clients: {codec: threshold, below: ...}}`.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, NonNegativeFloat, model_validator
from torch import Tensor

from fedphd_ray.errors import ConfigError
from fedphd_ray.records import Kind
from fedphd_ray.strategies.base import PERSONAL, Aggregate, LocalEnd, LocalMethod, LocalStart, Strategy

Rate = Annotated[float, Field(gt=0, le=1)]


class SFedHP(Strategy):
    """Personal models at three levels. Judged are the cloud's model, and what some clients keep.

    Attributes:
        lambda1: pull between a client's model and its edge's.
        lambda2: pull between an edge's model and what it started from.
        gamma1: weight of the smooth l1 norm at clients.
        gamma2: the same at edges.
        rho: how smooth: rho log cosh(x / rho) is |x| up to rho log 2.
        edge_learning_rate: eta_e.
        server_learning_rate: eta.
        mixing: beta.
    """

    nodes_keep: ClassVar[tuple[Kind, ...]] = (Kind.ANCHOR,)
    keeps_personal_models: ClassVar[bool] = True

    name: Literal["sfedhp"] = "sfedhp"
    lambda1: NonNegativeFloat = 1.0
    lambda2: NonNegativeFloat = 1.0
    gamma1: NonNegativeFloat = 1e-4
    gamma2: NonNegativeFloat = 1e-4
    rho: Annotated[float, Field(gt=0)] = 1e-3
    edge_learning_rate: Rate = 0.9
    server_learning_rate: Rate = 1.0
    mixing: Annotated[float, Field(gt=0, le=2)] = 1.0

    @model_validator(mode="after")
    def _steps_converge(self) -> Self:
        """A gradient step on a quadratic overshoots without end from 2 / curvature on."""
        for key, rate, curvature in (
            ("edge_learning_rate", self.edge_learning_rate, self.lambda1 + self.lambda2 + self.gamma2 / self.rho),
            ("server_learning_rate", self.server_learning_rate, self.lambda2),
        ):
            if rate * curvature >= 2:
                raise ConfigError(
                    f"strategy.{key}",
                    expected=f"less than {2 / curvature:g}, for terms of this curvature, {curvature:g} together",
                    found=f"{rate:g}",
                    remedy="lower it, or lambda1, lambda2 and gamma2, or raise rho",
                )
        return self

    def local_method(self, start: LocalStart) -> LocalMethod:
        """Trains a model of the client's own."""
        return _Personal(start, self)

    def edge_step(self, base: Tensor, mean: Tensor, kept: Mapping[Kind, Tensor]) -> tuple[Tensor, dict[Kind, Tensor]]:
        """A step of the edge's model towards its clients' mean, and of what it started from towards that."""
        anchor = kept.get(Kind.ANCHOR, base)
        pull = self.lambda1 * (base - mean) + self.lambda2 * (base - anchor) + self.gamma2 * smooth_l1_gradient(base, self.rho)
        model = base - self.edge_learning_rate * pull
        return model, {Kind.ANCHOR: anchor - self.server_learning_rate * self.lambda2 * (anchor - model)}

    def edge_sends(self, model: Tensor, kept: Mapping[Kind, Tensor]) -> Tensor:
        """What it started from, as it has moved."""
        return kept.get(Kind.ANCHOR, model)

    def server_step(self, aggregate: Aggregate, server: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """(1 - beta) w + beta mean_i v_i."""
        return torch.lerp(aggregate.base, aggregate.mean, self.mixing), dict(server)


class _Personal(LocalMethod):
    def __init__(self, start: LocalStart, own: SFedHP) -> None:
        super().__init__(start)
        self._own = own

    def correct(self, grad: Tensor, vector: Tensor) -> None:
        """The gradients of the proximal term and of the smooth l1 norm."""
        own = self._own
        grad.add_(vector - self.start.received, alpha=own.lambda1)
        if own.gamma1:
            grad.add_(smooth_l1_gradient(vector, own.rho), alpha=own.gamma1)

    def end(self, vector: Tensor, num_steps: int) -> LocalEnd:
        """Its model is the client's own."""
        return LocalEnd(kept={PERSONAL: vector.clone()})


def smooth_l1(values: Tensor, rho: float) -> Tensor:
    """Rho sum log cosh(x / rho), a scalar between the l1 norm and that less rho log 2 for each value; without overflow."""
    sizes = values.abs()
    return (sizes + rho * (torch.log1p(torch.exp(-2 * sizes / rho)) - torch.log(torch.tensor(2.0, dtype=values.dtype)))).sum()


def smooth_l1_gradient(values: Tensor, rho: float) -> Tensor:
    """Tanh(x / rho)."""
    return torch.tanh(values / rho)
