"""What the Ray backend does and says when something goes wrong, and that it leaves nothing behind."""

import gc
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from federations import Recorder, federate, first_sendings, method, outcome_of, reference, tiny
from ray._private.internal_api import memory_summary

from fedphd_ray.diffusion.quality import QualityReport
from fedphd_ray.errors import ResourceError, RunFailedError, UserError
from fedphd_ray.runtime.directory.progress import RoundRecord
from fedphd_ray.runtime.on_ray import actor_pool as actor_pool_module
from fedphd_ray.runtime.on_ray.actor_pool import ActorPool
from fedphd_ray.runtime.on_ray.backend import RayBackend
from fedphd_ray.runtime.on_ray.checks import require_store, require_visible
from fedphd_ray.runtime.policy.placement import Placement, RuntimeConfig


@pytest.mark.ray
def test_an_error_of_a_client_arrives_whole(actor_pool: ActorPool) -> None:
    """Images of two channels do not fit the network: the message names client, edge and round, and shows the error itself."""
    config = tiny(runtime={"backend": "ray"})
    setup = config.build().host_setup()
    broken = replace(setup, images=np.repeat(setup.images, 2, axis=1))
    backend = RayBackend(broken, Placement(1, False, ""), config.runtime, actor_pool)
    with pytest.raises(
        RunFailedError, match=r"round 1: 0 of 4 clients(.|\n)*client/\d: RuntimeError(.|\n)*channels(.|\n)*Traceback"
    ):
        federate(config, backend)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_actors_that_find_no_place_are_told_of_at_the_deadline() -> None:
    with (
        ActorPool(RuntimeConfig(cpus_per_host=64, start_timeout_seconds=2)) as pool,
        pytest.raises(ResourceError, match="1 still waiting"),
    ):
        pool.ensure(1, ())


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_who_waits_for_long_is_told_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor_pool_module, "HINT_SECONDS", 0.5)
    said: list[tuple[int, int, str]] = []
    with (
        ActorPool(RuntimeConfig(cpus_per_host=64, start_timeout_seconds=2), lambda *what: said.append(what)) as pool,
        pytest.raises(ResourceError, match="1 still waiting"),
    ):
        pool.ensure(1, ())
    assert said[0] == (0, 1, "")
    assert "CPUs" in said[1][2]


@dataclass
class Killer(Recorder):
    """Kills processes, each a moment after a round has ended: while the next one is going on."""

    victims: dict[int, int] = field(default_factory=dict)  # round -> process

    def on_round(self, record: RoundRecord, quality: QualityReport | None) -> None:
        super().on_round(record, quality)
        if record.round in self.victims:
            threading.Timer(0.05, os.kill, (self.victims.pop(record.round), signal.SIGKILL)).start()


def process_of(actor: Any) -> int:
    return int(ray.get(actor.__ray_call__.remote(lambda _: os.getpid())))


@pytest.mark.ray
def test_hosts_and_edges_killed_in_mid_round_change_no_bit(actor_pool: ActorPool) -> None:
    name = "fedphd with kept moments"
    config = method(name)
    backend = RayBackend(config.build().host_setup(), Placement(2, False, ""), config.runtime, actor_pool)
    host, edge = process_of(actor_pool.hosts[0]), process_of(actor_pool.servers[0])
    outcome = federate(config, backend, reporter=Killer(victims={1: host, 2: edge}))
    assert outcome.sha256 == reference(name)
    assert len(outcome.records) == config.schedule.rounds
    assert {process_of(actor_pool.hosts[0]), process_of(actor_pool.servers[0])}.isdisjoint({host, edge})
    assert len(actor_pool.replacements) == 2
    # What is sent again is marked, and nothing else is.
    assert first_sendings(outcome.transfers) == first_sendings(outcome_of(name).transfers)


@pytest.mark.ray
def test_a_run_ends_when_more_actors_die_than_it_may_replace(actor_pool: ActorPool) -> None:
    config = tiny(runtime={"backend": "ray"})
    backend = RayBackend(config.build().host_setup(), Placement(1, False, ""), config.runtime, actor_pool)
    actor_pool.replacements += ["earlier"] * config.runtime.max_replacements
    killer = Killer(victims={1: process_of(actor_pool.hosts[0])})
    with pytest.raises(RunFailedError, match=r"11 actors died, more than runtime\.max_replacements = 10; the last: host/0"):
        federate(config, backend, reporter=killer)
    ray.kill(actor_pool.hosts[0])
    actor_pool.replacements.clear()
    actor_pool.replace(actor_pool.hosts[0], "by the test")


@pytest.mark.ray
@pytest.mark.parametrize("name", ["fedphd with kept moments", "scaffold"])
def test_nothing_stays_in_the_object_store_from_round_to_round(name: str, actor_pool: ActorPool) -> None:
    """After nine rounds there is what there is after three (the store forgets with a delay): all clients took part in both."""
    left = []
    for rounds in (3, 9):
        config = method(name, schedule={"rounds": rounds, "clients_per_round": 6}, pruning={"mode": "none", "round": None})
        backend = RayBackend(config.build().host_setup(), Placement(2, False, ""), config.runtime, actor_pool)
        outcome = federate(config, backend)
        left.append(settled(stored_objects))
        assert len(outcome.state.client_states) == 6  # the state, and what it refers to, is still in use here
        del outcome, backend
    assert left[1] == left[0]


def stored_objects() -> int:
    """Objects in the store of this machine."""
    gc.collect()
    stats = memory_summary(ray.get_runtime_context().gcs_address, stats_only=True)
    return int(re.search(r"(\d+) objects", stats)[1])


def settled(count: Callable[[], int], same: int = 4, seconds: float = 20.0) -> int:
    """A count that has not changed for some looks in a row."""
    deadline, seen = time.monotonic() + seconds, [count()]
    while len(seen) < same or len(set(seen[-same:])) > 1:
        assert time.monotonic() < deadline, f"still changing: {seen}"
        time.sleep(0.25)
        seen.append(count())
    return seen[-1]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_folder_for_checkpoints_must_be_seen_by_every_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_visible(tmp_path / "seen")
    assert list((tmp_path / "seen").iterdir()) == []
    monkeypatch.setattr(Path, "write_text", lambda *_: 0)  # as on a node where the folder is another one
    with pytest.raises(UserError, match=r"checkpoint\.path(.|\n)*is another folder, or none, on \d"):
        require_visible(tmp_path / "elsewhere")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_an_object_store_too_small_is_told_of_before_the_run() -> None:
    assert require_store(2**20, 2**27) == ""
    assert "a round may hold 1024 MiB: Ray will move objects to disk" in require_store(2**20, 2**30)
    with pytest.raises(ResourceError, match=r"object store(.|\n)*1024 MiB on a node"):
        require_store(2**30, 2**31)
