"""The tree between clients and cloud, as a configuration says it."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Self

from pydantic import Field, PositiveInt, model_validator

from fedphd_ray.errors import ConfigError
from fedphd_ray.settings.sections import Section
from fedphd_ray.strategies.edge_choice import EdgeChoice, OfTheStrategy
from fedphd_ray.topology import CLIENT, CLOUD, Tier, Topology

MOST_NODES = 100_000  # of a tier: each is an actor


class TierConfig(Section):
    """One tier of aggregators.

    Attributes:
        name: of the tier, and so of its nodes (`region/0`) and links (`edge_to_region`).
        nodes: how many there are.
        period: its nodes send their models to their parents after every so many aggregations of their own. An edge aggregates
            every round; any other node when its children have sent.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*$", max_length=20)]
    nodes: Annotated[int, Field(ge=1, le=MOST_NODES)]
    period: PositiveInt = 1


class HierarchyConfig(Section):
    """The tree between clients and cloud.

    Attributes:
        num_edges: edge servers, M; 0 makes the federation flat: clients speak with the cloud itself.
        cloud_period: the cloud aggregates every so many rounds, r_g.
        tiers: the same and more, from the edges upwards; the two above follow from them then. null is one tier, `edge`, of
            `num_edges` nodes and period `cloud_period`.
        edge_choice: which edge a client of a cohort goes to; `strategy` as the method has it.
    """

    num_edges: Annotated[int, Field(ge=0, le=MOST_NODES)] = 2
    cloud_period: PositiveInt = 5
    tiers: Annotated[tuple[TierConfig, ...], Field(min_length=1)] | None = None
    edge_choice: EdgeChoice = OfTheStrategy()

    @model_validator(mode="before")
    @classmethod
    def _follow_from_tiers(cls, values: Any) -> Any:
        tiers = values.get("tiers") if isinstance(values, Mapping) else None
        if not isinstance(tiers, list | tuple):
            return values
        listed = dict(values) | {"tiers": tuple(tiers)}  # what comes from here may be no list, to pydantic's strict mode
        try:
            read = [TierConfig.model_validate(tier) for tier in tiers]
        except ValueError:
            return listed  # refused, with a better word, when the field is read
        follow = {"num_edges": read[0].nodes, "cloud_period": math.prod(tier.period for tier in read)} if read else {}
        return follow | listed

    @model_validator(mode="after")
    def _one_tree(self) -> Self:
        if self.tiers is None:
            return self
        names = [tier.name for tier in self.tiers]
        if len({*names, CLIENT, CLOUD}) < len(names) + 2:
            expected = f"names that differ, and none of them {CLIENT} or {CLOUD}"
            raise ConfigError("hierarchy.tiers", expected=expected, found=", ".join(names))
        if any(above.nodes > below.nodes for below, above in pairwise(self.tiers)):
            raise ConfigError(
                "hierarchy.tiers",
                expected="no more nodes in a tier than in the one below it: every node has a child",
                found=", ".join(f"{tier.nodes} of {tier.name}" for tier in self.tiers),
                remedy="list the tiers from the edges upwards",
            )
        stated = (self.num_edges, self.cloud_period)
        follow = (self.tiers[0].nodes, math.prod(tier.period for tier in self.tiers))
        if stated != follow:
            raise ConfigError(
                "hierarchy.tiers",
                expected=f"a tree of num_edges: {stated[0]} and cloud_period: {stated[1]}, which are given beside it",
                found=f"one of num_edges: {follow[0]} and cloud_period: {follow[1]}",
                remedy="leave these two out: they follow from the tiers",
            )
        return self

    def topology(self) -> Topology:
        """The tree as the rest of the program knows it."""
        if self.tiers is not None:
            return Topology(tuple(Tier(tier.name, tier.nodes, tier.period) for tier in self.tiers))
        return Topology((Tier("edge", self.num_edges, self.cloud_period),) if self.num_edges else ())
