"""A codec whose sizes depend on the values: what is small arrives as zero, and the ledger has what was really written."""

import numpy as np
import pytest
import torch
from federations import method, outcome_of, sums_by_hop
from hypothesis import given
from hypothesis import strategies as st

from fedphd_ray.errors import CodecError, ConfigError
from fedphd_ray.federation.channel.communication import MessageNoise
from fedphd_ray.federation.channel.links import Link, Parameters
from fedphd_ray.federation.channel.sparsification import Threshold
from fedphd_ray.federation.update import Update
from fedphd_ray.foresight.forecast import forecast
from fedphd_ray.records import Kind
from fedphd_ray.topology import Hop

NOISE = MessageNoise(7, 3, "client/1")
CODEC = Threshold(codec="threshold", below=0.5)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=300))
def test_it_sends_values_exactly_or_zero(values: list[float]) -> None:
    vector = torch.tensor(values, dtype=torch.float32)
    data = CODEC.encode(vector, NOISE)
    arrived = CODEC.decode(data, len(vector), NOISE)
    kept = vector.abs() >= 0.5
    assert torch.equal(arrived, torch.where(kept, vector, 0.0))
    assert data.nbytes == CODEC.bytes_of(len(vector), int(kept.sum())) <= CODEC.num_bytes(len(vector))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.03, 0.04, 0.5, 1.0])
def test_density_gives_the_bytes(share: float) -> None:
    """Four bytes a value, and of a place the cheaper of four bytes and of one bit a value; a count and a checksum."""
    vector = torch.zeros(8000)
    vector[: int(8000 * share)] = 1.0
    kept = int(8000 * share)
    places = 4 * kept if kept <= 250 else 1000
    assert CODEC.encode(vector, NOISE).nbytes == 8 + places + 4 * kept + 4
    assert torch.equal(CODEC.decode(CODEC.encode(vector, NOISE), 8000, NOISE), vector)


def test_damage_is_refused() -> None:
    data = CODEC.encode(torch.randn(2000, generator=torch.Generator().manual_seed(1)), NOISE)
    for place in (0, 7, 8, len(data) // 2, len(data) - 1):
        altered = data.copy()
        altered[place] ^= 1
        with pytest.raises(CodecError):
            CODEC.decode(altered, 2000, NOISE)
    for cut in (data[:-1], data[:0], data[:5], np.concatenate([data, data])):
        with pytest.raises(CodecError):
            CODEC.decode(cut, 2000, NOISE)


def test_of_a_client_the_trained_model_is_sent_and_not_its_update() -> None:
    initial, trained = torch.tensor([1.0, 0.1, 0.2]), torch.tensor([2.0, 0.9, 0.3])
    link = Link(1, Hop("client_to_edge"), "client/1", "edge/0", CODEC, noise=NOISE)  # type: ignore[arg-type]
    delivery = link.send({Kind.MODEL: Parameters.whole(Update.whole(trained, initial), 0)})
    assert torch.equal(delivery.update.vector, torch.tensor([2.0, 0.9, 0.0]) - initial)
    assert delivery.rows[0].num_bytes == CODEC.bytes_of(3, 2)
    assert torch.equal(trained, torch.tensor([2.0, 0.9, 0.3]))  # the client's own stays


def test_plan_says_at_most() -> None:
    experiment = method("sparse sfedhp").build()
    most, moved = forecast(experiment), sums_by_hop(outcome_of("sparse sfedhp"))
    assert not most.exact
    assert forecast(method("fedphd").build()).exact
    for hop, num_bytes in most.bytes_by_hop.items():
        assert moved[hop] <= num_bytes
    assert moved["client_to_edge"] < most.bytes_by_hop["client_to_edge"]
    assert moved["edge_to_client"] == most.bytes_by_hop["edge_to_client"]


def test_error_feedback_of_weights_is_refused() -> None:
    own = {"codec": "threshold", "error_feedback": True}
    with pytest.raises(ConfigError, match="with other codecs than threshold"):
        method("fedavg", communication={"from_clients": own})
