"""Zstandard on top of another codec: what arrives is the same, bytes are fewer where they can be and never more than said."""

import numpy as np
import pytest
import torch
from federations import federate, method, sums_by_hop
from hypothesis import given
from hypothesis import strategies as st

from fedphd_ray.errors import CodecError
from fedphd_ray.federation.channel.communication import MessageNoise
from fedphd_ray.federation.channel.compression import Bfloat16, Int4, Int8
from fedphd_ray.federation.channel.sparsification import Threshold, TopK
from fedphd_ray.federation.channel.squeezing import Squeezed
from fedphd_ray.foresight.forecast import forecast
from fedphd_ray.records import Kind

NOISE = MessageNoise(1, 2, "client/3")
CODECS = [
    Bfloat16(codec="bfloat16"),
    Int8(codec="int8", rounding="stochastic"),
    Int4(codec="int4"),
    TopK(codec="top_k", share=0.1),
    Threshold(codec="threshold", below=0.5),
]


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@given(values=st.lists(st.floats(-1e6, 1e6, width=32), max_size=1200), scale=st.sampled_from([0.0, 1e-3, 1.0]))
def test_what_arrives_is_what_the_codec_alone_delivers(codec, values: list[float], scale: float) -> None:
    vector, squeezed = torch.tensor(values) * scale, Squeezed(codec)
    data = squeezed.encode(vector, NOISE)
    assert data.nbytes <= squeezed.num_bytes(len(vector))
    alone = codec.decode(codec.encode(vector, NOISE), len(vector), NOISE)
    assert torch.equal(squeezed.decode(data, len(vector), NOISE), alone)


def test_what_repeats_itself_gets_smaller_and_noise_does_not() -> None:
    squeezed = Squeezed(Int8(codec="int8"))
    flat, noise = torch.zeros(100_000), torch.rand(100_000, generator=torch.Generator().manual_seed(0))
    assert squeezed.encode(flat, NOISE).nbytes < 2000
    assert squeezed.encode(noise, NOISE).nbytes == squeezed.num_bytes(100_000)


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7), cut=st.integers(0, 400))
def test_damage_is_refused_or_does_no_harm(place: int, bit: int, cut: int) -> None:
    squeezed = Squeezed(Int8(codec="int8"))
    values = torch.linspace(0, 1, 3000).round(decimals=1)
    data = squeezed.encode(values, NOISE)
    assert data[0] == 1
    altered = data.copy()
    altered[place % len(data)] ^= 1 << bit
    for damaged in (altered, data[: max(0, len(data) - 1 - cut)], data[:0]):
        try:
            arrived = squeezed.decode(damaged, 3000, NOISE)
        except CodecError:
            continue
        assert torch.equal(arrived, squeezed.decode(data, 3000, NOISE))  # a bit that says nothing


def test_a_length_that_cannot_be_is_not_believed() -> None:
    squeezed = Squeezed(Int8(codec="int8"))
    data = squeezed.encode(torch.zeros(3000), NOISE)
    data[1:9] = np.frombuffer((2**40).to_bytes(8, "little"), np.uint8)
    with pytest.raises(CodecError, match="more than there can be"):
        squeezed.decode(data, 3000, NOISE)


def test_a_run_has_the_same_model_for_fewer_bytes() -> None:
    """`plan` says the most there can be, and that it is that."""
    int8 = {"codec": "int8", "error_feedback": True}
    plain = method("fedavg", communication={"from_clients": int8, "edge_to_cloud": "int4"})
    config = method(
        "fedavg", communication={"from_clients": {**int8, "zstd": True}, "edge_to_cloud": {"codec": "int4", "zstd": True}}
    )
    outcome, without, cost = federate(config), federate(plain), forecast(config.build())
    assert outcome.sha256 == without.sha256
    up = [row for row in outcome.transfers if row.hop == "client_to_edge" and row.kind == Kind.MODEL]
    assert {row.codec for row in up} == {"int8+zstd"}
    assert not cost.exact
    assert all(sums_by_hop(outcome)[hop] <= most for hop, most in cost.bytes_by_hop.items())
    assert sums_by_hop(outcome)["client_to_edge"] != sums_by_hop(without)["client_to_edge"]
