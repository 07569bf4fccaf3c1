"""Whole processes: asked to stop, killed, two at once, a full disk, a lost node, calls that get lost.

None of them shares the session's Ray: each starts what it needs, in processes of its own.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from federations import Recorder, federate, method, reference
from processes import (
    NAME,
    TESTS,
    command_line,
    descendants,
    environment,
    fedphd,
    on_this_machine,
    processes_below,
    require_ended,
    wait_for,
    write_config,
)

from fedphd_ray.config import load_config
from fedphd_ray.errors import UserError
from fedphd_ray.federation.channel.ledger import read_ledger
from fedphd_ray.runtime.directory.run_directory import Summary
from fedphd_ray.runtime.driver import run as runs

RAY: dict[str, object] = {"runtime": {"backend": "ray", "placement": "pooled", "hosts": 2, "cpus_per_host": 0.5}}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_leaves_nothing_running_and_goes_on_to_the_same_bits(number: signal.Signals, tmp_path: Path) -> None:
    config = write_config(tmp_path, **RAY, schedule={"rounds": 4})
    command = fedphd("run", config, "--out", tmp_path / "run")
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(tmp_path / "run/checkpoints/round-000001/state.json", process)
        children = processes_below(process.pid)
        assert len(children) > 5  # raylet, gcs, hosts, edges, witness
        session = re.search(r"/\S*/fedphd-[^/ ]+", " ".join(command_line(pid) for pid in children))
        process.send_signal(number)
        began = time.monotonic()
        _, err = process.communicate(timeout=600)
    assert time.monotonic() - began < on_this_machine(3.0)  # what `ray job stop` grants before it kills
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
        assert err.count("error: this process was killed, or a server of Ray's own has died under it") == 1
    else:
        assert process.returncode == 128 + number
        assert f"stopped by {number.name}" in err
        assert "error:" not in err
    assert err.count(f"`fedphd resume {tmp_path / 'run'}` goes on") == 1
    assert "Traceback" not in err
    require_ended(children)
    assert session
    assert not Path(session.group()).exists()
    chosen = load_config(tmp_path / "run/config.yaml", ["runtime.backend=local"])
    assert runs.resume(chosen.build(), tmp_path / "run", Recorder()).model_sha256 == reference(NAME)


@pytest.mark.parametrize("server", ["gcs_server", "raylet/raylet"])
def test_a_server_of_rays_that_dies_ends_the_run_with_a_message(server: str, tmp_path: Path) -> None:
    """Ray itself would wait for a minute, and then abort in words of its own."""
    config = write_config(tmp_path, **RAY, schedule={"rounds": 5000}, pruning={"round": 2500})
    command = fedphd("run", config, "--out", tmp_path / "run")
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(tmp_path / "run/run.json", process)
        pids = [pid for pid in descendants(process.pid) if command_line(pid).split(" ")[0].endswith(server)]
        os.kill((pids or [process.pid])[0], signal.SIGKILL)
        began = time.monotonic()
        _, err = process.communicate(timeout=600)
    assert time.monotonic() - began < on_this_machine(10.0)
    assert len(pids) == 1
    assert process.returncode == 1
    # Our own words; or those of the witness, where Ray was quicker and ended the process from within.
    name = server.partition("/")[0]
    assert re.search(rf"a server of Ray's own (on this machine \({name}\) has died|has died under it); `fedphd resume", err), err


HOLDER = "import sys, time; from pathlib import Path; from fedphd_ray.runtime.storage.locks import locked\n"
HOLDER += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(100)"


def test_two_runs_in_one_directory_are_told_of_each_other(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            with pytest.raises(UserError, match="another process that runs or resumes it"):
                runs.run(method(NAME).build(), tmp_path, Recorder())
        finally:
            holder.kill()
    assert runs.run(method(NAME).build(), tmp_path, Recorder()).rounds == 4  # the lock ended with its process


FULL = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2); "
FULL += "sys.argv = sys.argv[1:]; runpy.run_module('fedphd_ray', run_name='__main__')"


def test_a_disk_that_takes_no_more_is_a_message_and_the_run_goes_on_later(tmp_path: Path) -> None:
    config = write_config(tmp_path, runtime={"backend": "local"})
    command = [sys.executable, "-c", FULL, "200000", "run", str(config), "--out", str(tmp_path / "run")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 1, done.stderr
    assert "File too large; checkpoints written before are whole" in done.stderr
    assert "Traceback" not in done.stderr
    again = load_config(tmp_path / "run/config.yaml").build()
    assert runs.resume(again, tmp_path / "run", Recorder(), restart=True).model_sha256 == reference(NAME)


def test_a_place_that_cannot_be_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a run directory that can be made"):
        runs.run(method(NAME).build(), tmp_path / "file/run", Recorder())


NODE = """
import os, sys, threading
os.environ["RAY_AUTH_MODE"] = "disabled"
sys.path.insert(0, sys.argv[2])
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from federations import Recorder
from fedphd_ray.config import load_config
from fedphd_ray.runtime.driver import run as runs

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 200 * 2**20})
second = cluster.add_node(num_cpus=2, object_store_memory=200 * 2**20)
ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)


