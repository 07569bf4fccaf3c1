"""Who takes part at all: everybody, or those who still have something to teach (client pruning).

FedCliP is described in outline by Li, Shao, Liu, Wang: "FedCliP: Federated Learning with Client Pruning", 2023 (arXiv
2301.06768): a contribution score from training loss and model divergence, validity by a Gaussian scale mixture that is fitted by
alternating optimisation, and clients without a contribution that are not asked any more. The formulas here are a reconstruction.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt

from fedphd_ray.plans import Memory
from fedphd_ray.population import Population
from fedphd_ray.records import ClientReport
from fedphd_ray.settings.plugins import OrOwn
from fedphd_ray.settings.sections import Section

Figures = NDArray[np.float64]
Share = Annotated[float, Field(gt=0, le=1)]

SIGNALS, STRIKES, LEFT = "clip_signals", "clip_strikes", "clip_left"  # in a planner's memory
PASSES = 5


class Everybody(Section):
    """All registered clients can be asked, as long as the run lasts.

    Attributes:
        needs_reports: it goes by what clients report, so that nobody can foretell it without training.
    """

    needs_reports: ClassVar[bool] = False

    name: Literal["everybody"] = "everybody"

    def describe(self) -> str:
        """In a few words; empty for everybody."""
        return ""

    def active(self, memory: Memory, num_clients: int) -> NDArray[np.bool_]:
        """Who can be asked [num_clients]."""
        return np.ones(num_clients, bool)

    def wanted(self, cohort_size: int, memory: Memory, num_clients: int) -> int:
        """Clients of a round, where so many are configured."""
        return cohort_size

    def remember(
        self, memory: Memory, round: int, reports: Sequence[ClientReport], population: Population, cohort_size: int
    ) -> Memory:
        """What the rounds that follow need of a round and its reports."""
        return {}


class FedClip(Everybody):
    """Clients that taught nothing several times in a row are not asked any more.

    A client's contribution is y = a * loss + (1 - a) * divergence, both smoothed over its rounds and scaled to [0, 1] over the
    active clients that have reported. Its divergence is the length of its update relative to that of the model. The contribution
    is valid where the Gaussian scale mixture leaves something of it (`scale_mixture`).

    A class of which only one active client has images keeps this client active, whatever its contribution: a generator forgets
    what nobody shows it. The server knows the label counts of all clients for this, which are in no ledger.

    Attributes:
        loss_share: a.
        smoothing: weight of a client's newest report against its former ones.
        noise: standard deviation of the mixture's noise, on the scale of contributions: what is below one and a half of it
            or so is noise.
        warm_up: rounds in which nobody is pruned.
        patience: reports in a row without a valid contribution after which a client is pruned.
        most_at_once: share of the active clients that may be pruned after one round; one at least may.
        least: active clients that stay; never fewer than the configured cohort.
        shrinks: cohorts become smaller with the active clients, so that each of these is asked as often as before.
        probation: rounds after which a pruned client is asked again; 0 for never.
    """

    needs_reports: ClassVar[bool] = True

    name: Literal["fedclip"]  # type: ignore[assignment]  # another rule by another name
    loss_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    smoothing: Share = 0.5
    noise: Annotated[float, Field(gt=0, le=0.5)] = 0.15
    warm_up: NonNegativeInt = 10
    patience: PositiveInt = 2
    most_at_once: Share = 0.1
    least: PositiveInt = 1
    probation: NonNegativeInt = 0
    shrinks: bool = True

    def describe(self) -> str:
        """In a few words."""
        return f"; clients are pruned down to {self.least} or a cohort"

    def active(self, memory: Memory, num_clients: int) -> NDArray[np.bool_]:
        """Who has not been pruned."""
        return np.asarray(memory[LEFT] == 0) if LEFT in memory else np.ones(num_clients, bool)

    def wanted(self, cohort_size: int, memory: Memory, num_clients: int) -> int:
        """The same share of the active clients; one at least."""
        active = int(self.active(memory, num_clients).sum())
        return -(-cohort_size * active // num_clients) if self.shrinks else cohort_size

    def remember(
        self, memory: Memory, round: int, reports: Sequence[ClientReport], population: Population, cohort_size: int
    ) -> Memory:
        """Signals [2, num_clients], reports in a row without a contribution, and the round after which each client left."""
        num = population.num_clients
        signals = np.array(memory[SIGNALS]) if SIGNALS in memory else np.full((2, num), np.nan)
        strikes = np.array(memory[STRIKES]) if STRIKES in memory else np.zeros(num)
        left = np.array(memory[LEFT]) if LEFT in memory else np.zeros(num)
        if self.probation:
            back = (left > 0) & (left <= round - self.probation)
            left[back], strikes[back] = 0, 0
        heard = [report for report in reports if not report.failure]
        for report in heard:
            new = np.array([report.loss, report.divergence])
            old = signals[:, report.client]
            signals[:, report.client] = np.where(np.isnan(old), new, self.smoothing * new + (1 - self.smoothing) * old)
        scores = contributions(signals, left == 0, self.loss_share)
        invalid = np.where(np.isnan(scores), np.inf, scale_mixture(np.nan_to_num(scores), self.noise)) <= 0
        for client in {report.client for report in heard}:
            strikes[client] = strikes[client] + 1 if invalid[client] else 0
        if round > self.warm_up:
            overdue = (left == 0) & (strikes >= self.patience)
            least = max(self.least, cohort_size)
            for client in self._pruned(overdue, scores, left == 0, population.label_counts, least):
                left[client] = round
        return {SIGNALS: signals, STRIKES: strikes, LEFT: left}

    def _pruned(
        self, overdue: NDArray[np.bool_], scores: Figures, active: NDArray[np.bool_], counts: NDArray[np.int64], least: int
    ) -> list[int]:
        """Of those who are overdue, the lowest contributions first; ties by id. Whoever alone has a class stays."""
        pruned: list[int] = []
        number = int(active.sum())
        most = min(max(1, int(self.most_at_once * number)), number - least)
        holders = (counts[active] > 0).sum(axis=0)
        for client in sorted(np.flatnonzero(overdue).tolist(), key=lambda client: (scores[client], client)):
            own = counts[client] > 0
            if len(pruned) < most and not (holders[own] == 1).any():
                holders = holders - own
                pruned.append(client)
        return pruned


Participation = Annotated[Everybody | FedClip, Field(discriminator="name"), OrOwn(Everybody)]


def contributions(signals: Figures, active: NDArray[np.bool_], loss_share: float) -> Figures:
    """Contribution of each active client that has reported, in [0, 1]; not a number for the others [num_clients].

    Args:
        signals: losses and divergences [2, num_clients], not a number for clients that have reported nothing.
        active: clients that are compared.
        loss_share: weight of the losses.
    """
    known = active & ~np.isnan(signals).any(axis=0)
    loss, divergence = (_scaled(own, known) for own in signals)
    return np.where(known, loss_share * loss + (1 - loss_share) * divergence, np.nan)


def _scaled(values: Figures, known: NDArray[np.bool_]) -> Figures:
    """Values to [0, 1] over the known ones. Where all are equal, all are 1: there is no reason to prefer anybody."""
    if not known.any():
        return values
    low, high = values[known].min(), values[known].max()
    return (values - low) / (high - low) if high > low else np.ones_like(values)


def scale_mixture(values: Figures, noise: float, floor: float = 0.1) -> Figures:
    """What is left of each value when y = theta * alpha + noise, alpha ~ N(0, 1), and theta > 0 has Jeffreys' prior.

    Alternates between theta and alpha, each of which has a closed form, from theta = |y| and alpha = 1 (Dong et al. 2015 use the
    same for sparse codes): neither step can raise `mixture_objective`. Where theta becomes 0, the value was noise.

    Args:
        values: y.
        noise: its standard deviation, sigma.
        floor: epsilon in log(theta + epsilon), which keeps theta = 0 from being infinitely likely.
    """
    theta, alpha = np.abs(values), np.sign(values)
    for _ in range(PASSES):
        theta = _best_theta(values, alpha, noise, floor)
        alpha = theta * values / (theta**2 + noise**2)
    return np.asarray(theta * alpha)


def mixture_objective(values: Figures, theta: Figures, alpha: Figures, noise: float, floor: float) -> Figures:
    """The negative log posterior of each value, times 2 sigma^2, up to a constant."""
    prior = noise**2 * (alpha**2 + 2 * np.log(theta + floor))
    return np.asarray((values - theta * alpha) ** 2 + prior)


def _best_theta(values: Figures, alpha: Figures, noise: float, floor: float) -> Figures:
    """The better one of 0 and the greater stationary point, a root of 2 a (theta + e) theta + b (theta + e) + c."""
    a, b, c = alpha**2, -2 * values * alpha, 2 * noise**2
    safe = np.where(a > 0, a, 1.0)
    linear = 2 * a * floor + b
    under = linear**2 - 8 * a * (b * floor + c)
    root = np.where((a > 0) & (under >= 0), (-linear + np.sqrt(np.maximum(under, 0))) / (4 * safe), 0.0)
    root = np.maximum(root, 0.0)
    nothing = np.zeros_like(root)
    better = mixture_objective(values, root, alpha, noise, floor) < mixture_objective(values, nothing, alpha, noise, floor)
    return np.where(better, root, nothing)
