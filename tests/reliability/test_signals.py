"""Asked to stop in every phase, by every signal: within seconds, one message, the right exit code, and nothing left."""

import contextlib
import os
import pty
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from federations import method
from processes import EVERY_ROUND, TESTS, environment, fedphd, on_this_machine, wait_for, write_config

from fedphd_ray.errors import RunFailedError, Stopped, UserError
from fedphd_ray.runtime.directory.status import Status, at_work_in
from fedphd_ray.system.stopping import STOPPING, Hint, Stopping

NAMES = {signal.SIGINT: "SIGINT", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}
LONG: dict[str, object] = {"schedule": {"rounds": 5000}, "pruning": {"round": 2500}}
AT = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from phases import IN_ONE_PROCESS, at_first_entry
import fedphd_ray.runtime.driver.run as run_module
number, phase = int(sys.argv[2]), sys.argv[3]
strike = lambda: (print("STRUCK", flush=True), os.kill(os.getpid(), number), None)[2]
if phase == "exporting":
    original = run_module.save_model
    run_module.save_model = lambda *a: (strike(), original(*a))[1]
elif phase == "building":
    from fedphd_ray.data.sources import Shapes
    original = Shapes.load
    Shapes.load = lambda *a: (strike(), original(*a))[1]
elif phase in ("foreign handler", "wrapped"):
    from fedphd_ray.data.sources import Shapes
    def load(*a):
        signal.signal(number, signal.default_int_handler)  # as while Ray starts
        try:
            strike()
        except KeyboardInterrupt:
            if phase == "wrapped":
                raise RuntimeError("what others make of it")
            raise
    Shapes.load = load
    read = os.read
    os.read = lambda *a: (read(*a), time.sleep(0.03))[0]  # the thread that hears of signals has its turn late
elif phase == "in torch":
    from torch.utils._pytree import tree_map
    from fedphd_ray.federation.training.local_training import LocalTrainer
    LocalTrainer.train = lambda *a, **k: (tree_map(lambda _: strike(), [1]), print("WENT ON", flush=True), time.sleep(60))
elif phase == "swallowed":
    from fedphd_ray.federation.training.local_training import LocalTrainer
    original = LocalTrainer.train
    def swallowing(*a, **k):
        try:
            strike()
        except BaseException:
            while True:
                pass
    LocalTrainer.train = swallowing
else:
    at_first_entry(setattr, *IN_ONE_PROCESS[phase], 2, strike)
sys.argv = ["fedphd", *sys.argv[4:]]
from fedphd_ray.cli import main
main()
"""


def struck(phase: str, number: int, directory: Path, *arguments: object) -> tuple[int, str, float]:
    """Runs a command that sends itself a signal in a phase; its exit code, what it said, and how long it lived after that."""
    command = [sys.executable, "-c", AT, TESTS, str(int(number)), phase, *map(str, arguments)]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=directory
    ) as process:
        assert process.stdout is not None
        said, began = "", 0.0
        for line in process.stdout:
            said += line
            if "STRUCK" in line:
                began = time.monotonic()
    assert began, said
    return process.returncode, said, time.monotonic() - began


@pytest.mark.parametrize("number", NAMES)
@pytest.mark.parametrize("phase", ["training", "evaluation"])
def test_every_signal_ends_a_run_in_one_process(phase: str, number: signal.Signals, tmp_path: Path) -> None:
    """`except Exception` around a client's training does not hold it up."""
    config = write_config(tmp_path, runtime={"backend": "local"}, evaluation={"every": 1, "num_samples": 4, "steps": 2})
    code, said, seconds = struck(phase, number, tmp_path, "run", config, "--out", tmp_path / "run")
    assert code == 128 + number
    assert said.count(f"stopped by {NAMES[number]}; `fedphd resume {tmp_path / 'run'}` goes on") == 1
    assert "Traceback" not in said
    assert seconds < on_this_machine(3.0)
    assert not (tmp_path / "run/summary.json").exists()


