"""Tables for the terminal: what a run will cost, and what came of it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from fedphd_ray.federation.planning.workload import Narrowing
from fedphd_ray.foresight.forecast import Forecast, Network
from fedphd_ray.report import text
from fedphd_ray.report.devices import print_devices
from fedphd_ray.runtime.directory.run_directory import Summary
from fedphd_ray.runtime.experiment import Experiment

MOST_CLIENTS_SHOWN = 24


def describe(experiment: Experiment) -> str:
    """What is run, in a sentence: method, hierarchy, pruning."""
    strategy, hierarchy = experiment.strategy, experiment.hierarchy
    name = strategy.name or type(strategy).__name__
    often = "every round" if hierarchy.cloud_period == 1 else f"every {hierarchy.cloud_period} rounds"
    tiers = [f"{tier.nodes} {tier.name}{'s' * (tier.nodes > 1)}" for tier in experiment.topology.tiers] or ["no edges"]
    tree = f"{', '.join(tiers)}, the cloud {often}"
    policy = "" if experiment.devices is None else f"; simulated devices, {experiment.schedule_config.policy.describe()}"
    narrow = "" if experiment.submodels is None else f"; {experiment.submodels.describe()}"
    who = experiment.schedule_config.participation.describe()
    return f"{name}: {tree}; {experiment.pruning.describe()}{narrow}{who}{policy}{experiment.codecs.describe()}"


def print_forecast(console: Console, forecast: Forecast, what: str, stock: str, placement: str) -> None:
    """Method, clients, network, traffic, memory and placement.

    Args:
        console: where to.
        forecast: what it will cost.
        what: what is run, in a sentence (`describe`).
        stock: whether stock diffusers will open the model, in a sentence.
        placement: where rounds would run, in a sentence.
    """
    console.print(what, highlight=False, markup=False)
    console.print(_clients(forecast))
    network = Table(title="Network", title_justify="left")
    for column in ("", "dense", "pruned", "removed"):
        network.add_column(column, justify="left" if not column else "right")
    for label, dense, pruned in _sizes(forecast.dense, forecast.pruned):
        network.add_row(label, f"{dense:,}", f"{pruned:,}", text.percent(1 - pruned / dense))
    if forecast.pruned != forecast.dense:
        network.add_row("prunable channels", "", "", text.percent(forecast.effective_ratio))
    console.print(network)
    console.print(_traffic(forecast.bytes_by_hop, _traffic_of(forecast)))
    console.print(f"saving at the cloud against flat FedAvg: {text.percent(forecast.cloud_saving)}", highlight=False)
    if (edges := forecast.edges) is not None:
        console.print(
            f"edges when they send: homogeneity SH {edges.homogeneity:.3f} (the worst: {edges.worst:.3f}), "
            f"load imbalance {text.percent(edges.imbalance)}",
            highlight=False,
        )
    for version, narrowing in enumerate(forecast.narrowings):
        if narrowing is not None:
            trained = {width: times for (own, width), times in forecast.trained.items() if own == version}
            console.print(_submodels(narrowing, trained, "Sub-models" if not version else "Sub-models after pruning"))
    if forecast.simulated is not None:
        print_devices(console, forecast.simulated)
    console.print(f"memory of one host process: about {text.num_bytes(forecast.host_memory_bytes)}", highlight=False)
    console.print(f"delivered model: {stock}", highlight=False, markup=False)
    console.print(f"placement on this machine: {placement}", highlight=False)


def _traffic_of(forecast: Forecast) -> str:
    most = "" if forecast.exact else ", at most: sizes depend on the values"
    return f"Traffic of {forecast.rounds} rounds, {forecast.syncs} synchronisations{most}"


def _submodels(narrowing: Narrowing, trained: Mapping[float, int], title: str) -> Table:
    """How many clients can train which width at most, how many updates there are of each, and what that is."""
    table = Table(title=f"{title}, {narrowing.submodels.scheme}", title_justify="left")
    who = "clients, at most" if narrowing.submodels.assignment.every_round else "clients"
    for column in ("width", "parameters", "MACs", "memory", who, "updates"):
        table.add_column(column, justify="right")
    for width in narrowing.submodels.widths:
        own, number = narrowing.networks.get(width), str(int((narrowing.widths == width).sum()))
        if own is None:
            table.add_row("all", "", "", "", number, f"{trained.get(width, 0):,}")
        else:
            params, macs, memory = own.held.model.numel(), own.cost.macs, own.cost.memory_bytes
            table.add_row(
                text.percent(width), f"{params:,}", f"{macs:,}", text.num_bytes(memory), number, f"{trained.get(width, 0):,}"
            )
    if unable := int((narrowing.widths == 0).sum()):
        table.add_row("none: too small", "", "", "", str(unable), "")
    return table


def print_summary(console: Console, summary: Summary, directory: Path) -> None:
    """The end of a run, in a few lines."""
    table = Table(title=f"{summary.name}: {summary.strategy}, {summary.rounds} rounds", title_justify="left")
    for column in ("", "before", "after", "change"):
        table.add_column(column, justify="left" if not column else "right")
    if summary.fid is not None and summary.fid_untrained is not None:
        ratio = summary.fid_untrained / summary.fid if summary.fid else float("inf")
        table.add_row("FID (untrained, final)", f"{summary.fid_untrained:.3f}", f"{summary.fid:.3f}", f"{ratio:.1f} times lower")
    if summary.personal_fid is not None:
        table.add_row("FID of clients' own models", "", f"{summary.personal_fid:.3f}", "against the client's own images")
    for name, value in summary.metrics.items():
        table.add_row(name.replace("_", " "), "", "-" if value is None else f"{value:.4g}", "")
    dense = Network(summary.params_dense, summary.macs_dense)
    final = Network(summary.params_final, summary.macs_final)
    for label, before, after in _sizes(dense, final):
        table.add_row(label, f"{before:,}", f"{after:,}", f"-{text.percent(1 - after / before)}")
    console.print(table)
    console.print(_traffic(summary.bytes_by_hop, "Traffic"))
    console.print(f"saving at the cloud against flat FedAvg: {text.percent(summary.cloud_saving)}", highlight=False)
    if summary.class_histogram is not None:
        histogram = " ".join(f"{label}:{num}" for label, num in enumerate(summary.class_histogram))
        console.print(f"classes among the samples: {histogram}", highlight=False)
    for failure in summary.failures:
        console.print(f"failure: {failure}", highlight=False, markup=False, soft_wrap=True)
    if summary.sim_seconds:
        console.print(f"simulated time: {text.duration(summary.sim_seconds)}", highlight=False)
    console.print(f"time: {text.duration(summary.wall_seconds)}, model: {summary.stock_export}", highlight=False, markup=False)
    console.print(f"model_sha256: {summary.model_sha256}", highlight=False)
    places = {
        "run directory": "",
        "samples": "samples",
        "model": "model",
        "models of clients": "clients/client-*",
        "figures": "summary.json",
    }
    for label, name in places.items():
        if not name or any(directory.glob(name)):  # nothing is drawn where nothing is judged
            console.print(f"{label}: {directory / name}", highlight=False, markup=False, soft_wrap=True)


def _sizes(dense: Network, pruned: Network) -> list[tuple[str, int, int]]:
    return [("parameters", dense.params, pruned.params), ("MACs of one forward", dense.macs, pruned.macs)]


def _traffic(bytes_by_hop: dict[str, int], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("hop", no_wrap=True)
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    for hop, num_bytes in bytes_by_hop.items():
        table.add_row(text.hop(hop), f"{num_bytes:,}", text.num_bytes(num_bytes))
    table.add_row("all hops", f"{sum(bytes_by_hop.values()):,}", text.num_bytes(sum(bytes_by_hop.values())))
    return table


def _clients(forecast: Forecast) -> Table:
    counts = forecast.label_counts
    table = Table(title=f"{len(counts)} clients, {int(counts.sum()):,} images", title_justify="left")
    table.add_column("client")
    table.add_column("images", justify="right")
    for label in range(counts.shape[1]):
        table.add_column(str(label), justify="right")
    for client, row in enumerate(counts[:MOST_CLIENTS_SHOWN]):
        table.add_row(str(client), str(int(row.sum())), *(str(int(num)) if num else "·" for num in row))
    if len(counts) > MOST_CLIENTS_SHOWN:
        sizes = np.sort(counts.sum(axis=1))
        table.caption = (
            f"{len(counts) - MOST_CLIENTS_SHOWN} more; images per client: least {sizes[0]}, "
            f"median {sizes[len(sizes) // 2]}, most {sizes[-1]}"
        )
    return table


def print_edge_choices(console: Console, forecasts: Mapping[str, Forecast]) -> None:
    """Rules of edge choice side by side: homogeneity, load, traffic at the cloud, and simulated time where there is one."""
    table = Table(title=f"Edge choices over {next(iter(forecasts.values())).rounds} rounds", title_justify="left")
    table.add_column("rule")
    for column in ("SH", "worst SH", "imbalance", "all hops", "simulated time"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, own in forecasts.items():
        assert own.edges is not None
        figures = (f"{own.edges.homogeneity:.3f}", f"{own.edges.worst:.3f}", f"{own.edges.imbalance:.3f}")
        seconds = "" if own.simulated is None else text.duration(own.simulated.seconds)
        table.add_row(name, *figures, text.num_bytes(sum(own.bytes_by_hop.values())), seconds)
    console.print(table)
