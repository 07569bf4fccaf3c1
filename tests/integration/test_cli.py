"""The commands as a person uses them: real processes, real files, exit codes and messages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from federations import TINY, federate
from PIL import Image
from processes import fedphd_in_process as fedphd

from fedphd_ray.config import load_config
from fedphd_ray.diffusion.pruned_unet import load_unet
from fedphd_ray.report.holdings import figure
from fedphd_ray.tensors import digest

LEDGER_COLUMNS = {
    "round": "int32",
    "hop": "string",
    "source": "string",
    "destination": "string",
    "kind": "string",
    "codec": "string",
    "version": "int32",
    "num_params": "int64",
    "num_bytes": "int64",
    "sim_seconds": "double",
    "attempt": "int32",
    "lost": "bool",
}


def fedphd_process(*arguments: object, code: int = 0, cwd: Path | None = None, **env: str) -> str:
    """The same in a process of its own, with no traceback where a user is at fault."""
    command = [sys.executable, "-m", "fedphd_ray", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=os.environ | env, timeout=600, check=False)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    if code == 2:
        assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    # 64 columns of sinusoids at the base: small, and still exact as a stock network.
    tree = TINY | {
        "model": {"widths": [32, 64], "groups": 8, "attention": [False, True]},
        "data": {"name": "digits", "num_clients": 6, "partition": {"name": "classes", "classes_per_client": 2}},
        "local": {"batch_size": 150, "learning_rate": 1.0e-3},
        "schedule": {"rounds": 4, "clients_per_round": 2},
        "pruning": {"mode": "sparse_then_prune", "round": 2, "ratio": 0.25},
        "evaluation": {"every": 2, "num_samples": 20, "steps": 5},
        "checkpoint": {"every": 2},
    }
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(scope="module")
def finished(config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run on an embedded Ray of its own, with authentication as users have it and without a home that can be written."""
    out = tmp_path_factory.mktemp("runs") / "run"
    folder = tmp_path_factory.mktemp("of-the-user")
    for name in ("diffusers", "random", "safetensors"):
        (folder / f"{name}.py").write_text("raise RuntimeError('a file of the user took the place of a package')")
    env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "HOME": "/proc/none"}
    arguments = ("run", config, "--set", "runtime.backend=ray", "--set", "runtime.hosts=2", "--out", out)
    return out, fedphd_process(*arguments, cwd=folder, **env)


@pytest.mark.parametrize("name", ["random", "diffusers", "numpy"])
def test_a_file_in_the_place_of_a_package_is_named(name: str, config: Path, tmp_path: Path) -> None:
    """Where the user asked for its folder. In the current folder it does no harm: `finished` runs beside such files."""
    (tmp_path / f"{name}.py").write_text("nothing = 'that the package has'")
    message = fedphd_process("run", config, "--out", tmp_path / "run", code=2, PYTHONPATH=str(tmp_path))
    assert f"{tmp_path / name}.py takes the place of the package '{name}': rename it" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["run", "plan", "resume", "compare", "sample", "evaluate", "doctor"])
