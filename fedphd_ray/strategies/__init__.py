"""Federated methods, one file each, client half and server half together. A new one is a file and a line here."""

from typing import Annotated

from pydantic import Field

from fedphd_ray.settings.plugins import OrOwn
from fedphd_ray.strategies.base import Strategy
from fedphd_ray.strategies.fedavg import FedAvg
from fedphd_ray.strategies.feddiffuse import FedDiffuse
from fedphd_ray.strategies.feddyn import FedDyn
from fedphd_ray.strategies.fednova import FedNova
from fedphd_ray.strategies.fedphd import FedPhD
from fedphd_ray.strategies.fedprox import FedProx
from fedphd_ray.strategies.moon import Moon
from fedphd_ray.strategies.scaffold import Scaffold
from fedphd_ray.strategies.sfedhp import SFedHP

AnyStrategy = Annotated[
    FedPhD | FedAvg | FedProx | Scaffold | Moon | FedDiffuse | FedDyn | FedNova | SFedHP,
    Field(discriminator="name"),
    OrOwn(Strategy),
]

__all__ = [
    "AnyStrategy",
    "FedAvg",
    "FedDiffuse",
    "FedDyn",
    "FedNova",
    "FedPhD",
    "FedProx",
    "Moon",
    "SFedHP",
    "Scaffold",
    "Strategy",
]
