"""Whatever a configuration says, it runs, or it is refused in one message that names a key."""

import copy
import os
from typing import Any

from federations import METHODS, TINY, federate
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from fedphd_ray.config import Config, parse_config
from fedphd_ray.errors import RunFailedError, UserError
from fedphd_ray.foresight.forecast import forecast
from fedphd_ray.settings.validation import _all_keys

EXAMPLES = 600 if os.environ.get("HYPOTHESIS_PROFILE") == "searching" else 100  # `make soak` tries more, and new ones
NUMBERS = st.sampled_from([-1, 0, 1, 2, 3, 5, 8, 16, 17, 1000, 0.0, 0.1, 0.5, 1.0, 1.5, -0.5, 1e-9, float("nan"), float("inf")])
WORDS = st.sampled_from(
    ["", "none", "prune", "at_init", "fedavg", "scaffold", "udec", "digits", "iid", "dirichlet", "local", "ü", "a/b"]
)
SCALARS = st.one_of(NUMBERS, WORDS, st.booleans(), st.none())
VALUES = st.one_of(
    SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(st.sampled_from(["name", "alpha", "x"]), SCALARS, max_size=2)
)
# Compiling takes minutes, and where rounds run is not what is tried here.
KEYS = [key for key in sorted(set(_all_keys(Config))) if not key.startswith("runtime.") and key != "local.compile"]
MISSPELT = ["schedule.round", "strategy.mu.x", "optimizer", "model.width", "data"]
QUICK = {
    "schedule.rounds": 3,
    "evaluation.num_samples": 50,
    "schedule.clients_per_round": 8,
    "local.steps": 20,
    "local.epochs": 3,
}
PLAUSIBLE: dict[str, list[object]] = {
    "schedule.rounds": [1, 2, 3],
    "schedule.clients_per_round": [1, 5, 6],
    "schedule.block_size": [1, 7],
    "hierarchy.num_edges": [0, 1, 3],
    "hierarchy.cloud_period": [1, 3],
    "data.num_clients": [2, 7, 120],
    "data.partition": [{"name": "iid"}, {"name": "dirichlet", "alpha": 0.05}, {"name": "quantity", "alpha": 0.3}],
    "local.steps": [0, 1],
    "local.batch_size": [1, 500],
    "local.optimizer": ["sgd"],
    "local.optimizer_state": ["per_client"],
    "local.warmup_rounds": [2],
    "local.horizontal_flip": [True],
    "local.precision": ["bfloat16"],
    "local.clip_norm": [None],
    "pruning.mode": ["at_init", "prune", "sparse_then_prune"],
    "pruning.round": [1, 2],
    "pruning.ratio": [0.1, 0.5, 0.9],
    "model.widths": [[8, 16], [16], [24, 24, 24]],
    "model.attention": [[True, True], [False]],
    "server.ema_decay": [0.5],
    "server.optimizer": [{"name": "fedadam"}, {"name": "fedavgm"}],
    "failures.quorum": [1.0],
    "evaluation.every": [1],
    "faults": [[{"round": 1, "client": 1, "kind": "nan"}]],
}
SENSIBLE = st.sampled_from([(key, value) for key, values in PLAUSIBLE.items() for value in values])
WILD = st.tuples(st.sampled_from([*KEYS, *MISSPELT]), VALUES)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(METHODS)), st.lists(SENSIBLE, max_size=4), st.lists(WILD, max_size=1))
def test_a_configuration_runs_or_is_refused(name: str, sensible: list[tuple[str, Any]], wild: list[tuple[str, Any]]) -> None:
    tree: dict[str, Any] = copy.deepcopy(TINY)
    for section, change in copy.deepcopy(METHODS[name]).items():
        old = tree.get(section)
        tree[section] = old | change if isinstance(old, dict) and isinstance(change, dict) and "name" not in change else change
    tree["schedule"] |= {"rounds": 3}
    tree["evaluation"] = {"every": 0, "num_samples": 20, "steps": 2}
    changes = dict([*sensible, *wild])
    for key, value in changes.items():
        *path, last = key.split(".")
        node = tree
        for name in path:
            child = node.setdefault(name, {})
            node = child if isinstance(child, dict) else {}
        node[last] = value
    try:
        config = parse_config(tree)
        experiment = config.build()
        forecast(experiment)
    except UserError as error:
        event("refused")
        message = str(error)
    else:
        message = _run(config)
    assert not message.startswith((" ", "\n"))
    assert "Traceback" not in message


def _run(config: Config) -> str:
    """What ended a run; empty for a run that ended well, or is too long for here."""
    if any(_at(config.model_dump(), key) > most for key, most in QUICK.items()) or config.checkpoint.path:
        event("accepted, too long to run here")
        return ""
    event("runs")
    try:
        federate(config)
    except RunFailedError as error:  # a learning rate of 16 may well diverge
        return str(error).partition("in full")[0]
    return ""


def _at(tree: Any, key: str) -> float:
    for name in key.split("."):
        tree = tree[name]
    return tree or 0
