"""The run directory: a reader needs nothing else to know what a run was and what came of it."""

import json
import math
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from fedphd_ray.diffusion.export import export_stock, opener, save_pipeline
from fedphd_ray.diffusion.unet import build_unet, parameter_shapes
from fedphd_ray.federation.channel.links import model_bytes
from fedphd_ray.records import Payload
from fedphd_ray.runtime.directory.books import Books
from fedphd_ray.runtime.directory.identity import config_sha256
from fedphd_ray.runtime.directory.status import command_line, machine, utc_now
from fedphd_ray.runtime.experiment import Experiment
from fedphd_ray.runtime.storage.state import RunState
from fedphd_ray.system.files import MIB, read_text, whole_folder, write_whole
from fedphd_ray.tensors import as_tensor, digest
from fedphd_ray.topology import Hop

PACKAGES = ("torch", "diffusers", "ray", "fedphd-ray")


@dataclass(frozen=True)
class Summary:
    """`summary.json`; the contract of names is in docs/run_directory.md."""

    name: str
    strategy: str
    seed: int
    model_sha256: str
    rounds: int
    params_dense: int
    params_final: int
    macs_dense: int
    macs_final: int
    macs_by_version: list[int]
    bytes_by_hop: dict[str, int]
    cloud_saving: float
    fid_untrained: float | None
    fid: float | None
    kid: float | None
    class_histogram: list[int] | None
    fid_features: str | None
    evaluation: dict[str, object]
    ema_decay: float
    stock_export: str
    placement: str
    wall_seconds: float
    overhead_fraction: float
    peak_memory_bytes: int
    failures: list[str]
    replacements: list[str]
    config_sha256: str
    data_sha256: str
    versions: dict[str, str]
    metrics_sha256: str
    quality_sha256: str
    precision: str = "float32"
    sim_seconds: float = 0.0
    personal_fid: float | None = None
    personal_kid: float | None = None
    began: str = ""
    ended: str = ""
    command: str = ""
    machine: str = ""
    metrics: dict[str, float | None] = field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """Writes `summary.json`, whole."""
        write_whole(directory / "summary.json", (json.dumps(asdict(self), indent=2) + "\n").encode())

    @classmethod
    def read(cls, directory: Path) -> "Summary | None":
        """The summary of a finished run; None where there is none, or it is of another version of this program."""
        try:
            return TypeAdapter(cls).validate_json(read_text(directory / "summary.json", 64 * MIB))
        except (OSError, ValidationError):
            return None


def model_folder(client: int | None) -> str:
    """Where a delivered model lies in the run directory: the federation's, or one client's own."""
    return "model" if client is None else f"clients/client-{client:03d}"


def save_model(experiment: Experiment, model: Payload, directory: Path) -> str:
    """Writes the delivered model in the place of whatever lies there, and says in a sentence whether stock diffusers opens it.

    `directory` holds the exact model (config.json + safetensors) and its noise process (scheduler/); where it can be a stock
    network too, what else `DDIMPipeline.from_pretrained(directory)` opens lies beside it (model_index.json, unet/).
    """
    with whole_folder(directory) as folder:
        return _write_model(experiment, model, folder)


def _write_model(experiment: Experiment, model: Payload, directory: Path) -> str:
    unet = build_unet(experiment.spec, model.layout.by_name)
    unet.load_state_dict(model.layout.views(as_tensor(model.vector)))
    unet.save_pretrained(directory)
    scheduler = experiment.process.ddim_scheduler()
    scheduler.save_pretrained(directory / "scheduler")  # samples of a model need its noise process, whoever draws them
    export = export_stock(unet, experiment.spec, num_timesteps=experiment.process.config.num_timesteps)
    reason = export.reason
    if export.model is not None and experiment.spec.num_classes is not None:
        export.model.save_pretrained(directory / "unet")
    elif export.model is not None:
        reason = save_pipeline(directory, export.model, scheduler)
    if reason:
        return f"saved in this project's own class only: {reason}"
    return f"opens with {opener(experiment.spec)} (largest output difference {export.max_difference:.1e})"


def flat_fedavg_cloud_bytes(experiment: Experiment, num_params: int) -> int:
    """What flat FedAvg would move over the cloud's link: every client of every round, dense, down and up."""
    per_round = 2 * experiment.schedule.cohort_size * model_bytes(num_params)
    return per_round * experiment.schedule.rounds


def cloud_saving(experiment: Experiment, params_dense: int, bytes_by_hop: dict[str, int]) -> float:
    """1 - bytes over the cloud's link / those of flat FedAvg with the same clients per round."""
    moved = sum(num_bytes for hop, num_bytes in bytes_by_hop.items() if Hop(hop).touches_cloud)
    return 1.0 - moved / flat_fedavg_cloud_bytes(experiment, params_dense)


def summarise(
    experiment: Experiment,
    state: RunState,
    books: Books,
    *,
    stock_export: str,
    placement: str,
    peak_memory_bytes: int,
    replacements: Sequence[str],
    began: str,
) -> Summary:
    """The final figures of a finished run."""
    layout, lines = state.delivered.layout, books.metrics.rounds()
    params_dense = sum(map(math.prod, parameter_shapes(experiment.spec).values()))
    macs = [cost.macs for cost in experiment.costs]
    bytes_by_hop = books.ledger.bytes_by_hop
    overheads = [float(str(line["overhead_fraction"])) for line in lines]
    judged = {line["round"]: line for line in books.metrics.qualities()}
    metrics, quality = books.metrics.seals()
    first, last = judged.get(0, {}), judged.get(state.round, {})
    return Summary(
        name=experiment.name,
        strategy=experiment.strategy.name or type(experiment.strategy).__name__,
        seed=experiment.seed,
        model_sha256=digest(layout.views(as_tensor(state.delivered.vector))),
        rounds=state.round,
        params_dense=params_dense,
        params_final=layout.num_params,
        macs_dense=macs[0],
        macs_final=macs[state.delivered.version],
        macs_by_version=macs,
        bytes_by_hop=bytes_by_hop,
        cloud_saving=cloud_saving(experiment, params_dense, bytes_by_hop),
        fid_untrained=_figure(first.get("fid")),
        **{name: _figure(last.get(name)) for name in ("fid", "kid", "personal_fid", "personal_kid")},
        class_histogram=last.get("class_histogram"),  # type: ignore[arg-type]  # a list in the JSON that we wrote
        fid_features=last.get("features"),  # type: ignore[arg-type]  # likewise
        evaluation=experiment.evaluation.model_dump(mode="json"),
        ema_decay=experiment.server.ema_decay,
        stock_export=stock_export,
        placement=placement,
        wall_seconds=books.wall_seconds,
        overhead_fraction=statistics.median(overheads) if overheads else 0.0,
        peak_memory_bytes=peak_memory_bytes,
        failures=list(state.failures),
        replacements=[str(why) for line in lines for why in _list(line.get("replacements"))] + list(replacements),
        config_sha256=config_sha256(experiment.settings),
        data_sha256=experiment.dataset.content_hash,
        versions={"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        metrics_sha256=metrics.sha256,
        quality_sha256=quality.sha256,
        precision=experiment.local.precision,
        sim_seconds=max((float(str(line.get("sim_seconds", 0.0))) for line in lines), default=0.0),
        began=began,
        ended=utc_now(),
        command=command_line(),
        machine=machine(),
        metrics={name: _figure(value) for name, value in _mapping(last.get("metrics")).items()},
    )


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _figure(value: object) -> float | None:
    return value if isinstance(value, float) else None
