"""What tools that draw curves are told, by names that they all share."""

import math
from pathlib import Path

from fedphd_ray.runtime.events import Judged, RoundDone


def of_round(event: RoundDone) -> dict[str, float]:
    """Scalars of a round."""
    record = event.record
    figures = {
        "train/loss": record.loss,
        "train/local_steps": record.local_steps,
        "train/participants": len(record.participants),
        "train/left_out": len(record.failures) + len(record.unused),
        "model/version": record.version,
        "time/round_seconds": record.round_seconds,
        "time/overhead": record.overhead_fraction,
        "time/simulated_seconds": record.sim_seconds,
    }
    figures |= {f"bytes/{hop}": num for hop, num in record.bytes_by_hop.items()}
    figures |= {f"homogeneity/edge_{edge}": score for edge, score in record.homogeneity.items()}
    return {name: float(value) for name, value in figures.items() if math.isfinite(value)}


def of_quality(event: Judged) -> dict[str, float]:
    """Scalars of an evaluation."""
    figures = {"quality/fid": event.quality.fid, "quality/kid": event.quality.kid}
    figures |= {f"quality/{name}": value for name, value in event.quality.metrics.items()}
    return {name: float(value) for name, value in figures.items() if math.isfinite(value)}


def picture(directory: Path, round: int) -> Path | None:
    """The grid of samples that was drawn after a round, if there is one."""
    path = directory / "samples" / f"round-{round:06d}.png"
    return path if path.is_file() else None
