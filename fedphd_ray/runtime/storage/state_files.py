"""Client states as safetensors bytes: in checkpoints, and on disk when there are too many for memory."""

import numpy as np
from safetensors.numpy import load, save

from fedphd_ray.records import ClientState

MOST_STATE_BYTES = 64 * 2**30
_VECTOR, _SCALAR, _VERSION = "vector/", "scalar/", "version"


def to_bytes(state: ClientState) -> bytes:
    """A safetensors file of the state; the same bytes for the same state."""
    arrays = {_VECTOR + name: vector for name, vector in state.vectors.items()}
    arrays |= {_SCALAR + name: np.array(value, dtype=np.float64) for name, value in state.scalars.items()}
    return save(arrays | {_VERSION: np.array(state.version, dtype=np.int64)})


def from_bytes(data: bytes) -> ClientState:
    """The state in a file.

    Raises:
        SafetensorError, KeyError: it is not such a file.
    """
    arrays = load(data)
    return ClientState(
        vectors={name.removeprefix(_VECTOR): value for name, value in arrays.items() if name.startswith(_VECTOR)},
        scalars={name.removeprefix(_SCALAR): float(value) for name, value in arrays.items() if name.startswith(_SCALAR)},
        version=int(arrays[_VERSION]),
    )
