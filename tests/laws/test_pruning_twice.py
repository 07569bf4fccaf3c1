"""Two prunings in one run: every size is the forecast's, wherever it runs, and from wherever it goes on."""

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from federations import Outcome, Recorder, federate, method, tiny
from processes import fedphd_in_process

from fedphd_ray.config import Config
from fedphd_ray.errors import ConfigError, PruningError
from fedphd_ray.federation.prune import pruned_shapes
from fedphd_ray.foresight.forecast import forecast
from fedphd_ray.runtime.directory.run_directory import Summary
from fedphd_ray.runtime.driver import run as runs
from fedphd_ray.runtime.on_ray.actor_pool import ActorPool
from fedphd_ray.runtime.on_ray.backend import RayBackend
from fedphd_ray.runtime.policy.placement import Placement

TWICE = {"round": 2, "ratio": 0.25, "again": [{"round": 4, "ratio": 0.34}]}
WIDE = {"widths": [32, 48], "groups": 4}


def twice(**sections: object) -> Config:
    """Kept moments and a moving average are cut twice, too; the second pruning takes the middle of a cycle."""
    given: dict[str, object] = {
        "model": WIDE,
        "schedule": {"rounds": 6},
        "hierarchy": {"cloud_period": 3},
        "pruning": TWICE,
        "server": {"ema_decay": 0.5},
    }
    return method("fedphd with kept moments", **(given | sections))


@cache
def in_one_process() -> Outcome:
    return federate(twice())


def test_every_size_is_as_planned() -> None:
    experiment, outcome = twice().build(), in_one_process()
    cost = forecast(experiment)
    assert [record.version for record in outcome.records] == [0, 1, 1, 2, 2, 2]
    first, second = pruned_shapes(experiment.spec, 0.25, 0.34)
    sizes = [sum(int(np.prod(shape)) for shape in left.by_name.values()) for left in (first, second)]
    assert cost.dense.params > sizes[0] > sizes[1] == cost.pruned.params == outcome.state.delivered.layout.num_params
    assert {row.num_params for row in outcome.transfers if row.kind == "model"} == {cost.dense.params, *sizes}
    moved: dict[str, int] = {}
    for row in outcome.transfers:
        moved[str(row.hop)] = moved.get(str(row.hop), 0) + row.num_bytes
    assert cost.bytes_by_hop == moved
    state = outcome.state
    assert state.plan is not None
    assert (state.plan.version, state.pruned_round) == (2, 4)
    assert state.plan.effective_ratio == second.effective_ratio == cost.effective_ratio
    assert {row.version for row in outcome.transfers if row.kind == "plan"} == {1, 2}


@pytest.mark.ray
@pytest.mark.parametrize("placement", [Placement(2, False, ""), Placement(6, True, "")], ids=["pooled", "dedicated"])
def test_it_has_the_same_bits_everywhere(placement: Placement, actor_pool: ActorPool) -> None:
    chosen = twice()
    backend = RayBackend(chosen.build().host_setup(), placement, chosen.runtime, actor_pool)
    assert federate(chosen, backend).sha256 == in_one_process().sha256


def test_the_commands_know_of_it(tmp_path: Path) -> None:
    """Run, stopped after the first pruning; resumed through the second; sampled from."""
    config = twice(checkpoint={"every": 1, "keep": 1}, evaluation={"every": 6, "num_samples": 8, "steps": 2}, seed=3)
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    said = " ".join(fedphd_in_process("plan", path).split())
    assert "pruned after round 2 (25.0 % of the channels), then after round 4 (34.0 % of the rest)" in said
    fedphd_in_process("run", path, "--out", tmp_path / "run", "--set", "schedule.rounds=5")
    said = fedphd_in_process("sample", tmp_path / "run/model", "--num", 4, "--steps", 2, "--out", tmp_path / "samples.png")
    assert "4 images" in said

    summary = Summary.read(tmp_path / "run")
    assert summary is not None
    macs = summary.macs_by_version
    assert macs[0] == summary.macs_dense > macs[1] > macs[2] == summary.macs_final


@pytest.mark.parametrize(
    ("pruning", "found"),
    [
        ({"mode": "none", "round": None, "again": [{"round": 3, "ratio": 0.5}]}, "1 of them"),
        ({"round": 2, "again": [{"round": 2, "ratio": 0.5}]}, "2, 2"),
        ({"round": 2, "again": [{"round": 4, "ratio": 0.5}]}, "2, 4"),
        ({"mode": "at_init", "round": None, "again": [{"round": 3, "ratio": 0.5}, {"round": 1, "ratio": 0.5}]}, "0, 3, 1"),
    ],
)
def test_prunings_in_another_order_are_refused(pruning: dict[str, object], found: str) -> None:
    with pytest.raises(ConfigError, match=r"pruning\.again") as refused:
        tiny(pruning=pruning)
    assert found in str(refused.value)


def test_a_second_pruning_that_leaves_nothing_is_refused_before_anything_starts() -> None:
    with pytest.raises(PruningError, match=r"pruning\.ratio"):
        twice(pruning={**TWICE, "again": [{"round": 4, "ratio": 0.9}]}).build()


def test_it_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    config = twice(checkpoint={"every": 1, "keep": 9})
    runs.run(config.build(), tmp_path, Recorder())
    for after in (5, 3, 1):  # each goes on from an earlier checkpoint, through one pruning or two
        for later in range(after + 1, 7):
            shutil.rmtree(tmp_path / f"checkpoints/round-{later:06d}")
        (tmp_path / "summary.json").unlink()
        assert runs.resume(config.build(), tmp_path, Recorder()).model_sha256 == in_one_process().sha256
