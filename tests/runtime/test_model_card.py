"""The model card is in the form that model hubs read, says what the summary says, and its snippet draws images."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from federations import Recorder, tiny

from fedphd_ray.runtime.driver import run as runs

DIGITS = {
    "data": {"name": "digits", "num_clients": 6, "partition": {"name": "iid"}},
    "model": {"widths": [32, 64], "groups": 8, "attention": [False, True], "dropout": 0.0},
    "pruning": {"mode": "prune", "round": 2, "ratio": 0.25},
    "evaluation": {"every": 4, "num_samples": 20, "steps": 2},
}


@pytest.mark.parametrize("sections", [DIGITS, {}], ids=["stock", "own"])
def test_the_card_and_its_snippet(sections: dict[str, object], tmp_path: Path) -> None:
    summary = runs.run(tiny(**sections).build(), tmp_path, Recorder())
    card = (tmp_path / "model/README.md").read_text()
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "diffusers"
    assert summary.model_sha256 in body
    assert f"{summary.params_final:,}" in body
    assert ("DDIMPipeline" in body.split("## Training")[0].split("```")[1]) == bool(sections)
    (snippet,) = re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    check = f"{snippet}\nassert len(images) == 4"
    done = subprocess.run([sys.executable, "-c", check], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
