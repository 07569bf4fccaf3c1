"""What adding one client's update to a sum costs, against one `numpy` add over the same bytes; by size of the model.

The host's part is the whole way from trained parameters: difference, weight, sum. The edge's part is one more sum that arrives.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from fedphd_ray.federation.sums.aggregation import VectorSum, fold
from fedphd_ray.federation.update import Update


def median_ms(work: Callable[[], object], repeats: int = 25) -> float:
    """Milliseconds, after three runs that do not count."""
    seconds = []
    for repeat in range(repeats + 3):
        began = time.perf_counter()
        work()
        if repeat >= 3:
            seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds)


def main() -> None:
    """Prints a Markdown table."""
    torch.set_num_threads(1)
    print("| parameters | numpy add, ms | at the host, ms | ratio | at the edge, ms | ratio |")
    print("|---:|---:|---:|---:|---:|---:|")
    for size in (176_849, 2_793_281, 35_746_307):
        received, trained, total = (torch.randn(size) for _ in range(3))
        first, second = total.numpy().copy(), trained.numpy().copy()
        update, arrived = Update.whole(trained, received), torch.randn(size)
        numpy_add = median_ms(lambda: np.add(first, second, out=first))  # noqa: B023 - called at once
        sums = VectorSum()
        sums.add_weighted([(update, 3.0)])
        host = median_ms(lambda: sums.add_weighted([(update, 3.0)]))  # noqa: B023
        edge = median_ms(lambda: fold([total, total, arrived])) - median_ms(lambda: fold([total, total]))  # noqa: B023
        print(f"| {size:,} | {numpy_add:.2f} | {host:.2f} | {host / numpy_add:.2f} | {edge:.2f} | {edge / numpy_add:.2f} |")


if __name__ == "__main__":
    main()
