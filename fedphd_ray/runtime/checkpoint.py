"""Checkpoints: the whole `RunState`, every file whole or absent, its manifest last; safetensors and JSON only.

What a client keeps is a file of its own, named by its content and shared by all checkpoints that hold it: of many clients, only
those that took part since the last checkpoint are written.
"""

import contextlib
import hashlib
import json
from dataclasses import replace

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedphd_ray.errors import ModelFileError, UserError
from fedphd_ray.pruning.plan import PrunePlan
from fedphd_ray.records import ClientState, EdgeStatistics, Payload
from fedphd_ray.runtime.backend import Backend
from fedphd_ray.runtime.state import RunState, keep_all
from fedphd_ray.runtime.state_files import from_bytes, to_bytes
from fedphd_ray.runtime.storage import Storage
from fedphd_ray.sections import Section
from fedphd_ray.tensors import Layout
from fedphd_ray.topology import client_name

SCHEMA = 6
CLIENTS, TENSORS, MANIFEST = "clients", "tensors.safetensors", "state.json"


class CheckpointConfig(Section):
    """When the state is saved.

    Attributes:
        every: rounds between two checkpoints (the final state is saved too); 0 for never.
        keep: checkpoints kept; older ones go only when the new one is safe.
        path: a folder or a URI (s3://, gs://, ...) of this run alone; null for `checkpoints/` in the run directory.
    """

    every: NonNegativeInt = 10
    keep: PositiveInt = 3
    path: str | None = None


class _ClientFile(BaseModel):
    """What one client keeps: the round it comes from, and the content hash that names the file."""

    round: int
    sha256: str


class _Edge(BaseModel):
    """`EdgeStatistics`."""

    label_counts: list[int]
    last_samples: int
    weight: float
    part_weights: tuple[float, ...]
    steps: float

    @classmethod
    def of(cls, edge: EdgeStatistics) -> "_Edge":
        return cls.model_validate(vars(edge) | {"label_counts": edge.label_counts.tolist()})

    def statistics(self) -> EdgeStatistics:
        """As the run has it."""
        return EdgeStatistics(**(self.model_dump() | {"label_counts": np.array(self.label_counts, dtype=np.int64)}))


class _Manifest(BaseModel):
    """`state.json`: everything that is not a tensor."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int
    round: int
    version: int
    names: list[str]
    shapes: list[list[int]]
    syncs: int
    edges: list[_Edge]
    clients: dict[int, _ClientFile]
    plan: str | None
    pruned_round: int
    plan_owed: list[int]
    failures: list[str]
    tensors_sha256: str
    manifest_sha256: str = ""

    def sealed(self) -> str:
        """The file, with a hash of everything else that is in it."""
        return self.model_copy(update={"manifest_sha256": self._hash()}).model_dump_json(indent=1)

    @classmethod
    def opened(cls, data: bytes) -> "_Manifest":
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

    def _hash(self) -> str:
        return hashlib.sha256(self.model_copy(update={"manifest_sha256": ""}).model_dump_json().encode()).hexdigest()


class Checkpoints:
    """The checkpoints of a run.

    Args:
        storage: where.
        config: when, and how many stay.
    """

    def __init__(self, storage: Storage, config: CheckpointConfig) -> None:
        self.storage = storage
        self.config = config
        self._written: dict[int, tuple[_ClientFile, int]] = {}  # with the architecture version: which state of the client it is

    def due(self, round: int, last_round: int) -> bool:
        """Whether the state after `round` is saved."""
        return self.config.every > 0 and round > 0 and (round % self.config.every == 0 or round == last_round)

    def save(self, state: RunState, backend: Backend) -> None:
        """Writes a checkpoint so that a crash at any moment leaves the former ones whole: it exists when its manifest does."""
        folder = f"round-{state.round:06d}"
        clients = {client: self._write_client(client, state, backend) for client in state.client_states}
        tensors = save(_tensors(state, backend))
        manifest = _manifest(state, clients, hashlib.sha256(tensors).hexdigest())
        self.storage.write(f"{folder}/{TENSORS}", tensors)
        self.storage.write(f"{folder}/{MANIFEST}", manifest.sealed().encode())
        self._remove_old(manifest)

    def rounds(self) -> list[str]:
        """Folders of finished checkpoints, oldest first."""
        return [name for name in self._folders() if MANIFEST in self.storage.names(name)]

    def _folders(self) -> list[str]:
        return [name for name in self.storage.names() if name.startswith("round-")]

    def load_newest(self, backend: Backend) -> tuple[RunState | None, list[str]]:
        """The newest checkpoint that is whole, and a sentence for each newer one that is not."""
        warnings: list[str] = []
        for folder in reversed(self.rounds()):
            try:
                return self._load(folder, backend), warnings
            except ModelFileError as error:
                warnings.append(f"{folder} was passed over: {error.found}")
        return None, warnings

    def _load(self, folder: str, backend: Backend) -> RunState:
        """Reads a checkpoint, whatever is wrong with it being a `ModelFileError`."""
        try:
            manifest = _Manifest.opened(self.storage.read(f"{folder}/{MANIFEST}"))
            tensors = self.storage.read(f"{folder}/{TENSORS}")
            if hashlib.sha256(tensors).hexdigest() != manifest.tensors_sha256:
                raise ValueError("its tensors are damaged (content hash differs)")
            oldest_first = dict(sorted(manifest.clients.items(), key=lambda item: item[1].round))
            states = keep_all(backend, oldest_first, lambda client: self._read_client(client, oldest_first[client]))
            self._written = {client: (file, manifest.version) for client, file in manifest.clients.items()}
            return _restore(manifest, load(tensors), states, backend)
        except (OSError, ValueError, KeyError, AssertionError, RecursionError, SafetensorError) as error:
            raise ModelFileError(
                folder, expected="a whole checkpoint", found=str(error), remedy="resume from an older checkpoint"
            ) from error

    def _write_client(self, client: int, state: RunState, backend: Backend) -> _ClientFile:
        """The file of a client's state; written only if no earlier checkpoint has it."""
        round, version = state.state_rounds[client], state.model.version
        if client in self._written:
            file, of_version = self._written[client]
            if (file.round, of_version) == (round, version):
                return file
        data = to_bytes(backend.get_state(state.client_states[client]))
        file = _ClientFile(round=round, sha256=hashlib.sha256(data).hexdigest())
        self.storage.write(_client_file(file.sha256), data)
        self._written[client] = file, version
        return file

    def _read_client(self, client: int, file: _ClientFile) -> ClientState:
        data = self.storage.read(_client_file(file.sha256))
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise ValueError(f"what {client_name(client)} keeps is damaged (content hash differs)")
        return from_bytes(data)

    def _remove_old(self, newest: _Manifest) -> None:
        """Checkpoints beyond the number kept, unfinished ones, and client files that none of the others holds."""
        kept = self.rounds()[-self.config.keep :]
        for old in self._folders():
            if old not in kept:
                self.storage.remove(old)
        needed = {file.sha256 for file in newest.clients.values()}
        for folder in kept[:-1]:
            with contextlib.suppress(OSError, ValueError):  # a damaged one needs nothing
                manifest = _Manifest.opened(self.storage.read(f"{folder}/{MANIFEST}"))
                needed |= {file.sha256 for file in manifest.clients.values()}
        for name in self.storage.names(CLIENTS):
            if name.partition(".")[0] not in needed:
                self.storage.remove(f"{CLIENTS}/{name}")


