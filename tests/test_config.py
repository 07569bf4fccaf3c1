"""Refusals: one message that names the key, what was found, and what would do."""

import contextlib
from pathlib import Path

import pytest
import yaml
from federations import TINY, tiny
from hypothesis import given
from hypothesis import strategies as st

from fedphd_ray.config import Config, load_config, parse_config
from fedphd_ray.errors import ConfigError, PruningError, UserError
from fedphd_ray.foresight.forecast import forecast

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.yaml"))


def refusal(**sections: object) -> str:
    """The message with which a configuration is refused, up to building and forecasting it."""
    with pytest.raises(UserError) as caught:
        forecast(tiny(**sections).build())
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_valid_and_come_back_from_their_own_yaml(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(path.parent))  # one names classes in a file beside it
    config = load_config(path)
    assert parse_config(yaml.safe_load(config.to_yaml())) == config


def test_there_is_an_example() -> None:
    assert EXAMPLES


def test_unknown_keys_are_named_with_the_nearest_known_one() -> None:
    message = refusal(schedule={"rouns": 3})
    assert "schedule.rouns" in message
    assert "did you mean schedule.rounds?" in message
    message = refusal(strategie={"name": "fedavg"})
    assert "did you mean strategy?" in message
    assert "did you mean schedule.clients_per_round?" in refusal(local={"clients_per_round": 3})


def test_unknown_keys_inside_named_sections() -> None:
    message = refusal(data={"name": "digits", "num_client": 5, "partition": {"name": "iid"}})
    assert "data.num_client" in message
    assert "did you mean data.num_clients?" in message
    assert "data.partition.alpa" in refusal(data={"name": "digits", "partition": {"name": "dirichlet", "alpa": 1.0}})


def test_wrong_types_and_values_name_key_and_value() -> None:
    message = refusal(schedule={"rounds": "many"})
    assert "schedule.rounds" in message
    assert "'many'" in message
    message = refusal(strategy={"name": "fedphed"})
    assert "strategy" in message
    assert "fedphed" in message
    assert "pruning.mode" in refusal(pruning={"mode": "later"})
    assert "local.learning_rate" in refusal(local={"learning_rate": -1})
    assert "data.partition.alpha" in refusal(data={"name": "digits", "partition": {"name": "dirichlet", "alpha": 0}})


def test_several_mistakes_are_told_at_once() -> None:
    message = refusal(schedule={"rounds": 0}, local={"epochs": 0, "batch_siz": 3})
    assert all(key in message for key in ("schedule.rounds", "local.epochs", "local.batch_siz"))


def test_impossible_combinations() -> None:
    assert "schedule.clients_per_round" in refusal(schedule={"clients_per_round": 7})
    assert "data.partition.classes_per_client" in refusal(
        data={"name": "digits", "num_clients": 6, "partition": {"name": "classes", "classes_per_client": 11}}
    )
    assert "pruning.round" in refusal(pruning={"round": 4})
    assert "pruning.round" in refusal(pruning={"round": None})
    assert "hierarchy.cloud_period" in refusal(hierarchy={"num_edges": 0})
    assert "data.num_clients" in refusal(data={"name": "digits", "num_clients": 2000, "partition": {"name": "iid"}})
    widths = refusal(model={"widths": [18, 32]})
    assert "widths" in widths
    assert "18" in widths


def test_a_ratio_that_would_empty_a_layer() -> None:
    with pytest.raises(PruningError, match=r"pruning\.ratio"):
        forecast(tiny(pruning={"ratio": 0.8}).build())  # 16 channels in 4 groups: blocks of 4


def test_a_missing_section_says_which() -> None:
    tree = {key: value for key, value in TINY.items() if key != "model"}
    with pytest.raises(ConfigError, match="model"):
        parse_config(tree)


def test_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="readable"):
        load_config(tmp_path / "none.yaml")
    path = tmp_path / "config.yaml"
    path.write_text("a: [1")
    with pytest.raises(ConfigError, match="YAML"):
        load_config(path)
    path.write_text("- 1")
    with pytest.raises(ConfigError, match="mapping"):
        load_config(path)
    path.write_text("x: !!python/object/apply:os.system ['true']")
    with pytest.raises(ConfigError, match="YAML"):
        load_config(path)


def test_overrides(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(TINY))
    config = load_config(path, ["schedule.rounds=9", "strategy={name: fedavg}", "hierarchy.num_edges=3"])
    assert (config.schedule.rounds, config.strategy.name, config.hierarchy.num_edges) == (9, "fedavg", 3)
    for bad in ("schedule.rounds", "=3", "schedule..rounds=1", "seed.x=3", "schedule.rounds=[1"):
        with pytest.raises(ConfigError):
            load_config(path, [bad])


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)))
def test_any_value_of_a_section_is_taken_or_refused_in_words(value: object) -> None:
    for section in Config.model_fields:
        with contextlib.suppress(ConfigError):  # anything else is a failure
            assert isinstance(parse_config(dict(TINY) | {section: value}), Config)


def test_a_method_that_looks_inside_the_network_is_not_compiled() -> None:
    message = refusal(strategy={"name": "moon"}, local={"compile": True})
    assert "local.compile" in message
    assert "moon looks inside the network" in message
