"""Where pictures are written to."""

from pathlib import Path
from typing import Any

from fedphd_ray.errors import UserError

KINDS = (".png", ".svg")


def save_picture(chart: Any, path: Path, option: str) -> None:  # any of altair's charts; they have no common type with `save`
    """Writes a picture; its folder is made if it is missing.

    Args:
        chart: of altair.
        path: `.png` or `.svg`.
        option: of the command line, for messages.

    Raises:
        UserError: the path is of another kind, or cannot be written.
    """
    if path.suffix.lower() not in KINDS:
        raise UserError(f"{option} {path}", expected="a file that ends in .png or .svg", found=path.suffix or "no ending")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        chart.save(path, scale_factor=2)
    except OSError as error:
        raise UserError(f"{option} {path}", expected="a file that can be written", found=error.strerror or str(error)) from error
