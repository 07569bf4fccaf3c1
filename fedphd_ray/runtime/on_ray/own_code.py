"""Classes of the user's own on other processes: their code goes along, where it is not installed."""

import sys
import sysconfig
from pathlib import Path

from ray import cloudpickle


def carry_code_of(*objects: object) -> None:
    """Lets workers have what is not installed, a file beside the configuration for example: they may not find it by its name.

    Installed packages, this one among them, are expected on every node. A script's own classes (`__main__`) always go along.
    """
    for each in objects:
        name = type(each).__module__.partition(".")[0]
        module = sys.modules.get(name)
        if module is not None and name not in ("__main__", "builtins", "fedphd_ray") and not _installed(module.__file__):
            cloudpickle.register_pickle_by_value(module)


def _installed(file: str | None) -> bool:
    if file is None:  # built in, or a namespace
        return True
    folders = {Path(path).resolve() for path in sysconfig.get_paths().values()}
    return any(folder in folders for folder in Path(file).resolve().parents)
