"""What a null round (no training at all) costs, over clients, cohorts, hosts and model sizes: a Markdown table.

Every row is a run of common_job.py in a process of its own.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

JOB = Path(__file__).with_name("common_job.py")
SMALL: dict[str, object] = {"STEPS": 0, "ROUNDS": 24, "WARM": 4}
MEDIUM = SMALL | {"WIDTHS": "64,128"}
DDPM = SMALL | {"WIDTHS": "128,256,256,256", "LAYERS": 2, "GROUPS": 32, "IMAGE": 32, "COHORT": 8, "ROUNDS": 8, "WARM": 2}
ROWS: list[dict[str, object]] = [
    *(SMALL | {"CLIENTS": clients} for clients in (10, 100, 1000, 10_000)),
    *(SMALL | {"CLIENTS": 1000, "COHORT": cohort} for cohort in (4, 60, 200)),
    SMALL | {"HOSTS": 1},
    MEDIUM,
    MEDIUM | {"HOSTS": 1},
    DDPM,
]


def main() -> None:
    """Runs all rows and prints them as they come."""
    print("| parameters | clients | cohort | hosts | ms a round | ms a client | start, s | memory, MiB |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for row in ROWS:
        cohort = row.get("COHORT", min(20, int(str(row.get("CLIENTS", 100)))))
        settings = {f"BENCH_{name}": str(value) for name, value in (row | {"COHORT": cohort}).items()}
        command = [sys.executable, str(JOB)]
        done = subprocess.run(command, check=False, env=os.environ | settings, capture_output=True, text=True)  # noqa: S603 - our own file
        if done.returncode:
            sys.exit(done.stderr)
        seconds, client_ms, params, clients, hosts = re.search(
            r"median (\S+) .*task_ms (\S+) params (\d+) clients (\d+) .*hosts (\d+)", done.stdout
        ).groups()  # type: ignore[union-attr]  # the job has ended well, so that the line is there
        start, memory = re.search(r"start (\S+) s; memory (\d+)", done.stdout).groups()  # type: ignore[union-attr]
        cells = [f"{int(params):,}", clients, cohort, hosts, f"{1000 * float(seconds):.1f}", client_ms, start, memory]
        print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
