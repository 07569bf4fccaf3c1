"""The commands. Heavy imports wait until a command needs them, so that help and refusals come at once."""

import contextlib
import secrets
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import rich.markup
import typer

from fedphd_ray.errors import FedPhDError, Stopped, UserError
from fedphd_ray.report.console import console as console_of
from fedphd_ray.stopping import STOPPING, Hint
from fedphd_ray.threads import wait_passively

if TYPE_CHECKING:
    from fedphd_ray.config import Config
    from fedphd_ray.runtime.experiment import Experiment
    from fedphd_ray.runtime.run_directory import Summary

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Hierarchical federated training of diffusion models with structured pruning (FedPhD), on Ray.",
)
ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of an experiment.")]
Overrides = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. schedule.rounds=10.")]
ModelDir = Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="A model, or a run directory.")]
Guidance = Annotated[float, typer.Option(min=0.0, help="How strongly a class-conditional model follows classes; 1: as learnt.")]
console = console_of("stdout")
errors = console_of("stderr")


def main() -> None:
    """Runs a command. Exit codes: a user's mistake 2 (and one message), a failed run 1, a signal 128 and its number."""
    try:
        with STOPPING.signals():
            app()
    except Stopped as stopped:
        STOPPING.finish(str(stopped), stopped.exit_code)
    except BaseException as error:
        if STOPPING.asked is not None:  # foreign code has made something else of it
            STOPPING.finish(str(STOPPING.asked), STOPPING.asked.exit_code)
        if isinstance(error, FedPhDError):
            errors.print(f"error: {error}", highlight=False, markup=False, soft_wrap=True)
            sys.exit(error.exit_code)
        raise


@app.command()
def run(
    config: ConfigPath,
    overrides: Overrides = [],  # noqa: B006 - typer reads the default, nobody writes into it
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Run directory; default: runs/NAME-TIME.")] = None,
) -> None:
    """Train; print where the run directory is."""
    with _at_work(f"reading {config}"):
        from fedphd_ray.config import load_config  # noqa: PLC0415

        chosen = load_config(config, overrides)
        experiment = _build(chosen)
    unique = secrets.token_hex(3)  # several may start in one second
    directory = out or Path("runs") / f"{chosen.name}-{datetime.now():%Y%m%d-%H%M%S}-{unique}"
    _follow(experiment, directory, chosen.to_yaml())


@app.command()
def resume(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Directory of a run that was stopped.")],
    restart: Annotated[bool, typer.Option("--restart", help="Forget rounds without a checkpoint; train them again.")] = False,
) -> None:
    """Go on from the last good checkpoint, to the same final bits."""
    with _at_work(f"reading {run_dir}"):
        from fedphd_ray.config import load_config  # noqa: PLC0415
        from fedphd_ray.runtime.identity import Identity  # noqa: PLC0415

        Identity.read(run_dir)  # refuses what is no run directory
        experiment = _build(load_config(run_dir / "config.yaml"))
    _follow(experiment, run_dir, None, restart=restart)


