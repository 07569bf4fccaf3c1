"""Configurations to start from: the project's examples, wherever it is installed."""

import sysconfig
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from fedphd_ray.errors import UserError
from fedphd_ray.system.files import write_whole

INSTALLED = Path(sysconfig.get_path("data")) / "share" / "fedphd_ray" / "examples"
CHECKOUT = Path(__file__).parents[2] / "examples"


@dataclass(frozen=True)
class Start:
    """An example, and what it is."""

    file: str
    what: str


STARTS = MappingProxyType(
    {
        "digits": Start("digits.yaml", "1,797 handwritten digits of 8x8 pixels that need no download; minutes on two cores"),
        "classes": Start("digits_by_class.yaml", "the same, and the model can be asked for a class"),
        "shapes": Start("hundreds.yaml", "300 clients with drawn shapes"),
        "devices": Start("stress_stragglers.yaml", "digits on simulated devices of which some are slow"),
        "images": Start("my_images.yaml", "your own pictures, a folder per class"),
        "cifar10": Start("paper_cifar10.yaml", "the paper's CIFAR-10 experiment; needs the data and a GPU"),
        "celeba": Start("paper_celeba.yaml", "the paper's CelebA experiment; needs the data and a GPU"),
    }
)


def write_start(name: str, folder: Path) -> Path:
    """Copies an example into a folder, which is made if it is missing; its path.

    Raises:
        UserError: there is no such example, or a file of that name is there already.
    """
    if name not in STARTS:
        raise UserError("--data", expected=f"one of {', '.join(STARTS)}", found=name)
    file = STARTS[name].file
    source = next((place / file for place in (CHECKOUT, INSTALLED) if (place / file).is_file()), None)
    if source is None:
        raise UserError(file, expected=f"the package's examples in {INSTALLED}", found="none", remedy="install the package again")
    path = folder / file
    if path.exists():
        raise UserError(str(path), expected="no such file yet", found="one", remedy="give another folder, or move it away")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, source.read_bytes())
    except OSError as error:
        raise UserError(str(folder), expected="a folder that can be written", found=error.strerror or str(error)) from error
    return path
