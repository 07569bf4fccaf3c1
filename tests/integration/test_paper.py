"""The paper's experiments, as their examples have them, with files of the same format that are made here."""

from pathlib import Path

import numpy as np
import pytest
from federations import federate
from made_files import cifar_records, idx, png

from fedphd_ray.config import load_config
from fedphd_ray.foresight.forecast import forecast

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def cifar(root: Path, num: int) -> Path:
    """Random pictures, ten classes in turn."""
    images = np.random.default_rng(0).integers(0, 256, (num, 3, 32, 32), np.uint8)
    (root / "data_batch_1.bin").write_bytes(cifar_records(images, np.arange(num) % 10))
    return root


def celeba(root: Path, num: int) -> Path:
    (root / "img_align_celeba").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (num, 3, 218, 178), np.uint8)
    attributes, parts = [str(num), "Male Young"], []
    for row in range(num):
        name = f"{row:06d}.jpg"
        (root / "img_align_celeba" / name).write_bytes(png(pixels[row]))
        attributes.append(f"{name} {['-1', '1'][row % 4 // 2]} {['-1', '1'][row % 2]}")
        parts.append(f"{name} {row % 3 if row % 3 else 0}")
    (root / "list_attr_celeba.txt").write_text("\n".join(attributes))
    (root / "list_eval_partition.txt").write_text("\n".join(parts))
    return root


def test_the_plan_of_cifar_has_the_papers_figures(tmp_path: Path) -> None:
    cost = forecast(
        load_config(EXAMPLES / "paper_cifar10.yaml", [f"data.path={cifar(tmp_path, 200)}", "schedule.rounds=250"]).build()
    )
    assert (cost.dense.params, cost.pruned.params) == (35_746_307, 20_131_203)
    assert (cost.dense.macs, cost.pruned.macs) == (6_064_135_040, 3_414_325_152)


@pytest.mark.parametrize(
    ("overrides", "params", "macs"),
    [
        ([], (35_746_307, 20_131_203), (24_247_852_928, 13_652_370_336)),
        (
            ["model.widths=[128, 256, 256, 256, 512]", "model.attention=[false, false, true, false, false]"],
            (78_700_803, 44_298_435),
            (23_921_622_912, 13_468_548_000),
        ),
    ],
)
def test_the_plan_of_celeba_has_the_papers_figures(
    overrides: list[str], params: tuple[int, int], macs: tuple[int, int], tmp_path: Path
) -> None:
    overrides = [*overrides, f"data.path={celeba(tmp_path, 90)}", "schedule.rounds=10"]
    experiment = load_config(EXAMPLES / "paper_celeba.yaml", overrides).build()
    assert experiment.dataset.images.shape == (30, 3, 64, 64)
    cost = forecast(experiment)
    assert (cost.dense.params, cost.pruned.params) == params
    assert (cost.dense.macs, cost.pruned.macs) == macs


@pytest.mark.parametrize(
    ("mode", "down", "up"), [("full", 1.0, 1.0), ("usplit", 1.0, 0.5), ("ulatdec", 0.754, 0.754), ("udec", 0.583, 0.583)]
)
def test_the_plan_of_feddiffuse_on_fashion_mnist(mode: str, down: float, up: float, tmp_path: Path) -> None:
    """The network's size, and what all clients receive and send in 15 rounds, as shares of whole models."""
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((300, 28, 28), np.uint8)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx((np.arange(300) % 10).astype(np.uint8)))
    overrides = [f"data.path={tmp_path}", f"strategy.mode={mode}"]
    cost = forecast(load_config(EXAMPLES / "feddiffuse_fashion_mnist.yaml", overrides).build())
    assert cost.dense.params == 3_098_929
    received, sent = (cost.bytes_by_hop[hop] / (4 * 3_098_929) for hop in ("cloud_to_client", "client_to_cloud"))
    assert received == pytest.approx(5 + 14 * 5 * down, rel=2e-3)  # everybody's first download is the whole model
    assert sent == pytest.approx(15 * 5 * up, rel=0.07 if mode == "usplit" else 2e-3)  # of five, two pairs and one with two parts


@pytest.mark.slow
def test_a_round_of_cifar_is_trained_dense_and_pruned(tmp_path: Path) -> None:
    """The whole network on a CPU, two rounds: a model is 142,985,228 bytes on a link, and 80,524,812 after the pruning."""
    overrides = [f"data.path={cifar(tmp_path, 40)}", "schedule.rounds=2", "pruning.round=1", "hierarchy.cloud_period=1"]
    overrides += ["evaluation.every=0", "checkpoint.every=0", "runtime={backend: local}", "local.batch_size=2", "local.steps=1"]
    outcome = federate(load_config(EXAMPLES / "paper_cifar10.yaml", [*overrides, "schedule.clients_per_round=2"]))
    assert outcome.state.model.layout.num_params == 20_131_203
    sizes = {(row.round, row.num_bytes) for row in outcome.transfers if row.kind == "model"}
    assert sizes == {(1, 142_985_228), (2, 80_524_812)}
    assert all(np.isfinite(record.loss) for record in outcome.records)