@app.command()
def plan(
    config: ConfigPath,
    overrides: Overrides = [],  # noqa: B006
    picture: Annotated[Path | None, typer.Option(metavar="FILE.png", help="A picture of who holds what; .svg, too.")] = None,
) -> None:
    """Say what a run would cost: clients, parameters, MACs, bytes per hop, memory, placement."""
    with _at_work(f"reading {config}"):
        from fedphd_ray.config import load_config  # noqa: PLC0415
        from fedphd_ray.errors import ResourceError  # noqa: PLC0415
        from fedphd_ray.forecast import forecast, stock_forecast  # noqa: PLC0415
        from fedphd_ray.report.tables import describe, print_forecast  # noqa: PLC0415
        from fedphd_ray.runtime.policy.placement import Node, decide, store_size  # noqa: PLC0415
        from fedphd_ray.runtime.workers.device import this_machine  # noqa: PLC0415

        experiment = load_config(config, overrides).build(_note)
        cost = forecast(experiment)
        if experiment.runtime.backend == "local":
            placement = "everything in one process"
        else:
            try:
                machine, demand = this_machine(), experiment.demand(4 * cost.dense.params)
                left = machine.memory_bytes - store_size(demand.store_bytes, machine.memory_bytes)
                placement = decide(experiment.runtime, [Node(machine.cpus, machine.gpus, left)], demand).reason
            except ResourceError as error:
                placement = f"does not fit: {error.expected}; {error.found}"
        stock = stock_forecast(experiment)
        if picture is not None:
            from fedphd_ray.report.holdings import draw_holdings  # noqa: PLC0415

            draw_holdings(cost.label_counts, picture, f"{experiment.name}: who holds what ({experiment.dataset.name})")
    print_forecast(console, cost, describe(experiment), stock, placement)
    if picture is not None:
        _say(f"who holds what: {picture}")


@app.command()
def compare(
    config: ConfigPath,
    strategies: Annotated[str, typer.Option(metavar="A,B,...", help="Methods, e.g. fedphd,fedavg,fedprox:strategy.mu=1.")],
    overrides: Overrides = [],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, help="Runs per method, with the configured seed and those after it.")] = 1,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Default: runs/NAME-comparison. Finished runs are kept.")
    ] = None,
) -> None:
    """The same federation under several methods: one table and one picture."""
    with _at_work(f"reading {config}"):
        from fedphd_ray import comparison  # noqa: PLC0415
        from fedphd_ray.report.comparison import write_comparison  # noqa: PLC0415
        from fedphd_ray.report.progress import ConsoleProgress  # noqa: PLC0415

        runs = comparison.planned(config, overrides, comparison.contenders(strategies), seeds)
    directory = out or Path("runs") / f"{runs[0][1].name}-comparison"
    with STOPPING.prepared(Hint("the same command goes on where it was")):
        entries = comparison.compare(
            runs,
            directory,
            lambda title, chosen: ConsoleProgress(console, chosen.schedule.rounds, title),
            _say,
        )
    settings = "".join(f" --set {override}" for override in overrides)
    command = f"fedphd compare {config} --strategies {strategies}{settings}" + (f" --seeds {seeds}" if seeds > 1 else "")
    report = write_comparison(entries, directory, f"{runs[0][1].name}: comparison of methods", command)
    _say(report)
    _say(f"table and picture: {directory}/comparison.md, .csv, .svg, .png")


@app.command()
def sample(
    model_dir: ModelDir,
    out: Annotated[Path, typer.Option(metavar="FILE.png", help="The picture.")],
    num: Annotated[int, typer.Option(min=1, max=10_000, help="Images.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other images.")] = 0,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="DDIM steps.")] = 50,
    classes: Annotated[
        list[int],
        typer.Option("--class", min=0, metavar="N", help="Class to ask a class-conditional model for; may be repeated."),
    ] = [],  # noqa: B006
    guidance: Guidance = 1.0,
) -> None:
    """Draw images from a trained model into a grid."""
    wait_passively()
    with _at_work(f"drawing {num} images from {model_dir}"):
        from fedphd_ray.diffusion.sampling import save_grid  # noqa: PLC0415
        from fedphd_ray.generate import generate  # noqa: PLC0415

        images = generate(model_dir, num, seed, steps, _say, classes, guidance)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_grid(images, out, columns=min(10, num))
    except OSError as error:
        raise UserError(f"--out {out}", expected="a file that can be written", found=str(error)) from error
    _say(f"{num} images in {out}")


