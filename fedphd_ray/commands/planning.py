"""What a run would cost, before there is one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedphd_ray.commands.grids import ConfigPath, Overrides
from fedphd_ray.errors import UserError
from fedphd_ray.terminal import at_work, console, note, say

if TYPE_CHECKING:
    from fedphd_ray.foresight.forecast import Forecast
    from fedphd_ray.runtime.experiment import Experiment


def plan(
    config: ConfigPath,
    overrides: Overrides = [],  # noqa: B006 - typer reads the default, nobody writes into it
    picture: Annotated[Path | None, typer.Option(metavar="FILE.png", help="A picture of who holds what; .svg, too.")] = None,
    timeline: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="A picture of one round of simulated devices; .svg, too.")
    ] = None,
    round: Annotated[int, typer.Option("--round", min=1, help="The round of --timeline.")] = 1,
    edge_choices: Annotated[bool, typer.Option("--edge-choices", help="Compare all rules of edge choice.")] = False,
    time: Annotated[bool, typer.Option("--time", help="Train a few steps, to say how long a run would take here.")] = False,
) -> None:
    """Say what a run would cost: clients, parameters, MACs, bytes per hop, memory, placement."""
    with at_work(f"reading {config}"):
        from fedphd_ray.config import load_config  # noqa: PLC0415
        from fedphd_ray.foresight.forecast import edge_rules, forecast, stock_forecast  # noqa: PLC0415
        from fedphd_ray.report.tables import describe, print_edge_choices, print_forecast  # noqa: PLC0415

        experiment = load_config(config, overrides).build(note)
        cost = forecast(experiment)
        hosts, placement = _placement(experiment, cost)
        stock = stock_forecast(experiment)
        _draw(experiment, cost, picture, timeline, round)
        rules = edge_rules(experiment) if edge_choices else {}
    print_forecast(console, cost, describe(experiment), stock, placement)
    if experiment.runtime.backend == "ray":
        store = experiment.store_bytes(4 * cost.dense.params)
        say(f"object store: {store / 1e6:.0f} MB on each node; on a cluster --object-store-memory={store}, /dev/shm as large")
    if time:
        with at_work("training a few steps"):
            from fedphd_ray.foresight.trial import estimate  # noqa: PLC0415

            taken = estimate(experiment, cost, max(1, hosts))
        say(taken.describe())
    if rules:
        print_edge_choices(console, rules)
    schedule = experiment.schedule_config
    if schedule.sampler.needs_losses or schedule.participation.needs_reports:
        say("note: who is asked will depend on what clients report; bytes and times are those of a run without reports")
    if picture is not None:
        say(f"who holds what: {picture}")
    if timeline is not None:
        say(f"round {round}: {timeline}")


def _placement(experiment: "Experiment", cost: "Forecast") -> tuple[int, str]:
    """How many hosts there would be on this machine (0 where none fits), and that in a sentence."""
    from fedphd_ray.errors import ResourceError  # noqa: PLC0415
    from fedphd_ray.runtime.policy.placement import Node, decide, store_size  # noqa: PLC0415
    from fedphd_ray.runtime.workers.device import this_machine  # noqa: PLC0415

    if experiment.runtime.backend == "local":
        return 1, "everything in one process"
    try:
        machine, demand = this_machine(), experiment.demand(4 * cost.dense.params)
        left = machine.memory_bytes - store_size(demand.store_bytes, machine.memory_bytes)
        decided = decide(experiment.runtime, [Node(machine.cpus, machine.gpus, left)], demand)
    except ResourceError as error:
        return 0, f"does not fit: {error.expected}; {error.found}"
    return decided.num_hosts, decided.reason


def _draw(experiment: "Experiment", cost: "Forecast", picture: Path | None, timeline: Path | None, round: int) -> None:
    """The pictures that are asked for."""
    if picture is not None:
        from fedphd_ray.report.holdings import draw_holdings  # noqa: PLC0415

        draw_holdings(
            cost.label_counts, picture, f"{experiment.name}: who holds what ({experiment.dataset.name})", experiment.devices
        )
    if timeline is not None:
        from fedphd_ray.report.tables import describe  # noqa: PLC0415
        from fedphd_ray.report.timeline import draw_timeline  # noqa: PLC0415

        if cost.simulated is None:
            raise UserError("--timeline", expected="a configuration with simulated devices", found="no section devices")
        draw_timeline(cost.simulated, round, timeline, describe(experiment))
