"""A node holds one copy of the images, whatever the number of its processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import within

from fedphd_ray.data import mapped as module
from fedphd_ray.data.mapped import map_tensor, mapped

TESTS = Path(__file__).parent.parent
IMAGES, FEW = 50_000, 2_000
PROGRAM = """
import json, os, sys
import ray
from federations import federate, tiny
from fedphd_ray.runtime.driver.start import start_backend

def anonymous(_=None):
    with open("/proc/self/smaps_rollup") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))

def shared():
    status = os.statvfs("/dev/shm")
    return (status.f_blocks - status.f_bfree) * status.f_frsize

path, limit = sys.argv[1], int(sys.argv[2])
before = shared()
config = tiny(
    data={"name": "cifar10", "path": path, "limit": limit, "num_clients": 20},
    runtime={"backend": "ray", "placement": "pooled", "hosts": 2, "cpus_per_host": 0.5},
    local={"steps": 1, "batch_size": 2},
    evaluation={"every": 0},
)
experiment = config.build()
with start_backend(experiment, lambda line: None) as started:
    federate(experiment, started.backend)
    hosts = started.backend._pool.hosts
    found = ray.get([host.__ray_call__.remote(anonymous) for host in hosts], timeout=300)
    print(json.dumps({"driver": anonymous(), "hosts": sum(found), "store": shared() - before, "number": len(hosts)}))
"""


def memory(path: Path, limit: int) -> dict[str, int]:
    """Bytes of a run with so many images."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    command = [sys.executable, "-c", PROGRAM, str(path), str(limit)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    figures: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return figures


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is read from Linux's /proc")
def test_twenty_clients_share_one_copy(tmp_path: Path) -> None:
    """CIFAR-10's size: 154 MB as bytes. Two hosts and the driver; what 2,000 images need is subtracted."""
    rng = np.random.default_rng(0)
    for number in range(1, 6):
        records = rng.integers(0, 256, (IMAGES // 5, 3073), np.uint8)
        records[:, 0] = np.arange(len(records)) % 10
        (tmp_path / f"data_batch_{number}.bin").write_bytes(records.tobytes())
    few, many = memory(tmp_path, FEW), memory(tmp_path, IMAGES)
    assert few["number"] == many["number"] == 2
    copy = (IMAGES - FEW) * 3072
    more = {name: (many[name] - few[name]) / copy for name in ("driver", "hosts", "store")}
    assert 0.95 < more["store"] < 1.2, more
    assert more["driver"] < 0.3, more
    assert more["hosts"] < 0.3, more


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(module, "WORTH_BYTES", 0)
    monkeypatch.setenv("FEDPHD_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_mapped_images_are_the_images(small_files: Path) -> None:
    images = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    first, second = mapped(images), mapped(images + 1)
    assert np.array_equal(first, images)
    assert np.array_equal(second, images + 1)
    assert len(list(small_files.iterdir())) == 2
    assert type(first) is np.ndarray  # a memmap would be copied into the message of every object
    assert not first.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0


@pytest.mark.parametrize("length", [0, 5, 20, -1])
def test_a_damaged_file_of_the_cache_is_written_again(small_files: Path, length: int) -> None:
    images = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    mapped(images)
    (path,) = small_files.iterdir()
    path.write_bytes(path.read_bytes()[:length])
    assert map_tensor(path, "images") is None
    assert np.array_equal(mapped(images), images)
    assert map_tensor(path, "images") is not None


def test_nobody_waits_at_a_pipe_in_the_cache(small_files: Path) -> None:
    images = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    mapped(images)
    (path,) = small_files.iterdir()
    path.unlink()
    os.mkfifo(path)
    with within(60):
        assert np.array_equal(mapped(images), images)
    assert map_tensor(path, "images") is not None


def test_without_a_cache_images_stay_where_they_are(small_files: Path) -> None:
    small_files.write_text("no folder")
    images = np.zeros((2, 3, 4, 4), np.uint8)
    assert mapped(images) is images
