"""`fedphd compare` and a method from outside the package, as people use them."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from federations import TINY

from fedphd_ray.errors import ConfigError, UserError
from fedphd_ray.experiments import comparison
from fedphd_ray.experiments.contenders import contenders
from fedphd_ray.report.comparison import write_comparison
from fedphd_ray.report.progress import ConsoleProgress

EXAMPLE = Path(__file__).parents[2] / "examples/custom_strategy.py"
METHODS = "fedphd,fedphd-os,fedavg,scaffold,feddiffuse-usplit"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    quick = {"evaluation": {"every": 2, "num_samples": 12, "steps": 2, "chunk_size": 12}, "checkpoint": {"every": 2}}
    path.write_text(yaml.safe_dump(TINY | quick))
    return path


def compared(config: Path, out: Path, methods: str = METHODS, seeds: int = 2) -> tuple[list[comparison.Entry], list[str]]:
    from rich.console import Console  # noqa: PLC0415

    said: list[str] = []
    runs = comparison.planned(config, [], contenders(methods), seeds)
    console = Console(quiet=True)
    entries = comparison.compare(runs, out, lambda title, chosen: ConsoleProgress(console, 4, title), said.append)
    return entries, said


def test_one_table_and_one_picture(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    entries, said = compared(config, out)
    assert len(entries) == 10
    assert comparison.equal_work(entries)
    report = write_comparison(entries, out, "title", "command")
    rows = {row.label: row for row in comparison.rows(entries)}
    assert list(rows) == METHODS.split(",")
    assert all(f"| {label} |" in report for label in rows)
    assert "same local steps" in report
    assert rows["scaffold"].cloud_bytes == 2 * rows["fedavg"].cloud_bytes
    assert rows["feddiffuse-usplit"].cloud_bytes == 0.75 * rows["fedavg"].cloud_bytes
    assert rows["fedphd-os"].macs < rows["fedphd"].macs < rows["fedavg"].macs
    assert rows["fedphd-os"].params == rows["fedphd"].params < rows["fedavg"].params
    with (out / "comparison.csv").open() as file:
        assert [line["label"] for line in csv.DictReader(file)] == list(rows)
    assert (out / "comparison.svg").read_text().startswith("<svg")
    assert (out / "comparison.png").stat().st_size > 10_000
    # What is finished is not run again, and gives the same table.
    again, said = compared(config, out)
    assert again == entries
    assert all("finished before" in line for line in said)


def test_a_stopped_comparison_goes_on(config: Path, tmp_path: Path) -> None:
    whole, _ = compared(config, tmp_path / "whole", "fedavg", seeds=1)
    compared(config, tmp_path / "cut", "fedavg", seeds=1)
    run = tmp_path / "cut/fedavg/seed-7"
    (run / "summary.json").unlink()
    (run / "checkpoints/round-000004/state.json").write_text("{}")
    entries, said = compared(config, tmp_path / "cut", "fedavg", seeds=1)
    assert any("resumed after round 2" in line for line in said)
    assert entries[0].summary.model_sha256 == whole[0].summary.model_sha256
    # It may also have died before its first checkpoint, or these may be lost: rounds are not forgotten unasked.
    (run / "summary.json").unlink()
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match="--restart"):
        compared(config, tmp_path / "cut", "fedavg", seeds=1)
    shutil.rmtree(run)
    entries, said = compared(config, tmp_path / "cut", "fedavg", seeds=1)
    assert entries[0].local_steps == whole[0].local_steps
    assert entries[0].summary.bytes_by_hop == whole[0].summary.bytes_by_hop


def test_another_configuration_in_the_same_place_is_refused(config: Path, tmp_path: Path) -> None:
    compared(config, tmp_path / "out", "fedavg", seeds=1)
    config.write_text(config.read_text().replace("learning_rate: 0.001", "learning_rate: 0.002"))
    with pytest.raises(ConfigError, match="another directory"):
        compared(config, tmp_path / "out", "fedavg", seeds=1)


def test_methods_take_overrides(config: Path) -> None:
    chosen = contenders("fedprox:strategy.mu=1,moon")
    (prox, first), (_, second) = comparison.planned(config, ["seed=3"], chosen, 1)
    assert prox.label == "fedprox:strategy.mu=1"
    assert first.strategy.model_dump() == {"name": "fedprox", "normalise_steps": False, "mu": 1.0}
    assert (first.seed, second.seed, second.pruning.mode, second.hierarchy.num_edges) == (3, 3, "none", 0)


def test_flat_dense_contenders_of_a_deep_tree_that_is_pruned_twice(config: Path) -> None:
    tree = "hierarchy={tiers: [{name: edge, nodes: 2}, {name: region, nodes: 1, period: 2}]}"
    settings = [tree, "pruning={mode: prune, round: 1, ratio: 0.25, again: [{round: 2, ratio: 0.25}]}", "schedule.rounds=3"]
    chosen = comparison.planned(config, settings, contenders("fedphd,fedphd-os,fedavg"), 1)
    (_, fedphd), (_, once), (_, flat) = chosen
    assert (len(fedphd.hierarchy.tiers or ()), fedphd.pruning.moments, once.pruning.moments) == (2, (1, 2), (0,))
    assert (flat.hierarchy.tiers, flat.hierarchy.num_edges, flat.pruning.moments) == (None, 0, ())


def test_runs_that_share_a_checkpoint_path_do_not_mix(config: Path, tmp_path: Path) -> None:
    tree = yaml.safe_load(config.read_text())
    tree["checkpoint"]["path"] = str(tmp_path / "place")
    config.write_text(yaml.safe_dump(tree))
    entries, _ = compared(config, tmp_path / "out", "fedavg,fedprox", seeds=1)
    assert len({entry.summary.model_sha256 for entry in entries}) == 2
    assert (
        sorted(path.parent.parent.parent.name for path in (tmp_path / "place").glob("*/*/*/state.json"))
        == ["fedavg"] * 2 + ["fedprox"] * 2
    )


def test_every_method_is_looked_at_before_the_first_is_trained(config: Path, tmp_path: Path) -> None:
    chosen = contenders("fedavg,fedphd:pruning.ratio=0.8")
    with pytest.raises(UserError, match=r"pruning\.ratio"):
        comparison.compare(comparison.planned(config, [], chosen, 1), tmp_path / "out", lambda *_: None, print)
    assert not (tmp_path / "out").exists()


def test_books_of_a_finished_run_are_looked_at(config: Path, tmp_path: Path) -> None:
    compared(config, tmp_path / "out", "fedavg", seeds=1)
    metrics = tmp_path / "out/fedavg/seed-7/metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:3]))
    with pytest.raises(UserError, match=r"the metrics\.jsonl and quality\.jsonl that the run finished with"):
        compared(config, tmp_path / "out", "fedavg", seeds=1)
    metrics.with_name("quality.jsonl").unlink()
    metrics.with_name("quality.jsonl").mkdir()
    with pytest.raises(UserError, match=r"quality\.jsonl.*\n.*\n.*a directory, not a file"):
        compared(config, tmp_path / "out", "fedavg", seeds=1)


def test_overrides_may_hold_commas_and_colons() -> None:
    first, second = contenders("fedphd:communication={to_clients: int8, from_clients: int4}:seed=3,moon")
    assert first.overrides[-2:] == ("communication={to_clients: int8, from_clients: int4}", "seed=3")
    assert second.label == "moon"


@pytest.mark.parametrize("names", ["fedprox2", "fedavg,fedavg", ""])
def test_wrong_names_are_refused(names: str) -> None:
    with pytest.raises(ConfigError, match="--strategies"):
        contenders(names)


def test_a_strategy_from_outside(config: Path, tmp_path: Path) -> None:
    """The example runs as it stands, is short, and does something: its model is not FedAvg's."""
    assert len(EXAMPLE.read_text().splitlines()) < 40
    done = subprocess.run(
        [sys.executable, EXAMPLE, config, tmp_path / "own", "evaluation.every=0"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    digest = json.loads((tmp_path / "own/summary.json").read_text())["model_sha256"]
    entries, _ = compared(config, tmp_path / "out", "hierfavg:pruning.mode=sparse_then_prune:pruning.round=2", seeds=1)
    assert entries[0].summary.model_sha256 != digest