@pytest.mark.parametrize("number", NAMES)
def test_nothing_is_raised_within_torch(number: signal.Signals, tmp_path: Path) -> None:
    """Its C++ may call Python where no exception can pass; the process would abort."""
    config = write_config(tmp_path, runtime={"backend": "local"}, evaluation={"every": 0})
    code, said, seconds = struck("in torch", number, tmp_path, "run", config, "--out", tmp_path / "run")
    assert code == 128 + number
    assert "WENT ON" in said
    assert said.count(f"stopped by {NAMES[number]}; `fedphd resume {tmp_path / 'run'}` goes on") == 1
    assert seconds < on_this_machine(3.0)
    status = Status.read(tmp_path / "run")
    assert status is not None
    assert (status.state, status.why) == ("stopped", f"stopped by {NAMES[number]}")


@pytest.mark.parametrize("phase", ["building", "cloud aggregation", "checkpointing", "exporting", "swallowed"])
def test_every_phase_is_ended(phase: str, tmp_path: Path) -> None:
    """Also where foreign code swallows the exception and goes on for ever."""
    config = write_config(tmp_path, runtime={"backend": "local"})
    code, said, seconds = struck(phase, signal.SIGTERM, tmp_path, "run", config, "--out", tmp_path / "run")
    assert code == 143
    assert f"stopped by SIGTERM{'' if phase == 'building' else '; `fedphd resume'}" in said
    assert "Traceback" not in said
    assert seconds < on_this_machine(3.0)


@pytest.mark.parametrize("phase", ["foreign handler", "wrapped"])
def test_a_signal_that_others_have_taken_is_heard_all_the_same(phase: str, tmp_path: Path) -> None:
    """Its error may arrive before the thread that hears of signals does."""
    config = write_config(tmp_path, runtime={"backend": "local"})
    code, said, _ = struck(phase, signal.SIGINT, tmp_path, "run", config, "--out", tmp_path / "run")
    assert code == 130
    assert said.count("stopped by SIGINT") == 1
    assert "Traceback" not in said
    assert "error" not in said


class Terminal:
    """A command in a pseudo-terminal, and all that it writes there."""

    def __init__(self, command: list[str], **more: str) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=environment(TERM="xterm", **more), start_new_session=True
        )
        os.close(slave)
        self.said = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            ready, _, _ = select.select([self.master], [], [], 0.1)
            try:
                data = os.read(self.master, 4096) if ready else b""
            except OSError:  # closed at the other end
                return
            self.said += data
            if not data and self.process.poll() is not None:
                return

    def ended(self, seconds: float = 600) -> str:
        self.process.wait(seconds)
        self._reader.join(10)
        os.close(self.master)
        return self.said.decode("utf-8", "replace")


def test_ctrl_c_in_a_terminal(tmp_path: Path) -> None:
    """The key itself, through the terminal: one message after the panel, and the cursor is back."""
    config = write_config(tmp_path, runtime={"backend": "local"}, **LONG)
    terminal = Terminal(list(fedphd("run", config, "--out", tmp_path / "run")))
    wait_for(tmp_path / "run/metrics.jsonl", terminal.process)
    os.kill(terminal.process.pid, signal.SIGINT)
    began = time.monotonic()
    said = terminal.ended()
    assert time.monotonic() - began < on_this_machine(3.0)
    assert terminal.process.returncode == 130
    assert said.count("stopped by SIGINT; `fedphd resume") == 1
    assert "Traceback" not in said
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l")


def test_a_terminal_that_is_dumb_gets_plain_lines(tmp_path: Path) -> None:
    config = write_config(tmp_path, runtime={"backend": "local"})
    terminal = Terminal(["env", "TERM=dumb", *fedphd("run", config, "--out", tmp_path / "run")])
    said = terminal.ended()
    assert terminal.process.returncode == 0, said
    assert "round 4/4" in said
    assert "\x1b[" not in said


def run_with(tmp_path: Path, wrap: Callable[[str], str], **env: str) -> "subprocess.CompletedProcess[bytes]":
    config = write_config(tmp_path, runtime={"backend": "local"})
    line = " ".join(fedphd("run", config, "--out", tmp_path / "run"))
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", wrap(line)], env=environment(**env), capture_output=True, check=False, timeout=600
    )


def test_a_reader_that_goes_away_ends_the_progress_and_not_the_run(tmp_path: Path) -> None:
    done = run_with(tmp_path, lambda line: f"{line} | head -1")
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"reading {tmp_path / 'config.yaml'}\n".encode()
    assert done.stdout.count(b"\n") == 1
    assert (tmp_path / "run/summary.json").exists()


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_of_few_letters_gets_them_all(encoding: str, tmp_path: Path) -> None:
    done = run_with(tmp_path, lambda line: line, PYTHONIOENCODING=encoding, LC_ALL="C")
    assert done.returncode == 0, done.stderr
    assert b"edge -> client" in done.stdout
    done.stdout.decode(encoding)


