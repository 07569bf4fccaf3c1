"""The commands that run many experiments: comparisons and grids."""

from pathlib import Path
from typing import Annotated

import typer

from fedphd_ray.system.stopping import STOPPING, Hint
from fedphd_ray.terminal import at_work, console, say

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of an experiment.")]
Overrides = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. schedule.rounds=10.")]
AtOnce = Annotated[int, typer.Option("--at-once", min=1, max=1000, help="Runs side by side, where there is room for them.")]


def compare(
    config: ConfigPath,
    strategies: Annotated[str, typer.Option(metavar="A,B,...", help="Methods, e.g. fedphd,fedavg,fedprox:strategy.mu=1.")],
    overrides: Overrides = [],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, help="Runs per method, with the configured seed and those after it.")] = 1,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Default: runs/NAME-comparison. Finished runs are kept.")
    ] = None,
    at_once: AtOnce = 1,
) -> None:
    """The same federation under several methods: one table and one picture."""
    with at_work(f"reading {config}"):
        from fedphd_ray.experiments import comparison  # noqa: PLC0415
        from fedphd_ray.experiments.contenders import contenders  # noqa: PLC0415
        from fedphd_ray.report.comparison import write_comparison  # noqa: PLC0415
        from fedphd_ray.report.progress import ConsoleProgress  # noqa: PLC0415

        runs = comparison.planned(config, overrides, contenders(strategies), seeds)
    directory = out or Path("runs") / f"{runs[0][1].name}-comparison"
    with STOPPING.prepared(Hint("the same command goes on where it was")):
        entries = comparison.compare(
            runs,
            directory,
            lambda title, chosen: ConsoleProgress(console, chosen.schedule.rounds, title),
            say,
            at_once,
        )
    settings = "".join(f" --set {override}" for override in overrides)
    command = f"fedphd compare {config} --strategies {strategies}{settings}" + (f" --seeds {seeds}" if seeds > 1 else "")
    report = write_comparison(entries, directory, f"{runs[0][1].name}: comparison of methods", command)
    say(report)
    say(f"table and picture: {directory}/comparison.md, .csv, .svg, .png")


def stress(
    config: ConfigPath,
    grid: Annotated[
        list[str],
        typer.Option("--grid", metavar="KEY=V1,V2", help="Values of a key; may be repeated: every combination is a cell."),
    ],
    strategies: Annotated[str, typer.Option(metavar="A,B,...", help="Methods, as in `compare`.")],
    overrides: Overrides = [],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, help="Runs per cell and method.")] = 1,
    target: Annotated[float | None, typer.Option(metavar="FID", help="For time to quality; default: what all reach.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: runs/NAME-stress. Finished runs are kept.")] = None,
    at_once: AtOnce = 1,
) -> None:
    """A grid of experiments, for example over devices, skew and policies: tables, heat maps, who took part."""
    with at_work(f"reading {config}"):
        from fedphd_ray.experiments import stress as grids  # noqa: PLC0415
        from fedphd_ray.experiments.contenders import contenders  # noqa: PLC0415
        from fedphd_ray.report.progress import ConsoleProgress  # noqa: PLC0415
        from fedphd_ray.report.stress import write_stress  # noqa: PLC0415
        from fedphd_ray.views.grid_page import write_grid_page  # noqa: PLC0415

        runs = grids.planned(config, overrides, grids.axes(grid), contenders(strategies), seeds)
    directory = out or Path("runs") / f"{runs[0][2].name}-stress"
    with STOPPING.prepared(Hint("the same command goes on where it was")):
        measured = grids.stress(
            runs, directory, lambda title, chosen: ConsoleProgress(console, chosen.schedule.rounds, title), say, at_once
        )
    options = "".join(f" --grid '{one}'" for one in grid) + "".join(f" --set '{one}'" for one in overrides)
    command = f"fedphd stress {config}{options} --strategies {strategies} --seeds {seeds}"
    reached = grids.target_of(measured) if target is None else target
    title = f"{runs[0][2].name}: stress test"
    say(write_stress(measured, reached, directory, title, command))
    write_grid_page(measured, reached, directory / "stress.html", title, command)
    say(f"tables and pictures: {directory}/stress.html, .md, .parquet, .svg, .png, participation.parquet")
