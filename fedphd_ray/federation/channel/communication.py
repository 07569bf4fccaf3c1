"""Which codec each hop has: an independent choice, `communication` in the configuration."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field

from fedphd_ray.errors import ConfigError
from fedphd_ray.federation.channel.codecs import FLOAT32, Codec
from fedphd_ray.federation.channel.compression import Bfloat16, Float16, Int4, Int8, LossyCodec
from fedphd_ray.federation.channel.links import Link
from fedphd_ray.federation.channel.sparsification import RandomK, Threshold, TopK
from fedphd_ray.federation.channel.squeezing import Squeezed
from fedphd_ray.seeds import Purpose, torch_generator
from fedphd_ray.settings.plugins import OrOwn
from fedphd_ray.settings.sections import Section
from fedphd_ray.strategies import Strategy
from fedphd_ray.topology import Hop, Topology


class Exact(Section):
    """float32, as without a choice."""

    codec: Literal["float32"]


def _spelt_out(value: Any) -> Any:
    """`int8` for `{codec: int8}`."""
    return {"codec": value} if isinstance(value, str) else value


HopCodec = Annotated[
    Annotated[
        Exact | Bfloat16 | Float16 | Int8 | Int4 | TopK | RandomK | Threshold,
        Field(discriminator="codec"),
        OrOwn(LossyCodec, "codec"),
    ],
    BeforeValidator(_spelt_out),
]
Communication = Mapping[str, HopCodec]
TO_CLIENTS, FROM_CLIENTS = "to_clients", "from_clients"


@dataclass(frozen=True)
class Codecs:
    """How parameters are written for every hop.

    Attributes:
        by_hop: of the hops that were chosen.
        seed: of the run, part of the key of codecs' random numbers.
        default: of all others.
    """

    by_hop: Mapping[str, Codec] = field(default_factory=dict)
    seed: int = 0
    default: Codec = FLOAT32

    @classmethod
    def of(cls, communication: Communication, topology: Topology, seed: int) -> "Codecs":
        """As the configuration says."""
        chosen = by_hop(communication, topology)
        lossy = {hop: own for hop, own in chosen.items() if isinstance(own, LossyCodec)}
        return cls({hop: Squeezed(own) if own.zstd else own for hop, own in lossy.items()}, seed)

    def at(self, hop: Hop) -> Codec:
        """Of a hop."""
        return self.by_hop.get(hop, self.default)

    def keeps_residual(self, hop: Hop) -> bool:
        """Whether the senders of a hop keep what their messages left out, and add it to the next."""
        codec = self.at(hop)
        return isinstance(codec, LossyCodec | Squeezed) and codec.error_feedback

    @property
    def fixed(self) -> bool:
        """Whether all sizes are known before anything is sent."""
        return all(codec.fixed for codec in self.by_hop.values())

    def describe(self) -> str:
        """For people; empty for float32 everywhere."""
        chosen = [
            f"{hop} in {codec.name}{' with error feedback' * self.keeps_residual(Hop(hop))}" for hop, codec in self.by_hop.items()
        ]
        return f"; {', '.join(chosen)}" if chosen else ""

    def link(self, round: int, hop: Hop, source: str, destination: str, attempt: int = 0) -> Link:
        """One direction between two nodes during a round."""
        return Link(round, hop, source, destination, self.at(hop), attempt, MessageNoise(self.seed, round, source))


EXACT = Codecs()


@dataclass(frozen=True)
class MessageNoise:
    """Random numbers of what a node sends in a round: the same whenever and wherever they are drawn, and whoever receives it."""

    seed: int
    round: int
    source: str

    def __call__(self, stream: int) -> torch.Generator:
        """A stream by its number."""
        return torch_generator(self.seed, Purpose.CODEC, self.round, zlib.crc32(self.source.encode()), stream)


def by_hop(communication: Communication, topology: Topology) -> dict[str, HopCodec]:
    """The choices by the hops' own names; `to_clients` and `from_clients` are the clients' links in any tree."""
    names = {TO_CLIENTS: str(topology.to_client), FROM_CLIENTS: str(topology.from_client)}
    return {names.get(hop, hop): own for hop, own in communication.items()}


def require_fit(communication: Communication, topology: Topology, strategy: Strategy) -> None:
    """Sees that the choices make sense together.

    Raises:
        ConfigError: they do not.
    """
    chosen = by_hop(communication, topology)
    if len(chosen) < len(communication):
        raise ConfigError("communication", expected="every hop once", found=", ".join(communication))
    for hop, own in chosen.items():
        key = f"communication.{hop}"
        if hop not in topology.hops:
            known = ", ".join([TO_CLIENTS, FROM_CLIENTS, *topology.hops])
            raise ConfigError(key, expected=f"one of {known}", found="a hop that this tree does not have")
        if not isinstance(own, LossyCodec):
            continue
        up = hop == topology.from_client
        if own.sparse and not up:
            raise ConfigError(
                f"{key}.codec",
                expected="a codec that writes every value: models travel there, and a model is not sparse",
                found=own.codec,
                remedy=f"sparse codecs are for {topology.from_client}, where updates travel",
            )
        kept = _senders_keep(topology)
        if own.error_feedback and (own.of_weights or hop not in kept):
            raise ConfigError(
                f"{key}.error_feedback",
                expected=f"false: senders keep what they left out over {' and '.join(kept)}, with other codecs than threshold",
                found="true",
                remedy="leave it out there",
            )
        if own.sparse and (strategy.clients_send or strategy.server_sends):
            raise ConfigError(
                f"{key}.codec",
                expected="a codec that writes every value: this method sends control vectors too",
                found=own.codec,
                remedy="take int8 or bfloat16, or a method that sends its update alone",
            )


def _senders_keep(topology: Topology) -> list[Hop]:
    """The hops whose senders can keep residuals: clients, and both ends of the cloud's own links."""
    top = topology.depth - 1
    return [topology.from_client] if topology.flat else [topology.from_client, topology.up(top), topology.down(top)]
