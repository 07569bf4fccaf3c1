"""Images in a file of the cache that is mapped into memory: their pages are the system's, shared, and given back at need."""

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from fedphd_ray.system.cache import default_cache_dir, write_cached
from fedphd_ray.system.files import regular

WORTH_BYTES = 32 * 2**20


def mapped(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same images, read-only from the cache; as they are if they are few, or the cache cannot be written.

    Without it a driver holds a second copy beside the one in the object store that its hosts read.
    """
    if images.nbytes < WORTH_BYTES:
        return images
    sha = hashlib.sha256(str(images.shape).encode())
    sha.update(np.ascontiguousarray(images).data)
    path = default_cache_dir() / f"images-{sha.hexdigest()[:32]}.safetensors"
    if (known := map_tensor(path, "images")) is None:
        write_cached(path, safetensors.numpy.save({"images": images}))
        known = map_tensor(path, "images")
    return images if known is None or known.shape != images.shape else known


def map_tensor(path: Path, name: str) -> NDArray[np.uint8] | None:
    """A tensor of bytes in a safetensors file, mapped read-only; None if it is not there or not whole."""
    try:
        with regular(path).open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, 1 << 20)))
        entry = header[name]
        start, stop = entry["data_offsets"]
        flat = np.memmap(path, np.uint8, "r", 8 + length + start, stop - start)
        return np.asarray(flat).reshape(entry["shape"])
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None
