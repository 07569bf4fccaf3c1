"""One run over several hosts with addresses of their own, one of which is cut off in its middle; another run beside it."""

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from federations import Recorder, tiny
from namespaces import Host, bring_up, hosts, wait_until, why_not
from processes import fedphd

from fedphd_ray.runtime.directory.run_directory import Summary
from fedphd_ray.runtime.driver import run as runs

WHY_NOT = why_not()
ROUNDS, MEASURED, CUT = 120, 4, 8
SECTIONS: dict[str, object] = {
    "data": {"num_images": 480, "num_clients": 24},
    "schedule": {"rounds": ROUNDS, "clients_per_round": 12, "block_size": 3},
    "pruning": {"mode": "prune", "round": 70},
    "checkpoint": {"every": 5},
}
SITES: dict[str, object] = {"edge_labels": [{"site": "a"}, {"site": "b"}]}


def environment(token: Path) -> dict[str, str]:
    """Of every process on every host; a host that is cut off is given up after seconds, not after half a minute."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ray = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_worker_register_timeout_seconds": "600",
        "RAY_worker_niceness": "0",
        "RAY_health_check_period_ms": "3000",
        "RAY_health_check_timeout_ms": "10000",
        "RAY_health_check_failure_threshold": "3",
    }
    return inherited | ray | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def write(path: Path, sections: dict[str, object], **runtime: object) -> Path:
    runtime = {"backend": "ray", "hosts": 2, "cpus_per_host": 1.0, "start_timeout_seconds": 600} | runtime
    path.write_text(tiny(**sections, runtime=runtime).to_yaml())
    return path


def rounds(directory: Path) -> int:
    path = directory / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def received(machines: dict[str, Host]) -> int:
    """Bytes that all hosts have received from one another."""
    return sum(host.num_bytes()[0] for host in machines.values())


@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
def test_a_run_over_three_hosts_loses_one_and_ends_in_the_same_bits(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    env = environment(token)
    with hosts("head", "a", "b") as machines:
        head = machines["head"]
        bring_up(head, head, 1, "--head", "--port=6379", "--num-cpus=0", "--dashboard-host=127.0.0.1", env=env)
        for number, site in enumerate("ab", start=2):
            bring_up(
                machines[site], head, number, f"--address={head.address}:6379", "--num-cpus=4", f"--labels=site={site}", env=env
            )
        submit = ("--address", "http://127.0.0.1:8265", "--out")
        command = fedphd(
            "submit", write(tmp_path / "first.yaml", SECTIONS, cpus_per_host=2.0, **SITES), *submit, tmp_path / "first"
        )
        first = head.start(*command, env=env)
        beside = write(tmp_path / "other.yaml", {}, hosts=1, cpus_per_host=0.5)
        other = head.start(*fedphd("submit", beside, *submit, tmp_path / "other"), env=env)
        said = [other.communicate(timeout=900)[0]]  # while the first goes on
        wait_until("the first rounds", 600, lambda: rounds(tmp_path / "first") >= MEASURED, first)
        before, began = received(machines), rounds(tmp_path / "first")
        wait_until("some more", 600, lambda: rounds(tmp_path / "first") >= began + CUT, first)
        a_round = (received(machines) - before) / (rounds(tmp_path / "first") - began)
        machines["b"].cut_off()
        said.append(first.communicate(timeout=900)[0])
    assert (first.returncode, other.returncode) == (0, 0), said
    summary, other_summary = Summary.read(tmp_path / "first"), Summary.read(tmp_path / "other")
    assert summary is not None
    assert other_summary is not None
    for found, sections in ((summary, SECTIONS), (other_summary, dict[str, object]())):
        here = runs.run(tiny(**sections).build(), tmp_path / f"here-{found.rounds}", Recorder())
        assert found.model_sha256 == here.model_sha256
    model_bytes = 4 * summary.params_dense
    (tmp_path / "traffic").write_text(f"{a_round / model_bytes:.3f}")
    # Above the edges, every second round: two up, one down to each. Below, models of edges that have too many clients for their
    # own node go to the other one, and sums come back: 4.1 to 4.4 in all.
    assert a_round < 6.5 * model_bytes, f"{a_round / model_bytes:.2f} models a round; one per client would be 24"
    assert summary.replacements or "going back to the last checkpoint" in said[1], said[1]  # the cut was felt


@pytest.mark.ray
def test_labels_that_no_node_has_are_refused_before_anything_starts(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", {}, **SITES)
    done = subprocess.run(
        fedphd("run", path, "--out", tmp_path / "run"), capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 2, done.stderr
    assert "a node with the labels site: a" in done.stderr
    assert not (tmp_path / "run").exists()
