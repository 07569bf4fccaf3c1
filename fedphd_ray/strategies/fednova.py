"""FedNova: updates are normalised by the number of local steps, so that clients with more steps do not pull the optimum."""

from typing import Literal

from fedphd_ray.strategies.base import Strategy


class FedNova(Strategy):
    """FedAvg with normalised updates; the formulas and their source are in `normalisation`."""

    name: Literal["fednova"] = "fednova"
    normalise_steps: Literal[True] = True