@app.command()
def evaluate(
    model_dir: Annotated[
        Path, typer.Argument(metavar="MODEL_DIR", help="Run directory, model directory, or a folder of pictures.")
    ],
    data: Annotated[
        str | None,
        typer.Option(metavar="NAME|CONFIG", help="`digits`, or an experiment's YAML file; default: the run's own."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="train|test", help="Images to compare with; default: those of the configuration.")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="classifier, efficientnet_lite0 or inception:WEIGHTS_FILE; default: the run's own."),
    ] = None,
    num_samples: Annotated[int, typer.Option(min=2, help="Images to draw.")] = 1000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="DDIM steps.")] = 50,
    guidance: Guidance = 1.0,
) -> None:
    """Quality figures of a saved model, or of a folder of pictures: FID, KID, precision, recall, classes."""
    wait_passively()
    with _at_work(f"judging {num_samples} images of {model_dir}"):
        from fedphd_ray.generate import judge, named_features  # noqa: PLC0415

        chosen = None if features is None else named_features(features)
        judged = judge(model_dir, data, num_samples, seed, steps, _say, split, chosen, guidance)
    quality, spread = judged.quality, judged.manifolds
    _say(f"FID {quality.fid:.4f}, KID {quality.kid:.5f} ({judged.what}; features: {quality.features})")
    if spread is not None:
        nearest = f"precision {spread.precision:.3f}, recall {spread.recall:.3f} (3 nearest neighbours)"
        _say(f"{nearest}, class score {spread.class_score:.2f}")
    histogram = " ".join(f"{label}:{num}" for label, num in enumerate(quality.class_histogram))
    _say(f"classes among the samples: {histogram}")
    if quality.asked_for is not None:
        _say(f"of the class they were asked for: {quality.asked_for:.1%}")


@app.command()
def doctor() -> None:
    """Say what this machine or cluster can run, what is missing, and how to get it."""
    with _at_work("looking at this machine"):
        from fedphd_ray.doctor import examine  # noqa: PLC0415

        findings = list(examine())
    healthy = True
    for finding in findings:
        healthy &= finding.good
        _say(f"{'ok  ' if finding.good else 'MISSING'} {finding.what}: {finding.found}")
        if finding.remedy:
            _say(f"        {finding.remedy}")
    if not healthy:
        raise typer.Exit(1)


def _say(line: str) -> None:
    """A sentence, not broken into lines: paths and commands in it are copied."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _note(line: str) -> None:
    """Something beside the results."""
    errors.print(line, highlight=False, markup=False, soft_wrap=True)


@contextlib.contextmanager
def _at_work(on: str) -> Iterator[None]:
    """Says at once what is going on, since imports alone take seconds: on a terminal in a line that goes again."""
    if errors.is_terminal and not errors.is_dumb_terminal:
        with errors.status(rich.markup.escape(on)):
            yield
    else:
        _note(on)
        yield


def _build(config: "Config") -> "Experiment":
    """The experiment, after everything that can be refused without running was looked at."""
    from fedphd_ray.forecast import forecast  # noqa: PLC0415

    experiment = config.build(_note)
    forecast(experiment)  # refuses a ratio that would empty a layer
    return experiment


def _follow(experiment: "Experiment", directory: Path, config_yaml: str | None, *, restart: bool = False) -> "Summary":
    """Runs (or resumes, without a configuration to write) and shows it."""
    from fedphd_ray.report.progress import ConsoleProgress  # noqa: PLC0415
    from fedphd_ray.report.tables import describe, print_summary  # noqa: PLC0415
    from fedphd_ray.runtime import run as runs  # noqa: PLC0415

    with STOPPING.prepared(_how_to_go_on(directory)), ConsoleProgress(console, experiment.schedule.rounds) as progress:
        progress.say(describe(experiment))
        if config_yaml is None:
            summary = runs.resume(experiment, directory, progress, progress.say, restart=restart)
        else:
            summary = runs.run(experiment, directory, progress, progress.say, config_yaml)
    print_summary(console, summary, directory)
    return summary


def _how_to_go_on(directory: Path) -> Hint:
    text = f"`fedphd resume {directory}` goes on from the last checkpoint"
    return Hint(text, file=str(directory.absolute() / "run.json"), otherwise="no run was begun")
