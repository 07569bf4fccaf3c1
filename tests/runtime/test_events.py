"""What reporters are told of a run, and in which order; late, lost and failed are three things."""

import shutil
from pathlib import Path

import pytest
from federations import Outcome, Recorder, federate, method
from rich.console import Console

from fedphd_ray.records import EdgeStatistics
from fedphd_ray.records import Outcome as Became
from fedphd_ray.report import progress as report_progress
from fedphd_ray.report.progress import ConsoleProgress
from fedphd_ray.runtime.driver import run as runs
from fedphd_ray.runtime.events import Ended, Judged, LeftOut, Planned, Pruned, Replaced, RoundDone, Sampled, Saved, Started
from fedphd_ray.runtime.on_ray.actor_pool import ActorPool
from fedphd_ray.runtime.on_ray.backend import RayBackend
from fedphd_ray.runtime.policy.placement import Placement

NAME = "fedphd with kept moments"


def victim() -> int:
    """A client of round 2."""
    experiment = method(NAME).build()
    nothing = EdgeStatistics.empty(experiment.population.num_classes)
    return min(experiment.schedule.plan(2, experiment.strategy, experiment.population, [nothing] * 2).edge_of)


def test_a_run_is_told_from_start_to_end(tmp_path: Path) -> None:
    config = method(NAME, checkpoint={"every": 2}, evaluation={"every": 4, "num_samples": 4, "chunk_size": 3, "steps": 2})
    recorder = Recorder()
    summary = runs.run(config.build(), tmp_path, recorder)
    told = [type(event) for event in recorder.events]
    assert told == [
        *(Started, Sampled, Sampled, Judged),
        *(Planned, RoundDone),
        *(Planned, Pruned, RoundDone, Saved),
        *(Planned, RoundDone),
        *(Sampled, Sampled, Judged, Planned, RoundDone, Saved, Ended),
    ]
    assert [event for event in recorder.events if isinstance(event, Sampled)][:2] == [Sampled(0, 3, 4), Sampled(0, 4, 4)]
    pruned = next(event for event in recorder.events if isinstance(event, Pruned))
    assert (pruned.round, pruned.version, pruned.num_params) == (2, 1, summary.params_final)
    planned = [event.plan for event in recorder.events if isinstance(event, Planned)]
    assert [plan.edge_of for plan in planned] == [record.participants for record in recorder.rounds]
    (tmp_path / "summary.json").unlink()
    shutil.rmtree(tmp_path / "checkpoints/round-000004")
    again = Recorder()
    runs.resume(config.build(), tmp_path, again)
    assert [type(event) for event in again.events] == [Started, *told[10:]]
    assert again.begun[0] == 2


def test_drawing_many_samples_is_said_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing where it is quick; and nothing of the last ones, which the figures follow."""
    clock = iter([0.0, 14.0, 15.0, 29.0, 30.0, 45.0])
    monkeypatch.setattr(report_progress.time, "monotonic", lambda: next(clock))
    progress = ConsoleProgress(Console(width=300), 4)
    for num in (1000, 2000, 3000, 4000, 5000, 6000):
        progress.on_event(Sampled(20, num, 6000))
    assert capsys.readouterr().out.splitlines() == [
        "round 20: 3,000 of 6,000 samples drawn to judge it",
        "round 20: 5,000 of 6,000 samples drawn to judge it",
    ]


def faulty(fault: dict[str, object], pool: ActorPool | None = None, **failures: object) -> tuple[Outcome, Recorder]:
    runtime = {"backend": "ray"} if pool is not None else {}
    config = method(NAME, faults=[{"round": 2, "client": victim(), **fault}], failures=failures, runtime=runtime)
    backend = None
    if pool is not None:
        backend = RayBackend(config.build().host_setup(), Placement(2, False, ""), config.runtime, pool)
    recorder = Recorder()
    return federate(config, backend, reporter=recorder), recorder


@pytest.mark.parametrize(
    ("fault", "failures", "became", "said"),
    [
        ({"kind": "exception", "times": 9}, {}, Became.FAILED, "failed: InjectedFaultError"),
        ({"kind": "nan"}, {}, Became.FAILED, "failed: the update holds non-finite values"),
        ({"kind": "slow"}, {"client_timeout_seconds": 0.5}, Became.LATE, "was late: its training took longer"),
    ],
)
def test_who_has_failed_and_who_was_late(
    fault: dict[str, object], failures: dict[str, object], became: Became, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome, recorder = faulty(fault, **failures)
    _require(outcome, recorder, became)
    progress = ConsoleProgress(Console(width=300), 4)
    for event in recorder.events:
        progress.on_event(event)
    assert f"warning: round 2: client/{victim()} {said}" in capsys.readouterr().out


@pytest.mark.ray
def test_who_was_lost(actor_pool: ActorPool) -> None:
    outcome, recorder = faulty({"kind": "kill", "times": 9}, actor_pool, client_retries=1)
    _require(outcome, recorder, Became.LOST)
    assert [event.round for event in recorder.events if isinstance(event, Replaced)] == [2, 2]


def _require(outcome: Outcome, recorder: Recorder, became: Became) -> None:
    """The event and the record say it; the ledger has what it was sent, and nothing of it."""
    (left,) = [event for event in recorder.events if isinstance(event, LeftOut)]
    assert (left.round, left.client, left.outcome) == (2, victim(), became)
    assert [record.outcomes for record in recorder.rounds] == [{}, {victim(): became.value}, {}, {}]
    name = f"client/{victim()}"
    assert [row for row in outcome.transfers if row.round == 2 and row.destination == name and row.kind == "model"]
    assert not [row for row in outcome.transfers if row.round == 2 and row.source == name]
