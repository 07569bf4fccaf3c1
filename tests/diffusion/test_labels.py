"""Class-conditional networks: labels go with their images, guidance is its formula, and stock diffusers draws the same."""

from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from federations import Recorder, tiny
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedphd_ray.diffusion.labels import Guided, blank_labels, in_proportion
from fedphd_ray.diffusion.process import NoiseProcess, ProcessConfig
from fedphd_ray.diffusion.sampling import sample_chunk
from fedphd_ray.diffusion.unet import UNetConfig, UNetSpec, build_unet, initial_state, load_unet
from fedphd_ray.errors import ConfigError, ModelFileError
from fedphd_ray.federation.flat_model import FlatModel
from fedphd_ray.federation.local_config import LocalConfig
from fedphd_ray.federation.training.batches import Examples, batches
from fedphd_ray.federation.training.local_training import LocalTrainer
from fedphd_ray.generate import generate
from fedphd_ray.pruning.groups import CLASS_TABLE, channel_groups
from fedphd_ray.pruning.importance import SparsityPenalty, group_l2_importance
from fedphd_ray.records import LocalOrder
from fedphd_ray.runtime.driver.run import run
from fedphd_ray.strategies import FedAvg, Scaffold

CONFIG = UNetConfig(widths=(16, 32), attention=(False, True), groups=4, class_conditional=True)
SPEC = UNetSpec(CONFIG, 8, 1, num_classes=3)


def network(spec: UNetSpec = SPEC) -> UNet2DModel:
    unet = build_unet(spec)
    unet.load_state_dict(initial_state(spec, 0))
    return unet


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12).filter(any), st.integers(1, 200))
def test_classes_are_asked_for_in_proportion(counts: list[int], num: int) -> None:
    labels = in_proportion(counts, num)
    assert len(labels) == num
    for label, count in enumerate(counts):
        assert abs(labels.count(label) - num * count / sum(counts)) < 1
    assert in_proportion([5, 5, 5], 6) == [0, 1, 2, 0, 1, 2]


@given(st.integers(1, 9), st.integers(1, 4), st.booleans(), st.floats(0, 1), st.integers(0, 9))
def test_labels_go_with_their_images(num: int, size: int, by_steps: bool, dropout: float, seed: int) -> None:
    """Each image says its label in its pixels."""
    labels = torch.arange(num) % 3
    images = labels.float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    config = LocalConfig(batch_size=size, steps=3 if by_steps else None, horizontal_flip=True, label_dropout=dropout)
    dropped = total = 0
    for batch in batches(Examples(images, labels), config, 3, torch.Generator().manual_seed(seed)):
        for piece in batch.split(2):
            assert piece.labels is not None
            said = piece.images[:, 0, 0, 0]
            assert bool(((piece.labels == said) | (piece.labels == 3)).all())
            dropped, total = dropped + int((piece.labels == 3).sum()), total + len(piece)
    assert total == (3 * size if by_steps else num)
    assert dropped == {0.0: 0, 1.0: total}.get(dropout, dropped)


def test_as_many_labels_are_dropped_as_asked_for() -> None:
    config = LocalConfig(batch_size=2000, label_dropout=0.3)
    (batch,) = batches(Examples(torch.zeros(2000, 1, 1, 1), torch.zeros(2000, dtype=torch.int64)), config, 1, torch.Generator())
    assert batch.labels is not None
    assert 0.25 < float(batch.labels.double().mean()) < 0.35


@pytest.mark.parametrize("strategy", [FedAvg(), Scaffold(option="full_gradient")], ids=["fedavg", "full gradient"])
@pytest.mark.parametrize(("dropout", "learnt"), [(0.0, [True, True, False, False]), (1.0, [False, False, False, True])])
def test_training_moves_the_classes_that_it_is_told(strategy: FedAvg | Scaffold, dropout: float, learnt: list[bool]) -> None:
    """The client has classes 0 and 1; row 3 of the table means none."""
    model, process = FlatModel(network()), NoiseProcess(ProcessConfig())
    config = LocalConfig(batch_size=4, steps=2, label_dropout=dropout, optimizer="sgd", micro_batch=3, clip_norm=None)
    trainer = LocalTrainer(config, strategy, process.loss, SparsityPenalty("channel"), 0, process.pieces, num_classes=3)
    before = model.layout.views(model.vector.clone())[CLASS_TABLE]
    zeros = torch.zeros_like(model.vector)
    result = trainer.train(
        model,
        torch.linspace(-1, 1, 6 * 64).view(6, 1, 8, 8),
        LocalOrder(round=1, edge=0, learning_rate_scale=1.0, sparsity=0.0),
        client=0,
        received=model.vector.clone(),
        version=0,
        beside=dict.fromkeys(strategy.server_sends, zeros),
        labels=torch.tensor([0, 1, 0, 1, 0, 1]),
    )
    moved = (model.layout.views(model.vector)[CLASS_TABLE] != before).any(1).tolist()
    assert moved == learnt
    for variate in result.beside.values():  # the gradient of all of a client's data is taken with its labels
        assert (model.layout.views(variate)[CLASS_TABLE] != 0).any(1).tolist() == [True, True, False, False]


def test_pieces_of_a_batch_keep_their_labels() -> None:
    vectors = []
    for micro_batch in (None, 3):
        model, process = FlatModel(network().double()), NoiseProcess(ProcessConfig())
        config = LocalConfig(batch_size=8, steps=2, micro_batch=micro_batch, optimizer="sgd", learning_rate=0.1)
        trainer = LocalTrainer(config, FedAvg(), process.loss, SparsityPenalty("channel"), 0, process.pieces, num_classes=3)
        order = LocalOrder(round=1, edge=0, learning_rate_scale=1.0, sparsity=0.0)
        images, labels = torch.linspace(-1, 1, 8 * 64, dtype=torch.float64).view(8, 1, 8, 8), torch.arange(8) % 3
        trainer.train(model, images, order, client=0, received=model.vector.clone(), version=0, labels=labels)
        vectors.append(model.vector.clone())
    assert (vectors[0] - vectors[1]).abs().max() < 1e-7


