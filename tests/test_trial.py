"""How long a run would take: few steps, multiplied as hands would."""

import pytest
from federations import method
from typer.testing import CliRunner

from fedphd_ray.cli import app
from fedphd_ray.foresight import trial
from fedphd_ray.foresight.forecast import forecast

RUN = {"evaluation": {"every": 2, "num_samples": 30, "steps": 5}, "schedule": {"rounds": 4}}


def test_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """4 rounds of 4 clients with 20 images, half of them dense at 2 s an image, half pruned at 1 s; judged 3 times."""
    experiment = method("fedphd", **RUN).build()
    monkeypatch.setattr(trial, "_seconds_per_image", lambda experiment, version: ((2.0, 1.0)[version], 0.1))
    taken = trial.estimate(experiment, forecast(experiment), 2)
    images = experiment.training_images.mean()
    assert taken.training == pytest.approx((8 * images * 2.0 + 8 * images * 1.0) / 2)
    assert taken.samples == pytest.approx(3 * 30 * 5 * 0.1 / 2)
    assert trial.estimate(experiment, forecast(experiment), 9).hosts == 4  # of a cohort of four


def test_a_narrower_network_takes_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = method("heterofl", **RUN).build()
    monkeypatch.setattr(trial, "_seconds_per_image", lambda experiment, version: (1.0, 0.1))
    taken, cost = trial.estimate(experiment, forecast(experiment), 1), forecast(experiment)
    updates = sum(cost.trained.values())
    assert 0 < taken.training < updates * experiment.training_images.mean()


def test_the_trial_is_real_and_leaves_the_world_as_it_was() -> None:
    experiment = method("fedphd", **RUN).build()
    training, drawing = trial._seconds_per_image(experiment, 1)
    assert 0 < drawing < training < 1


@pytest.mark.parametrize("name", ["scaffold", "sfedhp", "feddiffuse udec", "moon", "masked fedavg"])
def test_any_method_can_be_tried(name: str) -> None:
    """Those that send vectors beside the model, too."""
    experiment = method(name).build()
    assert trial.estimate(experiment, forecast(experiment), 2).training > 0


def test_faults_of_the_script_strike_nobody_here() -> None:
    """A slow client would sleep for a second before each step of twelve images."""
    experiment = method("fedavg", faults=[{"kind": "slow", "round": 1, "client": 0, "times": 9}]).build()
    assert trial._seconds_per_image(experiment, 0)[0] < 1 / 12


def test_plan_says_it() -> None:
    said = CliRunner().invoke(app, ["plan", "examples/digits.yaml", "--time", "--set", "schedule.rounds=25"])
    assert said.exit_code == 0, said.output
    assert "time here: about" in said.output
