"""Clients that share a radio channel: how much each must be pruned to meet a deadline, and who gets how much of the bandwidth.

After Liu, Wang, Deng, Nallanathan: "Adaptive Federated Pruning in Hierarchical Wireless Networks", 2023 (arXiv 2305.09042), whose
abstract has the latency model, the joint choice of ratios and bandwidths and the closed forms; the formulas are a reconstruction.
A client that is pruned by rho trains and sends (1 - rho) of everything:

    (1 - rho) (t + s / R(b)) <= T,    R(b) = b log2(1 + a / b)

with t seconds of training, s bits to send and T seconds for both; b is its bandwidth and a = p h / N0 its channel, in Hz. What
pruning costs in convergence is bounded by the sum of q rho, which is minimised under a limit of the sum of b.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import lambertw

Figures = NDArray[np.float64]
HALVINGS = 60  # of an interval, until float64 resolves no more


@dataclass(frozen=True)
class Radio:
    """Clients of one edge that take part in a round; all arrays [num_clients].

    Attributes:
        compute: t, seconds that training takes without pruning.
        bits: s, to be sent without pruning.
        channel: a, in Hz.
        seconds: T, for training and sending; not above 0 for a client that cannot do anything in time.
        weight: q, how much the pruning of each matters.
    """

    compute: Figures
    bits: Figures
    channel: Figures
    seconds: Figures
    weight: Figures

    def some(self, clients: NDArray[np.bool_]) -> "Radio":
        """Of some of the clients."""
        return Radio(*(own[clients] for own in (self.compute, self.bits, self.channel, self.seconds, self.weight)))


@dataclass(frozen=True)
class Allocation:
    """Bandwidths in Hz and pruning ratios [num_clients], and whose they are: others cannot meet the deadline, however pruned."""

    bandwidth: Figures
    ratio: Figures
    feasible: NDArray[np.bool_]


def rate(bandwidth: Figures, channel: Figures) -> Figures:
    """R in bit/s; 0 without bandwidth."""
    safe = np.where(bandwidth > 0, bandwidth, 1.0)
    return np.where(bandwidth > 0, safe * np.log2(1 + channel / safe), 0.0)


def bandwidth_for(rate: Figures, channel: Figures) -> Figures:
    """The least bandwidth of a rate: -R ln 2 / (W(-g exp(-g)) + g), g = R ln 2 / a, W the lower branch of Lambert's function.

    However much there is, a rate stays below a / ln 2: without end from there on.
    """
    load = rate * np.log(2) / channel
    possible = (load > 0) & (load < 1)
    safe = np.where(possible, load, 0.5)
    lower = lambertw(-safe * np.exp(-safe), k=-1).real
    needed = -rate * np.log(2) / (lower + safe)
    return np.asarray(np.where(possible, needed, np.where(load > 0, np.inf, 0.0)))


def least_ratio(bandwidth: Figures, radio: Radio) -> Figures:
    """Rho: just as much as the deadline asks for, and 0 where there is time left."""
    with np.errstate(divide="ignore"):
        sending = radio.bits / rate(bandwidth, radio.channel)
    return np.clip(1 - radio.seconds / (radio.compute + sending), 0.0, 1.0)


def bandwidth_of_ratio(ratio: Figures, radio: Radio) -> Figures:
    """The least bandwidth with which a client that is pruned so much meets the deadline; without end where none does."""
    left = radio.seconds - (1 - ratio) * radio.compute
    needed = np.where(left > 0, (1 - ratio) * radio.bits / np.where(left > 0, left, 1.0), np.inf)
    return bandwidth_for(needed, radio.channel)


def allocate(radio: Radio, total: float, most: float) -> Allocation:
    """The bandwidths and ratios of the least sum of q rho, with bandwidths of at most `total` Hz and ratios of at most `most`.

    Where bandwidth is short of what the most pruned clients need, those who need most of it are left out. The others' optimum is
    where a further Hz would lower q rho by as much for each of them, but for those who are not pruned, or as much as can be: the
    price of a Hz is found by a root finder.
    """
    least = bandwidth_of_ratio(np.full(len(radio.bits), most), radio)
    feasible = np.isfinite(least)
    for client in np.argsort(-least, kind="stable"):
        if least[feasible].sum() <= total:
            break
        feasible[client] = False
    bandwidth, ratio = np.zeros(len(least)), np.ones(len(least))
    if feasible.any():
        own = radio.some(feasible)
        bandwidth[feasible] = _shared(own, total, least[feasible])
        ratio[feasible] = np.minimum(least_ratio(bandwidth[feasible], own), most)
    return Allocation(bandwidth, ratio, feasible)


def _shared(radio: Radio, total: float, least: Figures) -> Figures:
    """Bandwidths between the least and what leaves a client unpruned, that sum to the total or are all that is of use."""
    enough = np.minimum(bandwidth_of_ratio(np.zeros(len(least)), radio), total)
    enough = np.maximum(enough, least)
    if enough.sum() <= total:
        return enough
    gains = np.log(np.concatenate([_gain(least, radio), _gain(enough, radio)]))
    low, high = float(gains.min()) - 1.0, float(gains.max()) + 1.0
    price = brentq(lambda log: float(_demand(np.exp(log), radio, least, enough).sum()) - total, low, high, xtol=1e-13, rtol=1e-13)
    return _demand(float(np.exp(price)), radio, least, enough)


def _gain(bandwidth: Figures, radio: Radio) -> Figures:
    """By how much a further Hz lowers q rho: q T s R' / (R t + s)^2, R' = log2(1 + a / b) - a / ((a + b) ln 2)."""
    safe = np.maximum(bandwidth, 1e-300)
    signal = radio.channel / safe
    slope = np.log1p(signal) - signal / (1 + signal)
    slope = np.maximum(slope, (signal / (1 + signal)) ** 2 / 4)  # a weak signal's is half its square, which rounding may lose
    loss = rate(safe, radio.channel) * radio.compute + radio.bits
    return np.asarray(radio.weight * radio.seconds * radio.bits * slope / np.log(2) / loss**2)


def _demand(price: float, radio: Radio, least: Figures, enough: Figures) -> Figures:
    """Bandwidths at which a further Hz is worth the price; the gain falls with the bandwidth, so halving finds them."""
    low, high = least.copy(), enough.copy()
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        worth = _gain(middle, radio) > price
        low, high = np.where(worth, middle, low), np.where(worth, high, middle)
    return (low + high) / 2
