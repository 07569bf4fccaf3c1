"""Populations of devices by name, with the sources of their figures."""

from collections.abc import Mapping
from types import MappingProxyType


def _log_normal(median: float, sigma: float) -> dict[str, object]:
    return {"distribution": "log_normal", "median": median, "sigma": sigma}


PHONES: list[dict[str, object]] = [
    {
        "name": name,
        "share": share,
        "macs_per_second": _log_normal(speed, 0.4),
        "memory_gib": memory,
        "download_mbit": _log_normal(40, 0.6),
        "upload_mbit": _log_normal(10, 0.6),
        "latency_ms": 50,
    }
    for name, share, speed, memory in [("old phone", 0.2, 4e8, 2), ("phone", 0.6, 2e9, 4), ("new phone", 0.2, 1.4e10, 8)]
]
"""Shares, ratios of speed and memory: deciles of the FP32 scores and RAM of 333 phones in AI-Benchmark's table of 2020 (15 : 100
: 700). The 2e9 MACs per second of the phone in the middle and the mobile rates are assumptions."""
LAPTOPS: list[dict[str, object]] = [
    {
        "name": "laptop",
        "macs_per_second": _log_normal(3e10, 0.5),
        "memory_gib": 8,
        "download_mbit": _log_normal(210, 0.4),
        "upload_mbit": _log_normal(55, 0.6),
        "latency_ms": 20,
    }
]
"""Rates: medians of 18 countries in Speedtest's global index (fixed lines). 3e10 MACs per second is about what two cores with
AVX-512 reach in this program (docs/performance.md); its spread is an assumption."""
HOSPITAL: list[dict[str, object]] = [
    {
        "name": "workstation",
        "macs_per_second": _log_normal(3e12, 0.3),
        "memory_gib": 24,
        "download_mbit": 1000,
        "upload_mbit": 1000,
        "latency_ms": 10,
    }
]
"""Assumptions: one GPU with 24 GB at a fifth of its nominal speed, and a gigabit line."""
PRESETS: Mapping[str, list[dict[str, object]]] = MappingProxyType(
    {
        "phones": PHONES,
        "laptops": LAPTOPS,
        "hospital": HOSPITAL,
        "mixed": [*PHONES, {**LAPTOPS[0], "share": 0.8}, {**HOSPITAL[0], "share": 0.2}],
    }
)
