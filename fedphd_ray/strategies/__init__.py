"""Federated methods, one file each, client half and server half together. A new one is a file and a line here."""

from typing import Annotated

from pydantic import Field

from fedphd_ray.strategies.base import Strategy
from fedphd_ray.strategies.fedavg import FedAvg
from fedphd_ray.strategies.fedphd import FedPhD

AnyStrategy = Annotated[FedPhD | FedAvg, Field(discriminator="name")]

__all__ = ["AnyStrategy", "FedAvg", "FedPhD", "Strategy"]