def test_guidance_is_its_formula() -> None:
    unet, noisy, t = network().eval(), torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(4) * 100
    labels = torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        led, blank = unet(noisy, t, labels).sample, unet(noisy, t, *blank_labels(unet, 4)).sample
        assert not torch.allclose(led, blank, atol=1e-3)
        for guidance in (0.0, 0.5, 1.0, 3.0):
            expected = blank + guidance * (led - blank)
            assert torch.allclose(Guided(unet, labels, guidance)(noisy, t).sample, expected, atol=1e-6)


def by_stock_diffusers(directory: Path, noise: Tensor, labels: Tensor, guidance: float, steps: int) -> Tensor:
    """What a user of diffusers writes."""
    unet = UNet2DModel.from_pretrained(directory / "unet", low_cpu_mem_usage=False)
    scheduler = DDIMScheduler.from_pretrained(directory / "scheduler")
    scheduler.set_timesteps(steps)
    none, x = torch.full_like(labels, unet.config.num_class_embeds - 1), noise
    with torch.no_grad():
        for t in scheduler.timesteps:
            blank = unet(x, t, class_labels=none).sample
            led = blank + guidance * (unet(x, t, class_labels=labels).sample - blank)
            x = scheduler.step(led, t, x, use_clipped_model_output=True).prev_sample
    return (x / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("pruning", [{"mode": "none", "round": None}, {"mode": "at_init", "round": None, "ratio": 0.25}], ids=str)
def test_stock_diffusers_draws_the_same_images(pruning: dict[str, object], tmp_path: Path) -> None:
    model = {"class_conditional": True, "widths": [32, 64], "groups": 8}
    config = tiny(model=model, pruning=pruning, schedule={"rounds": 2})
    summary = run(config.build(), tmp_path, Recorder())
    assert summary.stock_export.startswith("opens with diffusers.UNet2DModel")
    noise = torch.randn((3, 3, 8, 8), generator=torch.Generator().manual_seed(5))
    labels, process = [7, 0, 9], NoiseProcess(config.process)
    for directory in (tmp_path, tmp_path / "model" / "unet"):
        unet = load_unet(directory)
        ours = sample_chunk(unet, process, (3, 8, 8), 3, 10, torch.Generator().manual_seed(5), labels, 2.0)
        theirs = by_stock_diffusers(tmp_path / "model", noise, torch.tensor(labels), 2.0, 10)
        assert (ours - theirs).abs().max() < 1e-4
    others = generate(tmp_path, 3, 0, 5, print, classes=[1]), generate(tmp_path, 3, 0, 5, print, classes=[2])
    assert not torch.equal(*others)
    assert torch.equal(generate(tmp_path, 3, 0, 5, print), generate(tmp_path, 3, 0, 5, print, classes=range(10)))
    with pytest.raises(ModelFileError, match="classes from 0 to 9"):
        generate(tmp_path, 3, 0, 5, print, classes=[10])


def test_classes_say_nothing_of_channels() -> None:
    """The table is cut with its channels, and has no say in which: scores are those of the same network without classes."""
    told, untold = network(), network(UNetSpec(CONFIG.model_copy(update={"class_conditional": False}), 8, 1))
    untold.load_state_dict({name: value for name, value in told.state_dict().items() if name != CLASS_TABLE})
    groups = {"told": channel_groups(told, 8, 1), "untold": channel_groups(untold, 8, 1)}
    assert [group.name for group in groups["told"]] == [group.name for group in groups["untold"]]
    (with_table,) = (g for g in groups["told"] if CLASS_TABLE in {member.parameter for member in g.members})
    (member,) = (member for member in with_table.members if member.parameter == CLASS_TABLE)
    assert (member.dim, member.offset, with_table.num_channels) == (1, 0, 64)
    for first, second in zip(groups["told"], groups["untold"], strict=True):
        assert torch.equal(
            group_l2_importance(first, dict(told.state_dict())), group_l2_importance(second, dict(untold.state_dict()))
        )
    flat = FlatModel(told)
    assert len(flat.weights) == len(FlatModel(untold).weights)


def test_evaluation_asks_for_classes(tmp_path: Path) -> None:
    """As the data has them; and the figure is there for such models only."""
    for told in (True, False):
        recorder = Recorder()
        config = tiny(model={"class_conditional": told}, evaluation={"every": 4, "num_samples": 20, "steps": 2})
        run(config.build(), tmp_path / str(told), recorder)
        assert recorder.qualities
        assert all((quality.asked_for is not None) == told for _, quality in recorder.qualities)


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.class_conditional\n.*moon looks inside"):
        tiny(strategy={"name": "moon"}, model={"class_conditional": True}, pruning={"mode": "none", "round": None})
    network(UNetSpec(CONFIG, 8, 3, num_classes=3)).save_pretrained(tmp_path / "three")
    with pytest.raises(ConfigError, match="11 class embeddings"):
        tiny(model={"widths": [16, 32], "pretrained": str(tmp_path / "three"), "class_conditional": True}).build()
    network(UNetSpec(CONFIG.model_copy(update={"class_conditional": False}), 8, 1)).save_pretrained(tmp_path / "none")
    with pytest.raises(ModelFileError, match="one without classes"):
        generate(tmp_path / "none", 2, 0, 2, lambda _: None, classes=[1])
