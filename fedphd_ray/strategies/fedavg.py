"""FedAvg, flat and hierarchical.

McMahan, Moore, Ramage, Hampson, Aguera y Arcas: "Communication-Efficient Learning of Deep Networks from Decentralized Data",
AISTATS 2017 (arXiv 1602.05629). With edges it is HierFAVG: Liu, Zhang, Song, Letaief: "Client-Edge-Cloud Hierarchical Federated
Learning", ICC 2020 (arXiv 1905.06641), each client belonging to a fixed edge.
"""

from typing import Literal

from fedphd_ray.strategies.base import Strategy


class FedAvg(Strategy):
    """Sample-weighted averaging at both tiers: all defaults."""

    name: Literal["fedavg"] = "fedavg"
