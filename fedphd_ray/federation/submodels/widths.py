"""Clients that train a narrower network than the server's: which widths there are, and who has which.

HeteroFL (Diao, Ding, Tarokh, ICLR 2021): nested, every client of a width has the first channels of each layer. FedRolex (Alam,
Liu, Yan, Zhang, NeurIPS 2022): rolling, the window moves by a channel every round, so that all are trained equally often. Here a
window lies within each group of a GroupNorm (each attention head): every group keeps as many channels, as when a network is
pruned, and a norm has as many groups at every width. `slices.py` cuts, and puts together what comes back.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fedphd_ray.errors import ConfigError
from fedphd_ray.federation.submodels.assignments import ByMemory, ByShare, Wireless
from fedphd_ray.records import BY_MAGNITUDE, Slice
from fedphd_ray.settings.sections import Section
from fedphd_ray.strategies import Strategy
from fedphd_ray.tensors import Layout

Width = Annotated[float, Field(gt=0, le=1)]


_ONE = Layout(("conv_in.weight", "conv_out.weight"), ((1,), (1,)))  # of which every method makes its parts


class SubModels(Section):
    """Sub-models of several widths.

    Attributes:
        scheme: `nested` (HeteroFL): the first channels of each norm group; `rolling` (FedRolex): a window that moves by one every
            round; `masked` (arXiv 2305.09042): any parameters, the largest of the model that is sent.
        widths: share of the channels that a client's network keeps, from the widest; rounded down to whole channels of each norm
            group and attention head. With `masked` the share of the parameters.
        assignment: who trains which.
    """

    scheme: Literal["nested", "rolling", "masked"] = "nested"
    widths: Annotated[tuple[Width, ...], Field(min_length=1, max_length=16)]
    assignment: Annotated[ByShare | ByMemory | Wireless, Field(discriminator="name")] = ByShare()

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not all(wider > narrower for wider, narrower in pairwise(self.widths)):
            found = ", ".join(f"{width:g}" for width in self.widths)
            raise ConfigError("submodels.widths", expected="widths that differ, the widest first", found=found)
        self.assignment.require_fit(len(self.widths))
        return self

    def require_fit(self, strategy: Strategy, *, devices: bool, rounds: bool, feedback: bool = False) -> None:
        """Sees that it goes with the rest of a configuration.

        Args:
            strategy: the method.
            devices: they are simulated.
            rounds: clients of a round are asked together.
            feedback: clients keep what their uploads leave out.

        Raises:
            ConfigError: it does not.
        """
        if self.assignment.needs_devices and not devices:
            raise ConfigError(
                "submodels.assignment",
                expected="a rule that goes without devices, where there is no section devices",
                found=self.assignment.name,
                remedy="for example devices: {preset: phones}",
            )
        if self.assignment.every_round and not rounds:
            raise ConfigError(
                "submodels.assignment",
                expected="a rule that goes without rounds, where schedule.policy is buffered",
                found=self.assignment.name,
                remedy="take another policy, or assignment: {name: memory}",
            )
        sends_more = strategy.clients_send or strategy.server_sends or strategy.keeps_state
        if self.scheme == "masked" and (sends_more or feedback or len(strategy.parts(_ONE)) > 1):
            raise ConfigError(
                "submodels.scheme",
                expected="nested: masks go with methods that send one model and keep nothing, and without error feedback",
                found="masked",
                remedy="take nested, or for example strategy.name: fedavg",
            )
        if self.scheme == "rolling" and strategy.keeps_state:
            raise ConfigError(
                "submodels.scheme",
                expected=f"nested: clients of {strategy.name} keep vectors of their network, which rolls away under them",
                found="rolling",
                remedy="take nested, or another strategy",
            )

    def describe(self) -> str:
        """In a few words."""
        if self.scheme == "masked":
            return f"masked models of densities {', '.join(f'{width:g}' for width in self.widths)}"
        return f"{self.scheme} sub-models of widths {', '.join(f'{width:g}' for width in self.widths)}"

    @property
    def narrows(self) -> bool:
        """Whether anybody may train less than all: coordinates are then counted one by one."""
        return self.widths[-1] < 1

    def slices(self, widths: NDArray[np.float64], clients: Sequence[int], round: int) -> dict[int, Slice]:
        """What each of some clients trains in a round; a client not in it trains the whole network."""
        shift = {"nested": 0, "rolling": round - 1, "masked": BY_MAGNITUDE}[self.scheme]
        return {client: Slice(float(widths[client]), shift) for client in clients if widths[client] < 1}
