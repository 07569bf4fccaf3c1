"""What looks at a run and changes nothing: books, progress, evaluation and checkpoints, one round behind the main loop."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch

from fedphd_ray.diffusion.quality import QualityReport
from fedphd_ray.errors import Stopped
from fedphd_ray.federation.channel.ledger import Ledger
from fedphd_ray.plans import RoundPlan
from fedphd_ray.records import EdgeReport, EdgeStatistics, Payload, Transfer
from fedphd_ray.runtime.directory.participation import ClientTable, participations
from fedphd_ray.runtime.directory.progress import round_record
from fedphd_ray.runtime.driver.stopwatch import Stopwatch
from fedphd_ray.runtime.evaluation import Evaluator, client_models, spread
from fedphd_ray.runtime.events import Ended, Judged, LeftOut, Planned, Pruned, Replaced, Reporter, RoundDone, Saved
from fedphd_ray.runtime.experiment import Experiment
from fedphd_ray.runtime.storage.checkpoint import Checkpoints
from fedphd_ray.runtime.storage.state import RunState
from fedphd_ray.runtime.workers.backend import Backend
from fedphd_ray.strategies.base import KEPT_PARTS, PERSONAL


@dataclass(frozen=True)
class RoundTrace:
    """What happened in a round: its plan, the edges' reports, what they had seen by then, all transfers, and seconds by phase."""

    plan: RoundPlan
    reports: tuple[EdgeReport, ...]
    seen: tuple[EdgeStatistics, ...]
    transfers: Sequence[Transfer]
    seconds: dict[str, float]


class Observer:
    """Takes the state after each round and does the rest in a thread of its own, while the next round goes on.

    It is at most one round behind: whoever hands over a round waits for the one before, and is told of its errors. States are
    frozen, so that nothing can change under it. Everything of a round is written in one order: ledger, evaluation, metrics, then
    the checkpoint that relies on them. Over a backend of one process it works at once instead.

    Args:
        experiment: what is run.
        backend: draws samples, and holds models and client states.
        ledger: where transfers are written down.
        reporter: who is told.
        checkpoints: where states are saved; None for nowhere.
        evaluator: who judges the model; None for nobody.
        clients: where it is written down who took part; None for nowhere.
        directory: the run directory, for pictures; None for no pictures.
    """

    def __init__(
        self,
        experiment: Experiment,
        backend: Backend,
        *,
        ledger: Ledger,
        reporter: Reporter,
        checkpoints: Checkpoints | None = None,
        evaluator: Evaluator | None = None,
        clients: ClientTable | None = None,
        directory: Path | None = None,
    ) -> None:
        self._experiment = experiment
        self._backend = backend
        self._ledger = ledger
        self._clients = ClientTable() if clients is None else clients
        self._reporter = reporter
        self._checkpoints = checkpoints
        self._evaluator = evaluator
        self._directory = directory
        self._watch = Stopwatch()
        threads = torch.get_num_threads()
        self._thread = ThreadPoolExecutor(1, "observer", torch.set_num_threads, (threads,)) if backend.concurrent else None
        self._before: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Waits until everything handed over is written, unless somebody is waiting for this process to end."""
        if isinstance(error, Stopped):
            if self._thread is not None:
                self._thread.shutdown(wait=False, cancel_futures=True)
            return
        try:
            self._wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()

    def observe(self, state: RunState, trace: RoundTrace | None) -> None:
        """Takes the state after a round; no trace before the first."""
        if self._thread is None:
            self._observe(state, trace)
            return
        self._wait()
        self._before = self._thread.submit(self._observe, state, trace)

    def _wait(self) -> None:
        before, self._before = self._before, None
        if before is not None:
            before.result()

    def _observe(self, state: RunState, trace: RoundTrace | None) -> None:
        experiment, last = self._experiment, self._experiment.schedule.rounds
        moved = {} if trace is None else self._ledger.extend(trace.transfers)
        quality = None
        if self._evaluator is not None and experiment.evaluation.due(state.round, last):
            picture = self._directory and self._directory / "samples" / f"round-{state.round:06d}.png"
            quality = self._judge(self._evaluator, state, picture)
            self._reporter.on_event(Judged(state.round, quality))
        if trace is not None:
            flat = experiment.topology.flat
            self._clients.extend(state.round, list(participations(trace.plan, trace.reports, flat=flat)))
            self._tell(state, trace, moved, quality)
        if self._checkpoints is not None and self._checkpoints.due(state.round, last):
            with self._watch("checkpoint"):
                self._ledger.flush(state.round)
                self._clients.flush(state.round)
                self._checkpoints.save(state, self._backend)
            self._reporter.on_event(Saved(state.round))
        if state.round == last:
            self._reporter.on_event(Ended(state.round))

    def _judge(self, evaluator: Evaluator, state: RunState, picture: Path | None) -> QualityReport:
        """Figures of the cloud's model, or the mean of clients' own where it has none; and both where there are both."""
        backend = self._backend
        models = {client: backend.put(model) for client, model in delivered_models(self._experiment, backend, state).items()}
        judged = [models[None]] if None in models else list(models.values())
        tell = self._reporter.on_event
        quality = evaluator.evaluate(backend, judged, state.round, picture, tell)
        own = {client: model for client, model in models.items() if client is not None}
        return evaluator.evaluate_own(backend, own, state.round, quality, tell) if None in models and own else quality

    def _tell(self, state: RunState, trace: RoundTrace, moved: Mapping[str, int], quality: QualityReport | None) -> None:
        """Everything that was in a round, and then the round."""
        tell, round = self._reporter.on_event, state.round
        tell(Planned(trace.plan))
        for client in (client for report in trace.reports for client in report.reports):
            if client.outcome is not None:
                tell(LeftOut(round, client.client, client.edge, client.outcome, client.failure))
        replaced = self._backend.take_replacements()
        for why in replaced:
            tell(Replaced(round, why))
        if trace.plan.prunes:
            tell(Pruned(round, state.model.version, state.model.layout.num_params))
        seconds, slots = trace.seconds | self._watch.lap(), self._backend.slots
        experiment = self._experiment
        active = experiment.schedule.participation.active(state.memory, experiment.population.num_clients)
        record = round_record(
            trace.plan, state.model.version, trace.reports, trace.seen, moved, seconds, slots, replaced, int(active.sum())
        )
        tell(RoundDone(record, quality))


def delivered_models(experiment: Experiment, backend: Backend, state: RunState) -> dict[int | None, Payload]:
    """What a user gets: one model (of client None), some clients' own where the cloud has no whole one, or both."""
    strategy, model = experiment.strategy, state.delivered
    personal, private = strategy.keeps_personal_models, strategy.keeps_parts_private
    if not (personal or private) or not state.client_states:
        return {None: model}
    chosen = spread(sorted(state.client_states), experiment.evaluation.num_clients)
    kept = {client: backend.get_state(state.client_states[client]).vectors for client in chosen}
    if personal:
        return {None: model, **{client: replace(model, vector=own[PERSONAL]) for client, own in kept.items()}}
    parts = {client: own[KEPT_PARTS] for client, own in kept.items()}
    return dict(client_models(model, strategy.parts(model.layout), parts).items())
