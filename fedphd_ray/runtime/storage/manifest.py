"""`state.json` of a checkpoint: everything in it that is not a tensor, believed only as far as it can be checked."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt

from fedphd_ray.errors import UserError
from fedphd_ray.records import EdgeStatistics, Kind
from fedphd_ray.runtime.storage.seals import Seal
from fedphd_ray.tensors import Shape

SCHEMA = 9
HEADER_BYTES = 16 * 2**20  # names and shapes in a safetensors file
MOST_REMEMBERED = 100_000_000  # numbers in one array of the planner's memory


@dataclass(frozen=True)
class Frame:
    """What every checkpoint of a run is like, known before there is one: what differs is not believed.

    Attributes:
        shapes: parameter name -> shape, by architecture version.
        sizes: nodes of each level of the tree.
        num_classes: labels.
        num_clients: registered.
        rounds: of the whole run.
    """

    shapes: tuple[Mapping[str, Shape], ...]
    sizes: tuple[int, ...]
    num_classes: int
    num_clients: int
    rounds: int


class ClientFile(BaseModel):
    """What one client keeps: the round it comes from, and the content hash that names the file."""

    round: NonNegativeInt
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class NodeFile(BaseModel):
    """`EdgeStatistics`."""

    label_counts: list[NonNegativeInt]
    last_samples: NonNegativeInt
    weight: NonNegativeFloat
    part_weights: tuple[NonNegativeFloat, ...]
    steps: NonNegativeFloat

    @classmethod
    def of(cls, node: EdgeStatistics) -> "NodeFile":
        """Those of a node."""
        return cls.model_validate(vars(node) | {"label_counts": node.label_counts.tolist()})

    def statistics(self) -> EdgeStatistics:
        """As the run has it."""
        return EdgeStatistics(**(self.model_dump() | {"label_counts": np.array(self.label_counts, dtype=np.int64)}))


class Manifest(BaseModel):
    """`state.json`: everything that is not a tensor."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int
    run: str
    round: NonNegativeInt
    version: NonNegativeInt
    names: list[str]
    shapes: list[list[int]]
    syncs: NonNegativeInt
    nodes: list[list[NodeFile]]
    clients: dict[int, ClientFile]
    plan: str | None
    pruned_round: NonNegativeInt
    plan_owed: list[int]
    failures: list[str]
    past: list[NonNegativeInt]
    memory: dict[str, Annotated[int, Field(ge=0, le=MOST_REMEMBERED)]]
    books: Seal | None
    tensors_sha256: str
    manifest_sha256: str = ""

    def sealed(self) -> str:
        """The file, with a hash of everything else that is in it."""
        return self.model_copy(update={"manifest_sha256": self._hash()}).model_dump_json(indent=1)

    @property
    def most_tensor_bytes(self) -> int:
        """What the tensors may take: some vectors of the network's length."""
        models = (sum(map(len, self.nodes)) + 1) * (1 + len(self.past))
        residuals = 1 + len(self.nodes[-1]) if self.nodes else 1
        vectors = models * (1 + len(Kind)) + residuals + 8
        remembered = 8 * sum(self.memory.values())
        return vectors * 4 * sum(math.prod(shape) for shape in self.shapes) + remembered + HEADER_BYTES

    @classmethod
    def opened(cls, data: bytes) -> "Manifest":
        """A manifest that is what was written.

        Raises:
            ValueError: it is not.
            UserError: another version of this program wrote it.
        """
        tree = json.loads(data)
        schema = tree.get("schema_version") if isinstance(tree, dict) else None
        if isinstance(schema, int) and schema != SCHEMA:
            raise UserError(
                "checkpoint",
                expected=f"schema {SCHEMA}, which this version reads",
                found=f"schema {schema}",
                remedy="resume with the version of fedphd_ray that wrote it, or start another run elsewhere",
            )
        manifest = cls.model_validate_json(data)
        if manifest.manifest_sha256 != manifest._hash():
            raise ValueError("its manifest is damaged (content hash differs)")
        return manifest

    def require_fit(self, frame: Frame) -> None:
        """Sees that this may be a checkpoint of such a run.

        Raises:
            ValueError: it may not.
        """
        clients = {*self.clients, *self.plan_owed}
        counts = [[len(node.label_counts) for node in level] for level in self.nodes]
        if not self.version < len(frame.shapes) or dict(zip(self.names, map(tuple, self.shapes), strict=True)) != dict(
            frame.shapes[self.version]
        ):
            raise ValueError("its names and shapes are not those of this run's network")
        if not max([self.round, self.pruned_round, *(file.round for file in self.clients.values())]) <= frame.rounds:
            raise ValueError(f"it is of round {self.round}, or knows of later rounds, in a run of {frame.rounds}")
        if counts != [[frame.num_classes] * nodes for nodes in frame.sizes] or not clients <= set(range(frame.num_clients)):
            raise ValueError("its nodes, classes or clients are not those of this run")

    def _hash(self) -> str:
        return hashlib.sha256(self.model_copy(update={"manifest_sha256": ""}).model_dump_json().encode()).hexdigest()
