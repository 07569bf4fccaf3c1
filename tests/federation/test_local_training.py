"""Local training against plain PyTorch, and its promises about randomness and kept state."""

import pytest
import torch
from torch import Tensor, nn

from fedphd_ray.diffusion.process import NoiseProcess, ProcessConfig
from fedphd_ray.diffusion.unet import UNetConfig, UNetSpec, build_unet, initial_state
from fedphd_ray.federation.flat_model import FlatModel
from fedphd_ray.federation.local_config import LocalConfig
from fedphd_ray.federation.training.local_training import LocalTrainer
from fedphd_ray.pruning.importance import SparsityPenalty
from fedphd_ray.records import LocalOrder
from fedphd_ray.seeds import Purpose, torch_generator
from fedphd_ray.strategies import FedAvg

ORDER = LocalOrder(round=3, edge=0, learning_rate_scale=1.0, sparsity=0.0)
IMAGES = torch.linspace(-1, 1, 10 * 4).view(10, 1, 2, 2)


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.SiLU(), nn.Dropout(0.2), nn.Linear(8, 4))


def loss(denoiser: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(len(images), 4, generator=generator)
    return ((denoiser(images) - noise) ** 2).mean()


def train(module: nn.Module, config: LocalConfig, order: LocalOrder = ORDER, client: int = 7, seed: int = 1, state=None):
    model = FlatModel(module)
    trainer = LocalTrainer(config, FedAvg(), loss, SparsityPenalty("channel"), seed)
    received = model.vector.clone()
    result = trainer.train(model, IMAGES, order, client=client, received=received, version=0, state=state)
    assert torch.equal(result.update.vector, model.vector - received)
    return model.vector.clone(), result


CONFIG = LocalConfig(epochs=2, batch_size=4, learning_rate=1e-2, clip_norm=0.5)


def test_equals_plain_pytorch() -> None:
    """The same batches, noise, clipping and Adam written with torch's own tools on separate parameters."""
    reference = net()
    optimizer = torch.optim.Adam(reference.parameters(), lr=1e-2)
    generator = torch_generator(1, Purpose.LOCAL_TRAINING, 3, 7)
    for module in reference.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for _ in range(2):
        for batch in torch.randperm(10, generator=generator).split(4):
            optimizer.zero_grad()
            loss(reference, IMAGES[batch], generator).backward()
            nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
            optimizer.step()
    module = net()
    module[3].p = 0.0
    vector, result = train(module, CONFIG)
    assert result.num_steps == 6
    expected = torch.cat([parameter.detach().reshape(-1) for parameter in reference.parameters()])
    assert torch.allclose(vector, expected, atol=1e-6)


def test_the_same_client_trains_to_the_same_bits_and_another_key_to_others() -> None:
    first, _ = train(net(), CONFIG)
    torch.rand(5, generator=torch.Generator().manual_seed(9))
    assert torch.equal(first, train(net(), CONFIG)[0])
    assert not torch.equal(first, train(net(), CONFIG, client=8)[0])
    assert not torch.equal(first, train(net(), CONFIG, seed=2)[0])
    assert not torch.equal(first, train(net(), CONFIG, LocalOrder(4, 0, 1.0, 0.0))[0])


def test_steps_instead_of_epochs() -> None:
    """Batches of full size, whatever the client has; none at all leaves the model as it is, and is no failure."""
    start = FlatModel(net()).vector
    _, three = train(net(), CONFIG.model_copy(update={"steps": 3, "batch_size": 16}))
    assert (three.num_steps, three.num_images) == (3, 48)
    vector, none = train(net(), CONFIG.model_copy(update={"steps": 0}))
    assert (none.num_steps, none.num_images, none.loss) == (0, 0, 0.0)
    assert torch.equal(vector, start)
    _, epochs = train(net(), CONFIG)
    assert (epochs.num_steps, epochs.num_images) == (6, 20)


def test_the_edge_is_not_part_of_the_key() -> None:
    assert torch.equal(train(net(), CONFIG)[0], train(net(), CONFIG, LocalOrder(3, 1, 1.0, 0.0))[0])


def test_warm_up_scales_the_step() -> None:
    start = FlatModel(net()).vector
    config = CONFIG.model_copy(update={"epochs": 1, "batch_size": 10})
    full, _ = train(net(), config)
    half, _ = train(net(), config, LocalOrder(3, 0, 0.5, 0.0))
    assert torch.allclose(half - start, 0.5 * (full - start), atol=1e-6)  # Adam's first step is linear in the rate
    assert [LocalConfig(warmup_rounds=4).learning_rate_scale(since) for since in (1, 2, 4, 9)] == [0.25, 0.5, 1.0, 1.0]
    assert LocalConfig().learning_rate_scale(1) == 1.0


def test_kept_moments_continue_where_they_were() -> None:
    """Two rounds with kept moments are one run of Adam; with fresh moments they are not."""
    config = CONFIG.model_copy(update={"optimizer_state": "per_client"})
    module = net()
    _, first = train(module, config)
    assert first.state is not None
    assert first.state.scalars == {"step": 6.0}
    kept, second = train(module, config, LocalOrder(4, 0, 1.0, 0.0), state=first.state)
    assert second.state is not None
    assert second.state.scalars == {"step": 12.0}
    fresh_module = net()
    train(fresh_module, CONFIG)
    fresh, fresh_result = train(fresh_module, CONFIG, LocalOrder(4, 0, 1.0, 0.0))
    assert fresh_result.state is None
    assert not torch.equal(kept, fresh)


def test_sparsity_pulls_weights_towards_zero() -> None:
    config = CONFIG.model_copy(update={"clip_norm": 1e6})
    dense, _ = train(net(), config)
    sparse, _ = train(net(), config, LocalOrder(3, 0, 1.0, 10.0))
    layout = FlatModel(net()).layout
    assert layout.views(sparse)["1.weight"].norm() < layout.views(dense)["1.weight"].norm()


def test_mixed_precision_keeps_parameters_and_moments_in_float32() -> None:
    """bfloat16 has 8 bits of mantissa: the network's output moves by about 1/256, and nothing that is kept is rounded to it."""
    full, _ = train(net(), CONFIG)
    mixed, result = train(net(), CONFIG.model_copy(update={"precision": "bfloat16", "optimizer_state": "per_client"}))
    assert torch.equal(mixed, train(net(), CONFIG.model_copy(update={"precision": "bfloat16"}))[0])
    assert mixed.dtype == result.update.vector.dtype == torch.float32
    assert not torch.equal(mixed, mixed.bfloat16().float())
    assert not torch.equal(mixed, full)
    assert torch.nn.functional.cosine_similarity(mixed, full, dim=0) > 0.99
    assert result.state is not None
    assert all(vector.dtype == "float32" for vector in result.state.vectors.values())


def test_flat_model_is_the_module() -> None:
    module = net().eval()  # no dropout: it would draw from the global generator
    model = FlatModel(module)
    model.vector.fill_(2.0)
    assert all(bool((parameter == 2.0).all()) for parameter in module.parameters())
    module(IMAGES).sum().backward()
    assert model.grad.abs().sum() > 0
    assert torch.equal(model.grad, torch.cat([parameter.grad.reshape(-1) for parameter in module.parameters()]))


def test_buffers_are_refused() -> None:
    with pytest.raises(AssertionError, match="buffers"):
        FlatModel(nn.BatchNorm2d(3))


def test_what_a_training_takes_is_counted_in_images() -> None:
    """It decides which host trains a client: never bits, but the length of a round."""
    assert LocalConfig(steps=3, batch_size=4, learning_rate=1e-3).images_through(100) == 12
    assert LocalConfig(epochs=2, batch_size=4, learning_rate=1e-3).images_through(100) == 200


@pytest.mark.parametrize("micro", [1, 3, 5, 8])
def test_pieces_of_a_batch_give_its_gradient(micro: int) -> None:
    """The same noise, hence the same steps up to rounding, whatever goes through the network at once; without dropout."""
    spec = UNetSpec(UNetConfig(widths=(16, 32), groups=4, attention=(False, True)), 8, 1)
    process = NoiseProcess(ProcessConfig())
    images = torch.rand(14, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    results = []
    for size in (None, micro):
        unet = build_unet(spec)
        unet.load_state_dict(initial_state(spec, 0))
        model = FlatModel(unet)
        config = LocalConfig(epochs=1, batch_size=8, micro_batch=size, optimizer="sgd", learning_rate=0.1, clip_norm=None)
        trainer = LocalTrainer(config, FedAvg(), process.loss, SparsityPenalty("channel"), 1, process.pieces)
        received = model.vector.clone()
        results.append(trainer.train(model, images, ORDER, client=7, received=received, version=0))
        results[-1] = (results[-1].update.vector.clone(), results[-1].loss, results[-1].num_steps)
    (whole, loss_whole, steps), (pieces, loss_pieces, steps_pieces) = results
    assert steps == steps_pieces == 2
    assert loss_pieces == pytest.approx(loss_whole, rel=1e-5)
    assert float((pieces - whole).norm() / whole.norm()) < 1e-4
