"""Who is there in a round. Every rule is a pure function of seed and round, so that a forecast and a resumed run see the same."""

import math
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from fedphd_ray.devices.tables import read_trace
from fedphd_ray.seeds import Purpose, numpy_rng
from fedphd_ray.settings.sections import Section

Mask = NDArray[np.bool_]
Share = Annotated[float, Field(ge=0, le=1)]


class Always(Section):
    """Everybody, every round."""

    name: Literal["always"] = "always"

    def present(self, round: int, num_clients: int, num_regions: int, seed: int) -> Mask:
        """Who is there in a round, bool [num_clients]; client c lives in region c modulo `num_regions`."""
        return np.ones(num_clients, bool)


class Bernoulli(Section):
    """Each client with the same probability, every round anew."""

    name: Literal["bernoulli"]
    probability: Share

    def present(self, round: int, num_clients: int, num_regions: int, seed: int) -> Mask:
        """See `Always.present`."""
        return numpy_rng(seed, Purpose.AVAILABILITY, round).random(num_clients) < self.probability


class Markov(Section):
    """Clients come and go: `leave` and `join` are the probabilities of a change from one round to the next.

    A share of join / (join + leave) is there in the first round, and on average in every other.
    """

    name: Literal["markov"]
    leave: Annotated[float, Field(gt=0, le=1)]
    join: Annotated[float, Field(gt=0, le=1)]

    def present(self, round: int, num_clients: int, num_regions: int, seed: int) -> Mask:
        """See `Always.present`."""
        return _walk(self.leave, self.join, num_clients, seed).at(round)


class Diurnal(Section):
    """A share that rises and falls like a day: from `least` to `most` and back within `period_rounds`.

    Regions see the day one after another: the phase of region g of G is g / G of a period.
    """

    name: Literal["diurnal"]
    period_rounds: PositiveInt
    least: Share = 0.1
    most: Share = 0.9

    def present(self, round: int, num_clients: int, num_regions: int, seed: int) -> Mask:
        """See `Always.present`."""
        phase = round / self.period_rounds + (np.arange(num_clients) % num_regions) / num_regions
        share = self.least + (self.most - self.least) * (1 - np.cos(2 * math.pi * phase)) / 2
        return np.asarray(numpy_rng(seed, Purpose.AVAILABILITY, round).random(num_clients) < share)


class Trace(Section):
    """From a CSV or Parquet file with the columns `client`, `first_round` and `last_round`, both inclusive.

    A client may have several rows; one without a row is never there. After the file's last round it begins again.
    """

    name: Literal["trace"]
    path: str

    def present(self, round: int, num_clients: int, num_regions: int, seed: int) -> Mask:
        """See `Always.present`."""
        clients, first, last = read_trace(Path(self.path), num_clients)
        now = (round - 1) % int(last.max()) + 1 if len(last) else round
        there = np.zeros(num_clients, bool)
        there[clients[(first <= now) & (now <= last)]] = True
        return there


Availability = Annotated[Always | Bernoulli | Markov | Diurnal | Trace, Field(discriminator="name")]


@lru_cache(maxsize=4)
def _walk(leave: float, join: float, num_clients: int, seed: int) -> "_Walk":
    """The same one for all who ask for the same."""
    return _Walk(leave, join, num_clients, seed)


class _Walk:
    """The chain, and the round where it is: asked for the next one it takes a step, for an earlier one it begins again."""

    def __init__(self, leave: float, join: float, num_clients: int, seed: int) -> None:
        self._leave, self._join, self._num_clients, self._seed = leave, join, num_clients, seed
        self._round, self._there = 0, np.zeros(num_clients, bool)

    def at(self, round: int) -> Mask:
        """Who is there in a round."""
        if round < self._round:
            self._round = 0
        while self._round < round:
            self._round += 1
            drawn = numpy_rng(self._seed, Purpose.AVAILABILITY, self._round).random(self._num_clients)
            if self._round == 1:
                self._there = drawn < self._join / (self._join + self._leave)
            else:
                self._there = np.where(self._there, drawn >= self._leave, drawn < self._join)
        return self._there
