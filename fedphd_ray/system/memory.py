"""Memory of this process."""

import contextlib
import ctypes
import resource
import sys
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of <malloc.h>


def peak_memory_bytes() -> int:
    """Largest resident size of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def resident_bytes() -> int:
    """Resident size of this process now, in bytes; the largest so far where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return peak_memory_bytes()
    return pages * resource.getpagesize()


def keep_freed_memory() -> None:
    """Lets this process keep up to 128 MiB that it has freed, and take vectors of up to 32 MiB from there.

    glibc would give them back and take new pages for the next ones: a page fault per 4 KiB, a fifth of a round in which models of
    some million parameters are only added up. Elsewhere than on glibc this does nothing.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_TRIM_THRESHOLD, 128 * 2**20)
        mallopt(_MMAP_THRESHOLD, 32 * 2**20)  # the most that glibc takes
