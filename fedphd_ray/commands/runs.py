"""The commands on runs that exist, and those that come before there is one."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fedphd_ray.errors import UserError
from fedphd_ray.terminal import at_work, console, say

RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Directory of a run.")]


def list_runs(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to look; folders in it, too.")] = Path("runs"),
    order: Annotated[str, typer.Option("--sort", metavar="KEY", help="path, name, fid, bytes or began.")] = "path",
    state: Annotated[
        str | None, typer.Option(metavar="STATE", help="Only running, finished, stopped, died or failed ones.")
    ] = None,
    method: Annotated[str | None, typer.Option(metavar="NAME", help="Only runs of a strategy.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List runs, a line each."""
    with at_work(f"looking for runs in {folder}"):
        from fedphd_ray.views import listing  # noqa: PLC0415
        from fedphd_ray.views.run_view import STATES, runs_below  # noqa: PLC0415

        for option, value, known in (("--sort", order, tuple(listing.ORDERS)), ("--state", state or STATES[0], STATES)):
            if value not in known:
                raise UserError(option, expected=f"one of {', '.join(known)}", found=value)
        runs = [run for run in runs_below(folder) if state in (None, run.state) and method in (None, run.method)]
        runs.sort(key=listing.ORDERS[order])
    if as_json:
        say(listing.as_json(runs))
    elif runs:
        listing.print_runs(console, runs, folder)
    else:
        say(f"no such runs in {folder}")


def watch(run_dir: RunDir) -> None:
    """Follow a run that goes on elsewhere, or see what became of it. Ctrl-C ends the watching, not the run."""
    with at_work(f"reading {run_dir}"):
        from fedphd_ray.report.progress import ConsoleProgress  # noqa: PLC0415
        from fedphd_ray.report.tables import print_summary  # noqa: PLC0415
        from fedphd_ray.views import watching  # noqa: PLC0415
        from fedphd_ray.views.run_view import RunView  # noqa: PLC0415

        run = RunView.of(run_dir)
    with ConsoleProgress(console, run.num_rounds, run.name) as progress:
        run = watching.watch(run_dir, progress)
    if run.summary is not None and run.state == "finished":
        print_summary(console, run.summary, run_dir)
        return
    why = "" if run.status is None or not run.status.why else f": {run.status.why}"
    say(f"{run.state} after round {run.round} of {run.num_rounds}{why}")
    say(f"`fedphd resume {run_dir}` goes on from the last checkpoint")


def report(
    run_dirs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="Runs, or folders with runs in them.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Default: report.html in the first directory.")] = None,
) -> None:
    """One page that shows everything of a run, or of several side by side; it needs no network and no other file."""
    with at_work("reading " + ", ".join(map(str, run_dirs))):
        from fedphd_ray.views.page import write_page  # noqa: PLC0415
        from fedphd_ray.views.run_view import RunView, runs_below  # noqa: PLC0415

        runs = [run for one in run_dirs for run in (runs_below(one) or [RunView.of(one)])]
        path = run_dirs[0] / "report.html" if out is None else out
        write_page(runs, path)
    say(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")


def init(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to put it.")] = Path(),
    data: Annotated[str, typer.Option(metavar="NAME", help="What to train on; --list says what there is.")] = "digits",
    show: Annotated[bool, typer.Option("--list", help="Say what there is, and write nothing.")] = False,
) -> None:
    """Write a commented configuration to start from."""
    from fedphd_ray.views.starting import STARTS, write_start  # noqa: PLC0415

    if show:
        for name, start in STARTS.items():
            say(f"{name:10} {start.what}")
        return
    path = write_start(data, folder)
    say(f"{path}: read it, then `fedphd plan {path}` says what it would cost, and `fedphd run {path}` trains")


def submit(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of an experiment.")],
    address: Annotated[
        str, typer.Option(metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="The dashboard, e.g. http://127.0.0.1:8265.")
    ],
    out: Annotated[str, typer.Option(metavar="DIR", help="Run directory, on storage that outlives the job.")],
    overrides: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a key.")] = [],  # noqa: B006
    with_files: Annotated[
        list[Path], typer.Option("--with", metavar="PATH", help="A file or folder that the job needs, beside the configuration.")
    ] = [],  # noqa: B006
    with_code: Annotated[bool, typer.Option("--with-code", help="Send this package too, instead of the cluster's own.")] = False,
    python: Annotated[str, typer.Option(metavar="COMMAND", help="The Python of the cluster.")] = "python",
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not follow the job.")] = False,
) -> None:
    """Run on a cluster, as a job of Ray's; the same command again goes on with a run that was stopped there."""
    with at_work(f"reading {config}"):
        from fedphd_ray.config import parse_config  # noqa: PLC0415
        from fedphd_ray.runtime.on_ray.jobs import Job, follow, packed  # noqa: PLC0415
        from fedphd_ray.settings.overrides import read_tree  # noqa: PLC0415
        from fedphd_ray.settings.yaml_files import dump_yaml  # noqa: PLC0415

        tree = read_tree(config, overrides)
        name = parse_config(tree).name  # what is wrong is said here, not there
        job = Job(address=address, out=out, python=python)
        with packed(dump_yaml(tree), with_files, with_code=with_code) as folder:
            job = job.submitted(folder, name)
    say(f"job {job.name} at {address}; run directory there: {out}")
    if not no_wait and (code := follow(job, say, _stop_too)):
        raise typer.Exit(code)


def _stop_too(job: str) -> bool:
    """Asks what Ctrl-C was meant for."""
    return typer.confirm(f"stop the job {job} too? (no: it goes on without you)", default=False)


def version() -> None:
    """Say which version this is, and of what it is made."""
    from importlib.metadata import version as version_of  # noqa: PLC0415

    from fedphd_ray.runtime.directory.run_directory import PACKAGES  # noqa: PLC0415

    say(json.dumps({name: version_of(name) for name in PACKAGES}, indent=1))
