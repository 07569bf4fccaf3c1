"""The commands. Heavy imports wait until a command needs them, so that help and refusals come at once."""

import secrets
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fedphd_ray.commands.grids import ConfigPath, Overrides, compare, stress
from fedphd_ray.commands.models import evaluate, sample
from fedphd_ray.commands.planning import plan
from fedphd_ray.commands.runs import init, list_runs, report, submit, version, watch
from fedphd_ray.errors import FedPhDError, Stopped, UserError
from fedphd_ray.system.stopping import STOPPING, Hint
from fedphd_ray.terminal import at_work, console, errors, note, say

if TYPE_CHECKING:
    from fedphd_ray.config import Config
    from fedphd_ray.runtime.experiment import Experiment

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Hierarchical federated training of diffusion models with structured pruning (FedPhD), on Ray.",
)
EXAMPLES = {
    "run": "fedphd run digits.yaml --set schedule.rounds=20 --out runs/mine",
    "resume": "fedphd resume runs/mine",
    "plan": "fedphd plan digits.yaml --picture who.png",
    "compare": "fedphd compare digits.yaml --strategies fedphd,fedavg --seeds 3",
    "stress": "fedphd stress digits.yaml --strategies fedphd --grid seed=1,2 --grid schedule.clients_per_round=2,4",
    "doctor": "fedphd doctor",
    "sample": "fedphd sample runs/mine --num 100 --out grid.png",
    "evaluate": "fedphd evaluate runs/mine --num-samples 2000",
    "watch": "fedphd watch /shared/runs/mine",
    "report": "fedphd report runs/mine runs/other --out both.html",
    "init": "fedphd init experiments --data images",
    "submit": "fedphd submit digits.yaml --address http://127.0.0.1:8265 --out /shared/runs/mine",
    "version": "fedphd version",
    "list": "fedphd list runs --state finished --sort fid --json",
}
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say only where the run directory is.")]
JsonLines = Annotated[bool, typer.Option("--json-log", help="A line of JSON per event, in place of the progress.")]


def main() -> None:
    """Runs a command. Exit codes: a user's mistake 2 (and one message), a failed run 1, a signal 128 and its number."""
    try:
        with STOPPING.signals():
            app()
    except Stopped as stopped:
        STOPPING.finish(str(stopped), stopped.exit_code)
    except BaseException as error:
        if (asked := STOPPING.heard()) is not None:  # foreign code has made something else of it
            STOPPING.finish(str(asked), asked.exit_code)
        if isinstance(error, FedPhDError):
            errors.print(f"error: {error}", highlight=False, markup=False, soft_wrap=True)
            sys.exit(error.exit_code)
        raise


@app.command(epilog=EXAMPLES["run"])
def run(
    config: ConfigPath,
    overrides: Overrides = [],  # noqa: B006 - typer reads the default, nobody writes into it
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Run directory; default: runs/NAME-TIME.")] = None,
    resume_if_exists: Annotated[
        bool,
        typer.Option("--resume-if-exists", help="Go on with the run in --out, if there is one: for jobs that are restarted."),
    ] = False,
    quiet: Quiet = False,
    json_log: JsonLines = False,
) -> None:
    """Train; print where the run directory is."""
    _require_place(out, resume_if_exists=resume_if_exists)
    with at_work(f"reading {config}"):
        from fedphd_ray.config import load_config  # noqa: PLC0415

        chosen = load_config(config, overrides)
        experiment = _build(chosen)
    unique = secrets.token_hex(3)  # several may start in one second
    directory = out or Path("runs") / f"{chosen.name}-{datetime.now():%Y%m%d-%H%M%S}-{unique}"
    goes_on = resume_if_exists and (directory / "run.json").exists()
    _follow(experiment, directory, chosen, begins=not goes_on, quiet=quiet, json_log=json_log)


