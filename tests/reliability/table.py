"""Runs every fault in every phase and writes what came of it into docs/reliability.md: `make reliability`."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCUMENT = ROOT / "docs/reliability.md"
TESTS = ["tests/reliability/test_faults_by_phase.py", "tests/runtime/test_failures.py"]
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"


def main() -> None:
    """Replaces the table; fails where a test fails."""
    with tempfile.TemporaryDirectory() as directory:
        rows = Path(directory) / "rows.jsonl"
        command = [sys.executable, "-m", "pytest", "-q", *TESTS]
        subprocess.run(command, check=True, cwd=ROOT, env=os.environ | {"FEDPHD_RELIABILITY_ROWS": str(rows)})
        lines = [json.loads(line) for line in rows.read_text().splitlines()]
    table = "| fault | phase | what the user sees | run took, s | same `model_sha256` |\n|---|---|---|---:|---|\n"
    for row in lines:
        same = "yes" if row["same"] else "no: left out, and named"
        table += f"| {row['fault']} | {row['phase']} | {row['seen']} | {row['seconds']} | {same} |\n"
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    DOCUMENT.write_text(before + BEGIN + "\n" + table + "\n" + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
