"""Whether anything grows: memory of all processes, and the object store, after round 20 and after every 20th round to the last.

BENCH_ROUNDS (default 200) and BENCH_CONFIG (default examples/hundreds.yaml, without pruning and evaluation).
"""

import os
import re
import tempfile
from pathlib import Path

from fedphd_ray.runtime.events import Event, RoundDone
from fedphd_ray.runtime.on_ray.environment import prepare_environment

prepare_environment()  # before Ray is imported

import ray  # noqa: E402
from ray._private.internal_api import memory_summary  # noqa: E402

from fedphd_ray.config import load_config  # noqa: E402
from fedphd_ray.runtime.driver.run import run  # noqa: E402

CONFIG = Path(os.environ.get("BENCH_CONFIG", Path(__file__).parent.parent / "examples" / "hundreds.yaml"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "200"))
OVERRIDES = ["pruning={mode: none}", "evaluation.every=0", f"schedule.rounds={ROUNDS}", "local.steps=1", "local.batch_size=4"]


def private_bytes() -> dict[str, int]:
    """Memory that belongs to each process of this run alone, by kind of process; shared memory is the object store's."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    sums: dict[str, int] = {}
    for process in parents:
        ancestor = process
        while ancestor not in (os.getpid(), 0):
            ancestor = parents.get(ancestor, 0)
        if ancestor:
            try:
                rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
                kind = Path(f"/proc/{process}/comm").read_text().strip() if process != os.getpid() else "driver"
            except OSError:
                continue
            private = sum(int(size) for size in re.findall(r"^Private_\w+:\s+(\d+) kB", rollup, re.MULTILINE))
            sums[kind] = sums.get(kind, 0) + 1024 * private
    return sums


class Watcher:
    """Prints a line every 20 rounds."""

    def on_event(self, event: Event) -> None:
        """Measures now and then."""
        if isinstance(event, RoundDone) and event.record.round % 20 == 0:
            by_kind = private_bytes()
            store = re.search(
                r"Plasma memory usage (\S+ \S+), (\d+) objects",
                memory_summary(ray.get_runtime_context().gcs_address, stats_only=True),
            )
            kinds = ", ".join(f"{kind} {size / 2**20:.0f}" for kind, size in sorted(by_kind.items()))
            total = sum(by_kind.values()) / 2**20
            held = f"object store {store[1]}, {store[2]} objects" if store else "object store unknown"
            print(f"round {event.record.round}: {total:.0f} MiB ({kinds}); {held}", flush=True)


def main() -> None:
    """Runs it."""
    config = load_config(CONFIG, OVERRIDES)
    with tempfile.TemporaryDirectory() as directory:
        run(config.build(), Path(directory) / "run", Watcher())


if __name__ == "__main__":
    main()
