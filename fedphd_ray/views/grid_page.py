"""A grid of experiments as one HTML file that asks nobody for anything."""

from collections.abc import Sequence
from pathlib import Path

from fedphd_ray.experiments.stress import Measured
from fedphd_ray.report.stress_figures import Table, table
from fedphd_ray.report.stress_pictures import pictures
from fedphd_ray.views.charts import Chart
from fedphd_ray.views.page import rendered, write_html


def write_grid_page(measured: Sequence[Measured], target: float, path: Path, title: str, command: str) -> None:
    """Writes the table of all cells, and the pictures.

    Args:
        measured: all runs.
        target: FID for `time to`.
        path: of the file.
        title: heading.
        command: what to type for the same again.
    """
    cells: Table = table(measured, target)
    drawn = [Chart(picture.title, picture.words, picture.chart("").to_dict()) for picture in pictures(measured, target)]
    values = {"title": title, "command": command, "note": cells.note, "columns": cells.columns, "rows": cells.rows}
    write_html(rendered("grid.html.j2", drawn, keys=cells.num_keys, **values), path)