@pytest.mark.soak
def test_fifty_random_moments_of_a_run_on_ray(tmp_path: Path) -> None:
    chance, ray = random.Random(2025), {"runtime": {"backend": "ray", "placement": "pooled", "hosts": 2, "cpus_per_host": 0.5}}
    for press in range(50):
        directory = tmp_path / f"{press}"
        directory.mkdir()
        (directory / "tmp").mkdir()
        config = write_config(directory, **ray, **LONG)
        number = chance.choice(list(NAMES))
        terminal = Terminal(list(fedphd("run", config, "--out", directory / "run")))
        time.sleep(chance.uniform(0.3, 14.0))
        assert terminal.process.poll() is None, terminal.said
        os.kill(terminal.process.pid, number)
        began = time.monotonic()
        said = terminal.ended()
        seconds = time.monotonic() - began
        sys.stdout.write(f"press {press + 1}: {NAMES[number]}, {seconds:.1f} s, exit {terminal.process.returncode}\n")
        if "stopped by" in said or "reading" in said:  # before that Python itself ends
            assert terminal.process.returncode == 128 + number, said
            assert said.count(f"stopped by {NAMES[number]}") == 1, said
        assert "Traceback" not in said, said
        assert seconds < on_this_machine(3.0), said


def test_a_stop_that_python_cannot_raise_prints_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """As in a hook of fork, or in a finaliser; anything else that is swallowed there is still told."""
    told: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "unraisablehook", told.append)
        with Stopping().signals():
            for error in (Stopped("SIGHUP", 1), ValueError("something else")):
                sys.unraisablehook(SimpleNamespace(exc_value=error))
    assert [str(what.exc_value) for what in told] == ["something else"]
    assert not capsys.readouterr().err


def test_two_runs_in_one_process_are_refused_at_once(tmp_path: Path) -> None:
    """In threads, as a notebook or a service might: the second is told, the first ends in its bits."""
    from federations import Recorder, reference  # noqa: PLC0415

    from fedphd_ray.errors import UserError  # noqa: PLC0415
    from fedphd_ray.runtime.driver import run as runs  # noqa: PLC0415

    refused: list[str] = []

    class Second(Recorder):
        def on_round(self, record, quality) -> None:
            super().on_round(record, quality)
            if record.round == 2:
                other = threading.Thread(target=self.another)
                other.start()
                other.join()

        def another(self) -> None:
            try:
                runs.run(method("fedavg").build(), tmp_path / "second", Recorder())
            except UserError as error:
                refused.append(str(error))

    summary = runs.run(method("fedphd", **EVERY_ROUND).build(), tmp_path / "first", Second())
    assert len(refused) == 1
    assert "one run at a time" in refused[0]
    assert summary.model_sha256 == reference("fedphd")
    assert not (tmp_path / "second").exists()


def test_what_was_prepared_is_forgotten_after_an_error(tmp_path: Path) -> None:
    """In a notebook the next run must not say, or clean up, what belonged to the one before; whoever was stopped still must."""
    stopping, done = Stopping(), list[str]()
    for error in (UserError("x", expected="y", found="z"), RunFailedError("x"), ValueError("x")):
        with pytest.raises(type(error)), stopping.prepared(Hint("before"), lambda: done.append("before")):
            raise error
    assert (str(stopping.hint), stopping._clean_ups) == ("", [])
    asked = stopping._ask(signal.SIGINT)
    for error in (asked, RunFailedError("what others make of it"), UserError("x", expected="y", found="z")):
        with pytest.raises(type(error)), stopping.prepared(Hint("now"), lambda: done.append("now")):
            raise error
        assert (str(stopping.hint), len(stopping._clean_ups)) == ("now", 1)
        stopping._forget(list(stopping._hints), list(stopping._clean_ups))


def test_a_run_that_ended_is_not_written_to_again(tmp_path: Path) -> None:
    """Only what a process works in at the moment is said to have been stopped with it."""
    for error in (None, RunFailedError("x")):
        with contextlib.suppress(RunFailedError), at_work_in(tmp_path):
            if error:
                raise error
    assert not STOPPING._clean_ups
