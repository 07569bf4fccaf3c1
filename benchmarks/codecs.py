"""What codecs take: writing and reading a model's update, against one numpy add over as many bytes. BENCH_PARAMS (35,746,307)."""

import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from fedphd_ray.federation.channel.codecs import Codec
from fedphd_ray.federation.channel.communication import MessageNoise
from fedphd_ray.federation.channel.compression import Bfloat16, Float16, Int4, Int8
from fedphd_ray.federation.channel.sparsification import RandomK, TopK

PARAMS, REPEATS = int(os.environ.get("BENCH_PARAMS", "35746307")), 5
CODECS: tuple[Codec, ...] = (
    Int8(codec="int8"),
    Int8(codec="int8", rounding="stochastic"),
    Int4(codec="int4"),
    Bfloat16(codec="bfloat16"),
    Float16(codec="float16"),
    TopK(codec="top_k", share=0.1),
    RandomK(codec="random_k", share=0.1),
)


def median_seconds(call: Callable[[], object]) -> float:
    """Of some calls, after one that is not counted."""
    call()
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


if __name__ == "__main__":
    torch.set_num_threads(1)
    values, noise = torch.randn(PARAMS, generator=torch.Generator().manual_seed(0)) * 1e-3, MessageNoise(1, 1, "client/1")
    one, other = values.numpy().copy(), values.numpy().copy()
    out = np.empty_like(one)
    add = median_seconds(lambda: np.add(one, other, out=out))
    fresh = median_seconds(lambda: one + other)
    print(f"one numpy add over {PARAMS:,} float32: {1000 * add:.1f} ms; into new memory {1000 * fresh:.1f} ms")
    for codec in CODECS:
        data = codec.encode(values, noise)
        write = median_seconds(lambda codec=codec: codec.encode(values, noise))  # type: ignore[misc]
        read = median_seconds(lambda codec=codec, data=data: codec.decode(data, PARAMS, noise))  # type: ignore[misc]
        rounding = getattr(codec, "rounding", "")
        print(
            f"RESULT {codec.name} {rounding}: {4 * PARAMS / len(data):.2f} times fewer bytes; "
            f"write {1000 * write:.0f} ms ({write / add:.1f} adds), read {1000 * read:.0f} ms ({read / add:.1f} adds)"
        )
