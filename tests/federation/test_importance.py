"""What a client makes of its images when it is asked how much channels matter."""

import math
from dataclasses import replace

import pytest
import torch

from fedphd_ray.diffusion.process import NoiseProcess, ProcessConfig
from fedphd_ray.diffusion.unet import UNetConfig, UNetSpec, build_unet, initial_state
from fedphd_ray.federation.flat_model import FlatModel
from fedphd_ray.federation.prune import groups_of
from fedphd_ray.federation.training.batches import Examples
from fedphd_ray.federation.training.importance import Scorer, Scoring
from fedphd_ray.federation.training.local_training import LocalResult
from fedphd_ray.federation.update import Update
from fedphd_ray.pruning.criteria import DiffPruning, Taylor, gradient_scores
from fedphd_ray.seeds import Purpose, torch_generator

SPEC = UNetSpec.of(UNetConfig(widths=(8, 16), groups=4, attention=(False, False), dropout=0.3), 8, 1, 10)
PROCESS = NoiseProcess(ProcessConfig(num_timesteps=40))


def scorer(criterion: str, *, least: float = 0.0, num_images: int = 5, at_once: int = 5) -> Scorer:
    chosen = Taylor() if criterion == "taylor" else DiffPruning()
    return Scorer(Scoring(chosen, num_images, least), PROCESS, SPEC, (), 3, at_once)


def images(count: int = 8) -> torch.Tensor:
    return torch.randint(256, (count, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def model() -> FlatModel:
    with torch.random.fork_rng():  # layers begin with random numbers of torch's own
        unet = build_unet(SPEC)
    unet.load_state_dict(initial_state(SPEC, 1))
    return FlatModel(unet)


def early(own: FlatModel, batch: torch.Tensor, least: float) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Algorithm 1 of the paper with autograd: the sum of the gradients of steps 0, 1, ..., and their losses."""
    noise = torch.randn(batch.shape, generator=torch_generator(3, Purpose.IMPORTANCE, 2, 1))
    own.module.eval()
    parameters, losses = dict(own.module.named_parameters()), []
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for t in range(40):
        loss = PROCESS.loss_at(noise, t)(own.module, batch, torch.Generator())
        if losses and loss < least * max(losses):
            break
        losses.append(float(loss.detach()))
        for name, gradient in zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True):
            total[name] += gradient
    return total, losses


@pytest.mark.parametrize("least", [0.0, 0.998])
def test_diff_pruning_adds_up_gradients_until_the_loss_is_small(least: float) -> None:
    own, batch = model(), Examples(images()[:5])
    start = own.vector.clone()
    total, losses = early(own, next(batch.split(5)).images, least)
    assert (len(losses) == 40) == (least == 0.0)
    assert len(losses) > 1
    groups = groups_of(SPEC)
    expected = gradient_scores(DiffPruning(), groups, own.layout.views(start), total)
    found = scorer("diff_pruning", least=least).scores(own, 0, start, Examples(images()), (2, 1))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("criterion", ["taylor", "diff_pruning"])
def test_scores_are_keyed_and_go_by_the_received_model_without_drop_out(criterion: str) -> None:
    own = model()
    received = own.vector.clone() * 0.5
    first = scorer(criterion).scores(own, 0, received, Examples(images()), (2, 1))
    own.vector.fill_(0.3)
    assert torch.equal(scorer(criterion).scores(own, 0, received, Examples(images()), (2, 1)), first)
    assert own.module.training
    other_key = scorer(criterion).scores(own, 0, received, Examples(images()), (2, 2))
    assert not torch.equal(other_key, first)
    only_five = images()
    only_five[5:] = 0
    assert torch.equal(scorer(criterion).scores(own, 0, received, Examples(only_five), (2, 1)), first)


def test_what_goes_through_the_network_at_once_changes_rounding_only() -> None:
    own = model()
    received = own.vector.clone()
    whole = scorer("diff_pruning", least=0.998).scores(own, 0, received, Examples(images()), (2, 1))
    pieces = scorer("diff_pruning", least=0.998, at_once=2).scores(own, 0, received, Examples(images()), (2, 1))
    torch.testing.assert_close(pieces, whole, rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("worst", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_make_a_training_unusable(worst: float) -> None:
    """They would make the sum of all clients' scores useless, and with it the choice of channels."""
    received, scores = torch.zeros(4), torch.tensor([1.0, worst, 2.0])
    result = LocalResult(Update.whole(torch.ones(4), received), {}, 0.5, 1, 4, None, scores)
    assert result.why_unusable(received) == "the importance of its channels holds non-finite values"
    assert not replace(result, importance=torch.tensor([1.0, 0.0, 2.0])).why_unusable(received)
