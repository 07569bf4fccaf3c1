"""Codecs are true round trips within stated bounds, of stated sizes; error feedback forgets nothing; damage is refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedphd_ray.config import parse_config
from fedphd_ray.errors import CodecError, ConfigError
from fedphd_ray.federation.channel.codecs import FLOAT32, Codec
from fedphd_ray.federation.channel.communication import Codecs, MessageNoise
from fedphd_ray.federation.channel.compression import BLOCK, Affine, Bfloat16, Float16, Int4, Int8, LossyCodec
from fedphd_ray.federation.channel.links import Link, Parameters
from fedphd_ray.federation.channel.sparsification import RandomK, Sparse, TopK
from fedphd_ray.federation.update import Update
from fedphd_ray.records import Kind
from fedphd_ray.topology import Hop

LOSSY: list[LossyCodec] = [
    Bfloat16(codec="bfloat16"),
    Float16(codec="float16"),
    Int8(codec="int8"),
    Int8(codec="int8", rounding="stochastic"),
    Int4(codec="int4"),
    Int4(codec="int4", rounding="stochastic"),
    TopK(codec="top_k", share=0.1),
    TopK(codec="top_k", share=0.01),
    RandomK(codec="random_k", share=0.25),
]
NAMED = [f"{codec.name} {getattr(codec, 'rounding', getattr(codec, 'share', ''))}" for codec in LOSSY]  # type: ignore[attr-defined]
NOISE = MessageNoise(7, 3, "client/1")
LENGTHS = (0, 1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5, 300 * BLOCK + 17)


def vectors() -> dict[str, torch.Tensor]:
    """Ordinary ones and extremes."""
    generator = torch.Generator().manual_seed(0)
    found = {f"normal {size}": torch.randn(size, generator=generator) for size in LENGTHS}
    largest = torch.finfo(torch.float32).max
    return found | {
        "zeros": torch.zeros(1000),
        "constant": torch.full((1000,), 0.37),
        "subnormal": torch.full((600,), 1e-42) * torch.arange(600),
        "huge": torch.tensor([largest, -largest, 1.0, 0.0] * 300),
        "one outlier": torch.cat([torch.randn(999, generator=generator) * 1e-4, torch.tensor([1e4])]),
        "ties": torch.tensor([1.0, -1.0] * 600),
    }


VECTORS = vectors()


def trip(codec: Codec, values: torch.Tensor) -> torch.Tensor:
    data = codec.encode(values.clone(), NOISE)
    assert data.dtype == np.uint8
    assert data.nbytes == codec.num_bytes(values.numel())
    arrived = codec.decode(data, values.numel(), NOISE)
    assert arrived.shape == values.shape
    assert arrived.dtype == torch.float32
    assert torch.isfinite(arrived).all()
    return arrived


def bound(codec: LossyCodec, values: torch.Tensor) -> torch.Tensor:
    """Of the error of each value, as the codec's docstring states it."""
    sizes = values.double().abs()
    if isinstance(codec, Bfloat16):
        return sizes / 2**8 + 1e-40
    if isinstance(codec, Float16):
        return torch.where(sizes <= 65504, torch.maximum(sizes / 2**11, torch.tensor(2.0**-25)), sizes)
    assert isinstance(codec, Affine)
    bounds = torch.empty_like(sizes)
    for first in range(0, len(values), BLOCK):
        block = values[first : first + BLOCK].double()
        step = (block.max() - block.min()) / (2**codec.bits - 1)
        slack = 1e-6 * (block.abs().max() + step) + 1e-44  # of float32
        bounds[first : first + BLOCK] = (step if codec.rounding == "stochastic" else step / 2) + slack
    return bounds


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("codec", [codec for codec in LOSSY if not isinstance(codec, Sparse)], ids=repr)
def test_errors_are_within_what_is_stated(codec: LossyCodec, name: str) -> None:
    values = VECTORS[name]
    arrived = trip(codec, values)  # type: ignore[arg-type]
    assert torch.all((arrived.double() - values.double()).abs() <= bound(codec, values))
    assert torch.equal(arrived, trip(codec, values))  # type: ignore[arg-type]  # the same every time


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("codec", [codec for codec in LOSSY if isinstance(codec, Sparse)], ids=repr)
def test_sparse_codecs_send_values_exactly_or_not_at_all(codec: Sparse, name: str) -> None:
    values = VECTORS[name]
    arrived = trip(codec, values)  # type: ignore[arg-type]
    came = arrived != 0
    assert torch.equal(arrived[came], values[came])
    assert int(came.sum()) <= codec.num_kept(len(values))
    if isinstance(codec, TopK) and len(values):
        left = values.abs()[~came]
        assert not came.any() or not len(left) or left.max() <= arrived.abs()[came].min()


