"""The process beside a driver, which speaks where the driver could not. The drivers here are small, processes of their own."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

DRIVER = """
import os, signal, sys
from pathlib import Path
from fedphd_ray.runtime.on_ray.environment import prepare_environment
prepare_environment()
from fedphd_ray.runtime.on_ray.session import witnessed
from fedphd_ray.system.stopping import STOPPING, Hint
how, place = sys.argv[1], Path(sys.argv[2])
(place / "session").mkdir()
with STOPPING.prepared(Hint("go on", file=str(place / "begun"), otherwise="nothing begun")), witnessed(str(place / "session")):
    if how in ("begun", "killed"):
        (place / "begun").write_text("")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how in ("begun", "ended"):
        os._exit(1)
    if how == "finish":
        STOPPING.finish("stopped by somebody", 143)
    if how == "error":
        raise SystemExit("error: of its own")
"""

DIED = "error: this process was killed, or a server of Ray's own has died under it; "


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ("killed", -9, DIED + "go on"),
        ("begun", 1, DIED + "go on"),
        ("ended", 1, DIED + "nothing begun"),
        ("finish", 143, "stopped by somebody; nothing begun"),
        ("error", 1, "error: of its own"),
        ("well", 0, ""),
    ],
)
def test_a_driver_never_ends_without_a_word_and_never_with_two(how: str, code: int, said: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", DRIVER, how, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ, timeout=600)
    assert (done.returncode, done.stderr.strip()) == (code, said)
    if said.startswith(DIED):
        deadline = time.monotonic() + 10
        while (tmp_path / "session").exists():  # removed after the last word
            assert time.monotonic() < deadline
            time.sleep(0.05)
