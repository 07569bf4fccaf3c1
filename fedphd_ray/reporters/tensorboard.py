"""TensorBoard: `tensorboard --logdir RUN_DIR`."""

from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.tensorboard.writer import SummaryWriter

from fedphd_ray.reporters import figures
from fedphd_ray.runtime.events import Ended, Event, Judged, RoundDone, Started

HISTOGRAM_EVERY = 10


class TensorBoard:
    """Scalars of every round, grids of samples, and how often clients took part.

    Args:
        directory: of the run.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writer: SummaryWriter | None = None
        self._took_part: Counter[int] = Counter()

    def on_event(self, event: Event) -> None:
        """See `Reporter`. Nothing is written before the run directory is there; rounds that are taken back are purged."""
        match event:
            case Started(round, _):
                if self._writer is not None:
                    self._writer.close()
                self._writer = SummaryWriter(str(self._directory / "tensorboard"), purge_step=round + 1 if round else None)
            case Judged(round, _):
                self._scalars(figures.of_quality(event), round)
                if self._writer is not None and (path := figures.picture(self._directory, round)) is not None:
                    with Image.open(path) as image:
                        self._writer.add_image("samples", np.asarray(image.convert("RGB")), round, dataformats="HWC")
            case RoundDone(record, _):
                self._scalars(figures.of_round(event), record.round)
                self._took_part.update(record.participants)
                if self._writer is not None and record.round % HISTOGRAM_EVERY == 0 and self._took_part:
                    self._writer.add_histogram("participation", np.array(list(self._took_part.values())), record.round)
            case Ended() if self._writer is not None:
                self._writer.close()

    def _scalars(self, values: dict[str, float], round: int) -> None:
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, round)