@app.command(epilog=EXAMPLES["resume"])
def resume(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Directory of a run that was stopped.")],
    restart: Annotated[bool, typer.Option("--restart", help="Forget rounds without a checkpoint; train them again.")] = False,
    trust: Annotated[
        list[str], typer.Option("--trust", metavar="MODULE:NAME", help="A class of your own that the run's configuration names.")
    ] = [],  # noqa: B006
    quiet: Quiet = False,
    json_log: JsonLines = False,
) -> None:
    """Go on from the last good checkpoint, to the same final bits."""
    with at_work(f"reading {run_dir}"):
        from fedphd_ray.config import load_config  # noqa: PLC0415
        from fedphd_ray.runtime.directory.identity import Identity  # noqa: PLC0415

        Identity.read(run_dir)  # refuses what is no run directory
        chosen = load_config(run_dir / "config.yaml", trusted=trust)
        experiment = _build(chosen)
    _follow(experiment, run_dir, chosen, begins=False, restart=restart, quiet=quiet, json_log=json_log)


for command in (plan, compare, stress, sample, evaluate, watch, report, init, submit, version):
    app.command(epilog=EXAMPLES[command.__name__])(command)
app.command("list", epilog=EXAMPLES["list"])(list_runs)


@app.callback(invoke_without_command=True)
def _before(
    context: typer.Context, version_asked: Annotated[bool, typer.Option("--version", help="Say which version this is.")] = False
) -> None:
    if version_asked:
        version()
        raise typer.Exit
    if context.invoked_subcommand is None:
        say(context.get_help())
        raise typer.Exit(2)


@app.command(epilog=EXAMPLES["doctor"])
def doctor() -> None:
    """Say what this machine or cluster can run, what is missing, and how to get it."""
    with at_work("looking at this machine"):
        from fedphd_ray.doctor import examine  # noqa: PLC0415

        findings = list(examine())
    healthy = True
    for finding in findings:
        healthy &= finding.good
        say(f"{'ok  ' if finding.good else 'MISSING'} {finding.what}: {finding.found}")
        if finding.remedy:
            say(f"        {finding.remedy}")
    if not healthy:
        raise typer.Exit(1)


def _require_place(out: Path | None, *, resume_if_exists: bool) -> None:
    """Looks at --out before anything is read."""
    if out is not None and ":/" in str(out):
        raise UserError(
            f"--out {out}",
            expected="a folder of this machine, or one that it has mounted",
            found="a URI",
            remedy="checkpoint.path takes s3:// and other places; a run's books are files that are written to and locked",
        )
    if resume_if_exists and out is None:
        raise UserError("--resume-if-exists", expected="--out DIR beside it", found="no --out")


def _build(config: "Config") -> "Experiment":
    """The experiment, after everything that can be refused without running was looked at."""
    from fedphd_ray.foresight.forecast import forecast  # noqa: PLC0415

    experiment = config.build(note)
    forecast(experiment)  # refuses a ratio that would empty a layer
    return experiment


def _follow(
    experiment: "Experiment",
    directory: Path,
    config: "Config",
    *,
    begins: bool,
    restart: bool = False,
    quiet: bool = False,
    json_log: bool = False,
) -> None:
    """Runs (or resumes) and shows it."""
    from fedphd_ray.report.progress import ConsoleProgress  # noqa: PLC0415
    from fedphd_ray.report.tables import describe, print_summary  # noqa: PLC0415
    from fedphd_ray.reporters import reporters  # noqa: PLC0415
    from fedphd_ray.reporters.json_log import JsonLog  # noqa: PLC0415
    from fedphd_ray.runtime.driver import run as runs  # noqa: PLC0415
    from fedphd_ray.runtime.events import Reporters  # noqa: PLC0415

    log = JsonLog(console.file, experiment.name) if json_log else None
    shown = Console(quiet=True) if quiet or log else console
    with STOPPING.prepared(_how_to_go_on(directory)), ConsoleProgress(shown, experiment.schedule.rounds) as progress:
        tell = log.say if log else progress.say
        others = reporters(config.reporting, directory, experiment.name, experiment.settings, tell)
        tell(describe(experiment))
        told = Reporters(progress, *others, *([log] if log else []))
        if begins:
            summary = runs.run(experiment, directory, told, tell, config.to_yaml())
        else:
            summary = runs.resume(experiment, directory, told, tell, restart=restart)
    if log:
        log.say(f"run directory: {directory}")
    elif quiet:
        say(str(directory))
    else:
        print_summary(console, summary, directory)


def _how_to_go_on(directory: Path) -> Hint:
    text = f"`fedphd resume {directory}` goes on from the last checkpoint"
    return Hint(text, file=str(directory.absolute() / "run.json"), otherwise="no run was begun")
