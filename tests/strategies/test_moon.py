"""MOON's contrastive term: where its gradient goes, and when it says nothing."""

import math

import pytest
import torch
from torch import Tensor, nn

from fedphd_ray.diffusion.unet import UNetConfig, UNetSpec, build_unet, initial_state
from fedphd_ray.federation.flat_model import FlatModel
from fedphd_ray.strategies import Moon
from fedphd_ray.strategies.base import LocalStart
from fedphd_ray.strategies.feddiffuse import BOTTLENECK, DECODER, ENCODER, part_of

SPEC = UNetSpec(UNetConfig(widths=(16, 32), attention=(False, True), dropout=0.1), image_size=8, channels=1)


def no_task(denoiser: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
    """Runs the whole network, and asks nothing of it."""
    noisy = torch.randn(images.shape, generator=generator)
    return 0.0 * denoiser(noisy, torch.arange(len(images)) * 100).sample.sum()


def model_of(seed: int) -> FlatModel:
    unet = build_unet(SPEC)
    unet.load_state_dict(initial_state(SPEC, seed))
    return FlatModel(unet)


def term(previous: Tensor | None, received: Tensor, mu: float = 2.0) -> tuple[float, dict[str, float]]:
    """The loss, and the largest gradient per part."""
    model = model_of(0)
    kept = {} if previous is None else {"previous": previous}
    start = LocalStart(received, None, kept, model.module, model.layout, 1e-3, lambda: pytest.fail("not needed"))
    method = Moon(mu=mu, temperature=0.5).local_method(start)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        value = method.loss(no_task, model.module, torch.zeros(4, 1, 8, 8), torch.Generator().manual_seed(1))
    value.backward()
    assert model.module.training
    gradients = {ENCODER: 0.0, BOTTLENECK: 0.0, DECODER: 0.0}
    for name, grad in model.layout.views(model.grad).items():
        gradients[part_of(name)] = max(gradients[part_of(name)], float(grad.abs().max()))
    return float(value.detach()), gradients


def test_gradient_reaches_encoder_and_bottleneck_and_not_the_decoder() -> None:
    value, gradients = term(previous=model_of(1).vector, received=model_of(2).vector)
    assert value > 0
    assert value != pytest.approx(2 * math.log(2), abs=1e-3)
    assert gradients[ENCODER] > 1e-4
    assert gradients[BOTTLENECK] > 1e-4
    assert gradients[DECODER] == 0


def test_previous_equal_to_global_says_nothing() -> None:
    same = model_of(1).vector
    value, gradients = term(previous=same, received=same)
    assert value == pytest.approx(2 * math.log(2), abs=1e-6)
    assert max(gradients.values()) < 1e-7


def test_nearer_to_the_global_model_is_a_smaller_loss() -> None:
    own, other = model_of(0).vector.clone(), model_of(1).vector
    near, _ = term(previous=other, received=own)
    far, _ = term(previous=own, received=other)
    assert near < 2 * math.log(2) < far


def test_the_first_round_of_a_client_has_no_term() -> None:
    value, gradients = term(previous=None, received=model_of(1).vector)
    assert value == 0
    assert max(gradients.values()) == 0
