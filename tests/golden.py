"""Digests of tiny runs, to see what a change of the code changes: `python tests/golden.py` prints them, `--write` records them.

They are computed in a process of its own that takes the same kernels on every x86-64 processor with AVX2: how wide vectors are
decides the order of sums, and so the last bits. oneDNN is left out: it cuts convolutions by the size of the processor's caches.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).with_name("golden.json")
KERNELS = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "DNNL_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Haswell",
    "OMP_NUM_THREADS": "1",
}
MORE: dict[str, dict[str, object]] = {
    "flat fedphd": {"hierarchy": {"num_edges": 0, "cloud_period": 1}},
    "fedphd pruned at the start": {"pruning": {"mode": "at_init", "round": None}},
    "dense fedphd": {"pruning": {"mode": "none", "round": None}},
    "fedphd with a moving average": {"server": {"ema_decay": 0.5}},
    "fedphd, three edges, plain sgd": {"hierarchy": {"num_edges": 3, "cloud_period": 3}, "local": {"optimizer": "sgd"}},
}
"""What the methods of the laws leave out."""


def computed() -> dict[str, dict[str, object]]:
    """The digests, from a process with the kernels above."""
    command = [sys.executable, __file__, "--here"]
    tests = str(FILE.parent)
    path = os.pathsep.join([str(FILE.parent.parent), tests, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, env=os.environ | KERNELS | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, object]] = json.loads(done.stdout)
    return found


def recorded() -> dict[str, dict[str, object]]:
    """What they were when somebody last said that they change."""
    found: dict[str, dict[str, object]] = json.loads(FILE.read_text())
    return found


def _compute() -> dict[str, dict[str, object]]:
    import torch  # noqa: PLC0415 - after the environment
    from federations import METHODS, federate, method, tiny  # noqa: PLC0415

    torch.set_num_threads(1)
    torch.backends.mkldnn.set_flags(False)
    configs = {name: method(name) for name in METHODS} | {name: tiny(**sections) for name, sections in MORE.items()}
    golden: dict[str, dict[str, object]] = {}
    for name, config in configs.items():
        outcome = federate(config)
        totals: dict[str, int] = {}
        for row in outcome.transfers:
            key = f"{row.hop} {row.kind}"
            totals[key] = totals.get(key, 0) + row.num_bytes
        golden[name] = {
            "model": outcome.sha256,
            "bytes": dict(sorted(totals.items())),
            "rows": len(outcome.transfers),
            "losses": [round(record.loss, 4) for record in outcome.records],
        }
    return golden


if __name__ == "__main__":
    if "--here" in sys.argv:
        sys.stdout.write(json.dumps(_compute()))
    else:
        text = json.dumps(computed(), indent=1) + "\n"
        FILE.write_text(text) if "--write" in sys.argv else sys.stdout.write(text)