@given(
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=1100),
    which=st.integers(0, 5),
)
def test_any_vector_arrives_within_the_bound(values: list[float], which: int) -> None:
    codec, vector = LOSSY[which], torch.tensor(values)
    assert torch.all((trip(codec, vector).double() - vector.double()).abs() <= bound(codec, vector))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "codec", [Int8(codec="int8", rounding="stochastic"), Int4(codec="int4", rounding="stochastic")], ids=repr
)
def test_stochastic_rounding_is_unbiased(codec: Affine) -> None:
    """Level: with 4,000 draws the mean is within five standard errors, which fails by chance once in a million."""
    values = torch.linspace(-1, 1, 64)
    draws = torch.stack(
        [codec.decode(codec.encode(values, noise), 64, noise) for noise in (MessageNoise(1, r, "a") for r in range(4000))]
    )
    error = (draws.mean(0) - values).abs()
    assert torch.all(error <= 5 * draws.std(0) / math.sqrt(4000) + 1e-6)
    nearest = type(codec)(codec=codec.codec)  # type: ignore[attr-defined,call-arg]
    assert float((trip(nearest, values) - values).abs().max()) > 1e-3  # which is not


@pytest.mark.parametrize("codec", LOSSY, ids=NAMED)
def test_damage_is_refused(codec: LossyCodec) -> None:
    data = codec.encode(torch.randn(2000, generator=torch.Generator().manual_seed(1)), NOISE)  # type: ignore[attr-defined]
    for place in (0, len(data) // 2, len(data) - 1):
        altered = data.copy()
        altered[place] ^= 1
        with pytest.raises(CodecError, match="altered"):
            codec.decode(altered, 2000, NOISE)  # type: ignore[attr-defined]
    for cut in (data[:-1], data[:0], np.concatenate([data, data])):
        with pytest.raises(CodecError, match="bytes instead of"):
            codec.decode(cut, 2000, NOISE)  # type: ignore[attr-defined]


def test_an_exact_codec_is_exact() -> None:
    values = torch.linspace(-3, 5, 100)
    assert torch.equal(FLOAT32.decode(FLOAT32.encode(values, NOISE), 100, NOISE), values)


def test_int8_takes_3_9_times_fewer_bytes() -> None:
    for num_params in (35_746_307, 20_131_203, 701_345):
        assert 4 * num_params / Int8(codec="int8").num_bytes(num_params) >= 3.9


@pytest.mark.parametrize("codec", LOSSY, ids=NAMED)
def test_error_feedback_telescopes(codec: LossyCodec) -> None:
    """All that has arrived, and what is left, is all that was sent."""
    generator, size, whole = torch.Generator().manual_seed(2), 1500, (slice(0, 1500),)
    residual, arrived, sent = torch.zeros(size), torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    for round in range(1, 30):
        update = torch.randn(size, generator=generator) * 0.01
        link = Link(round, Hop("client_to_edge"), "client/1", "edge/0", codec, noise=MessageNoise(7, round, "client/1"))  # type: ignore[arg-type]
        message = {Kind.MODEL: Parameters(Update(update, None, whole), whole, 0)}
        delivery = link.send(message, residual)
        assert delivery.residual is not None
        residual, arrived, sent = delivery.residual, arrived + delivery.update.vector, sent + update
    assert torch.allclose(arrived + residual, sent, atol=1e-6)
    assert float(residual.abs().max()) > 0


def test_entries_that_do_not_travel_keep_their_residual() -> None:
    link = Link(1, Hop("client_to_edge"), "client/1", "edge/0", Int4(codec="int4"), noise=NOISE)  # type: ignore[arg-type]
    half = (slice(0, 600),)
    message = {Kind.MODEL: Parameters(Update(torch.linspace(-1, 2, 1000), None, half), half, 0)}
    delivery = link.send(message, torch.arange(1000.0))
    assert delivery.residual is not None
    assert torch.equal(delivery.residual[600:], torch.arange(600.0, 1000.0))
    assert not torch.equal(delivery.residual[:600], torch.arange(600.0))


BASE = {"model": {"widths": [16, 32], "groups": 4, "attention": [False, True]}}


@pytest.mark.parametrize(
    ("sections", "found"),
    [
        ({"communication": {"client_to_edge": "int9"}}, "int9"),
        ({"communication": {"client_to_region": "int8"}}, "a hop that this tree does not have"),
        ({"communication": {"from_clients": "int8", "client_to_edge": "int4"}}, "every hop once"),
        ({"communication": {"edge_to_client": {"codec": "top_k"}}}, "a model is not sparse"),
        (
            {"communication": {"edge_to_client": {"codec": "int8", "error_feedback": True}}},
            "senders keep what they left out over",
        ),
        ({"communication": {"client_to_edge": {"codec": "top_k", "share": 0}}}, "above 0"),
        (
            {
                "communication": {"client_to_cloud": {"codec": "top_k"}},
                "strategy": {"name": "scaffold"},
                "hierarchy": {"num_edges": 0, "cloud_period": 1},
            },
            "control vectors",
        ),
    ],
)
def test_choices_that_make_no_sense_are_refused(sections: dict[str, object], found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        parse_config(BASE | sections)


def test_a_plain_name_is_short_for_a_section() -> None:
    short = parse_config(BASE | {"communication": {"edge_to_cloud": "bfloat16", "client_to_edge": {"codec": "int8"}}})
    assert short.communication["edge_to_cloud"] == Bfloat16(codec="bfloat16")
    again = parse_config(short.model_dump(mode="json"))
    assert again == short
    codecs = Codecs.of(short.communication, short.hierarchy.topology(), 3)
    assert codecs.at(Hop("edge_to_cloud")).name == "bfloat16"
    assert codecs.at(Hop("cloud_to_edge")) is FLOAT32
