"""Who the clients of a run are, as it was drawn: a table in the run directory."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fedphd_ray.runtime.experiment import Experiment
from fedphd_ray.system.files import write_whole

POPULATION_FILE = "population.parquet"


def population_table(experiment: Experiment) -> pa.Table:
    """A row per client: its images, how many of each class, and its device, where devices are simulated."""
    population, devices = experiment.population, experiment.devices
    columns: dict[str, pa.Array] = {
        "client": pa.array(np.arange(population.num_clients, dtype=np.int32)),
        "images": pa.array(population.num_samples),
        "label_counts": pa.array(population.label_counts.tolist(), pa.list_(pa.int64())),
    }
    if devices is not None:
        columns |= {
            "device": pa.array(devices.kinds),
            "macs_per_second": pa.array(devices.speed),
            "memory_bytes": pa.array(devices.memory_bytes),
            "download_bits_per_second": pa.array(devices.download),
            "upload_bits_per_second": pa.array(devices.upload),
            "latency_seconds": pa.array(devices.latency),
        }
    return pa.table(columns)


def write_population(experiment: Experiment, directory: Path) -> None:
    """Writes the table into a run directory."""
    sink = pa.BufferOutputStream()
    pq.write_table(population_table(experiment), sink)
    write_whole(directory / POPULATION_FILE, sink.getvalue().to_pybytes())