class Killer(Recorder):
    def on_round(self, record, quality):
        super().on_round(record, quality)
        if record.round == 2 and not self.done:
            self.done = True
            threading.Timer(0.05, cluster.remove_node, (second,), {"allow_graceful": False}).start()

    done = False


said = []
config = load_config(Path(sys.argv[1]) / "config.yaml")
summary = runs.run(config.build(), Path(sys.argv[1]) / "run", Killer(), said.append)
print("nodes", sum(node["Alive"] for node in ray.nodes()))
print("rollbacks", sum("going back" in line for line in said))
print("replacements", len(summary.replacements))
print("sha", summary.model_sha256)
ray.shutdown()
cluster.shutdown()
"""


def test_a_lost_node_changes_no_bit(tmp_path: Path) -> None:
    """Four hosts on two nodes; one node goes in the middle of a round, with hosts and with what its clients kept."""
    spread: dict[str, object] = {"backend": "ray", "placement": "pooled", "hosts": 4, "cpus_per_host": 0.5}
    write_config(tmp_path, runtime=spread)
    command = [sys.executable, "-c", NODE, str(tmp_path), TESTS]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "nodes 1" in done.stdout
    rollbacks, replacements = (int(re.search(rf"{word} (\d+)", done.stdout)[1]) for word in ("rollbacks", "replacements"))
    assert rollbacks + replacements > 0, "the node was lost, and nobody noticed"
    assert f"sha {reference(NAME)}" in done.stdout


def test_calls_that_get_lost_are_made_again_or_end_the_run_with_a_reason(tmp_path: Path) -> None:
    """Ray drops requests and answers of every tenth call to an actor."""
    config = write_config(tmp_path, **RAY)
    faults = '{"CoreWorkerService.grpc_client.PushTask":{"num_failures":3,"req_failure_prob":10,"resp_failure_prob":10}}'
    command = fedphd("run", config, "--out", tmp_path / "run")
    env = environment(RAY_testing_rpc_failure=faults)
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=600)
    assert "Traceback" not in done.stderr
    if done.returncode:  # it may be too much: then the reason says so, and what there is goes on to the same bits
        reason = r"^error: (actor start failed|.*actors died, more than|.*could not be replaced|no answer within)"
        assert re.search(reason, done.stderr, re.MULTILINE), done.stderr
        chosen = load_config(config, ["runtime.backend=local"])
        runs.resume(chosen.build(), tmp_path / "run", Recorder(), restart=True)
    summary = Summary.read(tmp_path / "run")
    assert summary is not None
    assert summary.model_sha256 == reference(NAME)
    rows = read_ledger(tmp_path / "run/ledger")
    assert rows.num_rows - sum(row > 0 for row in rows["attempt"].to_pylist()) == len(federate(method(NAME)).transfers)