def _client_file(sha256: str) -> str:
    return f"{CLIENTS}/{sha256}.safetensors"


def _tensors(state: RunState, backend: Backend) -> dict[str, np.ndarray]:
    tensors = {"model": state.model.vector}
    if state.ema is not None:
        tensors["ema"] = state.ema.vector
    tensors |= {f"server/{name}": vector for name, vector in state.server.items()}
    for edge, handle in enumerate(state.edge_models):
        tensors[f"edge/{edge}"] = backend.get_payload(handle).vector
    return tensors


def _manifest(state: RunState, clients: dict[int, _ClientFile], tensors_sha256: str) -> _Manifest:
    return _Manifest(
        schema_version=SCHEMA,
        round=state.round,
        version=state.model.version,
        names=list(state.model.layout.names),
        shapes=[list(shape) for shape in state.model.layout.shapes],
        syncs=state.syncs,
        edges=[_Edge.of(edge) for edge in state.edge_statistics],
        clients=clients,
        plan=None if state.plan is None else state.plan.to_json(),
        pruned_round=state.pruned_round,
        plan_owed=sorted(state.plan_owed),
        failures=list(state.failures),
        tensors_sha256=tensors_sha256,
    )


def _restore(manifest: _Manifest, tensors: dict[str, np.ndarray], states: dict[int, object], backend: Backend) -> RunState:
    layout = Layout(tuple(manifest.names), tuple(tuple(shape) for shape in manifest.shapes))
    version = manifest.version

    def payload(name: str) -> Payload:
        return Payload(tensors[name], layout, version)

    def below(prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): vector for name, vector in tensors.items() if name.startswith(prefix)}

    state = RunState(
        round=manifest.round,
        model=payload("model"),
        ema=payload("ema") if "ema" in tensors else None,
        edge_models=(),
        edge_statistics=tuple(edge.statistics() for edge in manifest.edges),
        syncs=manifest.syncs,
        client_states=states,
        state_rounds={client: file.round for client, file in manifest.clients.items()},
        server=below("server/"),
        plan=None if manifest.plan is None else PrunePlan.from_json(manifest.plan),
        pruned_round=manifest.pruned_round,
        plan_owed=frozenset(manifest.plan_owed),
        failures=tuple(manifest.failures),
    )
    edges = [replace(state.broadcast, vector=tensors[f"edge/{edge}"]) for edge in range(len(manifest.edges))]
    return replace(state, edge_models=tuple(backend.put(edge) for edge in edges))
