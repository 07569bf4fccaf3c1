"""Where things are kept that were made once and can be made again; a cache that cannot be written is done without."""

import os
import tempfile
from pathlib import Path


def default_cache_dir() -> Path:
    """$FEDPHD_CACHE_DIR, else $XDG_CACHE_HOME/fedphd_ray, else ~/.cache/fedphd_ray, else a temporary directory."""
    if directory := os.environ.get("FEDPHD_CACHE_DIR"):
        return Path(directory)
    if directory := os.environ.get("XDG_CACHE_HOME"):
        return Path(directory) / "fedphd_ray"
    home = Path(os.environ.get("HOME", ""))
    if home.is_absolute() and os.access(home, os.W_OK):
        return home / ".cache" / "fedphd_ray"
    return Path(tempfile.gettempdir()) / "fedphd_ray-cache"


def write_cached(path: Path, data: bytes) -> None:
    """Beside and renamed, so that whoever reads it meets a whole file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".partial-") as directory:
            partial = Path(directory) / path.name
            partial.write_bytes(data)
            partial.replace(path)
    except OSError:
        return
