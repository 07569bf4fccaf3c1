"""Classes of the user's own in configurations: checked, run on Ray, written, resumed; refused where nobody vouches for them."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from federations import federate, method, sums_by_hop

from fedphd_ray.config import Config, load_config, parse_config
from fedphd_ray.errors import ConfigError
from fedphd_ray.foresight.forecast import forecast
from fedphd_ray.settings import plugins

EXAMPLES = Path(__file__).parents[2] / "examples"
OWN = {
    "strategy": {"name": "own_classes:Leash", "length": 0.2},
    "schedule": {"sampler": {"name": "own_classes:LargestFirst"}},
    "pruning": {"criterion": "own_classes:Loudest"},
    "communication": {"from_clients": {"codec": "own_classes:Signs", "error_feedback": True}},
    "data": {"partition": {"name": "own_classes:Zipf", "exponent": 0.5}},
    "evaluation": {"metrics": [{"name": "own_classes:Sharpness"}]},
}
NAMED = {f"own_classes:{name}" for name in ("Leash", "LargestFirst", "Loudest", "Signs", "Zipf", "Sharpness")}


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    importlib.invalidate_caches()
    yield
    sys.modules.pop("own_classes", None)


def own() -> Config:
    return method("fedavg", **OWN)


def test_they_are_sections_like_others() -> None:
    config = own()
    assert (type(config.strategy).__name__, config.strategy.name) == ("Leash", "own_classes:Leash")
    tree = json.loads(config.model_dump_json())
    assert tree["strategy"] == {"name": "own_classes:Leash", "normalise_steps": False, "length": 0.2}
    assert tree["schedule"]["sampler"]["name"] == "own_classes:LargestFirst"
    assert tree["communication"]["from_clients"] == {"codec": "own_classes:Signs", "error_feedback": True, "zstd": False}
    assert parse_config(tree) == config
    assert plugins.named_in(tree) == NAMED
    assert tree["data"]["partition"] == {"name": "own_classes:Zipf", "exponent": 0.5}
    assert tree["evaluation"]["metrics"] == [{"name": "own_classes:Sharpness"}]


def test_they_do_what_they_say() -> None:
    outcome = federate(own())
    sizes = own().build().client_rows.sizes
    assert list(sizes) == sorted(sizes, reverse=True)
    assert sizes[0] > 2 * sizes[-1]
    assert {row.codec for row in outcome.transfers if row.hop == "client_to_edge"} == {"signs", "bitmap"} - {"bitmap"}
    assert forecast(own().build()).bytes_by_hop == sums_by_hop(outcome)
    assert {tuple(plan.asked) for plan in outcome.plans} == {tuple(outcome.plans[0].asked)}  # always the same clients
    assert outcome.sha256 != federate(method("fedavg")).sha256


def fedphd(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedphd_ray", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": os.path.relpath(EXAMPLES)}  # workers have another folder: the code goes along
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_a_run_on_ray_and_its_directory(tmp_path: Path) -> None:
    """The same bits as in this process; a run directory that names them is opened only by who trusts them."""
    (tmp_path / "own.yaml").write_text(own().to_yaml())
    keys = ("runtime.backend=ray", "runtime.hosts=2", "checkpoint.every=2", "evaluation.every=2", "evaluation.num_samples=20")
    settings = [part for key in keys for part in ("--set", key)]
    done = fedphd("run", tmp_path / "own.yaml", "--out", tmp_path / "run", "--quiet", *settings)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["model_sha256"] == federate(own()).sha256
    assert summary["strategy"] == "own_classes:Leash"
    assert summary["metrics"]["sharpness"] > 0
    assert 0 <= summary["metrics"]["commonest_class"] <= 9
    refused = fedphd("resume", tmp_path / "run")
    assert refused.returncode == 2
    assert "code that you trust" in refused.stderr
    assert "--trust own_classes:" in refused.stderr
    again = fedphd("resume", tmp_path / "run", "--quiet", *(part for name in sorted(NAMED) for part in ("--trust", name)))
    assert again.returncode == 0, again.stderr
    assert fedphd("sample", tmp_path / "run", "--num", "2", "--out", tmp_path / "s.png").returncode == 0
    judged = fedphd("evaluate", tmp_path / "run", "--num-samples", "8", "--steps", "2")
    assert (judged.returncode, "sharpness" in judged.stdout) == (0, False), judged.stderr
    assert "names a metric to import, own_classes:Sharpness: it is left out" in judged.stdout + judged.stderr
    judged = fedphd("evaluate", tmp_path / "run", "--num-samples", "8", "--steps", "2", "--trust", "own_classes:Sharpness")
    assert (judged.returncode, "sharpness" in judged.stdout) == (0, True), judged.stderr


def test_the_example_is_a_configuration() -> None:
    config = load_config(EXAMPLES / "own_classes.yaml")
    assert plugins.named_in(config.settings()) == NAMED


def test_nothing_is_imported_that_nobody_trusts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even looked for: the module would leave a file."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'was_here')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    tree = json.loads(own().model_dump_json())
    with pytest.raises(ConfigError, match="code that you trust"):
        parse_config(tree | {"strategy": {"name": "evil:Anything"}}, trusted=NAMED)
    assert not (tmp_path / "was_here").exists()
    assert parse_config(tree, trusted=NAMED) == own()
    with pytest.raises(ConfigError, match="derived from"):
        parse_config(tree | {"strategy": {"name": "evil:tmp"}} | {"strategy": {"name": "os:getcwd"}})


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ({"name": "own_classes:Leash", "lenght": 1}, ["strategy.lenght", "a key of strategy: length", "did you mean length?"]),
        ({"name": "own_classes:Leash", "length": "far"}, ["strategy.length", "a number"]),
        ({"name": "own_classes:Nobody"}, ["strategy.name", "Nobody"]),
        ({"name": "no_such_module:Leash"}, ["strategy.name", "No module named", "PYTHONPATH"]),
        ({"name": "own_classes:LargestFirst"}, ["derived from fedphd_ray.strategies.base:Strategy"]),
        ({"name": ":"}, ["strategy.name", "can be imported"]),
        ({"name": "own_classes:"}, ["strategy.name"]),
    ],
)
def test_what_cannot_be_is_said(strategy: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as refusal:
        method("fedavg", strategy=strategy)
    for word in words:
        assert word in str(refusal.value)


def test_an_entry_point_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever installed it trusts it: also where a run directory names it."""
    entry = EntryPoint("leash", "own_classes:Leash", plugins.GROUP)
    monkeypatch.setattr(plugins, "_installed", lambda: {"leash": entry})
    config = parse_config(json.loads(method("fedavg", strategy={"name": "leash", "length": 0.3}).model_dump_json()), trusted=())
    assert type(config.strategy).__name__ == "Leash"
    assert json.loads(config.model_dump_json())["strategy"] == {"name": "leash", "normalise_steps": False, "length": 0.3}