def test_every_command_says_what_it_does_before_it_imports(command: str, tmp_path: Path) -> None:
    """With `torch` in the way, whoever imports it ends there."""
    (tmp_path / "torch.py").write_text("raise SystemExit('imported')")
    arguments = {"compare": [tmp_path, "--strategies", "fedavg"], "sample": [tmp_path, "--out", "a.png"], "doctor": []}
    done = subprocess.run(
        [sys.executable, "-m", "fedphd_ray", command, *map(str, arguments.get(command, [tmp_path]))],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.stderr.splitlines()[1] == "imported", done.stderr
    assert done.stderr.startswith(("reading", "drawing", "judging", "looking"))


@pytest.mark.ray
def test_run_says_what_matters(finished: tuple[Path, str]) -> None:
    out, said = finished
    for words in ("placement: 2 hosts", "untrained: FID", "round 2: the network was pruned", "round 4/4", "all hops", str(out)):
        assert words in said, f"{words!r} is missing in\n{said}"


@pytest.mark.ray
def test_run_directory_is_the_contracts(finished: tuple[Path, str]) -> None:
    out, _ = finished
    summary = json.loads((out / "summary.json").read_text())
    assert summary["rounds"] == 4
    assert (summary["params_dense"], summary["params_final"]) == (701_345, 396_409)
    assert (summary["macs_dense"], summary["macs_final"]) == (16_162_016, 9_119_416)
    assert summary["fid"] > 0
    assert sum(summary["class_histogram"]) == 20
    assert summary["fid_features"] == "digits-classifier"
    assert 0 <= summary["overhead_fraction"] < 1
    assert summary["peak_memory_bytes"] > 2**28
    assert summary["failures"] == []
    assert "opens with diffusers" in summary["stock_export"]
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [entry["round"] for entry in metrics] == [1, 2, 3, 4]
    assert [("fid" in entry, entry["version"]) for entry in metrics] == [(False, 0), (True, 1), (False, 1), (True, 1)]
    assert all(len(entry["participants"]) == 2 and set(entry["homogeneity"]) == {"0", "1"} for entry in metrics)
    table = pq.read_table(out / "ledger")
    assert {name: str(table.schema.field(name).type) for name in table.schema.names} == LEDGER_COLUMNS
    assert sum(table["num_bytes"].to_pylist()) == sum(summary["bytes_by_hop"].values())
    with Image.open(out / "samples/round-000004.png") as picture:
        assert picture.size[0] > 300
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["round-000002", "round-000004", "run"]
    assert yaml.safe_load((out / "config.yaml").read_text())["local"]["clip_norm"] == 1.0


@pytest.mark.ray
def test_the_saved_model_is_the_one_of_the_summary(finished: tuple[Path, str]) -> None:
    out, _ = finished
    summary = json.loads((out / "summary.json").read_text())
    assert digest(dict(load_unet(out).named_parameters())) == summary["model_sha256"]


@pytest.mark.ray
def test_actors_of_the_runs_own_give_the_bits_of_one_process(finished: tuple[Path, str]) -> None:
    out, _ = finished
    local = load_config(out / "config.yaml", ["runtime.backend=local", "evaluation.every=0"])
    assert federate(local).sha256 == json.loads((out / "summary.json").read_text())["model_sha256"]


@pytest.mark.ray
def test_stock_diffusers_opens_the_run_without_our_code(finished: tuple[Path, str]) -> None:
    out, _ = finished
    code = (
        "import sys, torch; from diffusers import DDIMPipeline; "
        f"images = DDIMPipeline.from_pretrained({str(out / 'model')!r})(batch_size=2, num_inference_steps=3).images; "
        "assert len(images) == 2 and images[0].size == (8, 8); "
        "assert not any(name.startswith('fedphd_ray') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=600, cwd="/")


@pytest.mark.ray
def test_plan_predicts_the_ledger(finished: tuple[Path, str], config: Path) -> None:
    out, _ = finished
    said = fedphd("plan", config)
    summary = json.loads((out / "summary.json").read_text())
    for number in (*summary["bytes_by_hop"].values(), summary["params_final"], summary["macs_final"]):
        assert f"{number:,}" in said


@pytest.mark.ray
def test_sample_and_evaluate(finished: tuple[Path, str], tmp_path: Path) -> None:
    out, _ = finished
    fedphd("sample", out, "--num", 6, "--steps", 4, "--seed", 1, "--out", tmp_path / "a.png")
    fedphd("sample", out / "model", "--num", 6, "--steps", 4, "--seed", 1, "--out", tmp_path / "b.png")
    fedphd("sample", out, "--num", 6, "--steps", 4, "--seed", 2, "--out", tmp_path / "c.png")
    first, second, third = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png", "c.png"))
    assert first == second != third
    assert "FID" in fedphd("evaluate", out, "--data", "digits", "--num-samples", 20, "--steps", 4)


@pytest.mark.ray
def test_a_run_is_not_overwritten(finished: tuple[Path, str], config: Path) -> None:
    out, _ = finished
    assert "fedphd resume" in fedphd("run", config, "--out", out, code=2)


def test_refusals_write_nothing_but_the_message(config: Path, tmp_path: Path) -> None:
    message = fedphd_process("run", config, "--set", "schedule.rouns=3", "--out", "out", code=2, cwd=tmp_path)
    assert "did you mean schedule.rounds?" in message
    message = fedphd("run", config, "--set", "pruning.ratio=0.9", "--out", "out", code=2, cwd=tmp_path)
    assert "pruning.ratio" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_resources_no_node_has_are_refused(config: Path, tmp_path: Path) -> None:
    arguments = ("--set", "runtime.backend=ray", "--set", "runtime.cpus_per_host=512", "--out", "out")
    message = fedphd("run", config, *arguments, code=2, cwd=tmp_path)
    assert "room for" in message
    assert "512 CPUs" in message
    assert not list(tmp_path.iterdir())


def test_sampling_from_nothing_is_refused(tmp_path: Path) -> None:
    assert "expected" in fedphd("sample", tmp_path, "--out", tmp_path / "x.png", code=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.ray
def test_doctor_finds_this_machine_healthy() -> None:
    said = fedphd_process("doctor")
    assert "MISSING" not in said
    assert "Ray: a session of its own" in said


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("my-cluster", "no host:port"),
        ("127.0.0.1", "no host:port"),
        ("host:notaport", "no host:port"),
        ("http://127.0.0.1:8265", "the jobs API"),
        ("ray://127.0.0.1:10001", "Ray client"),
        ("127.0.0.1:1", "nobody answers at 127.0.0.1:1"),
    ],
)
def test_addresses_where_no_cluster_is_are_refused_at_once(address: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedphd_ray.errors import ResourceError  # noqa: PLC0415
    from fedphd_ray.runtime.on_ray.session import require_reachable  # noqa: PLC0415

    with pytest.raises(ResourceError, match=words):
        require_reachable(address)


def test_a_dead_address_is_one_message_of_every_command(config: Path, tmp_path: Path) -> None:
    for arguments in (
        ("run", config, "--set", "runtime.backend=ray", "--out", "out"),
        ("compare", config, "--strategies", "fedavg", "--set", "runtime.backend=ray", "--out", "out"),
    ):
        said = fedphd_process(*arguments, code=2, cwd=tmp_path, RAY_ADDRESS="127.0.0.1:1")
        assert "nobody answers at 127.0.0.1:1" in said
    assert "nobody answers" in fedphd_process("doctor", code=1, cwd=tmp_path, RAY_ADDRESS="127.0.0.1:1")
    assert not list(tmp_path.iterdir())


def test_compiling_without_a_compiler_is_refused_before_anything_is_written(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    said = fedphd(
        "run", config, "--set", "local.compile=true", "--set", "runtime.backend=local", "--out", tmp_path / "out", code=2
    )
    assert "apt-get install g++" in said
    assert not (tmp_path / "out").exists()


def test_the_picture_has_the_counts_of_every_client_and_class() -> None:
    counts = np.arange(12).reshape(4, 3)
    grid, bars = (part["data"]["values"] for part in figure(counts, "who").to_dict()["hconcat"])
    assert {(one["client"], one["class"]): one["images"] for one in grid} == {
        (client, label): counts[client, label] for client in range(4) for label in range(3) if client or label
    }
    assert {one["client"]: one["images"] for one in bars} == dict(enumerate(counts.sum(axis=1)))
    many = figure(np.ones((5000, 2), int), "many").to_dict()
    assert len(many["hconcat"][1]["data"]["values"]) == 400
    assert "400 of 5,000 clients, 10,000 images" in many["title"]["subtitle"]


def test_plan_draws_who_holds_what(config: Path, tmp_path: Path) -> None:
    for name in ("deeper/holds.png", "holds.svg"):
        assert name in fedphd("plan", config, "--picture", tmp_path / name)
    with Image.open(tmp_path / "deeper/holds.png") as picture:
        assert min(picture.size) > 500
    assert "1,797 images" in (tmp_path / "holds.svg").read_text()
    assert ".png or .svg" in fedphd("plan", config, "--picture", tmp_path / "holds.pdf", code=2)


@pytest.mark.parametrize("command", ["plan", "run", "compare"])
def test_data_that_cannot_be_read_is_one_message(command: str, config: Path, tmp_path: Path) -> None:
    more = {"run": ["--out", tmp_path / "run"], "compare": ["--strategies", "fedavg", "--out", tmp_path / "run"]}.get(command, [])
    for name, path in (("cifar10", tmp_path), ("parquet", tmp_path / "none.parquet"), ("image_folder", Path("/dev/null"))):
        data = f"data={{name: {name}, path: '{path}', num_clients: 6}}"
        message = fedphd(command, config, "--set", data, *more, code=2)
        assert str(path) in message
        assert "expected: " in message
    assert not (tmp_path / "run").exists()
