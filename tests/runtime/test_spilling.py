"""Client states beyond the budget lie in files, and nothing else changes."""

from pathlib import Path

import numpy as np
import pytest
from federations import METHODS, federate, method, reference
from safetensors import SafetensorError

from fedphd_ray.records import ClientState
from fedphd_ray.runtime.storage.spilling import SpillingBackend, StateFile
from fedphd_ray.runtime.storage.state_files import from_bytes, to_bytes
from fedphd_ray.runtime.workers.local_backend import LocalBackend

KEEPING = [name for name in METHODS if method(name).build().host_setup().keeps_states]


def kept(value: float) -> ClientState:
    return ClientState({"exp_avg": np.full(100, value, np.float32)}, {"step": value}, 0)


def spilling(name: str, directory: Path, budget_bytes: int) -> SpillingBackend:
    return SpillingBackend(LocalBackend(method(name).build().host_setup()), directory, budget_bytes)


@pytest.mark.parametrize("name", KEEPING)
def test_no_budget_at_all_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    """Every state goes through a file between any two rounds, through pruning too."""
    outcome = federate(method(name), spilling(name, tmp_path / "states", 0))
    assert outcome.sha256 == reference(name)
    assert outcome.state.client_states
    assert all(isinstance(handle, StateFile) for handle in outcome.state.client_states.values())


def test_the_states_not_used_for_longest_go_first_and_come_back(tmp_path: Path) -> None:
    backend = spilling("fedphd", tmp_path / "states", budget_bytes=2 * 400)
    states = backend.keep_states({client: backend.put(kept(client)) for client in range(5)})
    assert [isinstance(handle, StateFile) for handle in states.values()] == [True, True, True, False, False]
    for client, handle in states.items():
        assert np.array_equal(backend.get_state(handle).vectors["exp_avg"], kept(client).vectors["exp_avg"])
        assert backend.get_state(handle).scalars == {"step": float(client)}
    renewed = backend.keep_states({client: states[client] for client in range(1, 5)} | {0: backend.put(kept(9))})
    assert [isinstance(renewed[client], StateFile) for client in range(5)] == [False, True, True, True, False]


def test_files_of_former_states_go_after_a_round(tmp_path: Path) -> None:
    """Not at once: an observer may be one round behind."""
    backend = spilling("fedphd", tmp_path / "states", budget_bytes=0)
    states: dict[int, object] = {}
    for _ in range(10):
        former = dict(states)
        states = backend.keep_states({client: backend.put(kept(client)) for client in range(3)})
        assert all(handle.path.exists() for handle in former.values() if isinstance(handle, StateFile))
        assert len(list((tmp_path / "states").iterdir())) <= 6


def test_a_state_is_the_same_from_its_file() -> None:
    state = ClientState({"a": np.arange(3, dtype=np.float32), "b": np.zeros(2, np.float32)}, {"step": 7.0, "x": 0.1}, 3)
    again = from_bytes(to_bytes(state))
    assert (again.scalars, again.version) == (state.scalars, 3)
    assert {name: vector.tolist() for name, vector in again.vectors.items()} == {"a": [0, 1, 2], "b": [0, 0]}
    assert to_bytes(again) == to_bytes(state)
    with pytest.raises((SafetensorError, KeyError)):
        from_bytes(to_bytes(state)[:-5])
