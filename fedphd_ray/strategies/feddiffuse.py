"""FedDiffuse: FedAvg of a diffusion model of which only some parts travel.

De Goede, Cox, Decouchant: "Training Diffusion Models with Federated Learning", 2024 (arXiv 2406.12575). The U-Net has three
parts: encoder (with the time embedding), bottleneck and decoder.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedphd_ray.strategies.base import KEPT_PARTS, LocalEnd, LocalMethod, LocalStart, Strategy
from fedphd_ray.strategies.parts import Part, parts_by_name, whole, with_private_parts
from fedphd_ray.tensors import Layout

ENCODER, BOTTLENECK, DECODER = "encoder", "bottleneck", "decoder"
PRIVATE = {"full": (), "usplit": (), "ulatdec": (ENCODER,), "udec": (ENCODER, BOTTLENECK)}


def part_of(name: str) -> str:
    """The part a parameter of diffusers' `UNet2DModel` belongs to, by its name."""
    if name.startswith(("up_blocks.", "conv_norm_out.", "conv_out.")):
        return DECODER
    return BOTTLENECK if name.startswith("mid_block.") else ENCODER


class FedDiffuse(Strategy):
    """The four training modes of the paper.

    Attributes:
        mode: `full`: everything travels (FedAvg). `usplit`: everything is received and trained, but of each pair of clients one
            reports the encoder and the other the decoder, and one of them, by a coin, the bottleneck. `ulatdec`: bottleneck and
            decoder travel. `udec`: the decoder travels. In the last two the clients train and keep their own other parts, and the
            cloud has no model of its own that could draw samples.
    """

    name: Literal["feddiffuse"] = "feddiffuse"
    mode: Literal["full", "usplit", "ulatdec", "udec"] = "udec"

    @property
    def keeps_parts_private(self) -> bool:
        """In `ulatdec` and `udec`."""
        return bool(PRIVATE[self.mode])

    def parts(self, layout: Layout) -> tuple[Part, ...]:
        """Encoder, bottleneck and decoder; one part in mode `full`."""
        return whole(layout) if self.mode == "full" else parts_by_name(layout, part_of, PRIVATE[self.mode])

    def reported_parts(self, cohort: Sequence[int], rng: np.random.Generator) -> dict[int, tuple[str, ...]]:
        """The tasks of `usplit`, drawn afresh every round: pairs at random; one left over reports a half and the bottleneck."""
        if self.mode != "usplit" or len(cohort) == 1:
            return {}
        order = [int(client) for client in rng.permutation(np.asarray(cohort))]
        tasks: dict[int, tuple[str, ...]] = {}
        for first, second in zip(order[::2], order[1::2], strict=False):
            with_bottleneck = (first, second)[rng.integers(2)]
            for client, half in ((first, DECODER), (second, ENCODER)):
                tasks[client] = (half, BOTTLENECK) if client == with_bottleneck else (half,)
        if len(order) % 2:
            tasks[order[-1]] = ((ENCODER, DECODER)[rng.integers(2)], BOTTLENECK)
        return tasks

    def local_method(self, start: LocalStart) -> LocalMethod:
        """Puts the client's own parts into what it received."""
        own = [part for part in self.parts(start.layout) if part.private]
        return _PrivateParts(start, own) if own else LocalMethod(start)


class _PrivateParts(LocalMethod):
    def __init__(self, start: LocalStart, own: Sequence[Part]) -> None:
        super().__init__(start)
        self._own = own

    def initial(self) -> Tensor:
        """What arrived, with the parts that this client kept; the first time everything arrives."""
        kept = self.start.kept.get(KEPT_PARTS)
        return self.start.received if kept is None else with_private_parts(self.start.received, kept, self._own)

    def end(self, vector: Tensor, num_steps: int) -> LocalEnd:
        """Keeps its own parts; the rest of the vector is zero, so that nothing else is remembered."""
        return LocalEnd(kept={KEPT_PARTS: with_private_parts(torch.zeros_like(vector), vector, self._own)})
