"""Every query of the dashboard and of the alerts asks for series that a live run has."""

import json
import re
import subprocess
import time
import urllib.request
from pathlib import Path

import promql_parser
import pytest
import yaml
from processes import fedphd
from ray_heads import ROOT, environment, free_ports, head_node

OBSERVABILITY = Path(__file__).parents[2] / "cluster/observability"
SERIES = re.compile(r"\b(ray_\w+)(?:\{([^}]*)\})?")


def queries() -> list[str]:
    board = json.loads((OBSERVABILITY / "grafana.json").read_text())
    rules = yaml.safe_load((OBSERVABILITY / "prometheus-rules.yaml").read_text())
    shown = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return shown + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


def test_every_query_parses_and_every_panel_has_a_place_of_its_own() -> None:
    for query in queries():
        promql_parser.parse(query.replace("$run", ".*"))
    board = json.loads((OBSERVABILITY / "grafana.json").read_text())
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(places)) == len(places) == len({panel["id"] for panel in board["panels"]})


def series(port: int) -> dict[str, set[str]]:
    """Names of all series of a node, and of their labels; none while nobody answers."""
    there: dict[str, set[str]] = {}
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
    except OSError:  # not up yet
        return there
    for line in text.splitlines():
        if match := re.match(r"(\w+)\{([^}]*)\}", line):
            there.setdefault(match[1], set()).update(re.findall(r"(\w+)=", match[2]))
    return there


@pytest.mark.ray
def test_every_series_that_is_asked_for_is_there(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    wanted = {name for query in queries() for name, _ in SERIES.findall(query)} - {
        "ray_fedphd_replaced_processes_total"
    }  # nobody dies
    there: dict[str, set[str]] = {}
    with head_node(metrics_port=port) as (address, _):
        options = ("--set", "evaluation={every: 2, num_samples: 10, steps: 2}", "--set", "schedule.rounds=100000")
        command = fedphd("run", ROOT / "examples/digits.yaml", "--out", tmp_path / "run", *options)
        env = environment(RAY_ADDRESS=address)
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
            try:
                deadline = time.monotonic() + 600
                while not wanted <= there.keys():
                    assert time.monotonic() < deadline, f"{wanted - there.keys()} are not among {sorted(there)}"
                    assert run.poll() is None, run.communicate()
                    time.sleep(1)
                    there = series(port)
            finally:
                run.terminate()
                run.communicate(timeout=120)
    for query in queries():
        for name, labels in SERIES.findall(query):
            if name in wanted:
                assert set(re.findall(r"(\w+)=", labels)) <= there[name]
    assert not any("client" in label for name in there if "fedphd" in name for label in there[name])
