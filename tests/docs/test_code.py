"""The code of the documentation runs as it stands."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FENCED = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def execute(blocks: list[str], cwd: Path) -> str:
    """One after another, in one new process."""
    script = cwd / "script.py"
    script.write_text("\n".join(blocks))
    done = subprocess.run([sys.executable, script], cwd=cwd, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("page", ["docs/python.md", "docs/ledger.md"])
def test_a_page_of_code_runs_from_top_to_bottom(page: str, tmp_path: Path) -> None:
    blocks = FENCED.findall((ROOT / page).read_text())
    assert len(blocks) >= 3
    execute(blocks, tmp_path)


def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = json.loads((ROOT / "examples/first_federation.ipynb").read_text())
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    said = execute(["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"], tmp_path)
    assert "FID" in said
    assert (tmp_path / "runs/notebook/report.html").exists()
